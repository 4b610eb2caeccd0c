/* SPDX-License-Identifier: Apache-2.0 */
/* Taking up a conversation, and keeping an answer: as it is made, when it is over, or only where it is.
 *
 * What a provider of the same protocol answers stays with that provider: only its id and whereabouts are remembered.
 *
 * The hard thing is a store that fails when the answer is there: nobody else may have it, so its request stays until it is
 * kept, and whoever asks for it meanwhile sees one that is being made. */
#include "gateway/response_hold.h"

#include "base/sys.h"
#include "base/text.h"
#include "dialect/body.h"
#include "dialect/openai_responses.h"
#include "fiber/fiber.h"
#include "gateway/request.h"
#include "gateway/response_background.h"
#include "gateway/response_store.h"
#include "observe/log.h"

#define OBJECT_MAX_BYTES ((size_t)64 * 1024 * 1024)

/* How long an answer that nobody has yet waits for the store, and how often it is tried. */
#define KEEP_MOST_MS  UINT64_C(3600000)
#define KEEP_PAUSE_MS 1000

static const struct err cancelled = {.kind = ERR_CANCELLED,
                                     .code = "response_cancelled",
                                     .where = "response_hold.c",
                                     .text = "the response was cancelled"};

/* ---- taking up a conversation ---- */

static void mint_id(struct response_hold *hold)
{
    char text[32];

    text_random_id("", text); /* 22 of them */
    memcpy(hold->id, text, 22);
    text_random_id("", text);
    memcpy(hold->id + 22, text, RESPONSES_ID_LENGTH - 22);
    hold->id[RESPONSES_ID_LENGTH] = '\0';
    memcpy(hold->name, "resp_", 5);
    memcpy(hold->name + 5, hold->id, RESPONSES_ID_LENGTH + 1);
}

/* What the store knows a request's response by. */
static struct response describe(const struct request *r)
{
    return (struct response){
        .id = str_from(r->hold->name),
        .owner = r->hold->owner,
        .object = STR(""),
        .events = STR(""),
        .home = STR(""),
        .model = r->ask.model,
        .created_s = sys_wall_ms() / 1000,
    };
}

static bool was_cancelled(err_t err)
{
    return err && err->code && strcmp(err->code, cancelled.code) == 0;
}

/* In the request's thread, outside fibers. */
static void cancel_request(void *request)
{
    struct request *r = request;

    fiber_cancel(r->fiber, &cancelled);
}

/* The caller gets his answer whatever becomes of it here. */
static void complain(const struct request *r, const char *what, err_t err)
{
    log_begin(LOG_WARN, what);
    log_cstr("id", r->exchange->id);
    log_cstr("response", r->hold->name);
    log_err(err);
    log_end();
}

/* The request is over, whatever became of it. */
static void let_go(void *request)
{
    struct request *r = request;

    response_running_leave(&r->hold->running);
    response_feed_unref(r->hold->feed);
}

/* The conversation that is continued, or who has it. */
static err_t take_up(struct request *r)
{
    struct response_hold *hold = r->hold;
    struct str value = body_get(&r->ask, STR("previous_response_id"));

    if (json_kind(value) != JSON_STRING)
        return NULL;
    if (!json_text(value, r->arena, &hold->past))
        return arena_err(r->arena);
    TRY(response_store_continue(hold->owner, hold->past, r->arena, &r->ask.history, &hold->home));
    if (hold->home.len)
        r->call.caller.wanted = hold->home;
    return NULL;
}

/* The id of an item that is only named, as JSON; else empty. */
static struct str named_id(struct str item)
{
    struct str type = json_get(item, STR("type")), id = json_get(item, STR("id"));
    bool is_bare =
        json_kind(type) != JSON_STRING && json_kind(json_get(item, STR("role"))) != JSON_STRING;

    return (is_bare || str_eq(type, STR("\"item_reference\""))) && json_kind(id) == JSON_STRING
               ? id
               : (struct str){0};
}

/* "resp_…" of "msg_…0", in the arena: the ids of items hold that of their response. Empty if it is none of ours. */
static struct str response_of(struct str item_id, struct arena *arena)
{
    size_t prefix = str_index(item_id, '_') + 1;

    if (item_id.len < prefix + RESPONSES_ID_LENGTH)
        return STR("");
    return str_from(arena_printf(arena, "resp_%.*s", RESPONSES_ID_LENGTH, item_id.ptr + prefix));
}

/* The responses that named items were looked for in: most are of one. */
struct lookup {
    struct str response, items;
};

