/* SPDX-License-Identifier: Apache-2.0 */
/* Gates. Each waiter is a node on its own stack, so waiting allocates nothing.
 *
 * The hard thing is an admission that meets a deadline or a cancellation in the same round: the
 * admission wins, or what it hands over (a slot, a turn) would be lost. */
#include "fiber/gate.h"

#include "fiber/fiber.h"

/* gcc sees the address of a local in a list, but not that gate_wait takes it out again. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wdangling-pointer"
#endif

struct waiter {
    struct list link;
    struct fiber *fiber;
    bool is_admitted;
};

void gate_init(struct gate *gate)
{
    list_init(&gate->waiters);
    gate->is_open = false;
}

err_t gate_wait(struct gate *gate, uint64_t at_ms)
{
    struct waiter waiter = {.fiber = fiber_self()};
    err_t err = NULL;

    if (gate->is_open)
        return NULL;
    list_push(&gate->waiters, &waiter.link);
    while (!waiter.is_admitted && !err)
        err = fiber_park(at_ms);
    list_remove(&waiter.link);
    return waiter.is_admitted ? NULL : err;
}

bool gate_admit_one(struct gate *gate)
{
    struct list *link = list_first(&gate->waiters);

    if (!link)
        return false;
    struct waiter *waiter = container_of(link, struct waiter, link);
    list_remove(link);
    waiter->is_admitted = true;
    fiber_wake(waiter->fiber);
    return true;
}

void gate_open(struct gate *gate)
{
    gate->is_open = true;
    while (gate_admit_one(gate))
        ;
}

void gate_close(struct gate *gate)
{
    gate->is_open = false;
}
