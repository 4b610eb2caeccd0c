/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller asks of a model, and what comes back: the words that dialects, providers and calls
 * share.
 *
 * Everything exists twice: as the bytes that came, and as their meaning. Between two parties of the
 * same protocol the bytes pass through unchanged; only where the protocols differ is a request
 * expanded into a `struct prompt` and an answer read as a sequence of deltas. What nobody asks for
 * is never worked out.
 *
 * The hard thing is to lose nothing on the way: numbers and schemas stay the JSON text that the
 * caller wrote, signatures stay byte-exact, and what a prompt has no word for is kept by name, to be
 * reported as dropped. */
#ifndef MODEL_MESSAGE_H
#define MODEL_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json_members.h"
#include "base/str.h"
#include "model/settings.h"

/* Most members a request's top level may have; real ones have about ten. */
#define CHAT_MAX_MEMBERS 128

/* ---- what is asked ---- */

enum part_kind {
    PART_TEXT,        /* text */
    PART_IMAGE,       /* media_type and data, or url; detail */
    PART_FILE,        /* media_type and data, or url, or text, or id; name is the file's name */
    PART_AUDIO,       /* media_type ("audio/wav") and data */
    PART_TOOL_CALL,   /* id, name, arguments; signature (of Gemini) */
    PART_TOOL_RESULT, /* id, parts (its content), is_error; name if known */
    PART_REASONING,   /* text, signature (of Anthropic), id and signature (encrypted, of OpenAI) */
    PART_REDACTED,    /* data: reasoning that only its provider can read */
    PART_REFUSAL,     /* text */
    PART_OTHER        /* raw only: name is its type; a call has an id */
};

/* One piece of a message. Texts are decoded; empty strs for what was not given. */
struct part {
    enum part_kind kind;
    struct str text;
    struct str media_type, data; /* data is base64 as it came */
    struct str url, detail;
    struct str id, name;
    struct str arguments; /* JSON text of an object, valid; never empty */
    struct str signature;
    struct part *parts;
    size_t part_count;
    bool is_error;
    struct str cache_control; /* JSON text, Anthropic's form: {"type":"ephemeral"…} */
    struct str raw;           /* the part as the caller wrote it, JSON text */
};

/* Tool results stand in messages of their own, right behind the assistant's calls that they
 * answer. */
enum message_role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL };

struct message {
    enum message_role role;
    struct part *parts;
    size_t part_count;
    struct str name; /* of the participant, if given */
};

struct tool {
    bool is_function; /* else only raw says what it is, and name its type */
    struct str name, description;
    struct str parameters; /* JSON Schema as JSON text, or empty */
    struct str strict;     /* "true", "false" or empty */
    struct str cache_control;
    struct str raw;
    bool is_custom;   /* its input is a text, which the function has as its argument `input` */
    bool has_grammar; /* the text was to keep to a grammar, which a function cannot promise */
};

enum tool_choice { TOOL_CHOICE_NONE_GIVEN, TOOL_AUTO, TOOL_NONE, TOOL_REQUIRED, TOOL_NAMED };

enum answer_format { FORMAT_TEXT, FORMAT_JSON, FORMAT_SCHEMA };

/* A request's whole meaning. In an arena, strs pointing there or into the body. */
struct prompt {
    struct message *messages; /* system messages where they stood */
    size_t message_count;

    struct tool *tools;
    size_t tool_count;
    enum tool_choice tool_choice;
    struct str tool_name;       /* TOOL_NAMED */
    bool is_one_tool_at_a_time; /* parallel_tool_calls: false */

    enum answer_format format;
    struct str schema, schema_name, schema_description, schema_strict; /* JSON texts and texts */

    struct str *stops;
    size_t stop_count;

    struct str effort;           /* none … max, or empty */
    uint64_t thinking_tokens;    /* a budget in Anthropic's form; 0: none given */
    bool has_thinking, thinking; /* switched on or off explicitly */

    struct str settings[SETTING_COUNT]; /* JSON text of the value; ptr NULL: not given */
    struct str *unknown;                /* names of top-level members that have no meaning here */
    size_t unknown_count;
};

/* A model request that was checked. Strs point into `body` or the request's arena. */
struct chat_request {
    enum protocol protocol;
    bool is_stream;        /* the answer shall come as events */
    bool wants_usage;      /* chat: the caller asked for the usage chunk at the end of the stream */
    bool wants_functions;  /* chat: tools in the old form, so that calls come in it as well */
    bool is_answered_here; /* whoever is asked, his answer is read and written anew */
    struct str body;       /* valid JSON object without repeated members, as the caller sent it */
    const struct json_member *members;
    size_t member_count;
    struct str model; /* as the caller named it, decoded */
    struct str
        history; /* responses: earlier items of the conversation, as a JSON array; or empty */
    struct str referenced; /* responses: the items that item_reference items name, likewise */
    struct str cap; /* most tokens of the answer, where the caller named none; see chat_cap */

