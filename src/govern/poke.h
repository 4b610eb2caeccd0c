/* SPDX-License-Identifier: Apache-2.0 */
/* Waking a fiber of one thread from any other, as often as one likes: pokes that come before it looks are one. */
#ifndef GOVERN_POKE_H
#define GOVERN_POKE_H

#include <stdatomic.h>

#include "fiber/fiber.h"

/* Static or as long-lived as its loop; zeroed means that nobody listens yet. */
struct poke {
    struct loop_message message;
    struct loop *loop;
    struct fiber *fiber;
    atomic_bool is_listening, is_posted;
};

/* The running fiber listens from now on, or no longer. */
void poke_listen(struct poke *poke);
void poke_stop(struct poke *poke);

/* Wake who listens, soon. Any thread; its loop must be running. */
void poke(struct poke *poke);

/* PARKS the listener until poked or `at_ms`. Errors: as fiber_park, but NULL when the time is over. */
err_t poke_wait(uint64_t at_ms) ERR_MUST_CHECK;

#endif
