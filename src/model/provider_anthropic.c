/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's messages API, and everyone who speaks it.
 *
 * A caller of the same protocol passes through: the bytes go out as they came, with the provider's
 * name of the model and the configured extra members put in. A broken answer that is to be
 * continued is one more message at the end, which this protocol joins with the one before it. All
 * others are translated (provider_anthropic_encode.c).
 *
 * The hard thing is to leave alone what is not ours: signatures, encrypted blocks and beta fields
 * are checked at the other end byte by byte. */
#include "model/provider_anthropic.h"

#include "base/json_writer.h"

/* What goes in at `at`, in place of the `len` bytes there. */
struct edit {
    const char *at;
    size_t len;
    struct str text;
};

#define MAX_EDITS 3

/* In the order of the body. */
struct edits {
    struct edit items[MAX_EDITS];
    size_t count;
};

/* Move what was written into the arena. */
static err_t take_text(struct encoding *encoding, struct json_writer *w, struct str *out)
{
    err_t err = json_writer_err(w);

    if (!err) {
        *out = arena_copy(encoding->arena, buf_str(w->out));
        err = out->ptr ? NULL : arena_err(encoding->arena);
    }
    buf_fini(w->out);
    return err;
}

/* Whether the caller sent it, in whatever case: many servers read both as one. */
static bool is_sent(const struct chat_request *ask, struct str key)
{
    for (size_t i = 0; i < ask->member_count; i++)
        if (json_key_is_like(&ask->members[i], key))
            return true;
    return false;
}

/* The configured members that the caller did not send, each with a comma behind it: a request
 * always has members of its own. */
static err_t extra_members(struct encoding *encoding, struct str *out)
{
    struct str extra = encoding->provider->extra_body;
    struct buf text = buf_make(MEM_REQUEST, extra.len + 1);
    struct json_writer w = json_writer_make(&text);
    struct json_member m;

    for (size_t at = 0; json_object_next(extra, &at, &m);) {
        const char *start = m.key.ptr - 1;
        if (is_sent(encoding->ask, m.key))
            continue;
        json_add_raw(&w, (struct str){start, (size_t)(m.value.ptr + m.value.len - start)});
    }
    if (text.len > 0)
        json_add_raw(&w, STR("")); /* the comma */
    return take_text(encoding, &w, out);
}

static err_t quote_model(struct encoding *encoding, struct str *out)
{
    struct buf text = buf_make(MEM_REQUEST, encoding->model.len * 6 + 2);
    struct json_writer w = json_writer_make(&text);

    json_add_text(&w, encoding->model);
    return take_text(encoding, &w, out);
}

/* The message that holds the beginning of the answer. It may not end in white space. */
static err_t prefill_message(struct encoding *encoding, struct str *out)
{
    struct str prefill = provider_anthropic_trim_end(encoding->prefill);
    struct buf text = buf_make(MEM_REQUEST, prefill.len * 6 + 64);
    struct json_writer w = json_writer_make(&text);

    w.needs_comma = true; /* behind the messages before it */
    json_open_object(&w);
    json_put_text(&w, "role", STR("assistant"));
    json_put_text(&w, "content", prefill);
    json_close_object(&w);
    return take_text(encoding, &w, out);
}

/* Add an edit in its place. */
static void add_edit(struct edits *edits, struct edit edit)
{
    size_t i = edits->count++;

    for (; i > 0 && edits->items[i - 1].at > edit.at; i--)
        edits->items[i] = edits->items[i - 1];
    edits->items[i] = edit;
}

static err_t list_edits(struct encoding *encoding, struct edits *edits)
{
    const struct chat_request *ask = encoding->ask;
    const struct json_member *model = chat_member(ask, STR("model"));
    const struct json_member *messages = chat_member(ask, STR("messages"));
    struct str text;

    TRY(extra_members(encoding, &text));
    if (text.len > 0)
        add_edit(edits, (struct edit){ask->members[0].key.ptr - 1, 0, text});
    if (model && !str_eq(ask->model, encoding->model)) {
        TRY(quote_model(encoding, &text));
        add_edit(edits, (struct edit){model->value.ptr, model->value.len, text});
    }
    if (messages && encoding->prefill.len > 0) {
        TRY(prefill_message(encoding, &text));
        add_edit(edits, (struct edit){messages->value.ptr + messages->value.len - 1, 0, text});
    }
    return NULL;
}

static void add_piece(struct encoding *encoding, struct str piece)
{
    if (piece.len > 0)
        encoding->body[encoding->body_count++] = piece;
}

static err_t pass_through(struct encoding *encoding)
{
    struct edits edits = {0};
    struct str body = encoding->ask->body;
    const char *at = body.ptr;

    TRY(list_edits(encoding, &edits));
    encoding->target = STR("/v1/messages");
    encoding->body = arena_alloc_array(encoding->arena, 2 * MAX_EDITS + 1, sizeof(struct str));
    if (!encoding->body)
        return arena_err(encoding->arena);
    encoding->body_count = 0;
    for (size_t i = 0; i < edits.count; i++) {
        const struct edit *edit = &edits.items[i];
        add_piece(encoding, (struct str){at, (size_t)(edit->at - at)});
        add_piece(encoding, edit->text);
        at = edit->at + edit->len;
    }
    add_piece(encoding, (struct str){at, (size_t)(body.ptr + body.len - at)});
    return NULL;
}

static enum protocol choose(const struct conf_provider *provider, enum protocol asked)
{
    (void)provider;
    switch (asked) {
    case PROTOCOL_MESSAGES:
    case PROTOCOL_CHAT:
    case PROTOCOL_RESPONSES:
    case PROTOCOL_COMPLETIONS:
        return PROTOCOL_MESSAGES;
    default:
        return PROTOCOL_COUNT;
    }
}

static err_t encode(struct encoding *encoding)
{
    return encoding->ask->protocol == PROTOCOL_MESSAGES ? pass_through(encoding)
                                                        : provider_anthropic_translate(encoding);
}

static const struct provider_ops anthropic_ops = {
    .name = "anthropic",
    .choose = choose,
    .encode = encode,
    .decode = provider_anthropic_decode,
    .decode_end = provider_anthropic_decode_end,
    .decode_whole = provider_anthropic_decode_whole,
};

const struct provider_ops *const provider_anthropic = &anthropic_ops;
