/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring prompts.
 *
 * The task stands at the beginning of a message or in its last line; what lies between is what the task is
 * about. So words are looked for at these two places only, and an article that speaks of proofs does not
 * make its summary hard. Words are found through buckets by their first two bytes, in one pass: English
 * ones where a letter follows none, Chinese ones, which nothing separates, at each character. */
#include "model/complexity.h"

#include <pthread.h>

/* Of a message, in bytes: the beginning (or its first line, if that is longer), the last line, and what is
 * looked at for code at all. */
#define HEAD_BYTES      300
#define HEAD_MOST_BYTES 800
#define TAIL_BYTES      400
#define LOOK_BYTES      16384

#define BYTES_PER_TOKEN 4

/* ---- the tables ---- */

static const struct {
    const char *name;
    int weight;
    unsigned most;
} features[] = {
#define FEATURE(id, name, weight, most) {name, weight, most},
#include "model/complexity.def"
#undef FEATURE
};

struct word {
    struct str text; /* without its star */
    enum complexity_feature feature;
    bool is_stem;
};

#define WORD(feature, text)                                                                        \
    {{text, sizeof(text) - 1 - (text[sizeof(text) - 2] == '*')},                                   \
     COMPLEXITY_##feature,                                                                         \
     text[sizeof(text) - 2] == '*'},
static const struct word words[] = {
#include "model/complexity_words.def"
};
#undef WORD

#define WORD_COUNT (sizeof(words) / sizeof(*words))

/* Chains of words that begin alike: 0 ends one, else it is a word's place, from 1 on. */
static uint16_t first_of[256], next_of[WORD_COUNT + 1];

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static unsigned bucket_of(const char *text)
{
    return ((unsigned char)lower(text[0]) * 31U + (unsigned char)lower(text[1])) & 255;
}

static void fill_buckets(void)
{
    for (size_t i = WORD_COUNT; i > 0; i--) {
        uint16_t *first = &first_of[bucket_of(words[i - 1].text.ptr)];
        next_of[i] = *first;
        *first = (uint16_t)i;
    }
}

/* ---- words ---- */

