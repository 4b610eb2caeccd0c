/* SPDX-License-Identifier: Apache-2.0 */
/* Google's Gemini (ai.google.dev/api/generate-content, v1beta): models/M:generateContent, and
 * :streamGenerateContent?alt=sse for streams.
 *
 * Embeddings are apart (provider_gemini_embeddings.c).
 *
 * Nobody asks us in this protocol, so every request is written anew from its meaning: the
 * conversation (provider_gemini_contents.c), tools, and generationConfig, in which all settings
 * live. Schemas go out as they came, in the members that take JSON Schema (parametersJsonSchema,
 * responseJsonSchema); only models before 2.5 get Google's subset of OpenAPI (provider_gemini_schema.c).
 *
 * The hard thing is thinking: 2.5 wants a number of tokens where 3 wants a level, some models cannot
 * stop, and older ones refuse to hear of it. */
#include "model/provider_gemini.h"

/* The longest body: a caller's 32 MiB with room for escapes. */
#define BODY_MAX_BYTES ((size_t)128 * 1024 * 1024)

/* Most stop sequences that the API takes. */
#define MAX_STOPS 5

static struct str bare_name(struct str model)
{
    return str_starts(model, STR("models/")) ? str_after(model, strlen("models/")) : model;
}

enum gemini_generation provider_gemini_generation(struct str model)
{
    struct str name = bare_name(model);

    if (!str_starts(name, STR("gemini-")) || str_starts(name, STR("gemini-1")))
        return GEMINI_PLAIN;
    if (str_starts(name, STR("gemini-2.5")))
        return GEMINI_2_5;
    return str_starts(name, STR("gemini-2")) ? GEMINI_PLAIN : GEMINI_3;
}

static bool names_tuned(struct str model)
{
    return str_starts(model, STR("tunedModels/"));
}

/* Callers may name a model themselves, so nothing but plain letters goes into the path as it is. */
err_t provider_gemini_target(struct encoding *encoding, const char *method, struct str *out)
{
    static const char *const hex = "0123456789ABCDEF";
    bool is_tuned = names_tuned(encoding->model);
    struct str name =
        is_tuned ? str_after(encoding->model, strlen("tunedModels/")) : bare_name(encoding->model);
    char *encoded = arena_alloc(encoding->arena, name.len * 3 + 1), *end = encoded;

    if (!encoded)
        return arena_err(encoding->arena);
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.ptr[i];
        if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || strchr("-._@", c)) {
            *end++ = (char)c;
            continue;
        }
        *end++ = '%';
        *end++ = hex[c >> 4];
        *end++ = hex[c & 15];
    }
    const char *target =
        arena_printf(encoding->arena, "/%s/%.*s:%s", is_tuned ? "tunedModels" : "models",
                     (int)(end - encoded), encoded, method);
    *out = str_from(target);
    return target ? NULL : arena_err(encoding->arena);
}

/* ---- tools ---- */

static bool is_old(const struct encoding *encoding)
{
    return provider_gemini_generation(encoding->model) == GEMINI_PLAIN;
}

/* In its old form an object must have properties; without any, there are no parameters. */
static err_t put_old_parameters(struct encoding *encoding, struct str parameters,
                                struct json_writer *w)
{
    return json_is_empty(json_get(parameters, STR("properties")))
               ? NULL
               : provider_gemini_put_schema(encoding, "parameters", parameters, w);
}

static err_t put_tool(struct encoding *encoding, const struct tool *tool, struct json_writer *w)
{
    json_open_object(w);
    json_put_text(w, "name", tool->name);
    json_put_text_if(w, "description", tool->description);
    if (tool->parameters.len > 0 && is_old(encoding))
        TRY(put_old_parameters(encoding, tool->parameters, w));
    else if (tool->parameters.len > 0)
        json_put_raw(w, "parametersJsonSchema", tool->parameters);
    json_close_object(w);
    return NULL;
}

