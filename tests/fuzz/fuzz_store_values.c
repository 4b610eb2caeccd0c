/* SPDX-License-Identifier: Apache-2.0 */
/* What the store keeps: any texts, bytes and numbers, through the statements of the program itself.
 *
 * The first byte says where they go in: as plain values, as tenants and keys, as rows of the ledger, as responses, as answers
 * kept for an Idempotency-Key. What is no text is refused (or, in the ledger, mended); everything else must come back
 * byte for byte, to its owner alone. Nothing else in the database may change.
 *
 * The database is SQLite's, in a file of its own. Every value is laid out for PostgreSQL, too (postgres_wire.h), which takes
 * neither a NUL nor broken UTF-8. */
#include "base/mem.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "fuzz_input.h"
#include "gateway/idempotency.h"
#include "gateway/replica.h"
#include "gateway/request.h"
#include "gateway/response_store.h"
#include "govern/identity_object.h"
#include "govern/ledger.h"
#include "govern/service.h"
#include "store_world.h"

#define MOST_TEXT  ((size_t)256 * 1024)
#define MOST_MODEL 200 /* bytes of a model's name that the ledger keeps */
#define MOST_USER  512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct fuzz_input input;
static struct conf conf = {
    .idempotency = {.ttl_ms = 3600000, .max_bytes = MOST_TEXT / 2},
    .ledger = {.retention_ms = 3600000, .hourly_ms = 86400000, .daily_ms = 86400000}};
static const struct err undone = {.kind = ERR_CANCELLED, .where = ERR_HERE, .text = "undone"};

/* ---- asking ---- */

/* A statement of a transaction that cannot fail. */
static struct db_rows tx_run(struct db_tx *tx, struct db_ask ask)
{
    struct db_rows rows = {0};

    check(!db_tx_run(tx, ask, arena, &rows));
    return rows;
}

static void compare_row(const struct db_rows *rows, const struct db_value *values, size_t count)
{
    check(rows->count == 1 && rows->columns == count);
    for (size_t i = 0; i < count; i++)
        check(is_same(db_cell(rows, 0, i), &values[i]));
}

static bool are_texts(const struct db_value *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (values[i].type == DB_TEXT && !wire_is_text(values[i].bytes))
            return false;
    return true;
}

/* What a write must come to. */
static void check_outcome(err_t err, bool is_text, bool is_conflict)
{
    if (!is_text)
        check(err_is(err, ERR_BAD_REQUEST) && strcmp(err->code, "invalid_value") == 0);
    else if (is_conflict)
        check(err_is(err, ERR_STORE) && strcmp(err->code, "store_conflict") == 0);
    else
        check(!err);
}

/* ---- the input ---- */

static struct str text(void)
{
    return input_text(&input, arena, MOST_TEXT);
}

static int64_t number(void)
{
    return (int64_t)input_number(&input);
}

/* Another text, which begins with this one. */
static struct str other_than(struct str s)
{
    char *copy = arena_alloc(arena, s.len + 1);

    check(copy != NULL);
    if (s.len > 0)
        memcpy(copy, s.ptr, s.len);
    copy[s.len] = 'x';
    return (struct str){copy, s.len + 1};
}

static struct db_value value_of(enum db_type type)
{
    if (input_byte(&input) % 4 == 0)
        return DB_OF_NULL;
    if (type == DB_INT)
        return DB_OF_INT(number());
    return type == DB_TEXT ? DB_OF_TEXT(text()) : DB_OF_BLOB(text());
}

/* ---- plain values ---- */

static err_t play_values(struct db_tx *tx, void *arg)
{
    static const char insert[] = "INSERT INTO nasty (n, t, b) VALUES ($1, $2, $3)";
    static const char find[] = "SELECT count(*) FROM nasty WHERE n = $1 OR t = $2 OR b = $3";
    const struct db_value *values = arg;
    struct db_rows before = tx_run(tx, DB_ASK_PLAIN(census)), rows;
    bool is_anything = false;
    err_t err = db_tx_run(tx, (struct db_ask){insert, values, 3}, arena, &rows);

    check_outcome(err, are_texts(values, 3), false);
    TRY(err);
    check(rows.changed == 1);
    rows = tx_run(tx, DB_ASK_PLAIN("SELECT n, t, b FROM nasty"));
    compare_row(&rows, values, 3);
    wire_send((struct db_ask){insert, values, 3});
    check(!wire_receive(arena, &rows));
    compare_row(&rows, values, 3);
    for (int i = 0; i < 3; i++)
        is_anything |= values[i].type != DB_NULL;
    rows = tx_run(tx, (struct db_ask){find, values, 3});
    check(db_int(&rows, 0, 0) == is_anything);
    rows = tx_run(tx, DB_ASK_PLAIN(census));
    compare_census(&before, &rows, (const char *const[]){"nasty", NULL});
    return &undone;
}

