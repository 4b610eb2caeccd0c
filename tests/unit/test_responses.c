/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's responses: which bodies are taken, and how responses are kept and found again. What they
 * mean and how answers are written is the wire tests'. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/sys.h"
#include "dialect/openai_responses.h"
#include "gateway/response_store.h"

static struct arena *arena;

static int begin(void **state)
{
    arena = arena_new(MEM_TOOL, 1024 * 1024);
    err_scope_set(arena);
    response_store_limit(64 * 1024, 60 * 1000);
    return arena ? 0 : -1;
}

static int end(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    sys_set_clock_ms(0);
    response_store_clear();
    assert_int_equal(response_store_bytes(), 0);
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

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

static struct response named(const char *caller, const char *id)
{
    return (struct response){.id = str_from(id),
                             .caller = str_from(caller),
                             .object = STR("{\"object\":\"response\"}"),
                             .input = STR("{\"id\":\"msg_in\"}")};
}

static void keep(const char *caller, const char *id, struct turn *past, const char *output)
{
    struct response r = named(caller, id);

    assert_null(response_store_begin(&r, NULL, NULL));
    response_store_finish(&r, past, str_from(output));
}

static void has(const char *caller, const char *id, bool expected)
{
    struct response r;
    err_t err = response_store_get(str_from(caller), str_from(id), arena, &r);

    assert_int_equal(err == NULL, expected);
    if (err)
        assert_int_equal(err->kind, ERR_NOT_FOUND);
}

static void gives_back_what_was_kept(void **state)
{
    struct response r;

    keep("a", ID("1"), NULL, "{\"id\":\"msg_out\"}");
    assert_null(response_store_get(STR("a"), STR(ID("1")), arena, &r));
    assert_false(r.is_running);
    assert_true(str_eq(r.object, STR("{\"object\":\"response\"}")));
    assert_true(str_eq(r.input, STR("[{\"id\":\"msg_in\"}]")));
}

/* Somebody else's response and a missing one are told apart by nothing. */
static void keeps_callers_apart(void **state)
{
    struct response r;
    struct turn *past;
    struct str items, home;
    err_t other, missing;

    keep("a", ID("1"), NULL, "");
    other = response_store_get(STR("b"), STR(ID("1")), arena, &r);
    assert_true(response_store_delete(STR("a"), STR(ID("1"))));
    missing = response_store_get(STR("b"), STR(ID("1")), arena, &r);
    assert_string_equal(other->text, missing->text);
    assert_int_equal(err_status(other), err_status(missing));
    keep("a", ID("1"), NULL, "");
    other = response_store_continue(STR("b"), STR(ID("1")), arena, &past, &items, &home);
    assert_string_equal(other->code, "previous_response_not_found");
    assert_false(response_store_delete(STR("b"), STR(ID("1"))));
    assert_false(response_store_cancel(STR("b"), STR(ID("1"))));
    has("a", ID("1"), true);
}

/* A chain of three turns, the first of which was deleted meanwhile. */
static void conversation_survives_deletion(void **state)
{
    struct turn *past;
    struct str items, home;

    keep("a", ID("1"), NULL, "1");
    assert_null(response_store_continue(STR("a"), STR(ID("1")), arena, &past, &items, &home));
    assert_true(str_eq(items, STR("[{\"id\":\"msg_in\"},1]")));
    assert_int_equal(home.len, 0);
    keep("a", ID("2"), past, "");
    turn_unref(past);
    assert_true(response_store_delete(STR("a"), STR(ID("1"))));
    has("a", ID("1"), false);
    assert_null(response_store_continue(STR("a"), STR(ID("2")), arena, &past, &items, &home));
    keep("a", ID("3"), past, "3");
    turn_unref(past);
    assert_null(response_store_continue(STR("a"), STR(ID("3")), arena, &past, &items, &home));
    turn_unref(past);
    assert_true(
        str_eq(items, STR("[{\"id\":\"msg_in\"},1,{\"id\":\"msg_in\"},{\"id\":\"msg_in\"},3]")));
}

/* A long chain, of which only the last response is left, is let go without recursion. */
static void long_conversation_is_let_go(void **state)
{
    struct turn *past = NULL;
    struct str items, home;
    char id[40], last[40] = "";

    response_store_limit(64 * 1024 * 1024, 60 * 1000);
    for (int i = 0; i < 3000; i++) {
        struct arena *own = arena_new(MEM_TOOL, 8 * 1024 * 1024);
        snprintf(id, sizeof(id), "resp_%024d", i);
        keep("a", id, past, "1");
        turn_unref(past);
        assert_null(response_store_continue(STR("a"), str_from(id), own, &past, &items, &home));
        if (*last)
            assert_true(response_store_delete(STR("a"), str_from(last)));
        memcpy(last, id, sizeof(id));
        arena_free(own);
    }
    turn_unref(past);
    assert_true(response_store_bytes() > (size_t)3000 * 80);
}

static void forgets_after_a_while(void **state)
{
    struct turn *past;
    struct str items, home;

    sys_set_clock_ms(1000);
    keep("a", ID("1"), NULL, "1");
    keep("a", ID("2"), NULL, "2");
    sys_set_clock_ms(50 * 1000);
    assert_null(response_store_continue(STR("a"), STR(ID("1")), arena, &past, &items, &home));
    turn_unref(past);
    sys_set_clock_ms(70 * 1000);
    has("a", ID("1"), true); /* it was continued */
    has("a", ID("2"), false);
    sys_set_clock_ms(120 * 1000);
    has("a", ID("1"), false);
    assert_int_equal(response_store_bytes(), 0);
}

static void forgets_the_longest_unused_when_full(void **state)
{
    char id[40];
    static char output[8 * 1024];

    memset(output, '1', sizeof(output) - 1);
    for (int i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "resp_%024d", i);
        keep("a", id, NULL, output);
        assert_true(response_store_bytes() <= 64 * 1024);
        has("a", id, true);
    }
    has("a", "resp_000000000000000000000000", false);
}