static void put_tool_choice(const struct prompt *prompt, struct json_writer *w)
{
    static const char *const modes[] = {
        [TOOL_AUTO] = "AUTO",
        [TOOL_NONE] = "NONE",
        [TOOL_REQUIRED] = "ANY",
        [TOOL_NAMED] = "ANY",
    };

    if (prompt->tool_choice == TOOL_CHOICE_NONE_GIVEN)
        return;
    json_put_object(w, "toolConfig");
    json_put_object(w, "functionCallingConfig");
    json_put_text(w, "mode", str_from(modes[prompt->tool_choice]));
    if (prompt->tool_choice == TOOL_NAMED) {
        json_put_array(w, "allowedFunctionNames");
        json_add_text(w, prompt->tool_name);
        json_close_array(w);
    }
    json_close_object(w);
    json_close_object(w);
}

/* All functions are declared in one tool. */
static err_t put_tools(struct encoding *encoding, const struct prompt *prompt,
                       struct json_writer *w)
{
    size_t functions = 0;

    for (size_t i = 0; i < prompt->tool_count; i++) {
        if (prompt->tools[i].is_function)
            functions++;
        else
            TRY(encode_refuse(encoding, STR("tools")));
    }
    if (functions == 0)
        return NULL;
    json_put_array(w, "tools");
    json_open_object(w);
    json_put_array(w, "functionDeclarations");
    for (size_t i = 0; i < prompt->tool_count; i++)
        if (prompt->tools[i].is_function)
            TRY(put_tool(encoding, &prompt->tools[i], w));
    json_close_array(w);
    json_close_object(w);
    json_close_array(w);
    put_tool_choice(prompt, w);
    if (prompt->is_one_tool_at_a_time)
        TRY(encode_drop(encoding, STR("parallel_tool_calls")));
    return NULL;
}

/* ---- thinking ---- */

/* OpenAI's words for effort, in tokens (as in Google's own OpenAI-compatible API) and levels. The
 * first preview of 3 Pro knows only two of them. */
static const struct effort {
    struct str word;
    const char *budget, *level, *level_of_3_pro;
} efforts[] = {
    {STR("none"), "0", "MINIMAL", "LOW"},   {STR("minimal"), "1024", "MINIMAL", "LOW"},
    {STR("low"), "1024", "LOW", "LOW"},     {STR("medium"), "8192", "MEDIUM", "HIGH"},
    {STR("high"), "24576", "HIGH", "HIGH"}, {STR("xhigh"), "24576", "HIGH", "HIGH"},
    {STR("max"), "24576", "HIGH", "HIGH"},
};

static void put_effort(struct str model, const struct effort *effort, struct json_writer *w)
{
    struct str name = bare_name(model);

    if (provider_gemini_generation(model) == GEMINI_3) {
        json_put_text(w, "thinkingLevel",
                      str_from(str_starts(name, STR("gemini-3-pro")) ? effort->level_of_3_pro
                                                                     : effort->level));
        return;
    }
    /* 2.5 Pro cannot be stopped from thinking, and 128 is the least */
    bool is_least = str_starts(name, STR("gemini-2.5-pro")) && effort == &efforts[0];
    json_put_raw(w, "thinkingBudget", is_least ? STR("128") : str_from(effort->budget));
}

static const struct effort *find_effort(const struct prompt *prompt)
{
    if (prompt->has_thinking && !prompt->thinking)
        return &efforts[0];
    for (size_t i = 0; i < sizeof efforts / sizeof *efforts; i++)
        if (str_eq(efforts[i].word, prompt->effort))
            return &efforts[i];
    return NULL;
}

/* Who asks for thinking is shown the thoughts, too. */
static err_t put_thinking(struct encoding *encoding, const struct prompt *prompt,
                          struct json_writer *w)
{
    const struct effort *effort = find_effort(prompt);
    bool is_off = effort == &efforts[0];

    if (prompt->effort.len > 0 && !effort)
        TRY(encode_drop(encoding, STR("reasoning_effort")));
    if (!effort && !prompt->has_thinking && prompt->thinking_tokens == 0)
        return NULL;
    if (is_old(encoding))
        return is_off ? NULL : encode_drop(encoding, STR("reasoning_effort"));
    json_put_object(w, "thinkingConfig");
    if (!is_off)
        json_put_bool(w, "includeThoughts", true);
    if (!is_off && prompt->thinking_tokens > 0)
        json_put_u64(w, "thinkingBudget", prompt->thinking_tokens);
    else if (effort)
        put_effort(encoding->model, effort, w);
    json_close_object(w);
    return NULL;
}

