/* SPDX-License-Identifier: Apache-2.0 */
/* Other protocols' requests in Anthropic's words.
 *
 * The conversation is what differs most. System messages, wherever they stood, move to `system`.
 * The rest are turns of user and assistant alternately: neighbours of one side are joined, and of a
 * user's turn the results of tools come first, because they must follow the calls that they answer.
 * What Anthropic refuses although it means nothing (empty texts, stop sequences of blanks) is left
 * out.
 *
 * Models that know no schema of an answer get it as a tool that they must call.
 *
 * The hard thing is what may not come together: thinking with a forced tool, with an unsigned turn
 * of tool calls, or with a budget beyond the answer's own. There the thinking gives way, because
 * the answer to the question must not. */
#include "model/encode.h"
#include "model/provider_anthropic.h"

/* A request's translation in progress. */
struct translation {
    struct encoding *encoding;
    const struct prompt *prompt;
    struct json_writer *w;
    uint64_t max_tokens;
    bool has_answer_tool;   /* the answer's schema is told as a tool */
    bool has_effort_budget; /* the budget stands for an effort */
};

/* Messages that make one turn: [start, end), with others between them that say nothing. */
struct turn {
    size_t start, end;
    bool is_assistant;
};

/* The least budget of thinking that Anthropic takes. */
#define MIN_BUDGET 1024

/* What opens a conversation that its caller begins with the assistant or with nothing. */
#define OPENING "Begin."

#define JSON_HINT                                                                                  \
    "Answer with one JSON object and nothing else: no words before or after it, no code fence."

static bool is_blank(struct str text)
{
    return provider_anthropic_trim_end(text).len == 0;
}

static void put_cache_control(struct json_writer *w, struct str cache_control)
{
    if (cache_control.len > 0)
        json_put_raw(w, "cache_control", cache_control);
}

/* A text of ours, as a block. */
static void put_text_block(struct json_writer *w, struct str text)
{
    json_open_object(w);
    json_put_text(w, "type", STR("text"));
    json_put_text(w, "text", text);
    json_close_object(w);
}

/* ---- the conversation ---- */

static bool says_nothing(const struct message *message)
{
    for (size_t i = 0; i < message->part_count; i++)
        if (provider_anthropic_part_is_told(&message->parts[i]))
            return false;
    return true;
}

/* The next turn of the conversation, from message *at on. */
static bool next_turn(const struct prompt *prompt, size_t *at, struct turn *turn)
{
    bool is_begun = false;

    for (; *at < prompt->message_count; (*at)++) {
        const struct message *message = &prompt->messages[*at];
        bool is_assistant = message->role == ROLE_ASSISTANT;
        if (message->role == ROLE_SYSTEM || says_nothing(message))
            continue;
        if (is_begun && is_assistant != turn->is_assistant)
            break;
        if (!is_begun)
            *turn = (struct turn){.start = *at, .is_assistant = is_assistant};
        is_begun = true;
        turn->end = *at + 1;
    }
    return is_begun;
}

static bool is_last_turn(const struct prompt *prompt, const struct turn *turn)
{
    struct turn next;
    size_t at = turn->end;

    return !next_turn(prompt, &at, &next);
}

/* The only piece of a turn if that is a plain text, which needs no list of blocks. */
static const struct part *only_text(const struct prompt *prompt, const struct turn *turn)
{
    const struct part *only = NULL;

    for (size_t i = turn->start; i < turn->end; i++) {
        const struct message *message = &prompt->messages[i];
        for (size_t k = 0; message->role != ROLE_SYSTEM && k < message->part_count; k++) {
            if (!provider_anthropic_part_is_told(&message->parts[k]))
                continue;
            if (only)
                return NULL;
            only = &message->parts[k];
        }
    }
    return only && only->kind == PART_TEXT && only->cache_control.len == 0 ? only : NULL;
}

/* The pieces of a turn's messages, of the results of tools or of all others. The text that ends the
 * conversation as the beginning of an answer may not end in white space. */