static bool is_letter(char c)
{
    return lower(c) >= 'a' && lower(c) <= 'z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool word_fits(const struct word *word, struct str text)
{
    size_t n = word->text.len;

    if (n > text.len || !str_same_nocase(word->text.ptr, text.ptr, n))
        return false;
    return word->is_stem || n == text.len || !is_letter(text.ptr[n - 1]) ||
           !(is_letter(text.ptr[n]) || is_digit(text.ptr[n]));
}

/* The longest word that the text begins with, or NULL. */
static const struct word *word_at(struct str text)
{
    const struct word *best = NULL;

    for (unsigned i = text.len < 2 ? 0 : first_of[bucket_of(text.ptr)]; i; i = next_of[i])
        if (word_fits(&words[i - 1], text) && (!best || words[i - 1].text.len > best->text.len))
            best = &words[i - 1];
    return best;
}

/* Words, numbers and signs of a question. */
static void read_question(struct str text, unsigned *counts)
{
    char before = ' ';

    for (size_t i = 0; i < text.len;) {
        char c = text.ptr[i];
        bool may_begin = (unsigned char)c >= 0x80 || (is_letter(c) && !is_letter(before));
        const struct word *word = may_begin ? word_at(str_after(text, i)) : NULL;
        if (word)
            counts[word->feature]++;
        counts[COMPLEXITY_NUMBERS] += is_digit(c) && !is_digit(before);
        counts[COMPLEXITY_MATHS_SIGNS] += c == '^' || c == '=';
        i += word ? word->text.len : 1;
        before = text.ptr[i - 1];
    }
}

/* ---- code ---- */

/* Whether a line looks like code by its ends. */
static bool is_code(struct str line)
{
    size_t end = line.len;
    char last;

    while (end > 0 && (line.ptr[end - 1] == ' ' || line.ptr[end - 1] == '\r'))
        end--;
    if (end == 0)
        return false;
    last = line.ptr[end - 1];
    if (last == ';' || last == '{' || last == '}' || str_starts(line, STR("```")))
        return true;
    if (end > 1 && line.ptr[end - 2] == ')' && last == ':')
        return true;
    return end > 4 && (line.ptr[0] == '\t' || str_starts(line, STR("    ")));
}

static unsigned count_code_lines(struct str text)
{
    struct str rest = {text.ptr, text.len < LOOK_BYTES ? text.len : LOOK_BYTES}, line;
    unsigned count = 0;

    while (rest.ptr && str_split(&rest, '\n', &line))
        count += is_code(line);
    return count;
}

/* ---- texts ---- */

/* 0 below `from`, 1 from there on, 2 from twice as much on … */
static unsigned doublings(size_t n, size_t from)
{
    return n < from ? 0 : 64 - (unsigned)__builtin_clzll(n / from);
}

/* How much of the text is its beginning. */
static size_t head_of(struct str text)
{
    size_t line = str_index(text, '\n');

    if (line > HEAD_MOST_BYTES)
        line = HEAD_MOST_BYTES;
    if (line < HEAD_BYTES)
        line = HEAD_BYTES;
    return line < text.len ? line : text.len;
}

/* How much of the text is its last line. */
static size_t tail_of(struct str text)
{
    size_t size = 0;

    while (size < text.len && size < TAIL_BYTES && text.ptr[text.len - 1 - size] != '\n')
        size++;
    return size;
}

struct sizes {
    size_t question, material, code_lines; /* the first two in bytes */
};

static void read_text(struct str text, struct sizes *sizes, unsigned *counts)
{
    size_t head, tail, line;

    while (text.len > 0 && (text.ptr[text.len - 1] == '\n' || text.ptr[text.len - 1] == ' '))
        text.len--;
    head = head_of(text);
    tail = tail_of(str_after(text, head));
    if (text.len == 0)
        return;
    read_question((struct str){text.ptr, head}, counts);
    read_question(str_after(text, text.len - tail), counts);
    line = str_index((struct str){text.ptr, head}, '\n');
    sizes->question += line + tail;
    sizes->material += text.len - line - tail;
    sizes->code_lines += count_code_lines(text);
}

/* ---- prompts ---- */

static bool is_attachment(const struct part *part)
{
    return part->kind == PART_IMAGE || part->kind == PART_AUDIO || part->kind == PART_FILE;
}

/* The message that asks: the user's last. */
static const struct message *question_of(const struct prompt *prompt)
{
    for (size_t i = prompt->message_count; i > 0; i--)
        if (prompt->messages[i - 1].role == ROLE_USER)
            return &prompt->messages[i - 1];
    return NULL;
}

static void read_messages(const struct prompt *prompt, struct sizes *sizes, unsigned *counts)
{
    const struct message *question = question_of(prompt);
    size_t before = 0;

    for (size_t i = 0; i < prompt->message_count; i++) {
        const struct message *message = &prompt->messages[i];
        counts[COMPLEXITY_TURNS] += message != question && message->role != ROLE_SYSTEM;
        for (size_t k = 0; k < message->part_count; k++) {
            const struct part *part = &message->parts[k];
            counts[COMPLEXITY_ATTACHMENTS] += is_attachment(part);
            counts[COMPLEXITY_RESULTS] += part->kind == PART_TOOL_RESULT;
            if (message == question && part->kind == PART_TEXT)
                read_text(part->text, sizes, counts);
            else
                before += part->text.len;
        }
    }
    counts[COMPLEXITY_HISTORY] = doublings(before / BYTES_PER_TOKEN, 64);
}

/* How deep objects and arrays are nested in JSON text. */
static unsigned depth_of(struct str json)
{
    unsigned depth = 0, most = 0;
    bool in_text = false;

    for (size_t i = 0; i < json.len && i < LOOK_BYTES; i++) {
        char c = json.ptr[i];
        if (in_text && c == '\\')
            i++;
        else if (c == '"')
            in_text = !in_text;
        else if (!in_text && (c == '{' || c == '['))
            most = ++depth > most ? depth : most;
        else if (!in_text && (c == '}' || c == ']') && depth > 0)
            depth--;
    }
    return most;
}

/* A flat schema is three deep: the object, its properties, one of them. */
#define FLAT_DEPTH 3

static void read_tools(const struct prompt *prompt, unsigned *counts)
{
    for (size_t i = 0; i < prompt->tool_count && i < features[COMPLEXITY_TOOLS].most; i++) {
        unsigned depth = depth_of(prompt->tools[i].parameters);
        if (depth > FLAT_DEPTH && depth - FLAT_DEPTH > counts[COMPLEXITY_TOOL_DEPTH])
            counts[COMPLEXITY_TOOL_DEPTH] = depth - FLAT_DEPTH;
    }
    counts[COMPLEXITY_TOOLS] = prompt->tool_count < 1000 ? (unsigned)prompt->tool_count : 1000;
}

static unsigned effort_of(const struct prompt *prompt)
{
    struct str effort = prompt->effort;

    if (str_eq(effort, STR("high")) || str_eq(effort, STR("xhigh")) || str_eq(effort, STR("max")))
        return 2;
    return str_eq(effort, STR("medium")) || prompt->thinking || prompt->thinking_tokens > 0;
}

/* ---- the sum ---- */

int complexity_base_points(void)
{
    return COMPLEXITY_BASE;
}

const char *complexity_feature_name(enum complexity_feature feature)
{
    return features[feature].name;
}

int complexity_feature_points(const struct complexity *complexity, enum complexity_feature feature)
{
    return (int)complexity->counts[feature] * features[feature].weight;
}

static void finish(const struct sizes *sizes, struct complexity *out)
{
    int sum = COMPLEXITY_BASE;

    out->counts[COMPLEXITY_QUESTION] = doublings(sizes->question / BYTES_PER_TOKEN, 8);
    out->counts[COMPLEXITY_MATERIAL] = doublings(sizes->material / BYTES_PER_TOKEN, 32);
    out->counts[COMPLEXITY_CODE] = doublings(sizes->code_lines, 1);
    for (int i = 0; i < COMPLEXITY_FEATURE_COUNT; i++) {
        if (out->counts[i] > features[i].most)
            out->counts[i] = features[i].most;
        sum += complexity_feature_points(out, (enum complexity_feature)i);
    }
    sum = (sum + 50) / 100;
    out->score = sum < 0 ? 0 : sum > 100 ? 100 : (unsigned)sum;
}

static void begin(struct complexity *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, fill_buckets);
    *out = (struct complexity){0};
}

void complexity_measure(const struct prompt *prompt, struct complexity *out)
{
    struct sizes sizes = {0};

    begin(out);
    read_messages(prompt, &sizes, out->counts);
    read_tools(prompt, out->counts);
    out->counts[COMPLEXITY_STRUCTURED] = prompt->format != FORMAT_TEXT;
    out->counts[COMPLEXITY_EFFORT] = effort_of(prompt);
    finish(&sizes, out);
}

void complexity_measure_text(struct str text, struct complexity *out)
{
    struct sizes sizes = {0};

    begin(out);
    read_text(text, &sizes, out->counts);
    finish(&sizes, out);
}
