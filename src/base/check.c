/* SPDX-License-Identifier: Apache-2.0 */
/* The crash report: what failed, what the hook knows, and a backtrace, written with write(2) alone.
 *
 * The hard thing is to report once and to end: a crash inside the report ends the process at once,
 * and threads that crash meanwhile wait for the first one's abort. */
#include "base/check.h"

#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define REPORT_FD       STDERR_FILENO
#define ALT_STACK_BYTES (64 * 1024)

static void (*_Atomic crash_hook)(int fd);
static atomic_bool crashing;
static _Thread_local bool crashing_here;

void check_on_crash(void (*hook)(int fd))
{
    atomic_store(&crash_hook, hook);
}

static void put(const char *text)
{
    /* Nobody is left to tell if this fails. */
    if (write(REPORT_FD, text, strlen(text)) < 0)
        return;
}

static void put_number(unsigned n)
{
    char digits[12];
    char *at = digits + sizeof(digits) - 1;

    *at = '\0';
    do
        *--at = (char)('0' + n % 10);
    while (n /= 10);
    put(at);
}

/* Everything after the first line, then the end. */
static void report_rest(void)
{
    void *frames[64];
    void (*hook)(int fd) = atomic_load(&crash_hook);

    if (hook)
        hook(REPORT_FD);
    backtrace_symbols_fd(frames, backtrace(frames, 64), REPORT_FD);
}

/* Be the one thread that reports. */
static void report_claim(void)
{
    if (crashing_here)
        _exit(134); /* the report itself crashed: leave as abort would, without more words */
    crashing_here = true;
    while (atomic_exchange(&crashing, true))
        pause();
}

void check_failed(const char *condition, const char *file, int line)
{
    report_claim();
    put("check failed: ");
    put(condition);
    put(" at ");
    put(file);
    put(":");
    put_number((unsigned)line);
    put("\n");
    report_rest();
    abort();
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED

void check_catch_signals(void)
{
}

#else

static void on_signal(int number)
{
    report_claim();
    put("killed by signal ");
    put_number((unsigned)number);
    put("\n");
    report_rest();
    /* SA_RESETHAND has restored the default action, so this leaves the core file of the signal. It
     * is blocked while we are in its handler and strikes on return. */
    raise(number);
}

void check_catch_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | (int)SA_RESETHAND};
    stack_t stack = {.ss_size = ALT_STACK_BYTES};
    void *frame;

    backtrace(&frame, 1); /* loads the unwinder now, as the handler must not */
    stack.ss_sp =
        mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack.ss_sp != MAP_FAILED)
        sigaltstack(&stack, NULL);
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}

#endif