static err_t put_pieces(struct translation *t, const struct turn *turn, bool results, bool is_start)
{
    for (size_t i = turn->start; i < turn->end; i++) {
        const struct message *message = &t->prompt->messages[i];
        if (message->role == ROLE_SYSTEM || (message->role == ROLE_TOOL) != results)
            continue;
        for (size_t k = 0; k < message->part_count; k++) {
            struct part part = message->parts[k];
            if (is_start && i + 1 == turn->end && k + 1 == message->part_count)
                part.text = provider_anthropic_trim_end(part.text);
            TRY(provider_anthropic_part_write(t->encoding, &part, t->w));
        }
    }
    return NULL;
}

static err_t put_turn(struct translation *t, const struct turn *turn)
{
    struct str prefill = provider_anthropic_trim_end(t->encoding->prefill);
    bool is_start = turn->is_assistant && is_last_turn(t->prompt, turn);
    const struct part *only = only_text(t->prompt, turn);

    json_open_object(t->w);
    json_put_text(t->w, "role", turn->is_assistant ? STR("assistant") : STR("user"));
    if (only && !(is_start && prefill.len > 0)) {
        struct str text = is_start ? provider_anthropic_trim_end(only->text) : only->text;
        json_put_text(t->w, "content", text);
    } else {
        json_put_array(t->w, "content");
        TRY(put_pieces(t, turn, true, false));
        TRY(put_pieces(t, turn, false, is_start && prefill.len == 0));
        if (is_start && prefill.len > 0)
            put_text_block(t->w, prefill);
        json_close_array(t->w);
    }
    json_close_object(t->w);
    return NULL;
}

static void put_message(struct json_writer *w, struct str role, struct str text)
{
    json_open_object(w);
    json_put_text(w, "role", role);
    json_put_text(w, "content", text);
    json_close_object(w);
}

static err_t put_messages(struct translation *t)
{
    struct str prefill = provider_anthropic_trim_end(t->encoding->prefill);
    struct turn turn = {.is_assistant = false};
    bool is_first = true;

    json_put_array(t->w, "messages");
    for (size_t at = 0; next_turn(t->prompt, &at, &turn); is_first = false) {
        if (is_first && turn.is_assistant)
            put_message(t->w, STR("user"), STR(OPENING));
        TRY(put_turn(t, &turn));
    }
    if (is_first)
        put_message(t->w, STR("user"), STR(OPENING));
    if (!turn.is_assistant && prefill.len > 0)
        put_message(t->w, STR("assistant"), prefill);
    json_close_array(t->w);
    return NULL;
}

/* All system messages, a block for each of their texts, and the wish for JSON. */
static err_t put_system(struct translation *t)
{
    const struct prompt *prompt = t->prompt;
    size_t count = 0;

    for (size_t i = 0; i < prompt->message_count; i++) {
        const struct message *message = &prompt->messages[i];
        for (size_t k = 0; message->role == ROLE_SYSTEM && k < message->part_count; k++) {
            if (!provider_anthropic_part_is_told(&message->parts[k]))
                continue;
            if (count++ == 0)
                json_put_array(t->w, "system");
            TRY(provider_anthropic_part_write(t->encoding, &message->parts[k], t->w));
        }
    }
    if (prompt->format == FORMAT_JSON) {
        if (count++ == 0)
            json_put_array(t->w, "system");
        put_text_block(t->w, STR(JSON_HINT));
    }
    if (count > 0)
        json_close_array(t->w);
    return NULL;
}

/* ---- tools ---- */

static err_t put_tool(struct translation *t, const struct tool *tool)
{
    static const struct str no_parameters = {"{\"type\":\"object\",\"properties\":{}}", 33};

    if (!tool->is_function)
        return encode_refuse(t->encoding, tool->name.len ? tool->name : STR("tools"));
    json_open_object(t->w);
    TRY(provider_anthropic_name_put(t->encoding, t->w, "name", tool->name));
    json_put_text_if(t->w, "description", tool->description);
    json_put_raw(t->w, "input_schema", tool->parameters.len ? tool->parameters : no_parameters);
    if (str_eq(tool->strict, STR("true")))
        json_put_bool(t->w, "strict", true);
    put_cache_control(t->w, tool->cache_control);
    json_close_object(t->w);
    return NULL;
}

