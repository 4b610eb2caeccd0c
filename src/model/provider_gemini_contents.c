/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation in Gemini's words: `systemInstruction`, and `contents` in which the user and the
 * model take turns.
 *
 * Neighbours of one role are one content, and one without parts is refused, so a content is opened
 * when its first part comes. All functionResponses of a turn stand together, before any pictures
 * that came with them.
 *
 * The hard thing is signatures. Gemini signs what it thought on the first call of a step and wants
 * that back with the call, while callers keep it with a piece of reasoning before the call, or lose
 * it. Where it is lost, the documented word that skips the check takes its place
 * (ai.google.dev/gemini-api/docs/thought-signatures). */
#include "model/provider_gemini.h"

#define UNKNOWN_SIGNATURE STR("skip_thought_signature_validator")

struct contents {
    struct encoding *encoding;
    const struct prompt *prompt;
    struct json_writer *w;
    struct str role;      /* of the content that is open, or empty */
    struct str signature; /* of reasoning, to be sent with the part that follows */
    bool has_call;        /* the step has one already */
};

static void close_content(struct contents *c)
{
    if (c->role.len == 0)
        return;
    json_close_array(c->w);
    json_close_object(c->w);
    c->role = STR("");
}

/* A part begins, in a content of this role. */
static void open_part(struct contents *c, struct str role)
{
    if (!str_eq(c->role, role)) {
        close_content(c);
        json_open_object(c->w);
        json_put_text(c->w, "role", role);
        json_put_array(c->w, "parts");
        c->role = role;
    }
    json_open_object(c->w);
}

static void put_text(struct contents *c, struct str role, struct str text)
{
    if (text.len == 0)
        return;
    open_part(c, role);
    json_put_text(c->w, "text", text);
    if (c->signature.len > 0)
        json_put_text(c->w, "thoughtSignature", c->signature);
    c->signature = STR("");
    json_close_object(c->w);
}

/* ---- media ---- */

/* The type of what an address names, by its ending; empty if that tells nothing. */
static struct str guess_type(struct str url)
{
    static const struct {
        struct str ending, type;
    } types[] = {
        {STR(".png"), STR("image/png")},       {STR(".jpg"), STR("image/jpeg")},
        {STR(".jpeg"), STR("image/jpeg")},     {STR(".webp"), STR("image/webp")},
        {STR(".gif"), STR("image/gif")},       {STR(".heic"), STR("image/heic")},
        {STR(".pdf"), STR("application/pdf")}, {STR(".txt"), STR("text/plain")},
        {STR(".mp3"), STR("audio/mpeg")},      {STR(".wav"), STR("audio/wav")},
        {STR(".mp4"), STR("video/mp4")},
    };

    url.len = str_index(url, '?');
    url.len = str_index(url, '#');
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (url.len > types[i].ending.len &&
            str_eq_nocase(str_after(url, url.len - types[i].ending.len), types[i].ending))
            return types[i].type;
    return STR("");
}

static void put_inline(struct contents *c, struct str role, struct str type, struct str data)
{
    open_part(c, role);
    json_put_object(c->w, "inlineData");
    json_put_text(c->w, "mimeType", type);
    json_put_text(c->w, "data", data);
    json_close_object(c->w);
    json_close_object(c->w);
}

static void put_link(struct contents *c, struct str role, const struct part *part)
{
    struct str type = part->media_type.len > 0 ? part->media_type : guess_type(part->url);

    open_part(c, role);
    json_put_object(c->w, "fileData");
    json_put_text_if(c->w, "mimeType", type);
    json_put_text(c->w, "fileUri", part->url);
    json_close_object(c->w);
    json_close_object(c->w);
}

