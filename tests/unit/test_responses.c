/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's responses: which bodies are taken, and how responses are kept and found again. What they
 * mean and how answers are written is the wire tests'. */
#include "arena_scope.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/sys.h"
#include "dialect/openai_responses.h"
#include "fiber/offload.h"
#include "gateway/idempotency.h"
#include "gateway/replica.h"
#include "gateway/response_running.h"
#include "gateway/response_store.h"
#include "observe/metrics.h"

/* ---- bodies ---- */

static void reads_what_concerns_us(void **state)
{
    struct chat_request ask;

    assert_null(dialect_responses->parse(
        STR("{\"model\":\"m\",\"input\":[{\"role\":\"user\",\"content\":\"hi\"},"
            "{\"id\":\"msg_1\"},{\"type\":\"function_call_output\"}],\"stream\":true}"),
        arena, &ask));
    assert_true(ask.is_stream);
    assert_int_equal(ask.protocol, PROTOCOL_RESPONSES);
    assert_true(str_eq(ask.model, STR("m")));
}

static void null_means_left_out(void **state)
{
    struct chat_request ask;
    const struct prompt *prompt;

    assert_null(dialect_responses->parse(
        STR("{\"model\":\"m\",\"input\":\"hi\",\"stream\":null,\"tools\":null,\"tool_choice\":null,"
            "\"text\":null,\"reasoning\":null,\"include\":null,\"instructions\":null,"
            "\"previous_response_id\":null,\"conversation\":null,\"temperature\":null}"),
        arena, &ask));
    assert_null(chat_prompt(&ask, arena, &prompt));
    assert_int_equal(prompt->message_count, 1);
    assert_int_equal(prompt->tool_count, 0);
    assert_int_equal(prompt->unknown_count, 0);
}

/* Bodies that are refused, with the code and the field that is blamed. */
static const struct {
    const char *body, *code, *param;
} refused[] = {
    {"", "invalid_json", NULL},
    {"[]", "invalid_type", NULL},
    {"{\"input\":\"hi\"}", "missing_required_parameter", "model"},
    {"{\"model\":\"m\"}", "missing_required_parameter", "input"},
    {"{\"model\":\"m\",\"input\":7}", "invalid_type", "input"},
    {"{\"model\":\"m\",\"input\":[7]}", "invalid_type", "input[0]"},
    {"{\"model\":\"m\",\"input\":[{\"x\":1}]}", "invalid_value", "input[0]"},
    {"{\"model\":\"m\",\"input\":[{\"type\":7}]}", "invalid_value", "input[0]"},
    {"{\"model\":\"m\",\"input\":\"a\",\"input\":\"a\"}", "invalid_value", "input"},
    {"{\"model\":\"m\",\"input\":\"a\",\"stream\":1}", "invalid_type", "stream"},
    {"{\"model\":\"m\",\"input\":\"a\",\"store\":\"no\"}", "invalid_type", "store"},
    {"{\"model\":\"m\",\"input\":\"a\",\"tools\":{}}", "invalid_type", "tools"},
    {"{\"model\":\"m\",\"input\":\"a\",\"text\":\"x\"}", "invalid_type", "text"},
    {"{\"model\":\"m\",\"input\":\"a\",\"max_output_tokens\":0}", "invalid_value",
     "max_output_tokens"},
    {"{\"model\":\"m\",\"input\":\"a\",\"temperature\":3}", "invalid_value", "temperature"},
    {"{\"model\":\"m\",\"input\":\"a\",\"api_key\":\"x\"}", "unsupported_parameter", "api_key"},
    {"{\"model\":\"m\",\"input\":\"a\",\"previous_response_id\":\"r\",\"conversation\":\"c\"}",
     "mutually_exclusive_parameters", "previous_response_id"},
};

static void refuses_by_name(void **state)
{
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
        struct chat_request ask;
        err_t err = dialect_responses->parse(str_from(refused[i].body), arena, &ask);
        assert_non_null(err);
        assert_int_equal(err->kind, ERR_BAD_REQUEST);
        assert_string_equal(err->code, refused[i].code);
        if (refused[i].param)
            assert_string_equal(err->param, refused[i].param);
    }
}

