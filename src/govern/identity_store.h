/* SPDX-License-Identifier: Apache-2.0 */
/* Organisations, projects, keys and users as administrators see and change them.
 *
 * Requests and answers are the JSON of the admin API. What lies outside the realm of who asks is not there for them: the
 * error is the one for an id that does not exist. Every change is one transaction with its line in the audit log, and
 * in force in this process when the call returns. */
#ifndef GOVERN_IDENTITY_STORE_H
#define GOVERN_IDENTITY_STORE_H

#include "base/buf.h"
#include "govern/identity.h"

enum identity_type { IDENTITY_ORGS, IDENTITY_PROJECTS, IDENTITY_KEYS, IDENTITY_USERS };

#define IDENTITY_MAX_PAGE 1000

/* Who asks. */
struct identity_actor {
    struct str org, project;  /* the realm; both empty: everything */
    struct str key, name, ip; /* for the audit log */
};

/* Which part of a list. */
struct identity_page {
    struct str org, project; /* empty: of all */
    struct str cursor;       /* next_cursor of the page before, or empty */
    uint64_t limit;          /* 1 to IDENTITY_MAX_PAGE */
};

struct identity_call {
    const struct identity_actor *actor;
    enum identity_type type;
    struct str id;   /* of one object */
    struct str body; /* JSON as it came; checked here */
    struct arena *arena;
    struct buf *out; /* gets the answer */
};

/* Whether there is a store, without which none of these may be called. Main thread, like all of them. */
bool identity_has_store(void);

/* PARK: as their names say. Errors: BAD_REQUEST naming the member, NOT_FOUND, DENIED (403) for what only a wider realm may
 * do, STORE, BUSY. */
err_t identity_list(const struct identity_call *call,
                    const struct identity_page *page) ERR_MUST_CHECK;
err_t identity_show(const struct identity_call *call) ERR_MUST_CHECK;
err_t identity_create(const struct identity_call *call) ERR_MUST_CHECK;
err_t identity_update(const struct identity_call *call) ERR_MUST_CHECK;
err_t identity_remove(const struct identity_call *call) ERR_MUST_CHECK;

/* PARKS: give a key a new secret; the old one stays good for the body's `overlap`. Errors: as above. */
err_t identity_rotate(const struct identity_call *call) ERR_MUST_CHECK;

/* PARKS: a line in the audit log for what is no change of these objects; `object` is what it was done to, `detail` JSON. Errors:
 * STORE, BUSY. */
err_t identity_audit_add(const struct identity_actor *actor, struct str action, struct str object,
                         struct str detail) ERR_MUST_CHECK;

/* PARKS: what was done in the realm, the latest first; type and id do not matter. */
err_t identity_audit(const struct identity_call *call,
                     const struct identity_page *page) ERR_MUST_CHECK;

#endif