static void enter_values(void)
{
    struct db_value values[] = {value_of(DB_INT), value_of(DB_TEXT), value_of(DB_BLOB)};
    err_t err = db_transact(db, DB_WRITE, play_values, values);

    check(err == &undone || !are_texts(values, 3));
}

/* ---- tenants, keys, users ---- */

struct tenancy {
    struct db_value org[4], project[8], key[18], user[5];
    struct str new_name;
};

/* The first statement that cannot be done fails; those before it are undone. */
static err_t insert_all(struct db_tx *tx, const struct tenancy *t)
{
    const struct {
        enum identity_type type;
        const struct db_value *row;
        size_t count;
    } rows[] = {{IDENTITY_ORGS, t->org, 4},
                {IDENTITY_PROJECTS, t->project, 8},
                {IDENTITY_KEYS, t->key, 18},
                {IDENTITY_USERS, t->user, 5}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct db_ask ask = {identity_object_get(rows[i].type)->insert, rows[i].row, rows[i].count};
        bool is_taken =
            rows[i].type <= IDENTITY_PROJECTS && str_eq(rows[i].row[0].bytes, STR("default"));
        err_t err = db_tx_run(tx, ask, NULL, NULL);
        check_outcome(err, are_texts(ask.values, ask.count), is_taken);
        TRY(err);
    }
    return NULL;
}

/* An object is seen within its realm, with all its members, and not outside. */
static void check_realm(struct db_tx *tx, enum identity_type type, const struct db_value *row,
                        const struct tenancy *t)
{
    const struct identity_object *object = identity_object_get(type);
    struct str org = t->org[0].bytes, project = t->project[0].bytes, none = STR("");
    struct db_rows rows;

    rows = tx_run(tx, DB_ASK(object->one, row[0], DB_OF_TEXT(org), DB_OF_TEXT(none)));
    compare_row(&rows, row, object->field_count);
    rows = tx_run(tx, DB_ASK(object->one, row[0], DB_OF_TEXT(other_than(org)), DB_OF_TEXT(none)));
    check(rows.count == 0);
    rows =
        tx_run(tx, DB_ASK(object->one, row[0], DB_OF_TEXT(org), DB_OF_TEXT(other_than(project))));
    check(rows.count == 0);
    rows = tx_run(tx, DB_ASK(object->page, DB_OF_TEXT(org), DB_OF_TEXT(none), DB_OF_TEXT(none),
                             DB_OF_TEXT(none), DB_OF_INT(row[object->created].number - 1),
                             DB_OF_TEXT(none), DB_OF_INT(10)));
    check(org.len == 0 || rows.count == 1);
    rows = tx_run(tx, DB_ASK(object->page, DB_OF_TEXT(other_than(org)), DB_OF_TEXT(none),
                             DB_OF_TEXT(none), DB_OF_TEXT(none), DB_OF_INT(-1), DB_OF_TEXT(none),
                             DB_OF_INT(10)));
    check(rows.count == 0);
}

static err_t rename_org(struct db_tx *tx, struct tenancy *t)
{
    err_t err;

    t->org[ORG_NAME] = DB_OF_TEXT(t->new_name);
    err = db_tx_run(tx, (struct db_ask){identity_object_get(IDENTITY_ORGS)->update, t->org, 4},
                    NULL, NULL);
    check_outcome(err, wire_is_text(t->new_name), false);
    return err;
}

