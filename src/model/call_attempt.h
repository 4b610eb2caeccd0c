/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt of a call: ask a target, await what it says first, judge and record how it ended. The
 * half of the call (call.c) that knows about upstreams and refusals; nobody else's business. */
#ifndef MODEL_CALL_ATTEMPT_H
#define MODEL_CALL_ATTEMPT_H

#include "model/call.h"

/* Quiet events of one answer that are held; a provider that sends more of them is not answering. */
#define CALL_HELD_MAX_BYTES (256 * 1024)

/* Make room for the attempts that the call's plan may need. Errors: the arena's. */
err_t call_attempt_prepare(struct call *call) ERR_MUST_CHECK;

/* A new line of the record: one that is skipped, until something else is known. A full one loses its
 * last but never its count of room. */
void call_attempt_add(struct call *call, const struct candidate *candidate);

/* PARKS: ask one target until its answer is certain: whole, or its first meaningful event. *result
 * says how it went. On success the attempt stays open until the call is finished. Errors: as
 * call_open, for this target. */
err_t call_attempt_ask(struct call *call, const struct candidate *candidate,
                       enum attempt_result *result) ERR_MUST_CHECK;

/* What an attempt's error (NULL: none) means. */
enum attempt_result call_attempt_judge(const struct call *call, err_t err);

/* The attempt in progress is over: record it and tell its target's health. */
void call_attempt_end(struct call *call, enum attempt_result result, err_t err);

/* One line per failed attempt; a key or model of ours that is refused is for the operator to
 * mend. */
void call_attempt_log(const struct call *call, err_t err);

/* Count what the provider did not tell, before anybody is told of it. `is_cut`: the answer broke
 * off. */
void call_attempt_complete_usage(struct call *call, bool is_cut);

#endif
