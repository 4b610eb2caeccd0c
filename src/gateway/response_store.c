/* SPDX-License-Identifier: Apache-2.0 */
/* Responses as rows: `responses` holds what is told about one, `turns` what was said.
 *
 * A conversation is read with one recursive query. It is let go turn by turn, from its end, as far as nothing else
 * counts on it. Ages are told by the clock of the store: those of processes may differ by more than a response is kept. */
#include "gateway/response_store.h"

#include <stdatomic.h>

#include "base/text.h"
#include "gateway/replica.h"
#include "gateway/response_running.h"

#define MAX_HISTORY ((size_t)24 * 1024 * 1024)

/* How much too early one may be forgotten that was continued: not every continuation is written down. */
#define TOUCH_MS 60000

#define MAX_ID_BYTES 512

/* How many are forgotten at a time. */
#define BATCH_COUNT 64

static struct {
    struct db *db;
    _Atomic uint64_t ttl_ms;
} store;

/* As the schema spells them. */
static const struct str states[RESPONSE_STATE_COUNT] = {
    [RESPONSE_STATE_RUNNING] = {"running", 7}, [RESPONSE_STATE_ENDED] = {"ended", 5},
    [RESPONSE_STATE_BROKEN] = {"broken", 6},   [RESPONSE_STATE_CANCELLED] = {"cancelled", 9},
    [RESPONSE_STATE_KILLED] = {"killed", 6},   [RESPONSE_STATE_ELSEWHERE] = {"elsewhere", 9},
};
static const char topic[] = "responses_cancel";

void response_store_use(struct db *db, uint64_t ttl_ms)
{
    if (store.db != db) /* at a reload requests are reading it */
        store.db = db;
    atomic_store(&store.ttl_ms, ttl_ms);
}

/* What was not used for so long is forgotten, whether it is still there or not. */
static struct db_value ttl(void)
{
    return DB_OF_INT(atomic_load(&store.ttl_ms));
}

static enum response_state state_of(struct str text)
{
    for (int i = 0; i < RESPONSE_STATE_COUNT; i++)
        if (str_eq(states[i], text))
            return (enum response_state)i;
    return RESPONSE_STATE_BROKEN;
}

/* Callers learn that the store is away, not what and where it is. */
static err_t cover(err_t err)
{
    return err_is(err, ERR_STORE)
               ? err_cover(err, "responses cannot be looked up at the moment: try again shortly")
               : err;
}

static err_t not_found(struct str id, bool is_past)
{
    int len = (int)(id.len < 100 ? id.len : 100);

    if (is_past)
        return err_new_detail(
            ERR_NOT_FOUND, (.code = "previous_response_not_found", .param = "previous_response_id"),
            "Previous response with id '%.*s' not found.", len, id.ptr);
    return err_new_detail(ERR_NOT_FOUND, (.param = "id"), "Response with id '%.*s' not found.", len,
                          id.ptr);
}

/* Ids come from outside: what no database would take is not there. */
static bool may_exist(struct str id)
{
    return id.len > 0 && id.len <= MAX_ID_BYTES && !memchr(id.ptr, 0, id.len) && text_is_utf8(id);
}

static err_t look_up(struct db_ask ask, struct arena *arena, struct db_rows *rows)
{
    return cover(db_run(store.db, DB_READ, ask, arena, rows));
}

/* ---- items ---- */

/* Texts of items, comma-separated where two of them meet, in brackets, in the arena. */
static err_t join(const struct str *pieces, size_t count, struct arena *arena, struct str *out)
{
    size_t size = 2;
    char *text, *at;

    for (size_t i = 0; i < count; i++)
        size += pieces[i].len + 1;
    text = at = arena_alloc(arena, size);
    if (!text)
        return arena_err(arena);
    *at++ = '[';
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].len == 0)
            continue;
        if (at != text + 1)
            *at++ = ',';
        memcpy(at, pieces[i].ptr, pieces[i].len);
        at += pieces[i].len;
    }
    *at++ = ']';
    *out = (struct str){text, (size_t)(at - text)};
    return NULL;
}

/* A JSON array of our own without its brackets. */
static struct str without_brackets(struct str array)
{
    return array.len > 2 ? (struct str){array.ptr + 1, array.len - 2} : STR("");
}

/* ---- entering and keeping ---- */