static err_t put_media(struct contents *c, struct str role, const struct part *part)
{
    struct str type = part->media_type;

    if (part->detail.len > 0 && !str_eq(part->detail, STR("auto")))
        TRY(encode_drop(c->encoding, STR("detail")));
    if (part->data.len > 0) {
        if (type.len == 0 && part->kind == PART_FILE)
            type = guess_type(part->name).len > 0 ? guess_type(part->name) : STR("application/pdf");
        put_inline(c, role, type, part->data);
    } else if (part->url.len > 0) {
        put_link(c, role, part);
    } else if (part->text.len > 0) {
        put_text(c, role, part->text);
    } else {
        return encode_refuse(c->encoding, part->id.len > 0 ? STR("file_id") : STR("messages"));
    }
    return NULL;
}

/* ---- calls and results ---- */

/* Gemini's own ids go back to it; those that other providers or we have made tell it nothing. */
static bool is_own_id(struct str id)
{
    return id.len > 0 && !str_starts(id, STR("call_")) && !str_starts(id, STR("toolu_"));
}

static void put_call(struct contents *c, const struct part *part)
{
    struct str signature = part->signature.len > 0 ? part->signature : c->signature;

    if (signature.len == 0 && !c->has_call &&
        provider_gemini_generation(c->encoding->model) == GEMINI_3)
        signature = UNKNOWN_SIGNATURE;
    c->signature = STR("");
    c->has_call = true;
    open_part(c, STR("model"));
    json_put_object(c->w, "functionCall");
    if (is_own_id(part->id))
        json_put_text(c->w, "id", part->id);
    json_put_text(c->w, "name", part->name);
    json_put_raw(c->w, "args", part->arguments.len > 0 ? part->arguments : STR("{}"));
    json_close_object(c->w);
    json_put_text_if(c->w, "thoughtSignature", signature);
    json_close_object(c->w);
}

/* The name of the function that a result is of: callers tell the call's id only. The last call of
 * this id before message `at` is meant. */
static struct str find_name(const struct prompt *prompt, size_t at, struct str id)
{
    while (at-- > 0) {
        const struct message *m = &prompt->messages[at];
        for (size_t i = m->part_count; i-- > 0;)
            if (m->parts[i].kind == PART_TOOL_CALL && str_eq(m->parts[i].id, id))
                return m->parts[i].name;
    }
    return STR("");
}

/* All texts of a result, one after another. */
static err_t join_texts(struct arena *arena, const struct part *result, struct str *out)
{
    size_t len = 0;
    char *text;

    for (size_t i = 0; i < result->part_count; i++)
        len += result->parts[i].text.len;
    text = arena_alloc(arena, len);
    if (!text)
        return arena_err(arena);
    *out = (struct str){text, len};
    for (size_t i = 0; i < result->part_count; i++) {
        struct str piece = result->parts[i].text;
        if (piece.len > 0)
            memcpy(text, piece.ptr, piece.len);
        text += piece.len;
    }
    return NULL;
}

static err_t put_result(struct contents *c, size_t at, const struct part *part)
{
    struct str name = part->name.len > 0 ? part->name : find_name(c->prompt, at, part->id);
    struct str text;

    if (name.len == 0)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "messages"),
                              "message %zu is the result of a call that is nowhere before it", at);
    TRY(join_texts(c->encoding->arena, part, &text));
    open_part(c, STR("user"));
    json_put_object(c->w, "functionResponse");
    if (is_own_id(part->id))
        json_put_text(c->w, "id", part->id);
    json_put_text(c->w, "name", name);
    /* a response must be an object */
    if (!part->is_error && !json_check(text) && json_kind(text) == JSON_OBJECT) {
        json_put_raw(c->w, "response", text);
    } else {
        json_put_object(c->w, "response");
        json_put_text(c->w, part->is_error ? "error" : "output", text);
        json_close_object(c->w);
    }
    json_close_object(c->w);
    json_close_object(c->w);
    return NULL;
}

/* What a result holds besides text. */
static err_t put_result_media(struct contents *c, const struct part *result)
{
    for (size_t i = 0; i < result->part_count; i++)
        if (result->parts[i].kind == PART_IMAGE || result->parts[i].kind == PART_FILE)
            TRY(put_media(c, STR("user"), &result->parts[i]));
    return NULL;
}

/* ---- messages ---- */