/* A caller whose tools must be called gets no answer in words, so its form is of no account. */
static bool needs_answer_tool(const struct translation *t)
{
    enum tool_choice choice = t->prompt->tool_choice;

    return t->encoding->provider->schema_is_tool && t->prompt->format == FORMAT_SCHEMA &&
           choice != TOOL_REQUIRED && choice != TOOL_NAMED;
}

static void put_answer_tool(struct translation *t)
{
    struct str about = t->prompt->schema_description;

    json_open_object(t->w);
    json_put_text(t->w, "name", STR(PROVIDER_ANTHROPIC_ANSWER));
    json_put_text(t->w, "description", about.len ? about : STR("Gives the answer to the user."));
    json_put_raw(t->w, "input_schema", t->prompt->schema);
    json_close_object(t->w);
}

/* The answer's tool must be called, or one of the caller's if he has any. */
static void put_answer_choice(struct translation *t)
{
    bool is_alone = t->prompt->tool_count == 0 || t->prompt->tool_choice == TOOL_NONE;

    json_put_object(t->w, "tool_choice");
    json_put_text(t->w, "type", is_alone ? STR("tool") : STR("any"));
    if (is_alone)
        json_put_text(t->w, "name", STR(PROVIDER_ANTHROPIC_ANSWER));
    if (is_alone || t->prompt->is_one_tool_at_a_time)
        json_put_bool(t->w, "disable_parallel_tool_use", true);
    json_close_object(t->w);
}

static err_t put_tool_choice(struct translation *t)
{
    static const char *const types[] = {[TOOL_CHOICE_NONE_GIVEN] = "auto",
                                        [TOOL_AUTO] = "auto",
                                        [TOOL_NONE] = "none",
                                        [TOOL_REQUIRED] = "any",
                                        [TOOL_NAMED] = "tool"};
    const struct prompt *prompt = t->prompt;

    if (prompt->tool_choice == TOOL_CHOICE_NONE_GIVEN && !prompt->is_one_tool_at_a_time)
        return NULL;
    json_put_object(t->w, "tool_choice");
    json_put_text(t->w, "type", str_from(types[prompt->tool_choice]));
    if (prompt->tool_choice == TOOL_NAMED)
        TRY(provider_anthropic_name_put(t->encoding, t->w, "name", prompt->tool_name));
    if (prompt->is_one_tool_at_a_time && prompt->tool_choice != TOOL_NONE)
        json_put_bool(t->w, "disable_parallel_tool_use", true);
    json_close_object(t->w);
    return NULL;
}

static err_t put_tools(struct translation *t)
{
    if (t->prompt->tool_count == 0 && !t->has_answer_tool)
        return NULL;
    json_put_array(t->w, "tools");
    for (size_t i = 0; i < t->prompt->tool_count; i++)
        TRY(put_tool(t, &t->prompt->tools[i]));
    if (t->has_answer_tool)
        put_answer_tool(t);
    json_close_array(t->w);
    if (!t->has_answer_tool)
        return put_tool_choice(t);
    put_answer_choice(t);
    t->encoding->for_decoder = PROVIDER_ANTHROPIC_ANSWER;
    return NULL;
}

/* ---- thinking and form ---- */

/* Whether the conversation stands amid calls of tools that were made without a signed thought:
 * Anthropic would want to see the thought first. */
static bool has_unsigned_calls(const struct prompt *prompt)
{
    struct turn turn, last = {0};
    bool has_thought = false, has_call = false;

    for (size_t at = 0; next_turn(prompt, &at, &turn);)
        if (turn.is_assistant)
            last = turn;
    for (size_t i = last.start; i < last.end; i++) {
        const struct message *message = &prompt->messages[i];
        for (size_t k = 0; message->role == ROLE_ASSISTANT && k < message->part_count; k++) {
            const struct part *part = &message->parts[k];
            has_call |= part->kind == PART_TOOL_CALL;
            has_thought |= (part->kind == PART_REASONING || part->kind == PART_REDACTED) &&
                           provider_anthropic_part_is_told(part);
        }
    }
    return has_call && !has_thought;
}