/* *is_new: it was not there, as it is when a try before was committed unheard. */
static err_t insert(struct db_tx *tx, const struct response *r, bool *is_new)
{
    struct str holder = r->state == RESPONSE_STATE_RUNNING ? replica_name() : STR("");
    struct db_rows rows;

    TRY(db_tx_run(
        tx,
        DB_ASK(
            "INSERT INTO responses (id, owner, state, holder, wants_cancel, model, home, object, "
            "created_s, used_ms) VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, {{now_ms}}) "
            "ON CONFLICT (id, owner) DO NOTHING",
            DB_OF_TEXT(r->id), DB_OF_TEXT(r->owner), DB_OF_TEXT(states[r->state]),
            DB_OF_TEXT(holder), DB_OF_TEXT(r->model), DB_OF_TEXT(r->home), DB_OF_TEXT(r->object),
            DB_OF_INT(r->created_s)),
        NULL, &rows));
    *is_new = rows.changed > 0;
    return NULL;
}

static err_t write_beginning(struct db_tx *tx, void *response)
{
    bool is_new;

    return insert(tx, response, &is_new);
}

err_t response_store_begin(const struct response *response)
{
    struct response running = *response;

    running.state = RESPONSE_STATE_RUNNING;
    return db_transact(store.db, DB_WRITE, write_beginning, &running);
}

struct finish {
    const struct response *response;
    const struct response_turn *turn;
    enum response_begun begun;
};

/* Another process may have taken this one for dead while it stood still. */
static err_t update(struct db_tx *tx, const struct response *r, bool *is_there)
{
    struct db_rows rows;

    TRY(db_tx_run(
        tx,
        DB_ASK("UPDATE responses SET state = $1, holder = '', object = $2, created_s = $3, "
               "used_ms = {{now_ms}}, events = $4 WHERE id = $5 AND owner = $6 "
               "AND (holder = $7 OR state = 'killed')",
               DB_OF_TEXT(states[r->state]), DB_OF_TEXT(r->object), DB_OF_INT(r->created_s),
               DB_OF_TEXT(r->events), DB_OF_TEXT(r->id), DB_OF_TEXT(r->owner),
               DB_OF_TEXT(replica_name())),
        NULL, &rows));
    *is_there = rows.changed > 0;
    return NULL;
}

/* Build on the turn before; if that is gone, on a copy of what was said. */
static err_t insert_turn(struct db_tx *tx, struct str id, const struct response_turn *turn)
{
    struct str past = turn->past, head = STR("");
    struct db_rows rows;

    if (past.len > 0) {
        TRY(db_tx_run(tx,
                      DB_ASK("UPDATE turns SET uses = uses + 1 WHERE id = $1", DB_OF_TEXT(past)),
                      NULL, &rows));
        if (rows.changed == 0) {
            head = without_brackets(turn->history);
            past = STR("");
        }
    }
    return db_tx_run(tx,
                     DB_ASK("INSERT INTO turns (id, past, uses, head, input, output, total) "
                            "VALUES ($1, $2, 1, $3, $4, $5, $6)",
                            DB_OF_TEXT(id), DB_OF_TEXT(past), DB_OF_TEXT(head),
                            DB_OF_TEXT(turn->input), DB_OF_TEXT(turn->output),
                            DB_OF_INT(turn->history.len + turn->input.len + turn->output.len)),
                     NULL, NULL);
}

static err_t write_end(struct db_tx *tx, void *arg)
{
    const struct finish *f = arg;
    bool is_ours = false;

    if (f->begun != RESPONSE_NOT_BEGUN)
        TRY(update(tx, f->response, &is_ours));
    if (!is_ours && f->begun != RESPONSE_BEGUN)
        TRY(insert(tx, f->response, &is_ours));
    return is_ours ? insert_turn(tx, f->response->id, f->turn) : NULL;
}

err_t response_store_finish(const struct response *response, const struct response_turn *turn,
                            enum response_begun begun)
{
    struct finish finish = {response, turn, begun};

    return db_transact(store.db, DB_WRITE, write_end, &finish);
}

err_t response_store_note(const struct response *r)
{
    return db_run(
        store.db, DB_WRITE,
        DB_ASK(
            "INSERT INTO responses (id, owner, state, holder, wants_cancel, model, home, object, "
            "created_s, used_ms) VALUES ($1, $2, 'elsewhere', '', 0, $3, $4, '', $5, {{now_ms}}) "
            "ON CONFLICT (id, owner) DO UPDATE SET home = excluded.home, "
            "used_ms = excluded.used_ms WHERE responses.state = 'elsewhere'",
            DB_OF_TEXT(r->id), DB_OF_TEXT(r->owner), DB_OF_TEXT(r->model), DB_OF_TEXT(r->home),
            DB_OF_INT(r->created_s)),
        NULL, NULL);
}