/* Only a signature of Gemini's own is of use, and not the words that it signs. */
static void keep_signature(struct contents *c, struct str signature)
{
    struct str mark = STR(PROVIDER_GEMINI_SIGNATURE);

    if (str_starts(signature, mark))
        c->signature = str_after(signature, mark.len);
}

static err_t put_part(struct contents *c, struct str role, const struct part *part)
{
    switch (part->kind) {
    case PART_TEXT:
    case PART_REFUSAL:
        put_text(c, role, part->text);
        return NULL;
    case PART_IMAGE:
    case PART_FILE:
    case PART_AUDIO:
        return put_media(c, role, part);
    case PART_TOOL_CALL:
        put_call(c, part);
        return NULL;
    case PART_REASONING:
        keep_signature(c, part->signature);
        return NULL;
    case PART_TOOL_RESULT: /* see put_results */
    case PART_REDACTED:
        return NULL;
    case PART_OTHER:
        break;
    }
    return encode_refuse(c->encoding, part->name.len > 0 ? part->name : STR("messages"));
}

static err_t put_message(struct contents *c, const struct message *message)
{
    struct str role = message->role == ROLE_ASSISTANT ? STR("model") : STR("user");

    c->has_call = false;
    for (size_t i = 0; i < message->part_count; i++)
        TRY(put_part(c, role, &message->parts[i]));
    c->signature = STR("");
    return NULL;
}

/* A run of messages with results, from *at on: all results, then what came with them. */
static err_t put_results(struct contents *c, size_t *at)
{
    const struct message *messages = c->prompt->messages;
    size_t end = *at;

    for (; end < c->prompt->message_count && messages[end].role == ROLE_TOOL; end++)
        for (size_t i = 0; i < messages[end].part_count; i++)
            if (messages[end].parts[i].kind == PART_TOOL_RESULT)
                TRY(put_result(c, end, &messages[end].parts[i]));
    for (; *at < end; ++*at)
        for (size_t i = 0; i < messages[*at].part_count; i++)
            TRY(put_result_media(c, &messages[*at].parts[i]));
    return NULL;
}

/* Whether there is anything but system messages; if not, they are what is asked. */
static bool has_turns(const struct prompt *prompt)
{
    for (size_t i = 0; i < prompt->message_count; i++)
        if (prompt->messages[i].role != ROLE_SYSTEM)
            return true;
    return false;
}

/* All system messages, in order, wherever they stand. */
static err_t put_system(struct contents *c)
{
    bool is_open = false;

    for (size_t i = 0; i < c->prompt->message_count; i++) {
        const struct message *m = &c->prompt->messages[i];
        for (size_t k = 0; m->role == ROLE_SYSTEM && k < m->part_count; k++) {
            if (m->parts[k].kind != PART_TEXT)
                TRY(encode_refuse(c->encoding, STR("messages")));
            if (m->parts[k].text.len == 0)
                continue;
            if (!is_open) {
                json_put_object(c->w, "systemInstruction");
                json_put_array(c->w, "parts");
                is_open = true;
            }
            json_open_object(c->w);
            json_put_text(c->w, "text", m->parts[k].text);
            json_close_object(c->w);
        }
    }
    if (is_open) {
        json_close_array(c->w);
        json_close_object(c->w);
    }
    return NULL;
}

err_t provider_gemini_put_contents(struct encoding *encoding, const struct prompt *prompt,
                                   struct json_writer *w)
{
    struct contents c = {.encoding = encoding, .prompt = prompt, .w = w, .role = STR("")};
    bool has_system = has_turns(prompt);

    if (has_system)
        TRY(put_system(&c));
    json_put_array(w, "contents");
    for (size_t i = 0; i < prompt->message_count;) {
        const struct message *m = &prompt->messages[i];
        if (m->role == ROLE_TOOL) {
            TRY(put_results(&c, &i));
            continue;
        }
        if (m->role != ROLE_SYSTEM || !has_system)
            TRY(put_message(&c, m));
        i++;
    }
    put_text(&c, STR("model"), encoding->prefill);
    close_content(&c);
    json_close_array(w);
    return NULL;
}
