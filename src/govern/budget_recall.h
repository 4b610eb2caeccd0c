/* SPDX-License-Identifier: Apache-2.0 */
/* Credit that lies idle in another process is asked back before a call is refused. For budget_lease.c. */
#ifndef GOVERN_BUDGET_RECALL_H
#define GOVERN_BUDGET_RECALL_H

#include "govern/budget_return.h"

/* PARKS: what is left of a budget does not suffice for calls that wait: ask those who hold credit of it.
 * True: it is worth while to look again soon. False: nobody has any to spare, or the store is away. */
bool budget_recall_ask(const struct budget_holder *holder, struct budget_account *account);

/* Whether somebody may have asked this process since it last answered. Costs nothing. */
bool budget_recall_is_asked(const struct budget_holder *holder);

/* PARKS: give back what this process was asked for and does not use, in a sweep. Errors: STORE, BUSY, memory,
 * cancellation: to be done again. */
err_t budget_recall_answer(struct budget_sweep *sweep) ERR_MUST_CHECK;

#endif
