/* SPDX-License-Identifier: Apache-2.0 */
/* Who may call: organisations → projects → keys, as an immutable snapshot in memory that follows the store.
 *
 * A key is "sk-sluice-" and 256 random bits; only its SHA-256 is kept. A look-up hashes what was sent and compares whole
 * hashes, in a time that tells nothing about which keys exist. A change is told to every process through the
 * store; each makes a new snapshot within a second. Keys of the configuration are in it, too. */
#ifndef GOVERN_IDENTITY_H
#define GOVERN_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "govern/subject.h"

enum identity_scope { IDENTITY_MODELS = 1, IDENTITY_ROUTE = 2, IDENTITY_ADMIN = 4 };

/* What an administrator's key rules over. */
enum identity_realm { REALM_NONE, REALM_PROJECT, REALM_ORG, REALM_ALL };

struct identity_key {
    struct str id, name;
    struct str project, org;   /* ids */
    struct str tier;           /* of the project */
    unsigned scopes;           /* enum identity_scope, or-ed */
    enum identity_realm realm; /* with IDENTITY_ADMIN */
    struct conf_strings
        models; /* aliases or provider/model it may ask, "x*" for a prefix; none: all */
    struct conf_strings ips; /* addresses or networks it may come from; none: all */
    uint64_t expires_ms;     /* wall clock; 0: never */
    bool is_disabled;        /* revoked, or its project or organisation is disabled */
    struct allowance *allowance, *project_allowance; /* NULL: as configured */
};

/* What every key of a project has from it. */
struct identity_project {
    struct str id, org, tier;
    bool is_disabled;            /* it or its organisation */
    struct allowance *allowance; /* NULL: as configured */
};

struct identity; /* a snapshot, counted */

/* The snapshot in force, one reference for the caller; and giving it back. Any thread. */
const struct identity *identity_current(void);
void identity_unref(const struct identity *identity);

/* The key that was sent, or NULL; disabled and expired ones are found, too (the caller of this decides what to say).
 * Good as long as the snapshot. Errors: BUSY without memory, which says nothing about the key. */
err_t identity_find(const struct identity *identity, struct str sent,
                    const struct identity_key **out) ERR_MUST_CHECK;

/* The same on the admin listener, where the configuration's admin_key counts, too (its id is "admin"). */
err_t identity_find_admin(const struct identity *identity, struct str sent,
                          const struct identity_key **out) ERR_MUST_CHECK;

/* A key by its id ("key_…", or "static:NAME"), or NULL. */
const struct identity_key *identity_get(const struct identity *identity, struct str id);

/* A project by its id, or NULL: for callers whom others vouch for. Good as long as the snapshot. */
const struct identity_project *identity_project_get(const struct identity *identity, struct str id);

/* Whether a model (an alias, or "provider/model") is among those that a list names; an empty list names all. */
bool identity_names_model(const struct conf_strings *models, struct str model);

/* Whether an end user of a project is suspended. */
bool identity_is_suspended(const struct identity *identity, struct str project, struct str user);

/* Whether the store holds no key at all yet. */
bool identity_is_empty(const struct identity *identity);

/* Whether a key of the configuration rules over all, or there has ever been one in the store: then nobody rules without a key. */
bool identity_has_admin(const struct identity *identity);

/* PARKS or, outside fibers, blocks: bring the snapshot up to date with the store, reading what has changed; after a
 * change made here, so that it holds at once. Main thread. Errors: STORE, BUSY; the old snapshot stays in force then. */
err_t identity_refresh(void) ERR_MUST_CHECK;

/* PARKS or, outside fibers, blocks: if the configuration asks for keys, names none itself, and the store holds none, make a
 * key with all scopes that rules over all. *out is its text, to be shown once, or empty. Errors: STORE, BUSY. */
err_t identity_first_key(const struct conf *conf, struct arena *arena,
                         struct str *out) ERR_MUST_CHECK;

/* The subject of a key, with the user that it speaks for. */
void identity_subject(const struct identity_key *key, struct str user, bool user_is_limited,
                      struct subject *out);

#endif
