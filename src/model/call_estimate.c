/* SPDX-License-Identifier: Apache-2.0 */
/* Of a prompt its bytes are taken, for no token has less than one, and what stands for more than it says is looked for where
 * strings begin: images, pages and files are named by such words in every protocol. */
#include "model/call_estimate.h"

#include "base/json_members.h"
#include "base/json_scan.h"
#include "model/prompt_tokens.h"

/* What a provider wraps around a prompt. */
#define TOKENS_AROUND 64
/* English has four bytes a token. */
#define BYTES_PER_TOKEN 4
/* Speech at the lowest rate, in base64: whoever listens counts up to 32 tokens a second. */
#define AUDIO_BYTES_PER_TOKEN 16
/* More than any model writes: sums and products of it fit. */
#define MOST_TOKENS UINT64_C(1000000000)

/* ---- the answer ---- */

static bool writes(const struct chat_request *ask)
{
    return ask->protocol == PROTOCOL_CHAT || ask->protocol == PROTOCOL_RESPONSES ||
           ask->protocol == PROTOCOL_MESSAGES || ask->protocol == PROTOCOL_COMPLETIONS;
}

static bool read_number(const struct json_member *member, uint64_t *out)
{
    if (!str_to_u64(member->value, out))
        return false;
    *out = *out < MOST_TOKENS ? *out : MOST_TOKENS;
    return true;
}

/* The largest whole number that a top-level member of this name holds, of several; 0 if there is none. */
static uint64_t read_member(const struct chat_request *ask, struct str name)
{
    uint64_t most = 0, number;

    for (size_t i = 0; i < ask->member_count; i++)
        if (json_key_is(&ask->members[i], name) && read_number(&ask->members[i], &number))
            most = number > most ? number : most;
    return most;
}

/* Whether a member limits an answer in the caller's protocol. What the protocol does not know limits nothing: providers pass
 * over it, and translations leave it out. */
static bool is_limit(enum protocol protocol, const struct json_member *m)
{
    if (protocol == PROTOCOL_RESPONSES)
        return json_key_is(m, STR("max_output_tokens"));
    return json_key_is(m, STR("max_tokens")) ||
           (protocol == PROTOCOL_CHAT && json_key_is(m, STR("max_completion_tokens")));
}

/* The limit that the caller set to an answer: of two the larger, because each provider knows its own. */
static bool read_limit(const struct chat_request *ask, uint64_t *out)
{
    bool is_set = false;
    uint64_t tokens;

    *out = 0;
    for (size_t i = 0; i < ask->member_count; i++) {
        if (!is_limit(ask->protocol, &ask->members[i]) || !read_number(&ask->members[i], &tokens))
            continue;
        is_set = true;
        *out = tokens > *out ? tokens : *out;
    }
    return is_set;
}

/* What llama-server heeds before any limit of the protocol, where it is asked at its own address: a number, of which one
 * below nought sets no limit. */
static uint64_t read_own_limit(const struct chat_request *ask)
{
    uint64_t most = 0, tokens;

    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        if (!json_key_is(m, STR("n_predict")) || json_kind(m->value) != JSON_NUMBER)
            continue;
        if (!read_number(m, &tokens))
            tokens = MOST_TOKENS;
        most = tokens > most ? tokens : most;
    }
    return most;
}

/* How many prompts a request of the legacy API holds: a list may be of prompts, or of one prompt's tokens. */
static uint64_t count_prompts(const struct chat_request *ask)
{
    struct str list = chat_value(ask, STR("prompt")), element;
    uint64_t count = 0;

    if (ask->protocol != PROTOCOL_COMPLETIONS || json_kind(list) != JSON_ARRAY)
        return 1;
    for (size_t at = 0; json_array_next(list, &at, &element); count++)
        if (json_kind(element) == JSON_NUMBER)
            return 1;
    return count ? count : 1;
}