static err_t put_thinking(struct translation *t)
{
    const struct prompt *prompt = t->prompt;
    uint64_t budget = prompt->thinking_tokens;
    bool is_off = prompt->has_thinking ? !prompt->thinking : str_eq(prompt->effort, STR("none"));

    if (!is_off && !(prompt->has_thinking && prompt->thinking))
        return NULL;
    if (budget >= t->max_tokens)
        budget = t->max_tokens - 1;
    if (!is_off &&
        (prompt->tool_choice == TOOL_REQUIRED || prompt->tool_choice == TOOL_NAMED ||
         t->has_answer_tool ||
         (prompt->thinking_tokens > 0 && (budget < MIN_BUDGET || has_unsigned_calls(prompt)))))
        return encode_drop(t->encoding,
                           t->has_effort_budget ? STR("reasoning_effort") : STR("thinking"));
    json_put_object(t->w, "thinking");
    json_put_text(t->w, "type",
                  is_off                        ? STR("disabled")
                  : prompt->thinking_tokens > 0 ? STR("enabled")
                                                : STR("adaptive"));
    if (!is_off && prompt->thinking_tokens > 0)
        json_put_u64(t->w, "budget_tokens", budget);
    json_close_object(t->w);
    return NULL;
}

/* Effort, and the answer's schema. */
static void put_output(struct translation *t)
{
    struct str effort = t->prompt->effort;
    bool has_effort = effort.len > 0 && !str_eq(effort, STR("none"));
    bool has_format = t->prompt->format == FORMAT_SCHEMA && !t->encoding->provider->schema_is_tool;

    if (!has_effort && !has_format)
        return;
    if (str_eq(effort, STR("minimal")))
        effort = STR("low");
    json_put_object(t->w, "output_config");
    if (has_effort)
        json_put_text(t->w, "effort", effort);
    if (has_format) {
        json_put_object(t->w, "format");
        json_put_text(t->w, "type", STR("json_schema"));
        json_put_raw(t->w, "schema", t->prompt->schema.len ? t->prompt->schema : STR("{}"));
        json_close_object(t->w);
    }
    json_close_object(t->w);
}

static void put_stops(struct translation *t)
{
    bool is_open = false;

    for (size_t i = 0; i < t->prompt->stop_count; i++) {
        if (is_blank(t->prompt->stops[i]))
            continue;
        if (!is_open)
            json_put_array(t->w, "stop_sequences");
        is_open = true;
        json_add_text(t->w, t->prompt->stops[i]);
    }
    if (is_open)
        json_close_array(t->w);
}

/* ---- settings ---- */

static struct str setting(const struct translation *t, enum setting which)
{
    struct str value = t->prompt->settings[which];

    return json_kind(value) == JSON_NULL ? (struct str){0} : value;
}

/* The answer's limit must be told, and leaves room for the thinking that was asked for. */
static void put_max_tokens(struct translation *t)
{
    struct str given = setting(t, SETTING_MAX_TOKENS);
    double tokens;

    t->max_tokens = t->encoding->provider->max_tokens ? t->encoding->provider->max_tokens : 4096;
    if (!given.ptr) {
        if (!t->has_answer_tool) /* beside a tool that must be called nothing is thought */
            t->max_tokens += t->prompt->thinking_tokens;
        json_put_u64(t->w, "max_tokens", t->max_tokens);
        return;
    }
    if (!json_u64(given, &t->max_tokens) && json_double(given, &tokens) && tokens >= 1 &&
        tokens < 1e15)
        t->max_tokens = (uint64_t)tokens;
    json_put_raw(t->w, "max_tokens", given);
}

static err_t put_service_tier(struct translation *t)
{
    struct str tier = setting(t, SETTING_SERVICE_TIER);

    if (!tier.ptr || setting_is_default(SETTING_SERVICE_TIER, tier))
        return NULL;
    if (!str_eq(tier, STR("\"default\"")))
        return encode_drop(t->encoding, setting_name(SETTING_SERVICE_TIER));
    json_put_text(t->w, "service_tier", STR("standard_only"));
    return NULL;
}

