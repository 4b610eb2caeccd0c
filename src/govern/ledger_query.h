/* SPDX-License-Identifier: Apache-2.0 */
/* What was used, what it cost, and what is left: questions to the ledger, its sums and the budgets.
 *
 * Every statement is a static text; what a caller wants to see is among its parameters. */
#ifndef GOVERN_LEDGER_QUERY_H
#define GOVERN_LEDGER_QUERY_H

#include "base/arena.h"
#include "base/buf.h"
#include "govern/identity.h"
#include "store/db.h"

/* What sums are made by; or-ed. */
enum ledger_by {
    LEDGER_BY_PROJECT = 1,
    LEDGER_BY_KEY = 2,
    LEDGER_BY_USER = 4,
    LEDGER_BY_MODEL = 8,
    LEDGER_BY_PROVIDER = 16,
    LEDGER_BY_UPSTREAM = 32,
    LEDGER_BY_DAY = 64,
    LEDGER_BY_HOUR = 128
};

#define LEDGER_MAX_PAGE 1000
#define LEDGER_MAX_CSV  50000

struct ledger_query {
    struct str realm_org, realm_project;  /* what the caller rules over; both empty: everything */
    unsigned by;                          /* enum ledger_by, or-ed */
    uint64_t from_ms, to_ms;              /* from included, to not */
    struct str project, key, user, model; /* empty: all */
    bool is_all;                          /* budgets: those that are not in force any more, too */
    bool is_checked;                      /* budgets: compared with the ledger */
    uint64_t retention_ms;                /* of the ledger's rows */
    uint64_t hourly_ms;                   /* of hourly sums; 0: for ever */
    const struct conf *conf;              /* budgets: by which they are in force, */
    const struct identity *identity;      /* with what keys and projects have of their own */
    uint64_t limit;                       /* rows of a page */
    struct str cursor;
    bool as_csv; /* without pages: whoever asks for more than LEDGER_MAX_CSV rows is refused */
    struct arena *arena;
    struct buf *out; /* gets the document */
};

/* The word of `by` ("project", "upstream_model" …); false: there is none. */
bool ledger_query_word(struct str word, unsigned *by);

/* PARKS: sums by whatever `by` says. Hours, and days of UTC, are whole: from_ms is rounded down, to_ms up. Errors: BAD_REQUEST for a
 * cursor, STORE, BUSY. */
err_t ledger_query_usage(struct db *db, const struct ledger_query *query) ERR_MUST_CHECK;

/* PARKS: rows of the ledger, the latest first. */
err_t ledger_query_rows(struct db *db, const struct ledger_query *query) ERR_MUST_CHECK;

/* PARKS: budgets that are in force (is_all: and of past periods, and those that were taken away). With is_checked the member `drift`
 * is what is booked minus what the ledger's rows sum up to, null where rows are deleted already; *drifted counts those that are not
 * 0, which are shown whether in force or not. */
err_t ledger_query_budgets(struct db *db, const struct ledger_query *query,
                           uint64_t *drifted) ERR_MUST_CHECK;

#endif
