/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for a provider of the caller's own protocol: the caller's bytes, with little spliced in.
 *
 * `model` gets the provider's name, a stream asks for usage, and the configured extra members are
 * added. A broken answer that is to be continued is put at the end of the conversation, and earlier
 * items of one that we keep at its front. A member that the service knows under another name gets that. All else
 * goes out as it came, from where it lies.
 *
 * The hard thing is to find the places without rewriting anything: what was read of the body are
 * spans of it, and neighbouring spans join again. */
#include "base/buf.h"
#include "base/check.h"
#include "model/provider_openai.h"

/* Room for the pieces where the provider has no extra_body and nothing is left out. */
#define USUAL_PIECES 32

/* A body under construction. Neighbours in memory are joined, so an unchanged request is one
 * piece. */
struct splice {
    const struct encoding *encoding;
    const struct chat_request *ask;
    struct str *pieces;
    size_t count, capacity;
    struct str usual[USUAL_PIECES];
};

static void splice_add(struct splice *s, struct str piece)
{
    struct str *last = s->count ? &s->pieces[s->count - 1] : NULL;

    if (piece.len == 0)
        return;
    if (last && last->ptr + last->len == piece.ptr) {
        last->len += piece.len;
        return;
    }
    check(s->count < s->capacity);
    s->pieces[s->count++] = piece;
}

/* Members are added to what makes a model write; other requests have too little in common. */
static bool takes_extra(const struct chat_request *ask)
{
    return ask->protocol == PROTOCOL_CHAT || ask->protocol == PROTOCOL_RESPONSES ||
           ask->protocol == PROTOCOL_COMPLETIONS;
}

/* Room for the worst case: each value that we replace cuts the body in two and has at most four
 * pieces itself, each member of ours is a piece and a comma; where members are left out, each kept
 * one stands alone. */
static err_t splice_init(struct splice *s, struct encoding *encoding, bool leaves_out)
{
    struct arena *arena = encoding->arena;
    struct json_member m;
    size_t capacity = USUAL_PIECES + (leaves_out ? 4 * encoding->ask->member_count : 0);

    for (size_t at = 0; json_object_next(encoding->provider->extra_body, &at, &m);)
        capacity += 2;
    s->encoding = encoding;
    s->ask = encoding->ask;
    s->count = 0;
    s->capacity = capacity;
    s->pieces = s->usual;
    if (capacity > USUAL_PIECES)
        s->pieces = arena_alloc_array(arena, capacity, sizeof(*s->pieces));
    return s->pieces ? NULL : arena_err(arena);
}

/* Copy everything into one piece where there are more than a system call should be given. */
static err_t splice_join(struct splice *s)
{
    struct arena *arena = s->encoding->arena;
    size_t len = 0;
    char *joined;

    if (s->count <= PROVIDER_MAX_PIECES)
        return NULL;
    for (size_t i = 0; i < s->count; i++)
        len += s->pieces[i].len;
    joined = arena_alloc(arena, len);
    if (!joined)
        return arena_err(arena);
    len = 0;
    for (size_t i = 0; i < s->count; i++) {
        memcpy(joined + len, s->pieces[i].ptr, s->pieces[i].len);
        len += s->pieces[i].len;
    }
    s->pieces[0] = (struct str){joined, len};
    s->count = 1;
    return NULL;
}

/* What was joined is the body. It is kept while the answer comes, so it takes no more than it must. */
static err_t splice_finish(struct splice *s, struct encoding *encoding)
{
    TRY(splice_join(s));
    encoding->body = arena_alloc(encoding->arena, s->count * sizeof(*s->pieces));
    if (!encoding->body)
        return arena_err(encoding->arena);
    memcpy(encoding->body, s->pieces, s->count * sizeof(*s->pieces));
    encoding->body_count = s->count;
    return NULL;
}

/* From the opening quote of a member's key to the end of its value. */
static struct str member_span(const struct json_member *m)
{
    const char *start = m->key.ptr - 1;

    return (struct str){start, (size_t)(m->value.ptr + m->value.len - start)};
}