/* How many answers are made, if only the best of them come. `best_of` is vLLM's in a chat, `n_cmpl` llama-server's. */
static uint64_t count_answers(const struct chat_request *ask)
{
    bool has_n = ask->protocol == PROTOCOL_CHAT || ask->protocol == PROTOCOL_COMPLETIONS;
    const uint64_t numbers[] = {read_member(ask, STR("n")), read_member(ask, STR("best_of")),
                                read_member(ask, STR("n_cmpl"))};
    uint64_t most = 1, count;

    for (size_t i = 0; has_n && i < sizeof(numbers) / sizeof(*numbers); i++)
        most = numbers[i] > most ? numbers[i] : most;
    count = count_prompts(ask) * most;
    return count < MOST_TOKENS ? count : MOST_TOKENS;
}

/* What of a predicted output does not come is paid for like what comes. */
static uint64_t predicted_bytes(const struct chat_request *ask)
{
    return ask->protocol == PROTOCOL_CHAT ? chat_value(ask, STR("prediction")).len : 0;
}

/* Most tokens of the answer; sets a limit where the caller named none, unless budgets only warn. Nought is a limit to those
 * who read a prompt and say nothing, and none at all to others. */
static err_t bound_answer(struct chat_request *ask, const struct conf *conf, struct arena *arena,
                          uint64_t *out)
{
    uint64_t own = read_own_limit(ask);

    *out = 0;
    if (ask->protocol == PROTOCOL_COMPACT) /* writes a summary, to which nobody can set a limit */
        *out = conf->budgets.max_tokens;
    if (!writes(ask))
        return NULL;
    if (!read_limit(ask, out)) {
        *out = conf->budgets.max_tokens;
        if (!conf->budgets.dry_run)
            TRY(chat_cap(ask, *out, arena));
    }
    if (*out == 0)
        *out = conf->budgets.max_tokens;
    *out = own > *out ? own : *out;
    *out = (*out + predicted_bytes(ask)) * count_answers(ask);
    return NULL;
}

/* ---- the prompt ---- */

/* What stands for images and files; also those within the request count as images, for what they may have of them. */
enum mark { MARK_IMAGE, MARK_DOCUMENT, MARK_FILE, MARK_COUNT };

/* The first that fits. */
static const struct {
    struct str word;
    enum mark mark;
} marks[] = {{{"file_id", 7}, MARK_FILE},       {{"file_url", 8}, MARK_FILE},
             {{"document", 8}, MARK_DOCUMENT},  {{"video", 5}, MARK_FILE},
             {{"audio_url", 9}, MARK_FILE},     {{"image", 5}, MARK_IMAGE},
             {{"input_image", 11}, MARK_IMAGE}, {{"file", 4}, MARK_IMAGE},
             {{"input_file", 10}, MARK_IMAGE}};

/* The next character of a string, if it is one of ASCII: as it is, or as \u0066. NUL: it is none of these. */
static char next_letter(const char **at, const char *end)
{
    static const char digits[] = "0123456789abcdef";
    const char *high, *low;

    if (*at == end)
        return '\0';
    if (**at != '\\')
        return *(*at)++;
    if (end - *at < 6 || memcmp(*at, "\\u00", 4) != 0)
        return '\0';
    high = memchr(digits, (*at)[4] | 0x20, 16);
    low = memchr(digits, (*at)[5] | 0x20, 16);
    *at += 6;
    return high && low ? (char)((high - digits) << 4 | (low - digits)) : '\0';
}

static bool begins_with(const char *at, const char *end, struct str word)
{
    for (size_t i = 0; i < word.len; i++)
        if (next_letter(&at, end) != word.ptr[i])
            return false;
    return true;
}

static bool find_mark(const char *at, const char *end, enum mark *out)
{
    for (size_t i = 0; i < sizeof(marks) / sizeof(*marks); i++)
        if (begins_with(at, end, marks[i].word)) {
            *out = marks[i].mark;
            return true;
        }
    return false;
}