/* PARKS: an item of the caller's by its id; empty if there is none. */
static err_t find_item(struct request *r, struct lookup *last, struct str id, struct str *found)
{
    struct str response = response_of(id, r->arena);

    *found = (struct str){0};
    if (response.len == 0)
        return NULL;
    if (!str_eq(response, last->response)) {
        TRY(response_store_get_items(r->hold->owner, response, r->arena, &last->items));
        last->response = response;
    }
    *found = responses_find_item(last->items, id);
    return NULL;
}

/* Items that are only named: ask->referenced holds those that were found. Who is passed the names on knows them. */
static err_t find_references(struct request *r)
{
    struct str input = body_get(&r->ask, STR("input")), item, id, found;
    struct buf text = buf_make(MEM_REQUEST, OBJECT_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);
    struct lookup last = {0};
    err_t err = NULL;
    size_t count = 0;

    json_open_array(&w);
    for (size_t at = 0; !err && json_array_next(input, &at, &item);) {
        item = named_id(item);
        if (item.len == 0)
            continue;
        err =
            json_text(item, r->arena, &id) ? find_item(r, &last, id, &found) : arena_err(r->arena);
        if (err || found.len == 0)
            continue;
        json_add_raw(&w, found);
        count++;
    }
    json_close_array(&w);
    if (!err)
        err = json_writer_err(&w);
    if (!err && count > 0) {
        r->ask.referenced = arena_copy(r->arena, buf_str(&text));
        err = r->ask.referenced.ptr ? NULL : arena_err(r->arena);
    }
    buf_fini(&text);
    return err;
}

err_t response_hold_prepare(struct request *r)
{
    struct response_hold *hold = arena_new_struct(r->arena, struct response_hold);

    r->hold = hold;
    if (!hold)
        return arena_err(r->arena);
    mint_id(hold);
    hold->is_kept = json_kind(body_get(&r->ask, STR("store"))) != JSON_FALSE;
    TRY(request_owner(r, &hold->owner));
    TRY(take_up(r));
    TRY(find_references(r));
    TRY(response_background_find(r));
    return arena_defer(r->arena, let_go, r);
}

err_t response_hold_enter(struct request *r, struct str object)
{
    struct response_hold *hold = r->hold;
    struct response response = describe(r);
    err_t err;

    response.object = object;
    hold->running = (struct response_running){.owner = hold->owner,
                                              .id = str_from(hold->name),
                                              .request = r,
                                              .cancel = cancel_request,
                                              .feed = hold->feed};
    response_running_enter(&hold->running);
    fiber_shield(loop_now_ms() + REQUEST_STORE_MS);
    err = response_store_begin(&response);
    fiber_unshield();
    hold->begun = db_is_lost(err) ? RESPONSE_BEGUN_PERHAPS
                  : err           ? RESPONSE_NOT_BEGUN
                                  : RESPONSE_BEGUN;
    return err;
}

void response_hold_begin(struct request *r)
{
    err_t err;

    if (!r->hold->is_kept || !r->ask.is_stream)
        return;
    err = response_hold_enter(r, STR(""));
    if (err)
        complain(r, "a response in progress is not in the store", err);
}

/* ---- keeping an answer ---- */

static enum response_status status_of(const struct answer_writer *writer, err_t err)
{
    if (was_cancelled(err))
        return RESPONSE_CANCELLED;
    return err ? RESPONSE_FAILED : responses_status(responses_answer(writer));
}

static enum response_state state_of(err_t err)
{
    if (was_cancelled(err))
        return RESPONSE_STATE_CANCELLED;
    return err ? RESPONSE_STATE_BROKEN : RESPONSE_STATE_ENDED;
}

/* What was told of it, to be told again. */
static struct str events_of(const struct request *r)
{
    struct str told = r->hold->feed ? response_feed_text(r->hold->feed) : STR("");

    return told.len > 0 || !r->ask.is_stream ? told : STR(RESPONSE_EVENTS_LOST);
}

/* Whether nobody has the answer, and so it is lost if it is not kept. */
static bool is_awaited(const struct request *r)
{
    return r->hold->is_in_background && (!r->reply.is_stream || r->exchange->is_cut);
}

static bool may_be_over(err_t err)
{
    return err_is(err, ERR_STORE) || err_is(err, ERR_BUSY) || err_is(err, ERR_TIMED_OUT);
}

