/* SPDX-License-Identifier: Apache-2.0 */
/* Faults on demand: counters that say "now". */
#include "base/fault.h"

#include <stddef.h>

#ifdef SLUICE_FAULTS

static _Thread_local bool paused;
static void (*_Atomic on_strike)(const char *what, uint64_t n);

void fault_arm(struct fault *fault, uint64_t n)
{
    atomic_store(&fault->at, 0);
    atomic_store(&fault->attempts, 0);
    atomic_store(&fault->at, n);
}

uint64_t fault_count(const struct fault *fault)
{
    return atomic_load(&fault->attempts);
}

bool fault_strikes(struct fault *fault)
{
    void (*fn)(const char *what, uint64_t n);
    uint64_t n;

    if (paused)
        return false;
    n = atomic_fetch_add(&fault->attempts, 1) + 1;
    if (n != atomic_load(&fault->at))
        return false;
    fn = atomic_load(&on_strike);
    if (fn)
        fn(fault->what, n);
    return true;
}

void fault_pause(bool is_paused)
{
    paused = is_paused;
}

void fault_on_strike(void (*fn)(const char *what, uint64_t n))
{
    atomic_store(&on_strike, fn);
}

#endif
