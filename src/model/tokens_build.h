/* SPDX-License-Identifier: Apache-2.0 */
/* Making a vocabulary's image out of a file of ranks. */
#ifndef MODEL_TOKENS_BUILD_H
#define MODEL_TOKENS_BUILD_H

#include "base/err.h"
#include "base/str.h"
#include "model/tokens_vocab.h"

/* Build the image of `lines`, each "BASE64 RANK" with ranks counting from 0 and the 256 single
 * bytes first. Gives heap memory of (*image)->bytes (use PROCESS), to be freed by the caller with
 * that size. Its `source` and `sum` are not set. Takes about 0.2 s and 40 MB for o200k: once per
 * machine. Errors: CONFIG (not such a file), BUSY (memory). */
err_t tokens_build(struct str lines, struct tokens_head **image) ERR_MUST_CHECK;

#endif
