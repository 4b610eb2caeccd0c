/* SPDX-License-Identifier: Apache-2.0 */
/* sluice ask: one question to a running server, its answer printed as it arrives.
 *
 * Ctrl-C ends the program and with it the connection, which is how the server learns to stop.
 *
 * The hard thing is that the answer is a stranger's text: on a terminal, control characters in
 * it could do more than be read, so they are left out there. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json_members.h"
#include "cli/client.h"
#include "cli/command.h"
#include "fiber/fiber.h"
#include "net/sse.h"

#define MAX_QUESTION_BYTES ((size_t)32 * 1024 * 1024)
#define MAX_ANSWER_BYTES   ((size_t)64 * 1024 * 1024)

struct ask {
    const char *url, *model, *system;
    struct buf question;
    bool waits_for_whole;

    struct client client;
    bool on_terminal, is_finished; /* a finish reason or the end marker came */
    char last;                     /* printed byte */
};

/* ---- the question ---- */

static err_t first_model(struct ask *ask, struct str *model)
{
    struct str body = {0}, first = {0};
    size_t at = 0;
    int status;

    TRY(client_get(&ask->client, "/v1/models", FIBER_FOREVER, &status, &body));
    if (status != 200)
        return client_refusal(status, body);
    if (!json_check(body))
        (void)json_array_next(json_get(body, STR("data")), &at, &first);
    if (!json_text(json_get(first, STR("id")), ask->client.arena, model))
        return err_new(ERR_UPSTREAM, "the server lists no models: name one with -m");
    return NULL;
}

static err_t add_message(struct buf *body, const char *role, struct str content)
{
    TRY(buf_printf(body, "{\"role\":\"%s\",\"content\":", role));
    TRY(buf_add_json(body, content));
    return buf_add(body, STR("}"));
}

static err_t compose(struct ask *ask, struct buf *body)
{
    struct str model = str_from(ask->model);

    if (!ask->model)
        TRY(first_model(ask, &model));
    TRY(buf_add(body, STR("{\"model\":")));
    TRY(buf_add_json(body, model));
    TRY(buf_add(body, STR(",\"messages\":[")));
    if (ask->system) {
        TRY(add_message(body, "system", str_from(ask->system)));
        TRY(buf_add(body, STR(",")));
    }
    TRY(add_message(body, "user", buf_str(&ask->question)));
    return buf_add(body, ask->waits_for_whole ? STR("]}") : STR("],\"stream\":true}"));
}

/* ---- the answer ---- */

static err_t print(struct ask *ask, struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        bool is_control = (c < ' ' && c != '\n' && c != '\t') || c == 0x7f;
        if (!ask->on_terminal || !is_control)
            putchar(c);
        ask->last = (char)c;
    }
    return fflush(stdout) == 0 ? NULL : err_system(errno, "writing the answer");
}

/* `where` is "delta" in an event, "message" in a whole answer. */
static err_t print_choice(struct ask *ask, struct str answer, struct str where)
{
    struct str choice = {0}, content;
    size_t at = 0;

    if (!json_array_next(json_get(answer, STR("choices")), &at, &choice))
        return NULL;
    if (json_kind(json_get(choice, STR("finish_reason"))) == JSON_STRING)
        ask->is_finished = true;
    if (json_text(json_get(json_get(choice, where), STR("content")), fiber_arena(), &content))
        TRY(print(ask, content));
    return NULL;
}

static err_t take_event(struct ask *ask, struct str data)
{
    if (str_eq(data, STR("[DONE]"))) {
        ask->is_finished = true;
        return NULL;
    }
    if (json_check(data))
        return err_new(ERR_UPSTREAM, "the server sent an event that is not JSON");
    if (json_kind(json_get(data, STR("error"))) == JSON_OBJECT)
        return client_refusal(502, data);
    return print_choice(ask, data, STR("delta"));
}

/* Events are read in an arena of their own each, so that a long answer does not gather. */
static err_t take_event_apart(struct ask *ask, struct str data)
{
    struct arena *arena = arena_new(MEM_TOOL, SSE_MAX_EVENT_BYTES), *before = fiber_arena();
    err_t err;

    if (!arena)
        return err_no_memory();
    fiber_set_arena(arena);
    err = take_event(ask, data);
    fiber_set_arena(before);
    if (err)
        err = err_new(err->kind, "%s", err->text);
    arena_free(arena);
    return err;
}