static err_t play_tenancy(struct db_tx *tx, void *arg)
{
    struct tenancy *t = arg;
    struct db_rows before = tx_run(tx, DB_ASK_PLAIN(census)), after;

    TRY(insert_all(tx, t));
    check_realm(tx, IDENTITY_ORGS, t->org, t);
    check_realm(tx, IDENTITY_PROJECTS, t->project, t);
    check_realm(tx, IDENTITY_KEYS, t->key, t);
    check_realm(tx, IDENTITY_USERS, t->user, t);
    TRY(rename_org(tx, t));
    check_realm(tx, IDENTITY_ORGS, t->org, t);
    after = tx_run(tx, DB_ASK_PLAIN(census));
    compare_census(&before, &after,
                   (const char *const[]){"orgs", "projects", "keys", "users", NULL});
    after = tx_run(
        tx, DB_ASK(identity_object_get(IDENTITY_USERS)->remove[0], DB_OF_TEXT(t->user[0].bytes)));
    check(after.changed == 1);
    return &undone;
}

static struct db_value positive(void)
{
    return DB_OF_INT((uint64_t)number() >> 2);
}

static void enter_tenancy(void)
{
    static const char hash[32];
    struct str org = text(), project = text();
    struct tenancy t = {
        .org = {DB_OF_TEXT(org), DB_OF_TEXT(text()), DB_OF_INT(0), positive()},
        .project = {DB_OF_TEXT(project), DB_OF_TEXT(org), DB_OF_TEXT(text()), DB_OF_TEXT(text()),
                    DB_OF_TEXT(text()), DB_OF_TEXT(text()), DB_OF_INT(0), positive()},
        .key = {DB_OF_TEXT(text()), DB_OF_TEXT(org), DB_OF_TEXT(project), DB_OF_TEXT(text()),
                DB_OF_TEXT(text()), positive(), DB_OF_TEXT(text()), DB_OF_TEXT(text()),
                DB_OF_TEXT(text()), DB_OF_TEXT(text()), positive(), DB_OF_INT(0), positive(),
                positive(), positive(), positive(), positive(),
                DB_OF_BLOB(((struct str){hash, sizeof(hash)}))},
        .user = {DB_OF_TEXT(text()), DB_OF_TEXT(project), DB_OF_TEXT(text()), DB_OF_INT(1),
                 positive()},
        .new_name = text(),
    };
    err_t err = db_transact(db, DB_WRITE, play_tenancy, &t);

    check(err != NULL);
}

/* ---- the ledger ---- */

/* A text comes back as it was if it can, cut at `most` bytes; else as a text of its length, of which only what is wrong
 * was replaced. */
static void check_mended(struct str kept, struct str given, size_t most)
{
    given.len = given.len < most ? given.len : most;
    check(kept.len == given.len && wire_is_text(kept));
    check(!wire_is_text(given) || str_eq(kept, given));
    for (size_t i = 0; i < given.len; i++)
        check(kept.ptr[i] == given.ptr[i] || kept.ptr[i] == '?');
}

static uint64_t at_most(uint64_t n, uint64_t most)
{
    return n < most ? n : most;
}

static void check_row(const struct ledger_row *r)
{
    static const char select[] =
        "SELECT request_id, org_id, project_id, key_id, user_id, model, provider, upstream_model, "
        "route, outcome, at_ms, status, duration_ms, attempts, is_estimated, input, output, "
        "cached, cache_written, reasoning, cost_nano, booked FROM ledger ORDER BY id";
    const struct str texts[] = {r->request_id, r->org,    r->project,  r->key,
                                r->user,       r->model,  r->provider, r->upstream_model,
                                r->route,      r->outcome};
    const uint64_t numbers[] = {r->at_ms, r->status, r->ms, r->attempts, r->is_estimated};
    const uint64_t tokens[] = {r->input, r->output, r->cached, r->cache_written, r->reasoning};
    struct db_rows rows = run(DB_READ, DB_ASK_PLAIN(select));

    check(rows.count == 2);
    for (size_t i = 0; i < 10; i++)
        check_mended(db_text(&rows, 0, i), texts[i],
                     i == 4             ? MOST_USER
                     : i == 5 || i == 7 ? MOST_MODEL
                                        : SIZE_MAX);
    for (size_t i = 0; i < 5; i++)
        check(db_int(&rows, 0, 10 + i) == (int64_t)numbers[i] &&
              db_int(&rows, 0, 15 + i) == (int64_t)at_most(tokens[i], UINT64_C(1000000000000)));
    check(db_cell(&rows, 0, 20)->type == (r->has_cost ? DB_INT : DB_NULL));
    check(!r->has_cost ||
          db_int(&rows, 0, 20) == (int64_t)at_most(r->cost_nano, UINT64_C(1000000000000000)));
    check(db_text(&rows, 0, 21).len == 0 && str_eq(db_text(&rows, 1, 0), STR("plain")));
}