    /* Work out the meaning; of the caller's dialect. NULL: this protocol is never translated. */
    err_t (*expand)(const struct chat_request *ask, struct arena *arena, struct prompt *out);
    struct prompt *prompt; /* see chat_prompt */
};

/* The request's meaning, worked out at the first call and kept, in `arena`. Errors: BAD_REQUEST for
 * what the dialect's rules refuse (param names the place), BUSY without memory. */
err_t chat_prompt(struct chat_request *ask, struct arena *arena,
                  const struct prompt **out) ERR_MUST_CHECK;

/* A top-level member of the body by its name, and what it holds; NULL, or ptr NULL: there is none. */
const struct json_member *chat_member(const struct chat_request *ask, struct str name);
struct str chat_value(const struct chat_request *ask, struct str name);

/* Whether it lets the provider ask other models than the one that it names: by `models` (OpenRouter) or `fallbacks`
 * (Anthropic). */
bool chat_names_others(const struct chat_request *ask);

/* The end user whom it names for the provider's sake, as a JSON text of the body: `safety_identifier`, or `user`; in Anthropic's
 * API `metadata.user_id`. ptr NULL: nobody. */
struct str chat_end_user(const struct chat_request *ask);

/* Limit the answer of a request that names no limit itself, whichever provider it goes to. Errors: BUSY. */
err_t chat_cap(struct chat_request *ask, uint64_t max_tokens, struct arena *arena) ERR_MUST_CHECK;

/* ---- what comes back ---- */

/* Token counts of one answer. */
struct usage {
    bool is_known;     /* the provider told */
    bool is_estimated; /* counted here instead */
    uint64_t input;    /* the whole prompt, what was read from a cache included */
    uint64_t output;   /* reasoning included */
    uint64_t cached, cache_written, reasoning; /* parts of the above */
};

enum stop_reason {
    STOP_UNKNOWN,
    STOP_END,
    STOP_LENGTH,
    STOP_TOOL_CALLS,
    STOP_FILTERED, /* refused by the model or a filter */
    STOP_SEQUENCE,
    STOP_PAUSED
};

enum delta_kind {
    DELTA_TEXT,      /* text */
    DELTA_REASONING, /* text */
    DELTA_SIGNATURE, /* text: of the reasoning before it, byte-exact */
    DELTA_REDACTED,  /* text: a whole piece of hidden reasoning */
    DELTA_REFUSAL,   /* text */
    DELTA_TOOL_CALL, /* a call begins: index counts a choice's calls from 0; id, name; text: its
                      * signature, if it has one (Gemini), which a SIGNATURE before it tells, too */
    DELTA_ARGUMENTS, /* text: the next fragment of call `index`'s arguments */
    DELTA_CITATION,  /* text: JSON, in the provider's form */
    DELTA_LOGPROBS,  /* text: JSON, in OpenAI's form */
    DELTA_FINISH     /* stop; text is the stop sequence or the reason of a refusal */
};

/* A step of an answer. A whole answer is read as the same steps. */
struct delta {
    enum delta_kind kind;
    unsigned choice, index;
    enum stop_reason stop;
    struct str text, id, name;
};

enum event_kind {
    EVENT_QUIET,   /* to be relayed, but commits to nothing yet: a chunk with the role only */
    EVENT_CONTENT, /* meaningful: content, a tool call, a finish reason … */
    EVENT_USAGE,   /* token counts only */
    /* the end of a complete stream; raw is its end marker, empty if the provider sent none */
    EVENT_END,
    /* no further event is at hand: write out what you have gathered, the next call waits */
    EVENT_PAUSE,
    EVENT_IDLE, /* nothing came in the time given */
    /* the provider broke off, another will be asked to go on: write out what you have gathered, the
     * next call waits for it */
    EVENT_BROKEN,
    EVENT_CONTINUED, /* another goes on from here */
};

/* One event of an answer. `raw` is its bytes as they came, to the end of its blank line (empty for
 * PAUSE, IDLE and the two of continuation). It is borrowed: good until the call after the next PAUSE, however often the
 * fiber waits elsewhere. The deltas are its meaning, where that is asked for; they are good until
 * the next call. */
struct event {
    enum event_kind kind;
    bool has_id; /* it has an "id" field (or one of those that were held and are given as one) */
    struct str raw;
    const struct delta *deltas;
    size_t delta_count;
};

#endif