/* ---- looking up ---- */

err_t response_store_get(struct str owner, struct str id, struct arena *arena, struct response *out)
{
    struct db_rows rows = {0};

    if (may_exist(id))
        TRY(look_up(DB_ASK("SELECT id, owner, state, object, home, model, created_s FROM responses "
                           "WHERE id = $1 AND owner = $2 "
                           "AND (used_ms >= {{now_ms}} - $3 OR state = 'running')",
                           DB_OF_TEXT(id), DB_OF_TEXT(owner), ttl()),
                    arena, &rows));
    if (rows.count == 0)
        return not_found(id, false);
    *out = (struct response){
        .id = db_text(&rows, 0, 0),
        .owner = db_text(&rows, 0, 1),
        .state = state_of(db_text(&rows, 0, 2)),
        .object = db_text(&rows, 0, 3),
        .home = db_text(&rows, 0, 4),
        .model = db_text(&rows, 0, 5),
        .created_s = (uint64_t)db_int(&rows, 0, 6),
    };
    return NULL;
}

err_t response_store_get_events(struct str owner, struct str id, struct arena *arena,
                                struct str *events)
{
    struct db_rows rows;

    TRY(look_up(DB_ASK("SELECT events FROM responses WHERE id = $1 AND owner = $2", DB_OF_TEXT(id),
                       DB_OF_TEXT(owner)),
                arena, &rows));
    *events = rows.count ? db_text(&rows, 0, 0) : STR("");
    return NULL;
}

static err_t read_turn(struct str owner, struct str id, struct arena *arena, struct db_rows *rows)
{
    *rows = (struct db_rows){0};
    if (!may_exist(id))
        return NULL;
    return look_up(DB_ASK("SELECT t.input, t.output FROM responses r JOIN turns t ON t.id = r.id "
                          "WHERE r.id = $1 AND r.owner = $2 AND r.used_ms >= {{now_ms}} - $3",
                          DB_OF_TEXT(id), DB_OF_TEXT(owner), ttl()),
                   arena, rows);
}

err_t response_store_get_input(struct str owner, struct str id, struct arena *arena,
                               struct str *items)
{
    struct db_rows rows;
    struct str input;

    TRY(read_turn(owner, id, arena, &rows));
    input = rows.count ? db_text(&rows, 0, 0) : STR("");
    return join(&input, 1, arena, items);
}

err_t response_store_get_items(struct str owner, struct str id, struct arena *arena,
                               struct str *items)
{
    struct db_rows rows;

    *items = (struct str){0};
    TRY(read_turn(owner, id, arena, &rows));
    if (rows.count == 0)
        return NULL;
    const struct str pieces[] = {db_text(&rows, 0, 0), db_text(&rows, 0, 1)};
    return join(pieces, 2, arena, items);
}

/* ---- continuing ---- */

/* All turns up to this one, the oldest first. */
static err_t read_chain(struct str id, struct arena *scratch, struct arena *arena,
                        struct str *items)
{
    struct db_rows rows;
    struct str *pieces;

    TRY(look_up(
        DB_ASK("WITH RECURSIVE chain (id, past, depth) AS ("
               "SELECT id, past, CAST(0 AS BIGINT) FROM turns WHERE id = $1 UNION ALL "
               "SELECT t.id, t.past, c.depth + 1 FROM chain c JOIN turns t ON t.id = c.past) "
               "SELECT t.head, t.input, t.output FROM chain c JOIN turns t ON t.id = c.id "
               "ORDER BY c.depth DESC",
               DB_OF_TEXT(id)),
        scratch, &rows));
    if (rows.count == 0) /* it was deleted a moment ago */
        return not_found(id, true);
    pieces = arena_alloc_array(scratch, rows.count * 3, sizeof(*pieces));
    if (!pieces)
        return arena_err(scratch);
    for (size_t i = 0; i < rows.count * 3; i++)
        pieces[i] = db_text(&rows, i / 3, i % 3);
    return join(pieces, rows.count * 3, arena, items);
}