/* Bodies whose mistakes are found only when they are translated. */
static const struct {
    const char *members, *param;
} untranslatable[] = {
    {"\"input\":[{\"role\":\"user\"}]", "input[0].content"},
    {"\"input\":[{\"role\":\"user\",\"content\":[{\"text\":\"a\"}]}]", "input[0].content[0].type"},
    {"\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\"}]}]",
     "input[0].content[0].text"},
    {"\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_file\"}]}]",
     "input[0].content[0].file_data"},
    {"\"input\":[{\"type\":\"function_call\",\"name\":\"f\"}]", "input[0].call_id"},
    {"\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"c\"}]", "input[0].output"},
    {"\"input\":[{\"type\":\"reasoning\",\"content\":[{\"text\":7}]}]", "input[0].content[0].text"},
    {"\"input\":\"a\",\"tools\":[{\"type\":\"function\"}]", "tools[0].name"},
    {"\"input\":\"a\",\"tools\":[7]", "tools[0].type"},
    {"\"input\":\"a\",\"tool_choice\":\"maybe\"", "tool_choice"},
    {"\"input\":\"a\",\"tool_choice\":{}", "tool_choice.type"},
    {"\"input\":\"a\",\"tool_choice\":{\"type\":\"function\"}", "tool_choice.name"},
    {"\"input\":\"a\",\"text\":{\"format\":{\"type\":\"xml\"}}", "text.format.type"},
    {"\"input\":\"a\",\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\"}}",
     "text.format.schema"},
    {"\"input\":\"a\",\"reasoning\":{\"effort\":7}", "reasoning.effort"},
};

static void names_the_place_of_a_mistake(void **state)
{
    for (size_t i = 0; i < sizeof(untranslatable) / sizeof(*untranslatable); i++) {
        struct chat_request ask;
        const struct prompt *prompt;
        char *body = arena_printf(arena, "{\"model\":\"m\",%s}", untranslatable[i].members);
        assert_null(dialect_responses->parse(str_from(body), arena, &ask));
        err_t err = chat_prompt(&ask, arena, &prompt);
        assert_non_null(err);
        assert_int_equal(err->kind, ERR_BAD_REQUEST);
        assert_string_equal(err->param, untranslatable[i].param);
    }
}

/* What the model said in a row is one message; items that are only named are looked up. */
static void puts_items_together(void **state)
{
    struct chat_request ask;
    const struct prompt *prompt;

    assert_null(dialect_responses->parse(
        STR("{\"model\":\"m\",\"input\":[{\"type\":\"item_reference\",\"id\":\"msg_1\"},"
            "{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"\"},"
            "{\"type\":\"item_reference\",\"id\":\"msg_0\"},"
            "{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"x\"}]}"),
        arena, &ask));
    ask.history = STR("[{\"id\":\"msg_0\",\"role\":\"user\",\"content\":\"hi\"}]");
    ask.referenced = STR("[{\"id\":\"msg_1\",\"role\":\"assistant\",\"content\":\"ho\"}]");
    assert_null(chat_prompt(&ask, arena, &prompt));
    assert_int_equal(prompt->message_count, 3);
    assert_int_equal(prompt->messages[0].role, ROLE_USER);
    assert_int_equal(prompt->messages[1].role, ROLE_ASSISTANT);
    assert_int_equal(prompt->messages[1].part_count, 2);
    assert_true(str_eq(prompt->messages[1].parts[0].text, STR("ho")));
    assert_true(str_eq(prompt->messages[1].parts[1].arguments, STR("{}")));
    assert_int_equal(prompt->messages[2].role, ROLE_TOOL);
    assert_true(str_eq(prompt->messages[2].parts[0].name, STR("f")));
}

/* ---- the store ---- */

#define ID(letter) "resp_" letter "23456789012345678901234"
#define DAY_MS     UINT64_C(86400000)

static char folder[64];
static struct db *db;

