/* SPDX-License-Identifier: Apache-2.0 */
/* A row with an expiry by the database's clock, so that clocks of processes need not agree. */
#include "gateway/replica.h"

#include <stdatomic.h>

#include "base/sys.h"
#include "base/text.h"

/* A sign of life is good for so long. */
#define LIFE_MS (4 * REPLICA_RENEW_MS)
/* More than this between two of them means that the store was away. */
#define PAUSE_MS (2 * REPLICA_RENEW_MS)

static char name[32];
static _Atomic uint64_t renewed_ms, judge_at_ms;

struct str replica_name(void)
{
    return str_from(name);
}

static err_t sign(struct db_tx *tx)
{
    return db_tx_run(tx,
                     DB_ASK("INSERT INTO replicas (id, expires_ms) VALUES ($1, {{now_ms}} + $2) "
                            "ON CONFLICT (id) DO UPDATE SET expires_ms = excluded.expires_ms",
                            DB_OF_TEXT(replica_name()), DB_OF_INT(LIFE_MS)),
                     NULL, NULL);
}

static err_t begin(struct db_tx *tx, void *db)
{
    bool is_alone = strcmp(db_backend(db), "sqlite") == 0;
    struct db_ask forget = is_alone
                               ? DB_ASK_PLAIN("DELETE FROM replicas")
                               : DB_ASK_PLAIN("DELETE FROM replicas WHERE expires_ms < {{now_ms}}");

    TRY(db_tx_run(tx, forget, NULL, NULL));
    return sign(tx);
}

static err_t renew(struct db_tx *tx, void *arg)
{
    (void)arg;
    return sign(tx);
}

err_t replica_open(struct db *db)
{
    text_random_id("", name);
    TRY(db_transact(db, DB_WRITE, begin, db));
    atomic_store(&renewed_ms, sys_now_ms());
    atomic_store(&judge_at_ms, 0);
    return NULL;
}

err_t replica_renew(struct db *db)
{
    uint64_t now_ms;

    TRY(db_transact(db, DB_WRITE, renew, NULL));
    now_ms = sys_now_ms();
    if (now_ms - atomic_load(&renewed_ms) > PAUSE_MS)
        atomic_store(&judge_at_ms, now_ms + LIFE_MS);
    atomic_store(&renewed_ms, now_ms);
    return NULL;
}

bool replica_may_judge(void)
{
    uint64_t now_ms = sys_now_ms();

    return now_ms >= atomic_load(&judge_at_ms) && now_ms - atomic_load(&renewed_ms) <= PAUSE_MS;
}

void replica_close(struct db *db)
{
    err_t err = db_run(db, DB_WRITE,
                       DB_ASK("DELETE FROM replicas WHERE id = $1", DB_OF_TEXT(replica_name())),
                       NULL, NULL);

    (void)err;
    name[0] = '\0';
}