/* ---- settings ---- */

/* The settings that are more than another name: logprobs is a number here, and whether there are
 * any another member. */
static void put_made(const struct prompt *prompt, struct json_writer *w)
{
    static const enum setting made[] = {SETTING_MAX_TOKENS, SETTING_LOGPROBS, SETTING_TOP_LOGPROBS};

    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        struct str value = prompt->settings[made[i]];
        if (value.ptr && !setting_is_default(made[i], value))
            json_put_raw(w, setting_in(made[i], PROTOCOL_GEMINI)->name.ptr, value);
    }
}

static err_t put_format(struct encoding *encoding, const struct prompt *prompt,
                        struct json_writer *w)
{
    if (prompt->format != FORMAT_TEXT)
        json_put_text(w, "responseMimeType", STR("application/json"));
    if (prompt->format != FORMAT_SCHEMA || prompt->schema.len == 0)
        return NULL;
    if (is_old(encoding))
        return provider_gemini_put_schema(encoding, "responseSchema", prompt->schema, w);
    json_put_raw(w, "responseJsonSchema", prompt->schema);
    return NULL;
}

static err_t put_stops(struct encoding *encoding, const struct prompt *prompt,
                       struct json_writer *w)
{
    size_t count = prompt->stop_count;

    if (count > MAX_STOPS) {
        TRY(encode_refuse(encoding, STR("stop")));
        count = MAX_STOPS;
    }
    if (count == 0)
        return NULL;
    json_put_array(w, "stopSequences");
    for (size_t i = 0; i < count; i++)
        json_add_text(w, prompt->stops[i]);
    json_close_array(w);
    return NULL;
}

static err_t put_config(struct encoding *encoding, const struct prompt *prompt,
                        struct json_writer *w)
{
    json_put_object(w, "generationConfig");
    TRY(encode_settings(encoding, prompt, PROTOCOL_GEMINI, w));
    put_made(prompt, w);
    TRY(put_stops(encoding, prompt, w));
    TRY(put_format(encoding, prompt, w));
    TRY(put_thinking(encoding, prompt, w));
    json_close_object(w);
    return NULL;
}

/* ---- the request ---- */

static enum protocol choose(const struct conf_provider *provider, enum protocol asked)
{
    switch (asked) {
    case PROTOCOL_CHAT:
    case PROTOCOL_RESPONSES:
    case PROTOCOL_MESSAGES:
    case PROTOCOL_COMPLETIONS:
        return PROTOCOL_GEMINI;
    case PROTOCOL_EMBEDDINGS: /* OpenAI's words, both ways */
        return PROTOCOL_EMBEDDINGS;
    default:
        return PROTOCOL_COUNT;
    }
}

static err_t write_body(struct encoding *encoding, struct json_writer *w)
{
    const char *method =
        encoding->ask->is_stream ? "streamGenerateContent?alt=sse" : "generateContent";
    const struct prompt *prompt;
    struct str target;

    TRY(chat_prompt(encoding->ask, encoding->arena, &prompt));
    TRY(provider_gemini_target(encoding, method, &target));
    json_open_object(w);
    TRY(provider_gemini_put_contents(encoding, prompt, w));
    TRY(put_tools(encoding, prompt, w));
    TRY(put_config(encoding, prompt, w));
    TRY(encode_extra(encoding, w));
    json_close_object(w);
    return encode_finish(encoding, w, target);
}

static err_t encode(struct encoding *encoding)
{
    struct buf body = buf_make(MEM_REQUEST, BODY_MAX_BYTES);
    struct json_writer w = json_writer_make(&body);
    err_t err;

    if (encoding->ask->protocol == PROTOCOL_EMBEDDINGS)
        return provider_gemini_encode_embeddings(encoding);
    err = write_body(encoding, &w);
    buf_fini(&body);
    return err;
}

static const struct provider_ops gemini_ops = {
    .name = "gemini",
    .choose = choose,
    .encode = encode,
    .decode = provider_gemini_decode,
    .decode_end = provider_gemini_decode_end,
    .decode_whole = provider_gemini_decode_whole,
};

const struct provider_ops *const provider_gemini = &gemini_ops;