static err_t read_history(struct str id, uint64_t total, struct arena *arena, struct str *items)
{
    struct arena *scratch;
    err_t err;

    if (total > MAX_HISTORY)
        return err_new(ERR_TOO_BIG, "the conversation is longer than %zu bytes", MAX_HISTORY);
    scratch = arena_new(MEM_REQUEST, 3 * MAX_HISTORY);
    if (!scratch)
        return err_no_memory();
    err = read_chain(id, scratch, arena, items);
    arena_free(scratch);
    return err;
}

/* It is used, for the first time since so long: put its end off. That this may fail costs nobody his answer. */
static void touch(struct str owner, struct str id, int64_t unused_ms)
{
    int64_t eighth_ms = (int64_t)atomic_load(&store.ttl_ms) / 8;
    err_t err;

    if (unused_ms < (eighth_ms < TOUCH_MS ? eighth_ms : TOUCH_MS))
        return;
    err = db_run(store.db, DB_WRITE,
                 DB_ASK("UPDATE responses SET used_ms = {{now_ms}} WHERE id = $1 AND owner = $2",
                        DB_OF_TEXT(id), DB_OF_TEXT(owner)),
                 NULL, NULL);
    (void)err;
}

static err_t refuse(enum response_state state)
{
    const char *text = state == RESPONSE_STATE_RUNNING
                           ? "The previous response is still in progress."
                           : "The previous response did not come to its end.";

    return err_new_detail(ERR_BAD_REQUEST,
                          (.code = "invalid_value", .param = "previous_response_id"), "%s", text);
}

err_t response_store_continue(struct str owner, struct str id, struct arena *arena,
                              struct str *items, struct str *home)
{
    struct db_rows rows = {0};
    enum response_state state;

    *items = *home = (struct str){0};
    if (may_exist(id))
        TRY(look_up(
            DB_ASK("SELECT r.state, r.home, {{now_ms}} - r.used_ms, t.total FROM responses r "
                   "LEFT JOIN turns t ON t.id = r.id AND r.state <> 'elsewhere' "
                   "WHERE r.id = $1 AND r.owner = $2 "
                   "AND (r.used_ms >= {{now_ms}} - $3 OR r.state = 'running')",
                   DB_OF_TEXT(id), DB_OF_TEXT(owner), ttl()),
            arena, &rows));
    if (rows.count == 0)
        return not_found(id, true);
    state = state_of(db_text(&rows, 0, 0));
    if (state != RESPONSE_STATE_ENDED && state != RESPONSE_STATE_ELSEWHERE)
        return refuse(state);
    touch(owner, id, db_int(&rows, 0, 2));
    if (state == RESPONSE_STATE_ENDED)
        return read_history(id, (uint64_t)db_int(&rows, 0, 3), arena, items);
    *home = db_text(&rows, 0, 1);
    return NULL;
}

/* ---- letting go ---- */

/* The response does not count on its turn any more: let that go, and those before it, as far as nothing else does. */
static err_t release_turns(struct db_tx *tx, struct str id, struct arena *arena)
{
    struct db_rows rows;

    while (id.len > 0) {
        TRY(db_tx_run(tx, DB_ASK("UPDATE turns SET uses = uses - 1 WHERE id = $1", DB_OF_TEXT(id)),
                      NULL, NULL));
        TRY(db_tx_run(
            tx,
            DB_ASK("DELETE FROM turns WHERE id = $1 AND uses <= 0 RETURNING past", DB_OF_TEXT(id)),
            arena, &rows));
        id = rows.count > 0 ? db_text(&rows, 0, 0) : STR("");
    }
    return NULL;
}

struct removal {
    struct str owner, id;
    struct arena *arena;
    bool found;
};

static err_t remove_one(struct db_tx *tx, void *arg)
{
    struct removal *removal = arg;
    struct db_rows rows;

    TRY(db_tx_run(tx,
                  DB_ASK("DELETE FROM responses WHERE id = $1 AND owner = $2 RETURNING state",
                         DB_OF_TEXT(removal->id), DB_OF_TEXT(removal->owner)),
                  removal->arena, &rows));
    removal->found = rows.count > 0;
    if (!removal->found || state_of(db_text(&rows, 0, 0)) == RESPONSE_STATE_ELSEWHERE)
        return NULL;
    return release_turns(tx, removal->id, removal->arena);
}

