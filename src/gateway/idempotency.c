/* SPDX-License-Identifier: Apache-2.0 */
/* A row for each key of each caller. Who marks it first, works; the database decides who that is, and by its clock how long
 * a row counts: processes may disagree about the time, and one that is ahead would take over what others work on. */
#include "gateway/idempotency.h"

#include <openssl/evp.h>

#include "base/text.h"
#include "fiber/fiber.h"
#include "gateway/idempotency_outcome.h"
#include "gateway/replica.h"
#include "gateway/request.h"
#include "model/call_govern.h"
#include "observe/log.h"

#define MAX_NAME   255
#define HASH_BYTES 32

/* A mark counts for nothing after this long, even if its process lives. */
#define RUNNING_MOST_MS UINT64_C(3600000)

#define CLEAN_BATCH 500

/* In an SQL condition: the row counts for nothing. $3 is this process, which lives even if nobody has heard of it lately,
 * and $4 says whether others may be taken for dead. */
#define ROW_IS_OVER                                                                                \
    "(expires_ms <= {{now_ms}} OR "                                                                \
    "(state = 'running' AND holder <> $3 AND $4 = 1 AND " REPLICA_HOLDER_IS_DEAD "))"

struct idempotency {
    struct str owner, name;
    unsigned char hash[HASH_BYTES];
    char mark[24]; /* this request's own */
    enum { STAGE_MARKED, STAGE_ANSWERED, STAGE_OVER } stage;
    struct buf stream; /* what was sent of a stream */
    bool is_too_large;
    /* of an answer that was found */
    struct str target, body;
    bool is_stream;
};

static struct db *store;

void idempotency_use(struct db *db)
{
    store = db;
}

/* ---- reading the header ---- */

static err_t read_name(struct request *r, struct str *name)
{
    const struct http_head *head = &r->exchange->head;
    size_t count = http_header_count(head, STR("idempotency-key"));
    bool is_good;

    *name = http_header_get(head, STR("idempotency-key"));
    if (count == 0)
        return NULL;
    is_good = count == 1 && name->len > 0 && name->len <= MAX_NAME;
    for (size_t i = 0; is_good && i < name->len; i++)
        is_good = name->ptr[i] >= ' ' && name->ptr[i] <= '~';
    if (is_good)
        return NULL;
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_header", .param = "Idempotency-Key"),
                          "Idempotency-Key must be one text of 1 to %d printable ASCII characters",
                          MAX_NAME);
}

/* SHA-256 (FIPS 180-4) of what is asked: path, query and body. */
static err_t hash(struct request *r, unsigned char out[HASH_BYTES])
{
    const struct http_head *head = &r->exchange->head;
    const struct str parts[] = {head->path, STR("?"), head->query, STR("\n"), r->ask.body};
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool is_good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);

    for (size_t i = 0; is_good && i < sizeof(parts) / sizeof(*parts); i++)
        is_good = parts[i].len == 0 || EVP_DigestUpdate(context, parts[i].ptr, parts[i].len);
    is_good = is_good && EVP_DigestFinal_ex(context, out, NULL);
    EVP_MD_CTX_free(context);
    return is_good ? NULL : err_no_memory();
}

static void fini_stream(void *stream)
{
    buf_fini(stream);
}

static err_t make(struct request *r, struct str name, struct idempotency **out)
{
    struct idempotency *key = arena_new_struct(r->arena, struct idempotency);

    if (!key)
        return arena_err(r->arena);
    key->name = name;
    TRY(request_owner(r, &key->owner));
    TRY(hash(r, key->hash));
    text_random_id("", key->mark);
    key->stream = buf_make(MEM_BODY, r->conf->idempotency.max_bytes);
    TRY(arena_defer(r->arena, fini_stream, &key->stream));
    *out = key;
    return NULL;
}

/* ---- marking ---- */

struct marking {
    const struct idempotency *key;
    struct arena *arena;
    bool is_ours;
    struct db_rows found; /* else the row that was there */
};

static struct str hash_of(const struct idempotency *key)
{
    return (struct str){(const char *)key->hash, HASH_BYTES};
}