/* Sums are kept by the same texts as rows, so they are found by joining. */
static void check_sums(void)
{
    static const char sums[] =
        "SELECT (SELECT count(*) FROM usage_days u WHERE (SELECT count(*) FROM ledger l "
        "WHERE l.project_id = u.project_id AND l.key_id = u.key_id AND l.user_id = u.user_id "
        "AND l.model = u.model AND l.provider = u.provider AND l.org_id = u.org_id "
        "AND l.upstream_model = u.upstream_model AND l.at_ms - l.at_ms % 86400000 = u.begins_ms) "
        "<> u.calls), (SELECT CAST(sum(calls) AS BIGINT) FROM usage_days), "
        "(SELECT CAST(sum(calls) AS BIGINT) FROM usage_hours), "
        "(SELECT CAST(sum(input) AS BIGINT) FROM usage_hours) - (SELECT CAST(sum(input) AS BIGINT) "
        "FROM ledger)";
    struct db_rows rows = run(DB_READ, DB_ASK_PLAIN(sums));

    check(db_int(&rows, 0, 0) == 0 && db_int(&rows, 0, 1) == 2 && db_int(&rows, 0, 2) == 2 &&
          db_int(&rows, 0, 3) == 0);
}

static err_t empty_ledger(struct db_tx *tx, void *arg)
{
    (void)arg;
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM ledger_rows"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM ledger_kinds"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM usage_pending"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM usage_left"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM usage_open_sums"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM usage_hour_sums"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM usage_day_sums"), NULL, NULL));
    return db_tx_run(tx, DB_ASK_PLAIN("DELETE FROM ledger_writers"), NULL, NULL);
}

/* Whatever a row says, it is committed at once, and so is the next. */
static void enter_ledger(void)
{
    static const struct ledger_row plain = {.request_id = {"plain", 5}, .at_ms = 1};
    struct ledger_row row = {.at_ms = (uint64_t)number() >> 20,
                             .request_id = text(),
                             .org = text(),
                             .project = text(),
                             .key = text(),
                             .user = text(),
                             .model = text(),
                             .provider = text(),
                             .upstream_model = text(),
                             .route = text(),
                             .outcome = text(),
                             .status = (uint64_t)number() >> 1,
                             .ms = (uint64_t)number() >> 1,
                             .attempts = (uint64_t)number() >> 1,
                             .input = (uint64_t)number(),
                             .output = (uint64_t)number(),
                             .cached = (uint64_t)number(),
                             .cache_written = (uint64_t)number(),
                             .reasoning = (uint64_t)number(),
                             .is_estimated = input_byte(&input) & 1,
                             .has_cost = input_byte(&input) & 1,
                             .cost_nano = (uint64_t)number()};

    ledger_add(&row, NULL);
    ledger_add(&plain, NULL);
    ledger_service.close(db);
    check(ledger_waiting() == 0 && ledger_lost() == 0 && ledger_bytes() == 0);
    check_row(&row);
    check_sums();
    check(!db_transact(db, DB_WRITE, empty_ledger, NULL));
}

/* ---- responses ---- */

/* Pieces that say something, with commas between them, in brackets. */
static struct str array_of(const struct str *pieces, size_t count)
{
    struct buf out = buf_make(MEM_TOOL, SIZE_MAX / 4);
    struct str copy;

    check(!buf_add_byte(&out, '['));
    for (size_t i = 0; i < count; i++)
        check(pieces[i].len == 0 ||
              ((out.len == 1 || !buf_add_byte(&out, ',')) && !buf_add(&out, pieces[i])));
    check(!buf_add_byte(&out, ']'));
    copy = arena_copy(arena, buf_str(&out));
    buf_fini(&out);
    return copy;
}

