/* SPDX-License-Identifier: Apache-2.0 */
/* Faults on demand: the n-th call of a kind fails, so that tests can make every call fail once.
 *
 * mem.h has such a kind for allocations and sys.h one for system calls. All of this exists only in
 * builds with SLUICE_FAULTS (sanitizer builds). */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One kind of call; static storage, `what` names it for people. Any thread may use it. */
struct fault {
    const char *what;
    _Atomic uint64_t at, attempts;
};

/* Let the n-th call from now on (1 = the next one) fail once, in whichever thread; 0: none. */
void fault_arm(struct fault *fault, uint64_t n);

/* Calls attempted since fault_arm was last called. */
uint64_t fault_count(const struct fault *fault);

/* Count a call. True: it must fail. */
bool fault_strikes(struct fault *fault);

/* While paused, this thread's calls are neither counted nor made to fail: for code of others that
 * cannot live with a failure. */
void fault_pause(bool is_paused);

/* Call `fn` at the place where a fault strikes, in its thread, to tell people where that is. NULL:
 * nothing. */
void fault_on_strike(void (*fn)(const char *what, uint64_t n));

#endif