err_t response_store_delete(struct str owner, struct str id, bool *found)
{
    struct removal removal = {.owner = owner, .id = id};
    err_t err = NULL;

    if (may_exist(id)) {
        removal.arena = arena_new(MEM_REQUEST, 64 * 1024 * 1024);
        err =
            removal.arena ? db_transact(store.db, DB_WRITE, remove_one, &removal) : err_no_memory();
        arena_free(removal.arena);
    }
    if (found)
        *found = removal.found;
    return cover(err);
}

/* ---- cancelling ---- */

struct cancelling {
    struct str owner, id;
    bool found;
};

static err_t write_cancel(struct db_tx *tx, void *arg)
{
    struct cancelling *c = arg;
    struct db_rows rows;

    TRY(db_tx_run(tx,
                  DB_ASK("UPDATE responses SET wants_cancel = 1 WHERE id = $1 AND owner = $2 "
                         "AND state = 'running'",
                         DB_OF_TEXT(c->id), DB_OF_TEXT(c->owner)),
                  NULL, &rows));
    c->found = rows.changed > 0;
    return c->found ? db_tx_notify(tx, topic) : NULL;
}

err_t response_store_cancel(struct str owner, struct str id, bool *found)
{
    struct cancelling c = {owner, id, false};

    *found = response_running_cancel(owner, id);
    if (*found || !may_exist(id))
        return NULL;
    TRY(cover(db_transact(store.db, DB_WRITE, write_cancel, &c)));
    *found = c.found;
    return NULL;
}

uint64_t response_store_cancels(void)
{
    return db_topic_version(store.db, topic);
}

err_t response_store_obey(struct arena *arena)
{
    struct db_rows rows;

    TRY(db_run(store.db, DB_READ,
               DB_ASK("SELECT owner, id FROM responses WHERE holder = $1 AND holder <> '' "
                      "AND wants_cancel = 1",
                      DB_OF_TEXT(replica_name())),
               arena, &rows));
    for (size_t i = 0; i < rows.count; i++)
        response_running_cancel(db_text(&rows, i, 0), db_text(&rows, i, 1));
    return NULL;
}

/* ---- tidying up ---- */

err_t response_store_bury(void)
{
    return db_run(store.db, DB_WRITE,
                  DB_ASK_PLAIN("UPDATE responses SET state = 'killed', holder = '' "
                               "WHERE holder <> '' AND " REPLICA_HOLDER_IS_DEAD),
                  NULL, NULL);
}

static err_t kill_one(struct str owner, struct str id)
{
    return db_run(store.db, DB_WRITE,
                  DB_ASK("UPDATE responses SET state = 'killed', holder = '' "
                         "WHERE id = $1 AND owner = $2 AND holder = $3",
                         DB_OF_TEXT(id), DB_OF_TEXT(owner), DB_OF_TEXT(replica_name())),
                  NULL, NULL);
}

/* Whoever works on a response is in the list before its row is written and until its end is. */
err_t response_store_reconcile(struct arena *arena)
{
    struct db_rows rows;

    TRY(db_run(store.db, DB_READ,
               DB_ASK("SELECT owner, id FROM responses WHERE holder = $1 AND holder <> ''",
                      DB_OF_TEXT(replica_name())),
               arena, &rows));
    for (size_t i = 0; i < rows.count; i++)
        if (!response_running_has(db_text(&rows, i, 0), db_text(&rows, i, 1)))
            TRY(kill_one(db_text(&rows, i, 0), db_text(&rows, i, 1)));
    return NULL;
}

struct cleaning {
    struct arena *arena;
    size_t count;
};

static err_t clean_some(struct db_tx *tx, void *arg)
{
    struct cleaning *c = arg;
    struct db_rows rows;

    TRY(db_tx_run(
        tx,
        DB_ASK("SELECT owner, id FROM responses WHERE used_ms < (SELECT {{now_ms}}) - $1 "
               "AND state <> 'running' ORDER BY used_ms LIMIT $2 {{for_update}} {{skip_locked}}",
               ttl(), DB_OF_INT(BATCH_COUNT)),
        c->arena, &rows));
    c->count = rows.count;
    for (size_t i = 0; i < rows.count; i++) {
        struct removal removal = {
            .owner = db_text(&rows, i, 0), .id = db_text(&rows, i, 1), .arena = c->arena};
        TRY(remove_one(tx, &removal));
    }
    return NULL;
}

err_t response_store_clean(struct arena *arena, bool *is_done)
{
    struct cleaning c = {.arena = arena};

    TRY(db_transact(store.db, DB_WRITE, clean_some, &c));
    *is_done = c.count < BATCH_COUNT;
    return NULL;
}
