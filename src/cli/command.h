/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the program: a table of name, function, one line of help.
 *
 * Exit codes: 0 done, 1 failed, 2 wrong use of the command line, 78 (EX_CONFIG) wrong
 * configuration. Results go to standard output, everything else to standard error; colours only on
 * a terminal and without NO_COLOR. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

enum command_exit { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_MISUSED = 2, COMMAND_CONFIG = 78 };

struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
    const char *summary;               /* one line */
    const char *help;                  /* usage, options, examples */
};

/* commands.def: X(name, function, summary, help). */
#define X(name, function, summary, help) int function(int argc, char **argv);
#include "cli/commands.def"
#undef X

/* A command by name, or NULL; or step through all: begin with *at = 0. */
const struct command *command_get(const char *name);
const struct command *command_next(int *at);

/* Print an error for people ("sluice ask: cannot reach …") and return the exit code that it
 * means. */
int command_fail(const char *command, err_t err);

/* Complain about the command line, point to help, and return COMMAND_MISUSED. */
int command_misuse(const char *command, const char *text, const char *word);

/* Run fn(arg) in a fiber of a loop made for it, with `arena_scope` errors, and return its result:
 * for commands that talk to the network. */
int command_run_in_fiber(int (*fn)(void *arg), void *arg);

/* Whether to colour what goes to file descriptor `fd`. */
bool command_has_colour(int fd);

/* Append all of standard input. Errors: SYSTEM, as buf_reserve. */
err_t command_read_input(struct buf *out) ERR_MUST_CHECK;

#endif
