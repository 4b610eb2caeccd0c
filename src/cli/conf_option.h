/* SPDX-License-Identifier: Apache-2.0 */
/* -c FILE: the configuration for commands that need one. */
#ifndef CLI_CONF_OPTION_H
#define CLI_CONF_OPTION_H

#include "conf/conf.h"

/* If argv[*i] is -c or --config, take its value, leaving *i on it, and return true. A missing
 * value gives *path = NULL. */
bool conf_option_take(int argc, char **argv, int *i, const char **path);

/* Find and read the configuration (path NULL: looked for). *file is its name in the arena, empty
 * for none. Problems are appended to `problems` as lines. The result has one reference. Errors:
 * CONFIG. */
err_t conf_option_load(const char *path, struct arena *arena, struct buf *problems,
                       struct str *file, struct conf **out) ERR_MUST_CHECK;

/* The same for commands that only use it: problems are in the error's text. */
err_t conf_option_need(const char *path, struct arena *arena, struct conf **out) ERR_MUST_CHECK;

#endif