static err_t mark(struct db_tx *tx, void *arg)
{
    struct marking *m = arg;
    const struct idempotency *key = m->key;
    struct db_rows rows;

    m->found = (struct db_rows){0};
    TRY(db_tx_run(tx,
                  DB_ASK("DELETE FROM idempotency WHERE owner = $1 AND name = $2 AND " ROW_IS_OVER,
                         DB_OF_TEXT(key->owner), DB_OF_TEXT(key->name), DB_OF_TEXT(replica_name()),
                         DB_OF_INT(replica_may_judge())),
                  NULL, NULL));
    TRY(db_tx_run(tx,
                  DB_ASK("INSERT INTO idempotency (owner, name, hash, state, holder, mark, "
                         "expires_ms, target, is_stream, body) "
                         "VALUES ($1, $2, $3, 'running', $4, $5, {{now_ms}} + $6, '', 0, $7) "
                         "ON CONFLICT (owner, name) DO NOTHING",
                         DB_OF_TEXT(key->owner), DB_OF_TEXT(key->name), DB_OF_BLOB(hash_of(key)),
                         DB_OF_TEXT(replica_name()), DB_OF_TEXT(str_from(key->mark)),
                         DB_OF_INT(RUNNING_MOST_MS), DB_OF_BLOB(STR(""))),
                  NULL, &rows));
    m->is_ours = rows.changed > 0;
    if (m->is_ours)
        return NULL;
    return db_tx_run(tx,
                     DB_ASK("SELECT hash, state, target, is_stream, body FROM idempotency "
                            "WHERE owner = $1 AND name = $2",
                            DB_OF_TEXT(key->owner), DB_OF_TEXT(key->name)),
                     m->arena, &m->found);
}

static err_t refuse(int status, const char *code, const char *text)
{
    return err_new_detail(ERR_BAD_REQUEST,
                          (.status = status, .code = code, .param = "Idempotency-Key"), "%s", text);
}

/* What the row of another request means for this one. */
static err_t judge(struct idempotency *key, const struct db_rows *found)
{
    struct str state = found->count > 0 ? db_text(found, 0, 1) : STR("running"); /* a moment ago */

    if (found->count > 0 && !str_eq(db_text(found, 0, 0), hash_of(key)))
        return refuse(422, "idempotency_key_reused",
                      "This Idempotency-Key came with another request before.");
    if (str_eq(state, STR("running")))
        return refuse(409, "idempotency_key_running",
                      "A request with this Idempotency-Key is being answered: try again shortly.");
    if (str_eq(state, STR("large")))
        return refuse(409, "idempotency_answer_not_kept",
                      "A request with this Idempotency-Key was answered, and the answer was too "
                      "large to be kept (idempotency.max_body).");
    key->stage = STAGE_ANSWERED;
    key->target = db_text(found, 0, 2);
    key->is_stream = db_int(found, 0, 3);
    key->body = db_text(found, 0, 4);
    return NULL;
}

/* Whether a failed mark was surely not made. */
static bool is_undone(err_t err)
{
    if (err_is(err, ERR_STORE))
        return !db_is_lost(err);
    return err_is(err, ERR_BUSY) && err->code && strcmp(err->code, "store_busy") == 0;
}

err_t idempotency_begin(struct request *r)
{
    struct marking marking = {.arena = r->arena};
    struct idempotency *key;
    struct str name;
    err_t err;

    if (r->conf->idempotency.ttl_ms == 0)
        return NULL;
    TRY(read_name(r, &name));
    if (name.len == 0)
        return NULL;
    request_step(r, "idempotency");
    TRY(make(r, name, &key));
    r->idempotency = key; /* whatever comes now, the mark will be looked after */
    marking.key = key;
    err = db_transact(store, DB_WRITE, mark, &marking);
    if (is_undone(err))
        key->stage = STAGE_OVER;
    if (err_is(err, ERR_STORE))
        return err_cover(err,
                         "Idempotency-Key cannot be honoured at the moment: try again shortly, "
                         "or without it");
    TRY(err);
    if (marking.is_ours)
        return NULL;
    key->stage = STAGE_OVER;
    TRY(call_limit_unasked(&r->call)); /* a call of a model is limited where it is opened */
    return judge(key, &marking.found);
}

