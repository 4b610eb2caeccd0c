/* SPDX-License-Identifier: Apache-2.0 */
/* Blocking work on named thread pools, while the fiber waits.
 *
 * The job record lives on the waiting fiber's stack. Errors made by the job are made in the
 * fiber's arena: the hand-over through the queue orders the two threads. A job is not stopped
 * half-way unless it looks for it itself, so it must be bounded. */
#ifndef FIBER_OFFLOAD_H
#define FIBER_OFFLOAD_H

#include <stdint.h>

#include "base/err.h"

/*    pool  threads  work */
#define OFFLOAD_POOLS(X)                                                                           \
    X(FILE, 2, "files, downloads' hashes, parsing children")                                       \
    X(DNS, 4, "name lookup")                                                                       \
    X(DB_WRITE, 1, "writes to an embedded database")                                               \
    X(DB_READ, 2, "reads of an embedded database")                                                 \
    X(DB_REPORT, 2, "long reads of an embedded database")                                          \
    X(DB_COPY, 1, "copies of an embedded database")                                                \
    X(DB_DIAL, 2, "connecting to a database server")

enum offload_pool {
#define X(name, threads, work) OFFLOAD_##name,
    OFFLOAD_POOLS(X)
#undef X
        OFFLOAD_POOL_COUNT
};

/* Stop and join all threads at exit (main thread, no fiber may be waiting for a job). Abandoned
 * jobs are finished first. Threads start again if there is work again. */
void offload_stop_all(void);

/* PARKS while fn(arg) runs in a thread of the pool. Not cancellable: returns only when fn has
 * returned, then with fn's error. Outside a fiber fn runs directly. Errors: BUSY when threads
 * cannot be started or more than 1,024 jobs wait. */
err_t offload_run(enum offload_pool pool, err_t (*fn)(void *arg), void *arg) ERR_MUST_CHECK;

/* PARKS like offload_run, for a job that can be asked to end. When the fiber is cancelled or its deadline comes, a
 * job that has not begun is taken back; of one that runs, stop(arg) is called once, in the loop's thread, and its end is
 * awaited. Returns that reason then, unless fn has succeeded all the same. */
err_t offload_run_stoppable(enum offload_pool pool, err_t (*fn)(void *arg), void *arg,
                            void (*stop)(void *arg)) ERR_MUST_CHECK;

/* PARKS like offload_run but gives up at `at_ms` or on cancellation with that error; fn keeps
 * running, so `arg` must be heap memory that the job's last owner frees: abandon(arg) is called
 * in the pool's thread after fn if nobody waits any more (fn is left out if it had not begun);
 * in all other cases, errors included, `arg` still belongs to the caller. code and param of fn's
 * errors must be static text. */
err_t offload_run_until(enum offload_pool pool, err_t (*fn)(void *arg), void *arg,
                        void (*abandon)(void *arg), uint64_t at_ms) ERR_MUST_CHECK;

#endif
