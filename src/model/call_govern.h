/* SPDX-License-Identifier: Apache-2.0 */
/* What governs a call: limits and budgets before it, prices and the ledger after it. */
#ifndef MODEL_CALL_GOVERN_H
#define MODEL_CALL_GOVERN_H

#include "model/call.h"

/* PARKS if limits are shared: take the limits that the call falls under, before a route is chosen. Errors: LIMITED
 * (call->admission->retry_ms says when to come back), memory. Calls without a subject pass. */
err_t call_limit(struct call *call) ERR_MUST_CHECK;

/* PARKS if limits are shared: count a request for which no provider is asked. It falls under limits of requests alone, and is not
 * given back. Once per request; not together with call_limit. Errors: as call_limit. */
err_t call_limit_unasked(struct call *call) ERR_MUST_CHECK;

/* The same for a request whose meaning and cost are not known here. `may_cost`: it is refused if a budget holds. Errors: as call_limit,
 * DENIED (403, code budget_in_force). */
err_t call_pass(struct call *call, bool may_cost) ERR_MUST_CHECK;

/* PARKS when credit must be fetched: reserve what the answer may cost at the dearest target of the plan. Where the caller set no
 * limit to the answer, one is set for him. Targets without a price leave the plan if a budget is in money. Errors:
 * LIMITED, BUSY (code budget_unavailable or price_unknown), memory. */
err_t call_reserve(struct call *call) ERR_MUST_CHECK;

/* PARKS: another target is about to be asked. Make sure that what it may cost is reserved beside what attempts used that are
 * charged for. Errors: as call_reserve. */
err_t call_renew(struct call *call) ERR_MUST_CHECK;

/* What the answer costs as far as is known now; false: it has no price. */
bool call_cost(const struct call *call, uint64_t *nano);

/* A target broke off in mid-answer, and another shall go on: note what the first one's part costs. */
void call_charge_part(struct call *call);

/* An attempt failed, but its provider will charge for it: note what it used, which is not told to the caller. */
void call_charge_lost(struct call *call);

/* The usage is known: settle what was taken and reserved. Once per call; never parks. */
void call_charge(struct call *call);

/* The call is over: enter it in the ledger if a provider was asked. Once per call, after call_charge; never parks. */
void call_enter(const struct call *call, err_t err);

#endif
