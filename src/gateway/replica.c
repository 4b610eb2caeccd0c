/* SPDX-License-Identifier: Apache-2.0 */
/* A row with an expiry by the database's clock, so that clocks of processes need not agree. */
#include "gateway/replica.h"

#include "base/text.h"

static char name[32];

struct str replica_name(void)
{
    return str_from(name);
}

static err_t sign(struct db_tx *tx)
{
    return db_tx_run(tx,
                     DB_ASK("INSERT INTO replicas (id, expires_ms) VALUES ($1, {{now_ms}} + $2) "
                            "ON CONFLICT (id) DO UPDATE SET expires_ms = excluded.expires_ms",
                            DB_OF_TEXT(replica_name()), DB_OF_INT(4 * REPLICA_RENEW_MS)),
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
    return db_transact(db, DB_WRITE, begin, db);
}

err_t replica_renew(struct db *db)
{
    return db_transact(db, DB_WRITE, renew, NULL);
}

void replica_close(struct db *db)
{
    err_t err = db_run(db, DB_WRITE,
                       DB_ASK("DELETE FROM replicas WHERE id = $1", DB_OF_TEXT(replica_name())),
                       NULL, NULL);

    (void)err;
    name[0] = '\0';
}