/* Strings that begin like what stands for an image or a file: rather too many than too few. */
static void count_marks(struct str text, uint64_t counts[MARK_COUNT])
{
    static const char letters[JSON_SCAN_LETTERS] = {'i', 'd', 'f', 'v', 'a', '\\'};
    const char *at = text.ptr, *end = at + text.len;
    enum mark mark;

    while ((at = json_scan_letter(at, end, letters)) < end)
        if (find_mark(at, end, &mark))
            counts[mark]++;
}

/* A document may name its file by an id. */
static uint64_t count_files(const uint64_t counts[MARK_COUNT])
{
    return counts[MARK_DOCUMENT] > counts[MARK_FILE] ? counts[MARK_DOCUMENT] : counts[MARK_FILE];
}

static uint64_t marked_tokens(const uint64_t counts[MARK_COUNT], const struct conf *conf)
{
    return counts[MARK_IMAGE] * conf->budgets.image_tokens +
           count_files(counts) * conf->budgets.file_tokens;
}

/* ---- what is read but not said ---- */

static bool is_named(const struct chat_request *ask, struct str name)
{
    enum json_kind kind = json_kind(chat_value(ask, name));

    return kind != JSON_NONE && kind != JSON_NULL;
}

/* An item that stands for one of an earlier response: {"type":"item_reference","id"}, where the type may be missing. */
static bool is_reference(struct str item)
{
    struct str type = json_get(item, STR("type"));

    if (json_kind(json_get(item, STR("id"))) != JSON_STRING)
        return false;
    if (json_kind(type) != JSON_STRING)
        return json_kind(json_get(item, STR("role"))) != JSON_STRING;
    return json_key_decodes_to((struct str){type.ptr + 1, type.len - 2}, STR("item_reference"));
}

/* More references than were found here. */
static bool has_unknown_references(const struct chat_request *ask)
{
    struct str input = chat_value(ask, STR("input")), item;
    size_t named = 0, found = 0;

    for (size_t at = 0; json_array_next(input, &at, &item);)
        named += is_reference(item);
    for (size_t at = 0; json_array_next(ask->referenced, &at, &item);)
        found++;
    return named > found;
}

/* Whether the provider reads what only he has: a conversation or a prompt that he keeps. */
static bool is_kept_elsewhere(const struct chat_request *ask)
{
    if (ask->protocol != PROTOCOL_RESPONSES && ask->protocol != PROTOCOL_COMPACT)
        return false;
    if (ask->history.len == 0 && is_named(ask, STR("previous_response_id")))
        return true;
    return is_named(ask, STR("conversation")) || is_named(ask, STR("prompt")) ||
           has_unknown_references(ask);
}

/* Of a rerank, which reads the query again with each document but the first. */
static uint64_t repeated_bytes(const struct chat_request *ask)
{
    struct str documents, document;
    uint64_t count = 0;

    if (ask->protocol != PROTOCOL_RERANK)
        return 0;
    documents = chat_value(ask, STR("documents"));
    for (size_t at = 0; json_array_next(documents, &at, &document);)
        count++;
    return count > 1 ? (count - 1) * chat_value(ask, STR("query")).len : 0;
}

/* Tokens of the prompt that are not among the request's bytes. */
static uint64_t unsaid_tokens(const struct chat_request *ask, const struct conf *conf)
{
    return repeated_bytes(ask) + (is_kept_elsewhere(ask) ? conf->budgets.file_tokens : 0);
}

static size_t text_bytes(const struct chat_request *ask)
{
    return ask->body.len + ask->history.len + ask->referenced.len;
}

static void bound_prompt(const struct chat_request *ask, const struct conf *conf,
                         struct estimate *out)
{
    uint64_t counts[MARK_COUNT] = {0};

