/* SPDX-License-Identifier: Apache-2.0 */
/* The service: everything long-lived, opened in order, closed in reverse; reload and drain. */
#ifndef APP_H
#define APP_H

#include "base/err.h"

struct app_options {
    const char *conf_path; /* NULL: looked for */
    bool is_hinting;       /* print how to try it, for people */
};

/* Serve until a signal says stop. Blocks. Errors: CONFIG (exit status 78), SYSTEM (an address in use …). Main thread. */
err_t app_serve(const struct app_options *options) ERR_MUST_CHECK;

#endif
