/* SPDX-License-Identifier: Apache-2.0 */
/* The row of a stream of which nothing is known but who asks whom for what. */
#include "model/call_journal.h"

#include "govern/journal.h"
#include "model/call_estimate.h"

/* What leases have, and will be booked with them. */
static unsigned booked_of(const struct admission *a)
{
    return (budget_wants_tokens(&a->reservation) ? JOURNAL_BOOKED_TOKENS : 0u) |
           (budget_wants_money(&a->reservation) ? JOURNAL_BOOKED_COST : 0u);
}

void call_journal_note(struct call *call)
{
    const struct admission *a = call->admission;
    struct ledger_row row;

    if (!a)
        return;
    row = (struct ledger_row){.at_ms = a->began_ms,
                              .request_id = call->request_id,
                              .org = call->subject->org,
                              .project = call->subject->project,
                              .key = call->subject->key,
                              .user = call->subject->user,
                              .model = call->ask->model,
                              .provider = call->target->provider->conf->name,
                              .upstream_model = call->target->model,
                              .route = str_from(call->route),
                              .attempts = call->attempt_count,
                              .input = call_estimate_guess(call->ask)};
    if (call->journal)
        journal_name_target(call->journal, &row);
    else
        call->journal = journal_open(&row, booked_of(a), call->arena);
}