static bool has_response(struct str owner, struct str id, struct response *found)
{
    err_t err = response_store_get(owner, id, arena, found);

    check(!err || err_is(err, ERR_NOT_FOUND));
    return !err;
}

/* It is there, for its owner alone. */
static void check_response(const struct response *r, enum response_state state, struct str object)
{
    struct response found;

    check(has_response(r->owner, r->id, &found) && found.state == state);
    check(str_eq(found.id, r->id) && str_eq(found.owner, r->owner) &&
          str_eq(found.model, r->model) && str_eq(found.home, r->home) &&
          str_eq(found.object, object) && found.created_s == r->created_s);
    check(!has_response(other_than(r->owner), r->id, &found));
    if (r->id.len < 512)
        check(!has_response(r->owner, other_than(r->id), &found));
}

static void check_turn(const struct response *r, const struct response_turn *turn)
{
    struct str pieces[] = {STR(""), turn->input, turn->output}, items, home;

    if (turn->past.len > 0 && turn->history.len > 2) /* what it builds on is not there */
        pieces[0] = (struct str){turn->history.ptr + 1, turn->history.len - 2};
    check(!response_store_get_input(r->owner, r->id, arena, &items));
    check(str_eq(items, array_of(pieces + 1, 1)));
    check(!response_store_get_items(r->owner, r->id, arena, &items));
    check(str_eq(items, array_of(pieces + 1, 2)));
    check(!response_store_continue(r->owner, r->id, arena, &items, &home));
    check(str_eq(items, array_of(pieces, 3)) && home.len == 0);
    check(err_is(response_store_continue(other_than(r->owner), r->id, arena, &items, &home),
                 ERR_NOT_FOUND));
}

static void forget_response(const struct response *r)
{
    bool found;

    check(!response_store_delete(other_than(r->owner), r->id, &found) && !found);
    check(!response_store_delete(r->owner, r->id, &found) && found);
}

static void enter_response(void)
{
    struct response r = {.id = input_text(&input, arena, 512),
                         .owner = text(),
                         .model = text(),
                         .home = text(),
                         .created_s = (uint64_t)number() >> 1};
    struct response_turn turn = {text(), text(), text(), text()};
    struct response ended = r;
    struct str events;
    bool is_text = wire_is_text(r.id) && wire_is_text(r.owner) && wire_is_text(r.model) &&
                   wire_is_text(r.home),
         found;
    err_t err;

    ended.object = text();
    ended.events = text();
    ended.state = RESPONSE_STATE_ENDED;
    if (r.id.len == 0)
        r.id = ended.id = STR("resp_1");
    err = response_store_begin(&r);
    check_outcome(err, is_text, false);
    if (err)
        return;
    check_response(&r, RESPONSE_STATE_RUNNING, r.object);
    check(!response_store_cancel(r.owner, r.id, &found) && found);
    err = response_store_finish(&ended, &turn, RESPONSE_BEGUN);
    is_text = wire_is_text(ended.object) && wire_is_text(ended.events) && wire_is_text(turn.past) &&
              wire_is_text(turn.input) && wire_is_text(turn.output) &&
              (turn.past.len == 0 || turn.history.len <= 2 ||
               wire_is_text((struct str){turn.history.ptr + 1, turn.history.len - 2}));
    check_outcome(err, is_text, false);
    check_response(&r, err ? RESPONSE_STATE_RUNNING : RESPONSE_STATE_ENDED,
                   err ? r.object : ended.object);
    check(!response_store_get_events(r.owner, r.id, arena, &events));
    check(str_eq(events, err ? STR("") : ended.events));
    if (!err)
        check_turn(&r, &turn);
    forget_response(&r);
}

/* ---- answers kept for an Idempotency-Key ---- */

/* A request as far as this needs one. */
struct ask {
    struct request request;
    struct exchange exchange;
    struct http_header header;
};

static struct request *ask_of(struct ask *ask, struct str name, struct str body, bool is_stream)
{
    *ask = (struct ask){.header = {STR("idempotency-key"), name}};
    ask->exchange.head = (struct http_head){
        .path = STR("/v1/responses"), .headers = &ask->header, .header_count = 1};
    ask->exchange.id = "req_1";
    ask->request = (struct request){.exchange = &ask->exchange,
                                    .arena = arena,
                                    .conf = &conf,
                                    .ask = {.body = body, .is_stream = is_stream}};
    return &ask->request;
}

