/* SPDX-License-Identifier: Apache-2.0 */
/* A child process: started with its output in our hands, waited for by a fiber, gone when we are.
 *
 * Its standard output and error come to us as lines; its input is empty. It has a process group
 * of its own, so that Ctrl-C in a terminal reaches only us, and the kernel kills it when the
 * thread that started it ends. */
#ifndef MODEL_CHILD_H
#define MODEL_CHILD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"
#include "net/sock.h"

/* Longer lines come in pieces of this size. */
#define CHILD_LINE_BYTES 512

struct child {
    int pid; /* 0: there is none */
    /* Called in the loop with each line of output, without its end. Must not park. */
    void (*on_line)(struct child *child, struct str line);

    /* Private. */
    struct sock output;
    struct timer more; /* goes on reading after others had a turn */
    struct fiber *waiter;
    bool is_silent; /* its output has ended, which is how its death shows */
    size_t line_len;
    char line[CHILD_LINE_BYTES];
};

/* Start argv[0], a path, with this environment (NULL: ours). Call it in the main thread, whose
 * end ends the child. Errors: SYSTEM. A program that cannot be executed says so in a line and
 * ends with status 127. */
err_t child_start(struct child *child, char *const *argv, char *const *envp,
                  void (*on_line)(struct child *child, struct str line)) ERR_MUST_CHECK;

/* PARKS until the child has ended, or `at_ms`; *status is as waitpid gives it. The child is then
 * no more. Errors: as fiber_park. One fiber at a time. */
err_t child_wait(struct child *child, uint64_t at_ms, int *status) ERR_MUST_CHECK;

/* PARKS: ask it to end (SIGTERM), insist after `grace_ms` (SIGKILL), and wait for its end. Not
 * cancellable. Harmless when there is none. */
void child_stop(struct child *child, uint64_t grace_ms);

/* The path of a program: the first on $PATH that may be executed. In the arena; NULL if there is
 * none. */
char *child_find_program(const char *name, struct arena *arena);

/* Whether `path` is a file that may be executed. */
bool child_is_program(const char *path);

/* "ended with status 1", "was killed by signal 9 (Killed)": what a status means. `out` holds 64
 * bytes. */
void child_describe(int status, char out[64]);

#endif
