/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of a snapshot: what was read at one time, immutable and counted, so that snapshots share what did not change.
 *
 * 100,000 keys take a while to read. So a change of one key gives a new small part ("recent") that goes before the large
 * one ("keys"), until it has grown too much. */
#ifndef GOVERN_IDENTITY_PART_H
#define GOVERN_IDENTITY_PART_H

#include <stdatomic.h>

#include "govern/identity_table.h"
#include "store/db.h"

struct identity_part {
    atomic_uint references;
    struct arena *arena; /* holds all of it */
    int64_t version;     /* of the store when it was read */
    struct identity_table keys;
    bool has_admin;                           /* a key that rules over all */
    struct identity_project *projects, *orgs; /* sorted by id; of orgs id and is_disabled are set */
    size_t project_count, org_count;
    struct str *suspended; /* "project/user", sorted */
    size_t suspended_count;
    uint8_t root[IDENTITY_HASH_BYTES]; /* of admin_key, if has_root */
    bool has_root;
};

/* The parts of a snapshot; each may be NULL. */
struct identity_parts {
    struct identity_part *fixed;   /* keys of the configuration */
    struct identity_part *tenants; /* projects */
    struct identity_part *keys, *recent;
    struct identity_part *users;
    int64_t version; /* of the store */
};

/* A new part with one reference. NULL without memory. */
struct identity_part *identity_part_new(void);
struct identity_part *identity_part_ref(struct identity_part *part); /* NULL gives NULL */
void identity_part_unref(struct identity_part *part);

/* References on all, and giving them back. */
void identity_parts_ref(struct identity_parts *parts);
void identity_parts_unref(struct identity_parts *parts);

/* A project of a part (which may be NULL), or NULL. */
const struct identity_project *identity_part_project(const struct identity_part *tenants,
                                                     struct str id);

/* Whether an organisation is there and enabled. */
bool identity_part_has_org(const struct identity_part *tenants, struct str id);

/* Sort such a list by id. */
void identity_part_sort(struct identity_project *list, size_t count);

/* The keys of a configuration. `tenants` may be NULL: there is no store. Errors: BUSY. */
err_t identity_part_of_conf(const struct conf *conf, const struct identity_part *tenants,
                            struct identity_part **out) ERR_MUST_CHECK;

/* The store that keys are read from, or NULL. Main thread. */
struct db *identity_db(void);

/* PARKS or blocks: read what has changed since `parts` was read, in place: references on what is replaced are given
 * back, and *changed tells whether anything was. `fixed` is left alone. Errors: STORE, BUSY; then nothing has changed. */
err_t identity_parts_read(struct db *db, struct identity_parts *parts,
                          bool *changed) ERR_MUST_CHECK;

#endif
