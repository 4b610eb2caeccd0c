/* SPDX-License-Identifier: Apache-2.0 */
/* Keys by SHA-256 and by id.
 *
 * The hard thing is to tell nothing by time: every look-up reads the same number of slots and makes the same
 * comparisons, whether there is a key near or not. That a slot's place comes from a SHA-256 keeps those who
 * try from choosing it. */
#ifndef GOVERN_IDENTITY_TABLE_H
#define GOVERN_IDENTITY_TABLE_H

#include "base/arena.h"
#include "govern/identity.h"
#include "govern/identity_secret.h"

struct identity_entry {
    struct identity_key key;
    uint8_t hash[IDENTITY_HASH_BYTES];
    bool is_old; /* the secret before a rotation: not found by id */
};

struct identity_slot {
    uint64_t tag; /* of the hash; 0: empty */
    const struct identity_entry *entry;
};

struct identity_table {
    struct identity_slot *slots;
    size_t mask;                         /* number of slots that hashes point to - 1 */
    const struct identity_entry **by_id; /* sorted */
    size_t count;                        /* of by_id */
};

/* Make a table of `count` entries, which must live as long as it does; all in the arena. Of two equal hashes the first counts.
 * Errors: the arena's. */
err_t identity_table_make(const struct identity_entry *entries, size_t count, struct arena *arena,
                          struct identity_table *out) ERR_MUST_CHECK;

/* The key with this hash, or NULL. In a time that does not depend on the keys that are there. */
const struct identity_key *identity_table_find(const struct identity_table *table,
                                               const uint8_t hash[IDENTITY_HASH_BYTES]);

/* The key with this id, or NULL. */
const struct identity_key *identity_table_get(const struct identity_table *table, struct str id);

#endif