static int begin_store(void **state)
{
    char url[128];

    if (begin_arena(state))
        return -1;
    snprintf(folder, sizeof(folder), "/tmp/responses.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(url, sizeof(url), "sqlite:%s/sluice.db", folder);
    assert_ok(db_open(&(struct db_options){.url = str_from(url)}, &db));
    assert_ok(replica_open(db));
    response_store_use(db, DAY_MS);
    return 0;
}

static int end_store(void **state)
{
    char command[128];

    response_store_use(NULL, 0);
    replica_close(db);
    db_close(db);
    offload_stop_all();
    snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    metrics_close();
    return end_arena(state);
}

static int64_t count(const char *sql)
{
    struct db_rows rows;

    assert_ok(db_run(db, DB_READ, DB_ASK_PLAIN(sql), arena, &rows));
    return db_int(&rows, 0, 0);
}

static struct response named(const char *owner, const char *id)
{
    return (struct response){.id = str_from(id),
                             .owner = str_from(owner),
                             .state = RESPONSE_STATE_ENDED,
                             .home = STR(""),
                             .model = STR("m"),
                             .object = STR("{\"object\":\"response\"}")};
}

#define INPUT "{\"id\":\"msg_in\"}"

/* Keep a response that continues `past` ("" for none), of which `history` is known. */
static void keep_on(const char *id, const char *past, struct str history, const char *output)
{
    struct response r = named("a", id);
    struct response_turn turn = {.past = str_from(past),
                                 .history = history,
                                 .input = STR(INPUT),
                                 .output = str_from(output)};

    assert_ok(response_store_finish(&r, &turn, RESPONSE_NOT_BEGUN));
}

static void keep(const char *id, const char *output)
{
    keep_on(id, "", STR(""), output);
}

static void has(const char *owner, const char *id, bool expected)
{
    struct response r;
    err_t err = response_store_get(str_from(owner), str_from(id), arena, &r);

    assert_int_equal(err == NULL, expected);
    if (err)
        assert_int_equal(err->kind, ERR_NOT_FOUND);
}

static struct str go_on(const char *id)
{
    struct str items, home;

    assert_ok(response_store_continue(STR("a"), str_from(id), arena, &items, &home));
    assert_int_equal(home.len, 0);
    return items;
}

static void cannot_go_on(const char *id)
{
    struct str items, home;
    err_t err = response_store_continue(STR("a"), str_from(id), arena, &items, &home);

    assert_int_equal(err->kind, ERR_BAD_REQUEST);
}

static bool delete_it(const char *owner, const char *id)
{
    bool found;

    assert_ok(response_store_delete(str_from(owner), str_from(id), &found));
    return found;
}

static void clean(void)
{
    bool is_done = false;

    while (!is_done)
        assert_ok(response_store_clean(arena, &is_done));
}

static void gives_back_what_was_kept(void **state)
{
    struct response r;
    struct str items;

    keep(ID("1"), "{\"id\":\"msg_out\"}");
    assert_ok(response_store_get(STR("a"), STR(ID("1")), arena, &r));
    assert_int_equal(r.state, RESPONSE_STATE_ENDED);
    assert_true(str_eq(r.object, STR("{\"object\":\"response\"}")));
    assert_ok(response_store_get_input(STR("a"), STR(ID("1")), arena, &items));
    assert_true(str_eq(items, STR("[" INPUT "]")));
}

/* Somebody else's response and a missing one are told apart by nothing. */
static void keeps_callers_apart(void **state)
{
    struct response r;
    struct str items, home;
    bool found;
    err_t other, missing;

    keep(ID("1"), "");
    other = response_store_get(STR("b"), STR(ID("1")), arena, &r);
    assert_true(delete_it("a", ID("1")));
    missing = response_store_get(STR("b"), STR(ID("1")), arena, &r);
    assert_string_equal(other->text, missing->text);
    assert_int_equal(err_status(other), err_status(missing));
    keep(ID("1"), "");
    other = response_store_continue(STR("b"), STR(ID("1")), arena, &items, &home);
    assert_string_equal(other->code, "previous_response_not_found");
    assert_false(delete_it("b", ID("1")));
    assert_ok(response_store_cancel(STR("b"), STR(ID("1")), &found));
    assert_false(found);
    assert_ok(response_store_get_items(STR("b"), STR(ID("1")), arena, &items));
    assert_int_equal(items.len, 0);
    has("a", ID("1"), true);
}

/* No id from outside is an error of the store. */
static void odd_ids_are_not_found(void **state)
{
    const struct str odd[] = {STR(""), {"a\0b", 3}, STR("\xff"), STR("' OR 1=1 --")};
    struct response r;

    for (size_t i = 0; i < sizeof(odd) / sizeof(*odd); i++)
        assert_int_equal(response_store_get(STR("a"), odd[i], arena, &r)->kind, ERR_NOT_FOUND);
}

/* A chain of three turns, the first of which was deleted meanwhile. */
static void conversation_survives_deletion(void **state)
{
    keep(ID("1"), "1");
    assert_true(str_eq(go_on(ID("1")), STR("[" INPUT ",1]")));
    keep_on(ID("2"), ID("1"), go_on(ID("1")), "");
    assert_true(delete_it("a", ID("1")));
    has("a", ID("1"), false);
    keep_on(ID("3"), ID("2"), go_on(ID("2")), "3");
    assert_true(str_eq(go_on(ID("3")), STR("[" INPUT ",1," INPUT "," INPUT ",3]")));
    assert_true(delete_it("a", ID("2")));
    assert_int_equal(count("SELECT count(*) FROM turns"), 3);
    assert_true(delete_it("a", ID("3")));
    assert_int_equal(count("SELECT count(*) FROM turns"), 0);
}

/* The last response before it went while it was made: what was said stays with the new one. */
static void conversation_survives_deletion_meanwhile(void **state)
{
    struct str history;

    keep(ID("1"), "1");
    history = go_on(ID("1"));
    assert_true(delete_it("a", ID("1")));
    assert_int_equal(count("SELECT count(*) FROM turns"), 0);
    keep_on(ID("2"), ID("1"), history, "2");
    assert_true(str_eq(go_on(ID("2")), STR("[" INPUT ",1," INPUT ",2]")));
}

/* Two that go on from the same one. */
static void branches_are_let_go_one_by_one(void **state)
{
    keep(ID("1"), "1");
    keep_on(ID("2"), ID("1"), go_on(ID("1")), "2");
    keep_on(ID("3"), ID("1"), go_on(ID("1")), "3");
    assert_true(delete_it("a", ID("1")));
    assert_true(delete_it("a", ID("2")));
    assert_int_equal(count("SELECT count(*) FROM turns"), 2);
    assert_true(str_eq(go_on(ID("3")), STR("[" INPUT ",1," INPUT ",3]")));
    assert_true(delete_it("a", ID("3")));
    assert_int_equal(count("SELECT count(*) FROM turns"), 0);
}

/* A long chain, of which only the last response is left. */
static void long_conversation_is_let_go(void **state)
{
    char id[40] = "", past[40];

    for (int i = 0; i < 300; i++) {
        memcpy(past, id, sizeof(id));
        snprintf(id, sizeof(id), "resp_%024d", i);
        keep_on(id, past, STR(""), "1");
        if (*past)
            assert_true(delete_it("a", past));
    }
    assert_int_equal(count("SELECT count(*) FROM turns"), 300);
    assert_int_equal(go_on(id).len, 300 * (strlen(INPUT) + 3) + 1);
    assert_true(delete_it("a", id));
    assert_int_equal(count("SELECT count(*) FROM turns"), 0);
}

static void begin_one(const char *id)
{
    struct response r = named("a", id);

    r.object = STR("");
    assert_ok(response_store_begin(&r));
}

static void end_one(const char *id, enum response_state how)
{
    struct response r = named("a", id);
    struct response_turn turn = {
        .past = STR(""), .history = STR(""), .input = STR(INPUT), .output = STR("")};

    r.state = how;
    assert_ok(response_store_finish(&r, &turn, RESPONSE_BEGUN));
}

/* All that is in the store becomes older. */
static void time_passes(int64_t ms)
{
    assert_ok(db_run(db, DB_WRITE,
                     DB_ASK("UPDATE responses SET used_ms = used_ms - $1", DB_OF_INT(ms)), NULL,
                     NULL));
}

static void forgets_after_a_while(void **state)
{
    response_store_use(db, 60 * 1000);
    keep(ID("1"), "1");
    keep(ID("2"), "2");
    time_passes(30 * 1000);
    go_on(ID("1"));
    time_passes(40 * 1000);
    has("a", ID("1"), true); /* it was continued */
    has("a", ID("2"), false);
    clean();
    assert_int_equal(count("SELECT count(*) FROM turns"), 1);
    time_passes(30 * 1000);
    has("a", ID("1"), false);
    clean();
    assert_int_equal(count("SELECT count(*) FROM responses"), 0);
    assert_int_equal(count("SELECT count(*) FROM turns"), 0);
}

/* The clocks of those that write, read and clean up may differ by years. */
static void ages_are_told_by_the_clock_of_the_store(void **state)
{
    struct response other = named("a", ID("3"));

    sys_set_clock_ms(sys_now_ms()); /* 2023 */
    keep(ID("1"), "1");
    begin_one(ID("2"));
    end_one(ID("2"), RESPONSE_STATE_ENDED);
    other.home = STR("p/m");
    assert_ok(response_store_note(&other));
    sys_set_clock_ms(0);
    clean();
    assert_int_equal(count("SELECT count(*) FROM responses"), 3);
    go_on(ID("1"));
    time_passes(DAY_MS / 2);
    sys_set_clock_ms(sys_now_ms());
    go_on(ID("1"));
    sys_set_clock_ms(0);
    time_passes(DAY_MS / 2 + 1);
    has("a", ID("1"), true); /* it was continued */
    sys_set_clock_ms(sys_now_ms());
    has("a", ID("2"), false);
    clean();
    assert_int_equal(count("SELECT count(*) FROM responses"), 1);
}

/* However many there are, whoever cleans up has a turn in between to say that it lives. */
static void answers_are_forgotten_some_at_a_time(void **state)
{
    bool is_done = false;
    int rounds = 1;

    idempotency_use(db);
    assert_ok(db_run(db, DB_WRITE,
                     DB_ASK_PLAIN("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                                  "WHERE i < 1200) INSERT INTO idempotency (owner, name, hash, "
                                  "state, holder, mark, expires_ms, target, is_stream, body) "
                                  "SELECT 'a', i, x'', 'kept', '', '', i, '', 0, x'' FROM n"),
                     NULL, NULL));
    for (; !is_done; rounds++)
        assert_ok(idempotency_clean(&is_done));
    assert_true(rounds > 2);
    assert_int_equal(count("SELECT count(*) FROM idempotency"), 0);
    idempotency_use(NULL);
}

static void only_what_ended_well_can_be_continued(void **state)
{
    begin_one(ID("1"));
    cannot_go_on(ID("1"));
    end_one(ID("1"), RESPONSE_STATE_BROKEN);
    cannot_go_on(ID("1"));
    has("a", ID("1"), true);
    begin_one(ID("2"));
    end_one(ID("2"), RESPONSE_STATE_ENDED);
    go_on(ID("2"));
}

/* Deleted while it was made: it does not come back. */
static void deleted_while_running_stays_deleted(void **state)
{
    begin_one(ID("1"));
    assert_true(delete_it("a", ID("1")));
    end_one(ID("1"), RESPONSE_STATE_ENDED);
    has("a", ID("1"), false);
    assert_int_equal(count("SELECT count(*) FROM turns"), 0);
}

/* What a process was working on that is no more. */
static void the_dead_are_buried(void **state)
{
    struct response r;

    begin_one(ID("1"));
    assert_ok(response_store_bury());
    assert_ok(response_store_get(STR("a"), STR(ID("1")), arena, &r));
    assert_int_equal(r.state, RESPONSE_STATE_RUNNING);
    assert_ok(replica_open(db)); /* a new one on the same file */
    assert_ok(response_store_bury());
    assert_ok(response_store_get(STR("a"), STR(ID("1")), arena, &r));
    assert_int_equal(r.state, RESPONSE_STATE_KILLED);
    cannot_go_on(ID("1"));
    end_one(ID("1"), RESPONSE_STATE_ENDED); /* it was not dead after all */
    go_on(ID("1"));
}

/* Its end could not be written: it does not stay in progress for ever. */
static void lost_ends_are_noticed(void **state)
{
    struct response_running running = {.owner = STR("a"), .id = STR(ID("1"))};
    struct response r;
    struct loop *loop;

    assert_null(loop_open(&loop));
    response_running_enter(&running);
    begin_one(ID("1"));
    begin_one(ID("2"));
    assert_ok(response_store_reconcile(arena));
    response_running_leave(&running);
    loop_close(loop);
    assert_ok(response_store_get(STR("a"), STR(ID("1")), arena, &r));
    assert_int_equal(r.state, RESPONSE_STATE_RUNNING);
    assert_ok(response_store_get(STR("a"), STR(ID("2")), arena, &r));
    assert_int_equal(r.state, RESPONSE_STATE_KILLED);
}

static void finds_items_of_a_response(void **state)
{
    struct str items;

    keep(ID("1"), "{\"id\":\"fc_1\",\"x\":1}");
    assert_ok(response_store_get_items(STR("a"), STR(ID("1")), arena, &items));
    assert_true(str_eq(responses_find_item(items, STR("fc_1")), STR("{\"id\":\"fc_1\",\"x\":1}")));
}

static void remembers_where_others_live(void **state)
{
    struct response r = named("a", ID("1"));
    struct str items, home;

    r.home = STR("p/m");
    assert_ok(response_store_note(&r));
    r.home = STR("q/m");
    assert_ok(response_store_note(&r));
    assert_ok(response_store_continue(STR("a"), STR(ID("1")), arena, &items, &home));
    assert_int_equal(items.len, 0);
    assert_true(str_eq(home, STR("q/m")));
    keep(ID("2"), "2");
    r = named("a", ID("2")); /* a provider cannot take the place of what is here */
    r.home = STR("p/m");
    assert_ok(response_store_note(&r));
    go_on(ID("2"));
}

/* ---- cancelling ---- */

static bool was_cancelled;

static void note_cancel(void *request)
{
    was_cancelled = request == &was_cancelled;
}

static void stop(struct loop_message *message)
{
    loop_stop(loop_self());
}

static void run_messages(struct loop *loop)
{
    struct loop_message message = {.fn = stop};

    was_cancelled = false;
    loop_post(loop, &message);
    loop_run(loop);
}

/* The thread that works on it is told by a message, unless it is over by then. */
static void cancels_by_message(void **state)
{
    struct response_running running = {
        .owner = STR("a"), .id = STR(ID("1")), .request = &was_cancelled, .cancel = note_cancel};
    struct loop *loop;
    bool found;

    assert_null(loop_open(&loop));
    response_running_enter(&running);
    assert_int_equal(response_running_count(), 1);
    assert_ok(response_store_cancel(STR("a"), STR(ID("1")), &found));
    assert_true(found);
    run_messages(loop);
    assert_true(was_cancelled);

    assert_false(response_running_cancel(STR("b"), STR(ID("1"))));
    assert_true(response_running_cancel(STR("a"), STR(ID("1"))));
    response_running_leave(&running);
    response_running_leave(&running);
    run_messages(loop);
    assert_false(was_cancelled);
    loop_close(loop);
}

/* It is said in the store, where the process that works on it looks. */
static void cancels_in_another_process(void **state)
{
    struct response_running running = {
        .owner = STR("a"), .id = STR(ID("1")), .request = &was_cancelled, .cancel = note_cancel};
    uint64_t before = response_store_cancels();
    struct loop *loop;
    bool found;

    begin_one(ID("1"));
    assert_ok(response_store_cancel(STR("a"), STR(ID("1")), &found)); /* as if from elsewhere */
    assert_true(found);
    assert_true(response_store_cancels() > before);
    assert_null(loop_open(&loop));
    response_running_enter(&running);
    assert_ok(response_store_obey(arena));
    run_messages(loop);
    assert_true(was_cancelled);
    response_running_leave(&running);
    loop_close(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_what_concerns_us, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(null_means_left_out, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(refuses_by_name, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(names_the_place_of_a_mistake, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(puts_items_together, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(gives_back_what_was_kept, begin_store, end_store),
        cmocka_unit_test_setup_teardown(keeps_callers_apart, begin_store, end_store),
        cmocka_unit_test_setup_teardown(odd_ids_are_not_found, begin_store, end_store),
        cmocka_unit_test_setup_teardown(conversation_survives_deletion, begin_store, end_store),
        cmocka_unit_test_setup_teardown(conversation_survives_deletion_meanwhile, begin_store,
                                        end_store),
        cmocka_unit_test_setup_teardown(branches_are_let_go_one_by_one, begin_store, end_store),
        cmocka_unit_test_setup_teardown(long_conversation_is_let_go, begin_store, end_store),
        cmocka_unit_test_setup_teardown(forgets_after_a_while, begin_store, end_store),
        cmocka_unit_test_setup_teardown(ages_are_told_by_the_clock_of_the_store, begin_store,
                                        end_store),
        cmocka_unit_test_setup_teardown(answers_are_forgotten_some_at_a_time, begin_store,
                                        end_store),
        cmocka_unit_test_setup_teardown(only_what_ended_well_can_be_continued, begin_store,
                                        end_store),
        cmocka_unit_test_setup_teardown(deleted_while_running_stays_deleted, begin_store,
                                        end_store),
        cmocka_unit_test_setup_teardown(the_dead_are_buried, begin_store, end_store),
        cmocka_unit_test_setup_teardown(lost_ends_are_noticed, begin_store, end_store),
        cmocka_unit_test_setup_teardown(finds_items_of_a_response, begin_store, end_store),
        cmocka_unit_test_setup_teardown(remembers_where_others_live, begin_store, end_store),
        cmocka_unit_test_setup_teardown(cancels_by_message, begin_store, end_store),
        cmocka_unit_test_setup_teardown(cancels_in_another_process, begin_store, end_store),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