/* ---- answering again ---- */

bool idempotency_is_answered(const struct request *r)
{
    return r->idempotency && r->idempotency->stage == STAGE_ANSWERED;
}

err_t idempotency_replay(struct request *r)
{
    const struct idempotency *key = r->idempotency;

    request_step(r, "replay");
    return reply_again(r, key->is_stream, key->target, key->body);
}

/* ---- keeping ---- */

void idempotency_add(struct request *r, const struct str *pieces, size_t count)
{
    struct idempotency *key = r->idempotency;

    if (!key || key->stage != STAGE_MARKED)
        return;
    for (size_t i = 0; i < count && !key->is_too_large; i++)
        key->is_too_large = buf_add(&key->stream, pieces[i]) != NULL;
    if (key->is_too_large)
        buf_fini(&key->stream);
}

static struct idempotency_outcome outcome_of(const struct idempotency *key,
                                             enum idempotency_end end)
{
    return (struct idempotency_outcome){
        .end = end, .owner = key->owner, .name = key->name, .mark = str_from(key->mark)};
}

static err_t write_answer(struct request *r, struct str body)
{
    const struct idempotency *key = r->idempotency;
    bool is_kept = !key->is_too_large && body.len <= r->conf->idempotency.max_bytes;
    struct idempotency_outcome outcome =
        outcome_of(key, is_kept ? IDEMPOTENCY_KEPT : IDEMPOTENCY_LARGE);

    outcome.target = r->call.target ? r->call.target->label : STR("");
    outcome.body = is_kept ? body : STR("");
    outcome.is_stream = r->ask.is_stream;
    outcome.ttl_ms = r->conf->idempotency.ttl_ms;
    return idempotency_outcome_write(store, &outcome);
}

static void complain(const struct request *r, const char *what, err_t err)
{
    log_begin(LOG_WARN, what);
    log_cstr("id", r->exchange->id);
    log_err(err);
    log_end();
}

void idempotency_keep(struct request *r, struct str body)
{
    struct idempotency *key = r->idempotency;
    err_t err;

    if (!key || key->stage != STAGE_MARKED)
        return;
    fiber_shield(loop_now_ms() + REQUEST_STORE_MS);
    err = write_answer(r, r->ask.is_stream ? buf_str(&key->stream) : body);
    fiber_unshield();
    if (err)
        complain(r, "an answer is kept for its Idempotency-Key when the store is well", err);
    key->stage = STAGE_OVER;
}

void idempotency_finish(struct request *r)
{
    struct idempotency *key = r->idempotency;
    struct idempotency_outcome outcome;
    err_t err;

    if (!key || key->stage != STAGE_MARKED)
        return;
    key->stage = STAGE_OVER;
    outcome = outcome_of(key, IDEMPOTENCY_FREE);
    fiber_shield(loop_now_ms() + REQUEST_STORE_MS);
    err = idempotency_outcome_write(store, &outcome);
    fiber_unshield();
    if (err)
        complain(r, "an Idempotency-Key is free again when the store is well", err);
}

/* ---- tidying up ---- */

err_t idempotency_clean(bool *is_done)
{
    struct db_rows rows;

    if (replica_may_judge())
        TRY(db_run(store, DB_WRITE,
                   DB_ASK("DELETE FROM idempotency WHERE state = 'running' AND holder <> $1 "
                          "AND " REPLICA_HOLDER_IS_DEAD,
                          DB_OF_TEXT(replica_name())),
                   NULL, NULL));
    TRY(db_run(store, DB_WRITE,
               DB_ASK("DELETE FROM idempotency WHERE (owner, name) IN (SELECT owner, name "
                      "FROM idempotency WHERE expires_ms <= (SELECT {{now_ms}}) "
                      "ORDER BY expires_ms LIMIT $1)",
                      DB_OF_INT(CLEAN_BATCH)),
               NULL, &rows));
    *is_done = rows.changed < CLEAN_BATCH;
    return NULL;
}