static void running_one_cannot_be_continued(void **state)
{
    struct response r = named("a", ID("1"));
    struct turn *past;
    struct str items, home;
    err_t err;

    assert_null(response_store_begin(&r, NULL, NULL));
    err = response_store_continue(STR("a"), STR(ID("1")), arena, &past, &items, &home);
    assert_int_equal(err->kind, ERR_BAD_REQUEST);
    response_store_finish(&r, NULL, (struct str){0});
    has("a", ID("1"), false);
}

static void broken_one_cannot_be_continued(void **state)
{
    struct response r = named("a", ID("1"));
    struct turn *past;
    struct str items, home;
    err_t err;

    assert_null(response_store_begin(&r, NULL, NULL));
    r.is_broken = true;
    response_store_finish(&r, NULL, STR(""));
    err = response_store_continue(STR("a"), STR(ID("1")), arena, &past, &items, &home);
    assert_int_equal(err->kind, ERR_BAD_REQUEST);
    has("a", ID("1"), true);
}

/* Deleted while it was made: it does not come back. */
static void deleted_while_running_stays_deleted(void **state)
{
    struct response r = named("a", ID("1"));

    assert_null(response_store_begin(&r, NULL, NULL));
    assert_true(response_store_delete(STR("a"), STR(ID("1"))));
    response_store_finish(&r, NULL, STR("1"));
    has("a", ID("1"), false);
}

static void finds_items_by_id(void **state)
{
    struct str item;

    keep("a", "resp_123456789012345678901234", NULL,
         "{\"id\":\"fc_1234567890123456789012340\",\"x\":1}");
    assert_null(
        response_store_find_item(STR("a"), STR("fc_1234567890123456789012340"), arena, &item));
    assert_true(str_eq(item, STR("{\"id\":\"fc_1234567890123456789012340\",\"x\":1}")));
    assert_null(
        response_store_find_item(STR("b"), STR("fc_1234567890123456789012340"), arena, &item));
    assert_int_equal(item.len, 0);
    assert_null(response_store_find_item(STR("a"), STR("fc_1"), arena, &item));
    assert_int_equal(item.len, 0);
}

static void remembers_where_others_live(void **state)
{
    struct response r = named("a", ID("1"));
    struct turn *past;
    struct str items, home;

    r.home = STR("p/m");
    response_store_note(&r);
    assert_null(response_store_continue(STR("a"), STR(ID("1")), arena, &past, &items, &home));
    assert_null(past);
    assert_int_equal(items.len, 0);
    assert_true(str_eq(home, STR("p/m")));
}

static bool was_cancelled;

static void note_cancel(void *request)
{
    was_cancelled = request == &was_cancelled;
}

static void stop(struct loop_message *message)
{
    loop_stop(loop_self());
}

/* The thread that works on it is told by a message, unless it is over by then. */
static void cancels_by_message(void **state)
{
    struct response r = named("a", ID("1"));
    struct loop_message message = {.fn = stop};
    struct loop *loop;

    assert_null(loop_open(&loop));
    assert_null(response_store_begin(&r, &was_cancelled, note_cancel));
    assert_true(response_store_cancel(STR("a"), STR(ID("1"))));
    assert_false(was_cancelled);
    loop_post(loop, &message);
    loop_run(loop);
    assert_true(was_cancelled);

    was_cancelled = false;
    assert_true(response_store_cancel(STR("a"), STR(ID("1"))));
    response_store_finish(&r, NULL, STR(""));
    loop_post(loop, &message);
    loop_run(loop);
    assert_false(was_cancelled);
    assert_false(response_store_cancel(STR("a"), STR(ID("1"))));
    loop_close(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_what_concerns_us, begin, end),
        cmocka_unit_test_setup_teardown(null_means_left_out, begin, end),
        cmocka_unit_test_setup_teardown(refuses_by_name, begin, end),
        cmocka_unit_test_setup_teardown(names_the_place_of_a_mistake, begin, end),
        cmocka_unit_test_setup_teardown(puts_items_together, begin, end),
        cmocka_unit_test_setup_teardown(gives_back_what_was_kept, begin, end),
        cmocka_unit_test_setup_teardown(keeps_callers_apart, begin, end),
        cmocka_unit_test_setup_teardown(conversation_survives_deletion, begin, end),
        cmocka_unit_test_setup_teardown(long_conversation_is_let_go, begin, end),
        cmocka_unit_test_setup_teardown(forgets_after_a_while, begin, end),
        cmocka_unit_test_setup_teardown(forgets_the_longest_unused_when_full, begin, end),
        cmocka_unit_test_setup_teardown(running_one_cannot_be_continued, begin, end),
        cmocka_unit_test_setup_teardown(broken_one_cannot_be_continued, begin, end),
        cmocka_unit_test_setup_teardown(deleted_while_running_stays_deleted, begin, end),
        cmocka_unit_test_setup_teardown(finds_items_by_id, begin, end),
        cmocka_unit_test_setup_teardown(remembers_where_others_live, begin, end),
        cmocka_unit_test_setup_teardown(cancels_by_message, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
