/* SPDX-License-Identifier: Apache-2.0 */
/* What an owner may use, as the admin API and the store write it: two JSON objects,
 *
 *     {"requests": "10/60s", "tokens": "50000/60s", "streams": 5}           limits
 *     {"tokens": ["100000/day"], "money": ["2.50/day", "20/month"]}         budgets
 *
 * and as struct allowance, which whoever enforces them reads. */
#ifndef GOVERN_ALLOWANCE_H
#define GOVERN_ALLOWANCE_H

#include "base/arena.h"
#include "base/err.h"
#include "govern/subject.h"

/* Read limits, or budgets, into `out`; what they do not name stays as it is. `json` is valid JSON, or empty for none.
 * Quotas are in the arena. Errors: BAD_REQUEST naming the member, the arena's. */
err_t allowance_read_limits(struct str json, struct allowance *out) ERR_MUST_CHECK;
err_t allowance_read_budgets(struct str json, struct arena *arena,
                             struct allowance *out) ERR_MUST_CHECK;

/* Limits or budgets, both as kept, with what `changes` names in place of what `before` has; null takes a member away. Both were
 * read without error. *out is in the arena, or empty if nothing is left. Errors: the arena's. */
err_t allowance_merge(struct str before, struct str changes, struct arena *arena,
                      struct str *out) ERR_MUST_CHECK;

/* Both as kept in the store; *out is NULL if they say nothing. Errors: as above. */
err_t allowance_load(struct str limits, struct str budgets, struct arena *arena,
                     struct allowance **out) ERR_MUST_CHECK;

#endif