static err_t quote(struct arena *arena, struct str text, struct str *out)
{
    struct buf quoted = buf_make(MEM_REQUEST, text.len * 6 + 2);
    err_t err = buf_add_json(&quoted, text);

    *out = err ? (struct str){0} : arena_copy(arena, buf_str(&quoted));
    buf_fini(&quoted);
    return err ? err : out->ptr ? NULL : arena_err(arena);
}

/* ---- usage ---- */

/* The caller's stream_options with include_usage switched on, whatever else they hold. */
static err_t usage_options(struct arena *arena, struct str given, struct str *out)
{
    struct json_member m;
    const char *text = "{\"include_usage\":true";

    for (size_t at = 0; json_object_next(given, &at, &m);) {
        if (json_key_is(&m, STR("include_usage")))
            continue;
        struct str span = member_span(&m);
        text = arena_printf(arena, "%s,%.*s", text, STR_ARG(span));
        if (!text)
            return arena_err(arena);
    }
    text = arena_printf(arena, "%s}", text);
    *out = str_from(text);
    return text ? NULL : arena_err(arena);
}

/* Whether the stream's token counts are to be asked for; responses always have them. */
static bool asks_usage(const struct splice *s)
{
    return s->ask->is_stream && s->encoding->provider->stream_usage &&
           (s->ask->protocol == PROTOCOL_CHAT || s->ask->protocol == PROTOCOL_COMPLETIONS);
}

/* What the limit of an answer is called here. */
static struct str cap_name(const struct splice *s)
{
    switch (s->ask->protocol) {
    case PROTOCOL_CHAT:
        return s->encoding->provider->has_old_max_tokens ? STR("max_tokens")
                                                         : STR("max_completion_tokens");
    case PROTOCOL_RESPONSES:
        return STR("max_output_tokens");
    default:
        return STR("max_tokens");
    }
}

/* ---- conversations ---- */

/* A list, inner brackets dropped, as part of a longer one; *has_items says whether a comma is
 * due. */
static void add_items(struct splice *s, struct str list, bool *has_items)
{
    if (json_kind(list) != JSON_ARRAY || json_is_empty(list))
        return;
    while (list.ptr[list.len - 1] != ']')
        list.len--;
    if (*has_items)
        splice_add(s, STR(","));
    *has_items = true;
    splice_add(s, (struct str){list.ptr + 1, list.len - 2});
}

/* What `role` said, as the last or only item of a list. */
static err_t add_said(struct splice *s, const char *role, struct str quoted, bool *has_items)
{
    const char *item = arena_printf(s->encoding->arena,
                                    "%s{\"role\":\"%s\",\"content\":", *has_items ? "," : "", role);

    if (!item)
        return arena_err(s->encoding->arena);
    splice_add(s, str_from(item));
    splice_add(s, quoted);
    splice_add(s, STR("}"));
    *has_items = true;
    return NULL;
}

/* The list `messages` or `input`, with what is older before it and what was begun behind it. */
static err_t add_conversation(struct splice *s, struct str given)
{
    bool has_items = false;
    struct str prefill;

    splice_add(s, STR("["));
    add_items(s, s->ask->history, &has_items);
    if (json_kind(given) == JSON_STRING)
        TRY(add_said(s, "user", given, &has_items));
    else
        add_items(s, given, &has_items);
    if (s->encoding->prefill.len) {
        TRY(quote(s->encoding->arena, s->encoding->prefill, &prefill));
        TRY(add_said(s, "assistant", prefill, &has_items));
    }
    splice_add(s, STR("]"));
    return NULL;
}

/* A prompt that goes on with what was written already. */
static err_t add_longer_prompt(struct splice *s, struct str given)
{
    struct str more;
    size_t at = 0;

    if (json_kind(given) == JSON_ARRAY && !json_array_next(given, &at, &given))
        given = STR("\"\"");
    if (json_kind(given) != JSON_STRING)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "unsupported_parameter", .param = "prompt"),
                              "the answer to a prompt of tokens cannot be continued");
    TRY(quote(s->encoding->arena, s->encoding->prefill, &more));
    splice_add(s, (struct str){given.ptr, given.len - 1});
    splice_add(s, str_after(more, 1));
    return NULL;
}

/* ---- values ---- */

