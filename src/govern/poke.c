/* SPDX-License-Identifier: Apache-2.0 */
/* A poke is a message to the loop of the fiber, posted unless one is under way. */
#include "govern/poke.h"

#include "base/list.h"

static void deliver(struct loop_message *message)
{
    struct poke *p = container_of(message, struct poke, message);

    atomic_store(&p->is_posted, false);
    if (p->fiber)
        fiber_wake(p->fiber);
}

void poke_listen(struct poke *p)
{
    p->loop = loop_self();
    p->fiber = fiber_self();
    atomic_store(&p->is_listening, true);
}

void poke_stop(struct poke *p)
{
    atomic_store(&p->is_listening, false);
    p->fiber = NULL;
}

void poke(struct poke *p)
{
    if (!atomic_load(&p->is_listening) || atomic_exchange(&p->is_posted, true))
        return;
    p->message.fn = deliver;
    loop_post(p->loop, &p->message);
}

err_t poke_wait(uint64_t at_ms)
{
    err_t err = fiber_park(at_ms);

    return err == &fiber_wait_over ? NULL : err;
}
