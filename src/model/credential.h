/* SPDX-License-Identifier: Apache-2.0 */
/* A provider's keys: the headers that show each, and how much of its rate limit is left.
 *
 * Signing of requests and tokens that expire belong here too: whatever a call must carry to be let
 * in is asked for at each attempt (credential_headers), never stored by callers. */
#ifndef MODEL_CREDENTIAL_H
#define MODEL_CREDENTIAL_H

#include "base/arena.h"
#include "conf/conf.h"
#include "net/http_parse.h"

struct credential {
    struct str name; /* of the key, for logs and records */
    /* Content-Type, the key in the provider's way, configured headers, the API's version */
    struct http_header *headers;
    size_t header_count;
    struct credential_limits *limits;
};

/* Make all of a provider's credentials (at least one, without key if there is none), in the arena.
 * Errors: the arena's. */
err_t credential_make_all(const struct conf_provider *provider, struct arena *arena,
                          struct credential **out, size_t *count) ERR_MUST_CHECK;

/* Note what the head of an answer tells about the key's limits: x-ratelimit-remaining-*,
 * anthropic-ratelimit-*-remaining and their resets. Any thread. */
void credential_note(const struct credential *credential, const struct http_head *head,
                     uint64_t now_ms);

/* How much of its limits is left, from 0 (nothing until the reset) to 1000 (all, or not known). */
unsigned credential_room(const struct credential *credential, uint64_t now_ms);

#endif