static err_t try_to_finish(struct request *r, const struct response *response,
                           const struct response_turn *turn)
{
    err_t err;

    fiber_shield(loop_now_ms() + REQUEST_STORE_MS);
    err = response_store_finish(response, turn, r->hold->begun);
    if (db_is_lost(err)) /* mostly the connection alone; twice does no harm */
        err = response_store_finish(response, turn, r->hold->begun);
    fiber_unshield();
    return err;
}

/* PARKS: put it into the store; what is awaited again and again, and once more when the request must end. */
static err_t finish(struct request *r, const struct response *response,
                    const struct response_turn *turn)
{
    uint64_t until_ms = loop_now_ms() + (is_awaited(r) ? KEEP_MOST_MS : 0);
    err_t err, told = NULL;

    for (;;) {
        bool is_last = loop_now_ms() >= until_ms;
        err = try_to_finish(r, response, turn);
        if (!err || is_last || !may_be_over(err))
            return err;
        if (!told)
            complain(r, "a response is kept when the store is well", told = err);
        if (fiber_sleep(KEEP_PAUSE_MS))
            until_ms = 0;
    }
}

/* PARKS. */
static err_t keep(struct request *r, const struct answer_writer *writer, err_t err,
                  struct buf *object, struct buf *output)
{
    enum response_status status = status_of(writer, err);
    struct response response = describe(r);
    struct response_turn turn = {.past = r->hold->past, .history = r->ask.history};

    TRY(responses_print_object(writer, status, err, object));
    TRY(responses_print_output(writer, status, output));
    log_mask_in_place(object->ptr, object->len); /* an error's text may quote a key of ours */
    response.object = buf_str(object);
    response.events = events_of(r);
    response.created_s = writer->created_s;
    response.state = state_of(err);
    turn.input = responses_input(writer);
    turn.output = buf_str(output);
    return finish(r, &response, &turn);
}

/* PARKS: nothing stays of a response that was begun. */
static err_t forget(struct request *r)
{
    err_t err;

    if (r->hold->begun == RESPONSE_NOT_BEGUN)
        return NULL;
    fiber_shield(loop_now_ms() + REQUEST_STORE_MS);
    err = response_store_delete(r->hold->owner, str_from(r->hold->name), NULL);
    fiber_unshield();
    return err;
}

void response_hold_keep(struct request *r, const struct answer_writer *writer, err_t err)
{
    struct buf object = buf_make(MEM_REQUEST, OBJECT_MAX_BYTES);
    struct buf output = buf_make(MEM_REQUEST, OBJECT_MAX_BYTES);
    bool has_left = err_is(err, ERR_CANCELLED) && !was_cancelled(err);
    bool has_answer = writer && responses_answer(writer);
    err_t failed;

    if (!r->hold || !r->hold->is_kept || r->hold->is_over)
        return;
    r->hold->is_over = true;
    /* Whoever left in the middle does not know what became of his answer, and cannot go on from it. */
    failed = has_answer && !has_left ? keep(r, writer, err, &object, &output) : forget(r);
    if (failed)
        complain(r, "a response could not be kept", failed);
    if (failed && has_answer && !has_left)
        failed = forget(r); /* better unknown than in progress; see response_store_reconcile, too */
    response_running_leave(&r->hold->running);
    buf_fini(&object);
    buf_fini(&output);
}

/* ---- answers that pass through ---- */

/* The response's id in a whole answer, or in the events at the beginning of a stream. */
static struct str passed_id(struct request *r, struct str bytes)
{
    struct str line, id = {0}, rest = bytes;
    struct str object = bytes;

    for (size_t n = 0; r->ask.is_stream && n < 8 && rest.ptr && str_split(&rest, '\n', &line); n++)
        if (str_starts(line, STR("data:"))) {
            object = str_trim(str_after(line, 5));
            break;
        }
    if (json_check(object))
        return id;
    if (r->ask.is_stream)
        object = json_get(object, STR("response"));
    if (!json_text(json_get(object, STR("id")), r->arena, &id))
        return (struct str){0};
    return id;
}

void response_hold_passed(struct request *r, struct str bytes)
{
    struct response response;
    err_t err;

    if (!r->hold->is_kept || !r->call.target)
        return;
    r->hold->is_over = true;
    response = describe(r);
    response.id = passed_id(r, bytes);
    response.home = r->call.target->label;
    fiber_shield(loop_now_ms() + REQUEST_STORE_MS);
    err = response.id.len > 0 ? response_store_note(&response) : NULL;
    fiber_unshield();
    if (err)
        complain(r, "a response could not be kept", err);
}