/* What becomes of a member's value. */
enum replacement {
    VALUE_KEPT,
    VALUE_MODEL,
    VALUE_USAGE,
    VALUE_CONVERSATION,
    VALUE_PROMPT,
    VALUE_CAP,
    VALUE_LIMIT,
    VALUE_NULL
};

/* The limit that the caller set under the new name beside a null under the old one, which is all that the provider looks at. */
static struct str limit_beside(const struct splice *s, const struct json_member *m)
{
    const struct json_member *other;

    if (!s->encoding->provider->has_old_max_tokens || s->ask->protocol != PROTOCOL_CHAT ||
        json_kind(m->value) != JSON_NULL || !json_key_is(m, STR("max_tokens")))
        return (struct str){0};
    other = chat_member(s->ask, STR("max_completion_tokens"));
    return other && json_kind(other->value) == JSON_NUMBER ? other->value : (struct str){0};
}

static enum replacement replacement_of(const struct splice *s, const struct json_member *m)
{
    bool has_history = s->ask->history.len > 0, has_prefill = s->encoding->prefill.len > 0;

    if (json_key_is(m, STR("model")))
        return str_eq(s->ask->model, s->encoding->model) ? VALUE_KEPT : VALUE_MODEL;
    if (asks_usage(s) && !s->ask->wants_usage && json_key_is(m, STR("stream_options")))
        return VALUE_USAGE;
    if (s->ask->cap.len > 0 && json_key_is(m, cap_name(s)))
        return VALUE_CAP; /* the caller's null */
    if (limit_beside(s, m).len > 0)
        return VALUE_LIMIT;
    if (!has_history && !has_prefill)
        return VALUE_KEPT;
    if (s->ask->protocol == PROTOCOL_CHAT && json_key_is(m, STR("messages")))
        return VALUE_CONVERSATION;
    if (s->ask->protocol == PROTOCOL_COMPLETIONS && json_key_is(m, STR("prompt")))
        return VALUE_PROMPT;
    if (s->ask->protocol != PROTOCOL_RESPONSES && s->ask->protocol != PROTOCOL_COMPACT)
        return VALUE_KEPT;
    if (json_key_is(m, STR("input")))
        return VALUE_CONVERSATION;
    /* names of a conversation that we keep mean nothing to the provider */
    return has_history && (json_key_is(m, STR("previous_response_id")) ||
                           json_key_is(m, STR("conversation")))
               ? VALUE_NULL
               : VALUE_KEPT;
}

static err_t add_value(struct splice *s, struct str given, enum replacement how)
{
    struct arena *arena = s->encoding->arena;
    struct str value = given;

    switch (how) {
    case VALUE_CONVERSATION:
        return add_conversation(s, given);
    case VALUE_PROMPT:
        return add_longer_prompt(s, given);
    case VALUE_MODEL:
        TRY(quote(arena, s->encoding->model, &value));
        break;
    case VALUE_USAGE:
        TRY(usage_options(arena, given, &value));
        break;
    case VALUE_CAP:
        value = s->ask->cap;
        break;
    case VALUE_LIMIT:
        value = chat_member(s->ask, STR("max_completion_tokens"))->value;
        break;
    case VALUE_NULL:
        value = STR("null");
        break;
    case VALUE_KEPT:
        break;
    }
    splice_add(s, value);
    return NULL;
}

/* The name of a member that the provider would refuse, or worse ignore, under the caller's name for it; or empty. */
static struct str other_name(const struct splice *s, const struct json_member *m)
{
    const struct conf_provider *provider = s->encoding->provider;
    struct str name = {0};

    if (s->ask->protocol != PROTOCOL_CHAT)
        return name;
    if (provider->has_old_max_tokens && json_key_is(m, STR("max_completion_tokens")))
        name = STR("max_tokens");
    else if (provider->seed_field.len > strlen("seed") && json_key_is(m, STR("seed")))
        name = provider->seed_field;
    return name.len > 0 && !chat_member(s->ask, name) && json_kind(m->value) != JSON_NULL
               ? name
               : (struct str){0};
}

/* A member, if anything of it is ours; `from` is where the caller's bytes before it begin, and moves behind what was
 * replaced. */
