/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of responses requests: read, worked out, put into the words of every kind of provider, and
 * answered. The first byte of an input says how; the rest is the body.
 *
 * Whatever goes out is valid JSON, events are lines, and what is kept of a request that could be translated can
 * be taken up again as a conversation. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "dialect/openai_responses.h"
#include "model/provider.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define ARENA_BYTES ((size_t)256 * 1024 * 1024)

static struct str join(struct arena *arena, const struct str *pieces, size_t count)
{
    struct str all = {0};
    char *at;

    for (size_t i = 0; i < count; i++)
        all.len += pieces[i].len;
    all.ptr = at = arena_alloc(arena, all.len);
    check(at);
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].len > 0)
            memcpy(at, pieces[i].ptr, pieces[i].len);
        at += pieces[i].len;
    }
    check(!json_check(all));
    return all;
}

/* Every kind of provider, with and without what a switch changes. */
static void check_providers(struct arena *arena, const struct chat_request *ask, uint8_t how)
{
    for (int kind = CONF_PROVIDER_OPENAI; kind <= CONF_PROVIDER_LOCAL; kind++) {
        struct conf_provider provider = {
            .kind = (enum conf_provider_kind)kind,
            .max_tokens = 4096,
            .stream_usage = how & 2,
            .takes_extensions = how & 4,
            .reasoning_back = how & 4 ? CONF_REASONING_CALLS : CONF_REASONING_NEVER,
            .schema_is_tool = how & 4,
            .effort_is_budget = how & 4,
            .speaks_responses = how & 8,
            .reasoning_field = STR("reasoning_content"),
        };
        struct chat_request copy = *ask;
        struct encoding encoding = {
            .provider = &provider,
            .ask = &copy,
            .model = STR("gemini-2.5-flash"),
            .arena = arena,
            .unsupported = how & 16 ? CONF_UNSUPPORTED_DROP : CONF_UNSUPPORTED_AUTO,
        };
        err_t err = provider_ops_get(provider.kind)->encode(&encoding);
        check(!err || err->kind == ERR_BAD_REQUEST || err->kind == ERR_TOO_BIG);
        if (!err)
            join(arena, encoding.body, encoding.body_count);
    }
}

/* Each event is a name and one line of valid JSON. */
static void check_events(struct str rest)
{
    struct str line;

    while (rest.len > 0) {
        size_t end = str_index(rest, '\n');
        check(str_starts(rest, STR("event: ")) && end < rest.len);
        rest = str_after(rest, end + 1);
        end = str_index(rest, '\n');
        line = (struct str){rest.ptr, end};
        check(str_starts(line, STR("data: ")) && end < rest.len);
        check(!json_check(str_after(line, 6)));
        rest = str_after(rest, end + 1);
        check(str_starts(rest, STR("\n")));
        rest = str_after(rest, 1);
    }
}

static const struct delta deltas[] = {
    {.kind = DELTA_REASONING, .text = {"why", 3}},
    {.kind = DELTA_SIGNATURE, .text = {"sig", 3}},
    {.kind = DELTA_TEXT, .text = {"a\n\"b", 4}},
    {.kind = DELTA_TOOL_CALL, .id = {"call_1", 6}, .name = {"f", 1}},
    {.kind = DELTA_ARGUMENTS, .text = {"{\"a\":1}", 7}},
    {.kind = DELTA_FINISH, .stop = STOP_TOOL_CALLS},
};

static void check_stream(struct answer_writer *writer)
{
    struct event event = {
        .kind = EVENT_CONTENT, .deltas = deltas, .delta_count = sizeof(deltas) / sizeof(*deltas)};

    check(!dialect_responses->write_event(writer, &event));
    event = (struct event){.kind = EVENT_END};
    check(!dialect_responses->write_event(writer, &event));
    check_events(buf_str(&writer->out));
}

static void check_whole(struct answer_writer *writer)
{
    struct answer answer = answer_make(writer->arena);

    check(!answer_add(&answer, deltas, sizeof(deltas) / sizeof(*deltas)));
    check(!dialect_responses->write_answer(writer, &answer));
    check(!json_check(buf_str(&writer->out)));
}

/* What is kept of it, as the beginning of another request. */
static void check_continued(struct answer_writer *writer)
{
    struct buf output = buf_make(MEM_TOOL, ARENA_BYTES);
    struct str input = responses_input(writer);
    struct chat_request next;
    const struct prompt *prompt;

    check(!responses_print_output(writer, RESPONSE_COMPLETED, &output));
    const struct str pieces[] = {STR("["), input, input.len ? STR(",") : STR(""), buf_str(&output),
                                 STR("]")};
    check(
        !dialect_responses->parse(STR("{\"model\":\"m\",\"input\":\"x\"}"), writer->arena, &next));
    next.history = join(writer->arena, pieces, sizeof(pieces) / sizeof(*pieces));
    check(!chat_prompt(&next, writer->arena, &prompt));
    buf_fini(&output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct arena *arena = arena_new(MEM_TOOL, ARENA_BYTES);
    struct str body = {(const char *)data + 1, len - 1};
    struct chat_request ask;
    const struct prompt *prompt;

    check(arena);
    err_scope_set(arena);
    if (len > 0 && !dialect_responses->parse(body, arena, &ask)) {
        struct usage usage = {.is_known = data[0] & 32};
        struct answer_writer writer = {.dialect = dialect_responses,
                                       .ask = &ask,
                                       .arena = arena,
                                       .id = STR("123456789012345678901234"),
                                       .model = STR("m"),
                                       .usage = &usage,
                                       .out = buf_make(MEM_TOOL, ARENA_BYTES)};
        if (data[0] & 64)
            ask.referenced = STR("[{\"id\":\"msg_1\",\"role\":\"user\",\"content\":\"hi\"}]");
        check_providers(arena, &ask, data[0]);
        if (data[0] & 1)
            check_stream(&writer);
        else
            check_whole(&writer);
        if (!chat_prompt(&ask, arena, &prompt))
            check_continued(&writer);
        buf_fini(&writer.out);
    }
    err_scope_set(NULL);
    arena_free(arena);
    return 0;
}