static bool is_good_name(struct str name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.ptr[i] < ' ' || name.ptr[i] > '~')
            return false;
    return name.len > 0 && name.len <= 255;
}

static void expect(struct request *r, int status)
{
    err_t err = idempotency_begin(r);

    check(status ? err && err_status(err) == status : !err);
}

/* The row that an answer has become. */
static void check_answer(struct str name, struct str answer, bool is_stream)
{
    struct db_rows rows = run(
        DB_READ, DB_ASK("SELECT state, body, is_stream, target FROM idempotency WHERE name = $1",
                        DB_OF_TEXT(name)));
    bool is_large = answer.len > conf.idempotency.max_bytes;
    const struct db_value expected[] = {
        DB_OF_TEXT(is_large ? STR("large") : STR("kept")),
        DB_OF_BLOB(is_large ? STR("") : answer),
        DB_OF_INT(is_stream),
        DB_OF_TEXT(STR("")),
    };

    compare_row(&rows, expected, 4);
}

static void run_asks(void *arg)
{
    static struct ask asks[4];
    struct str name = text(), body = text(), answer = text(), owner = text();
    bool is_stream = input_byte(&input) & 1, is_large = answer.len > conf.idempotency.max_bytes;
    struct request *r = ask_of(&asks[0], name, body, is_stream);
    const struct str halves[] = {{answer.ptr, answer.len / 2}, str_after(answer, answer.len / 2)};

    (void)arg;
    fiber_set_arena(arena);
    owner = wire_is_text(owner) ? owner : STR("default");
    r->subject = (struct subject){.project = owner, .key = STR("key")};
    expect(r, is_good_name(name) ? 0 : 400);
    if (is_good_name(name)) {
        if (is_stream)
            idempotency_add(r, halves, 2);
        idempotency_keep(r, is_stream ? STR("") : answer);
        idempotency_finish(r);
        check_answer(name, answer, is_stream);
        r = ask_of(&asks[1], name, body, is_stream); /* once more */
        r->subject = asks[0].request.subject;
        expect(r, is_large ? 409 : 0);
        check(idempotency_is_answered(r) == !is_large);
        r = ask_of(&asks[2], name, other_than(body), is_stream); /* something else */
        r->subject = asks[0].request.subject;
        expect(r, 422);
        r = ask_of(&asks[3], name, body, is_stream); /* somebody else */
        r->subject = (struct subject){.project = other_than(owner), .key = STR("key")};
        expect(r, 0);
        check(!idempotency_is_answered(r));
        idempotency_finish(r);
        check_answer(name, answer, is_stream);
        check(run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM idempotency")).changed == 1);
    }
    fiber_set_arena(NULL);
    loop_stop(loop);
}

static void enter_answer(void)
{
    check(!loop_open(&loop));
    check(!fiber_start_later("fuzz", run_asks, NULL, NULL));
    loop_run(loop);
    loop_close(loop);
}

static void open_world(void)
{
    store_open();
    check(!replica_open(db));
    run(DB_WRITE, DB_ASK_PLAIN("UPDATE replicas SET expires_ms = 9000000000000000"));
    check(!ledger_service.open(db, &conf));
    response_store_use(db, 3600000);
    idempotency_use(db);
    check(atexit(offload_stop_all) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const doors[])(void) = {enter_values, enter_tenancy, enter_ledger, enter_response,
                                          enter_answer};
    struct db_rows before, after;

    arena = arena_new(MEM_TOOL, (size_t)512 * 1024 * 1024);
    check(arena != NULL);
    err_scope_set(arena);
    if (!db)
        open_world();
    input = (struct fuzz_input){data, size};
    before = run(DB_READ, DB_ASK_PLAIN(census));
    doors[input_byte(&input) % (sizeof(doors) / sizeof(*doors))]();
    err_scope_set(arena); /* a fiber's is gone with it */
    after = run(DB_READ, DB_ASK_PLAIN(census));
    compare_census(&before, &after, (const char *const[]){NULL});
    err_scope_set(NULL);
    arena_free(arena);
    check(mem_in_use(MEM_TOOL) == 0);
    return 0;
}
