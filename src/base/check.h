/* SPDX-License-Identifier: Apache-2.0 */
/* Assertions that stay on in production.
 *
 * They state what we promise ourselves. Nothing that arrives from a socket, a file, a model or the
 * environment may ever reach one. A failed check writes the crash report through the hook (the
 * current request's step and id, every fiber's step), a backtrace, and aborts. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

/* Abort with a report unless `condition` holds. Cheap enough for hot paths. */
#define check(condition)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            check_failed(#condition, __FILE__, __LINE__);                                          \
    } while (0)

/* Write the crash report to standard error and abort. Async-signal-safe apart from the hook. */
void check_failed(const char *condition, const char *file, int line)
    __attribute__((noreturn, cold));

/* Call `hook` first in every crash report; it may only use write(2) on `fd`. */
void check_on_crash(void (*hook)(int fd));

/* Also write the report for SIGSEGV, SIGBUS, SIGILL and SIGFPE (not under sanitizers, which have
 * their own). Uses an alternate signal stack per calling thread: call once in each thread. */
void check_catch_signals(void);

#endif