static err_t print_stream(struct ask *ask, struct http_call *call, struct sse_reader *reader)
{
    struct sse_event event;
    struct str piece;
    bool found;

    while (!call->is_done) {
        TRY(http_call_read(call, FIBER_FOREVER, &piece));
        while (piece.len > 0) {
            TRY(sse_next(reader, &piece, &event, &found));
            if (found && event.has_data && event.data.len > 0)
                TRY(take_event_apart(ask, event.data));
        }
    }
    return ask->is_finished ? NULL : err_new(ERR_UPSTREAM, "the answer was cut off");
}

static err_t print_answer(struct ask *ask, struct http_call *call)
{
    bool is_stream =
        str_starts(http_header_get(call->head, STR("content-type")), STR("text/event-stream"));
    struct sse_reader reader;
    struct str body = {0};
    err_t err;

    if (call->status == 200 && is_stream) {
        sse_init(&reader);
        err = print_stream(ask, call, &reader);
        sse_fini(&reader);
        return err;
    }
    TRY(http_call_read_all(call, MAX_ANSWER_BYTES, FIBER_FOREVER, ask->client.arena, &body));
    if (call->status != 200 || json_check(body))
        return client_refusal(call->status, body);
    return print_choice(ask, body, STR("message"));
}

static err_t ask_server(struct ask *ask)
{
    struct buf body = buf_make(MEM_TOOL, 4 * MAX_QUESTION_BYTES);
    struct http_call call;
    err_t err = compose(ask, &body);

    if (!err)
        err = client_call(&ask->client, "POST", "/v1/chat/completions", buf_str(&body),
                          FIBER_FOREVER, &call);
    if (!err) {
        err = print_answer(ask, &call);
        http_call_close(&call);
    }
    if (ask->last && ask->last != '\n')
        putchar('\n');
    fflush(stdout);
    buf_fini(&body);
    return err;
}

static int run(void *arg)
{
    struct ask *ask = arg;
    err_t err = client_open(ask->url, &ask->client);

    if (!err)
        err = ask_server(ask);
    client_close(&ask->client);
    return err ? command_fail("ask", err) : COMMAND_OK;
}

/* ---- the command line ---- */

static err_t add_word(struct ask *ask, const char *word)
{
    if (strcmp(word, "-") == 0)
        return command_read_input(&ask->question);
    if (ask->question.len > 0)
        TRY(buf_add(&ask->question, STR(" ")));
    return buf_add(&ask->question, str_from(word));
}

/* Where the value of an option goes, or NULL if it is none. */
static const char **option_of(struct ask *ask, const char *word)
{
    if (strcmp(word, "-m") == 0 || strcmp(word, "--model") == 0)
        return &ask->model;
    if (strcmp(word, "-s") == 0 || strcmp(word, "--system") == 0)
        return &ask->system;
    return strcmp(word, "--url") == 0 ? &ask->url : NULL;
}

/* Words after "--" are the question's even if they look like options. */
static int read_words(struct ask *ask, int argc, char **argv)
{
    bool takes_options = true;
    err_t err;

    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], **value = takes_options ? option_of(ask, word) : NULL;
        if (value) {
            if (++i == argc)
                return command_misuse("ask", "a value must follow", word);
            *value = argv[i];
        } else if (takes_options && strcmp(word, "--") == 0) {
            takes_options = false;
        } else if (takes_options && strcmp(word, "--no-stream") == 0) {
            ask->waits_for_whole = true;
        } else if (takes_options && word[0] == '-' && word[1]) {
            return command_misuse("ask", "unknown option", word);
        } else if ((err = add_word(ask, word))) {
            return command_fail("ask", err);
        }
    }
    return ask->question.len ? COMMAND_OK : command_misuse("ask", "a question is needed", NULL);
}

int command_ask(int argc, char **argv)
{
    struct ask ask = {.question = buf_make(MEM_TOOL, MAX_QUESTION_BYTES),
                      .on_terminal = isatty(STDOUT_FILENO)};
    int exit_code = read_words(&ask, argc, argv);

    if (exit_code == COMMAND_OK)
        exit_code = command_run_in_fiber(run, &ask);
    buf_fini(&ask.question);
    return exit_code;
}