    count_marks(ask->body, counts);
    count_marks(ask->history, counts);
    count_marks(ask->referenced, counts);
    if (ask->protocol == PROTOCOL_RERANK)
        counts[MARK_DOCUMENT] = 0; /* they are texts */
    out->images = counts[MARK_IMAGE] + count_files(counts);
    out->around = TOKENS_AROUND + unsaid_tokens(ask, conf) + marked_tokens(counts, conf);
    out->input = text_bytes(ask) + out->around;
}

/* A file may be more than it is long, for it may be packed; a short one is not worth as much as any. */
static uint64_t file_tokens(const struct part *file, const struct conf *conf)
{
    uint64_t most = conf->budgets.file_tokens, written = file->data.len;

    if (file->text.len > 0)
        return 0; /* it is counted */
    if (written == 0)
        return most;
    written += conf->budgets.image_tokens;
    return written < most ? written : most;
}

/* What no word is known for: a video by its address, say. Mostly the type is also the name of what has the address. */
static uint64_t other_tokens(const struct part *part, const struct conf *conf)
{
    uint64_t counts[MARK_COUNT] = {0};
    enum mark mark;

    if (str_starts(part->name, STR("input_image"))) /* by its id */
        return part->raw.len + conf->budgets.image_tokens;
    count_marks(part->raw, counts);
    if (part->name.len > 0 && find_mark(part->name.ptr, part->name.ptr + part->name.len, &mark) &&
        counts[mark] > 1)
        counts[mark]--;
    return part->raw.len + marked_tokens(counts, conf);
}

/* What is in parts besides the text that is counted. */
static uint64_t media_tokens(const struct part *parts, size_t count, const struct conf *conf)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        const struct part *part = &parts[i];
        sum += part->signature.len + media_tokens(part->parts, part->part_count, conf);
        if (part->kind == PART_IMAGE)
            sum += conf->budgets.image_tokens;
        else if (part->kind == PART_FILE)
            sum += file_tokens(part, conf);
        else if (part->kind == PART_AUDIO)
            sum += part->data.len / AUDIO_BYTES_PER_TOKEN + 1;
        else if (part->kind == PART_REDACTED)
            sum += part->data.len;
        else if (part->kind == PART_OTHER)
            sum += other_tokens(part, conf);
    }
    return sum;
}

uint64_t call_estimate_guess(const struct chat_request *ask)
{
    return text_bytes(ask) / BYTES_PER_TOKEN + 1;
}

err_t call_estimate_bound(struct chat_request *ask, const struct conf *conf, struct arena *arena,
                          struct estimate *out)
{
    TRY(bound_answer(ask, conf, arena, &out->answer));
    bound_prompt(ask, conf, out);
    return NULL;
}

/* What is not understood is passed on, and may be read there. */
static uint64_t unknown_bytes(const struct chat_request *ask, const struct prompt *prompt)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < prompt->unknown_count; i++)
        sum += chat_value(ask, prompt->unknown[i]).len;
    return sum;
}

err_t call_estimate_count(struct chat_request *ask, struct str model, const struct conf *conf,
                          struct arena *arena, struct estimate *estimate)
{
    const struct prompt *prompt = NULL;
    uint64_t counted, around = estimate->around;
    err_t err = prompt_tokens_of(ask, model, arena, &counted);

    if (!err && ask->expand) {
        err = chat_prompt(ask, arena, &prompt);
        around = TOKENS_AROUND + unsaid_tokens(ask, conf);
    }
    if (err) /* it is no mistake of the caller's */
        return err_is(err, ERR_BAD_REQUEST) ? NULL : err;
    if (prompt)
        around += unknown_bytes(ask, prompt);
    for (size_t i = 0; prompt && i < prompt->message_count; i++)
        around += media_tokens(prompt->messages[i].parts, prompt->messages[i].part_count, conf);
    if (counted + around < estimate->input)
        estimate->input = counted + around;
    return NULL;
}