static err_t add_changed(struct splice *s, const struct json_member *m, const char **from)
{
    enum replacement how = replacement_of(s, m);
    struct str name = other_name(s, m);

    if (name.len > 0) {
        splice_add(s, (struct str){*from, (size_t)(m->key.ptr - *from)});
        splice_add(s, name);
        *from = m->key.ptr + m->key.len;
    }
    if (how == VALUE_KEPT)
        return NULL;
    splice_add(s, (struct str){*from, (size_t)(m->value.ptr - *from)});
    *from = m->value.ptr + m->value.len;
    return add_value(s, m->value, how);
}

/* Whether a conversation that is kept here is all that there is. */
static bool lacks_input(const struct splice *s)
{
    return s->ask->history.len > 0 && s->ask->protocol == PROTOCOL_COMPACT &&
           !chat_member(s->ask, STR("input"));
}

/* Whether the caller sent it, in whatever case: many servers read both as one. */
static bool is_sent(const struct splice *s, struct str key)
{
    for (size_t i = 0; i < s->ask->member_count; i++)
        if (json_key_is_like(&s->ask->members[i], key))
            return true;
    return s->ask->cap.len > 0 && str_eq_nocase(key, cap_name(s));
}

/* Members of ours that the caller did not send: configured extras, the wish for usage, what was said before. They go
 * first, each followed by a comma: a request always has members of its own. */
static void add_own_members(struct splice *s)
{
    struct str extra = takes_extra(s->ask) ? s->encoding->provider->extra_body : STR("");
    struct json_member m;

    if (asks_usage(s) && !chat_member(s->ask, STR("stream_options")))
        splice_add(s, STR("\"stream_options\":{\"include_usage\":true},"));
    if (s->ask->cap.len > 0 && !chat_member(s->ask, cap_name(s))) {
        splice_add(s, STR("\""));
        splice_add(s, cap_name(s));
        splice_add(s, STR("\":"));
        splice_add(s, s->ask->cap);
        splice_add(s, STR(","));
    }
    if (lacks_input(s)) {
        splice_add(s, STR("\"input\":"));
        splice_add(s, s->ask->history);
        splice_add(s, STR(","));
    }
    for (size_t at = 0; json_object_next(extra, &at, &m);) {
        if (is_sent(s, m.key))
            continue;
        splice_add(s, member_span(&m));
        splice_add(s, STR(","));
    }
}

/* ---- bodies ---- */

/* The whole body with nothing left out: the caller's bytes, cut only where a value is replaced. */
static err_t splice_all(struct splice *s)
{
    const struct chat_request *ask = s->ask;
    const char *at = ask->body.ptr, *end = ask->body.ptr + ask->body.len;

    if (ask->member_count > 0) {
        at = ask->members[0].key.ptr - 1;
        splice_add(s, (struct str){ask->body.ptr, (size_t)(at - ask->body.ptr)});
        add_own_members(s);
    }
    for (size_t i = 0; i < ask->member_count; i++)
        TRY(add_changed(s, &ask->members[i], &at));
    splice_add(s, (struct str){at, (size_t)(end - at)});
    return NULL;
}

/* Only the members for which keep() holds, comma by comma. */
static err_t splice_kept(struct splice *s, bool (*keep)(struct str key))
{
    bool first = true;

    splice_add(s, STR("{"));
    add_own_members(s);
    for (size_t i = 0; i < s->ask->member_count; i++) {
        const struct json_member *m = &s->ask->members[i];
        const char *at = m->key.ptr - 1;
        if (m->key_has_escapes || !keep(m->key))
            continue;
        if (!first)
            splice_add(s, STR(","));
        first = false;
        TRY(add_changed(s, m, &at));
        splice_add(s, (struct str){at, (size_t)(m->value.ptr + m->value.len - at)});
    }
    splice_add(s, STR("}"));
    return NULL;
}

err_t provider_openai_splice(struct encoding *encoding, bool (*keep)(struct str key))
{
    struct splice s;

    TRY(splice_init(&s, encoding, keep != NULL));
    if (keep)
        TRY(splice_kept(&s, keep));
    else
        TRY(splice_all(&s));
    return splice_finish(&s, encoding);
}