static void put_user(struct translation *t)
{
    struct str user = setting(t, SETTING_SAFETY_ID);

    if (!user.ptr)
        user = setting(t, SETTING_USER);
    if (json_kind(user) != JSON_STRING)
        return;
    json_put_object(t->w, "metadata");
    json_put_raw(t->w, "user_id", user);
    json_close_object(t->w);
}

/* Whether the API's configured version has no sampling settings any more; ours (credential.c) has.
 * Versions are dates. */
static bool is_without_sampling(const struct conf_provider *provider)
{
    struct str first = STR("2026-10-21"), version;

    for (size_t i = 0; i < provider->headers.count; i++) {
        version = provider->headers.items[i].value;
        if (str_eq_nocase(provider->headers.items[i].name, STR("anthropic-version")) &&
            version.len == first.len && memcmp(version.ptr, first.ptr, first.len) >= 0)
            return true;
    }
    return false;
}

static err_t leave_out(struct translation *t, struct prompt *prompt, enum setting which)
{
    if (!setting(t, which).ptr)
        return NULL;
    prompt->settings[which] = (struct str){0};
    return encode_drop(t->encoding, setting_name(which));
}

/* The settings that go under their own names. Newer models refuse top_p beside temperature. */
static err_t put_settings(struct translation *t)
{
    struct prompt prompt = *t->prompt;
    bool has_temperature = setting(t, SETTING_TEMPERATURE).ptr;
    bool is_without = is_without_sampling(t->encoding->provider);

    if (is_without)
        TRY(leave_out(t, &prompt, SETTING_TEMPERATURE));
    if (is_without || has_temperature)
        TRY(leave_out(t, &prompt, SETTING_TOP_P));
    if (is_without)
        TRY(leave_out(t, &prompt, SETTING_TOP_K));
    TRY(put_service_tier(t));
    put_user(t);
    return encode_settings(t->encoding, &prompt, PROTOCOL_MESSAGES, t->w);
}

static err_t put_body(struct translation *t)
{
    json_open_object(t->w);
    json_put_text(t->w, "model", t->encoding->model);
    put_max_tokens(t);
    TRY(put_system(t));
    TRY(put_messages(t));
    TRY(put_tools(t));
    TRY(put_thinking(t));
    put_output(t);
    put_stops(t);
    TRY(put_settings(t));
    if (t->encoding->ask->is_stream)
        json_put_bool(t->w, "stream", true);
    TRY(encode_extra(t->encoding, t->w));
    json_close_object(t->w);
    return encode_finish(t->encoding, t->w, STR("/v1/messages"));
}

/* An effort as a budget of tokens, for models that know no other word; true if there was one. */
static bool make_budget(const struct conf_provider *provider, struct prompt *prompt)
{
    static const struct {
        const char *effort;
        uint64_t tokens;
    } budgets[] = {
        {"minimal", MIN_BUDGET}, {"low", MIN_BUDGET}, {"medium", 8192},
        {"high", 24576},         {"xhigh", 24576},    {"max", 24576},
    };

    if (!provider->effort_is_budget || prompt->has_thinking)
        return false;
    for (size_t i = 0; i < sizeof(budgets) / sizeof(*budgets); i++)
        if (str_eq(prompt->effort, str_from(budgets[i].effort))) {
            prompt->has_thinking = prompt->thinking = true;
            prompt->thinking_tokens = budgets[i].tokens;
            prompt->effort = (struct str){0};
            return true;
        }
    return false;
}

err_t provider_anthropic_translate(struct encoding *encoding)
{
    struct chat_request *ask = encoding->ask;
    const struct prompt *prompt;
    struct prompt own;
    size_t given = ask->body.len + ask->history.len + ask->referenced.len + encoding->prefill.len;
    struct buf text = buf_make(MEM_REQUEST, 6 * given + 64 * 1024);
    struct json_writer w = json_writer_make(&text);
    struct translation t = {.encoding = encoding, .w = &w};
    err_t err;

    TRY(chat_prompt(ask, encoding->arena, &prompt));
    own = *prompt;
    t.prompt = &own;
    t.has_answer_tool = needs_answer_tool(&t);
    t.has_effort_budget = make_budget(encoding->provider, &own);
    err = put_body(&t);
    buf_fini(&text);
    return err;
}
