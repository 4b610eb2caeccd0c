/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's responses: the parts of the dialect, and what keeping responses needs of it.
 *
 * A request's input and an answer's output are lists of items (messages, calls, results,
 * reasoning). Reading them is openai_responses_items.c's, the request around them
 * openai_responses_prompt.c's; the object that an answer is, openai_responses_object.c's, and its events
 * openai_responses_stream.c's.
 *
 * Source: OpenAI's OpenAPI description 2.3.0, schemas CreateResponse, Response and
 * ResponseStreamEvent. */
#ifndef DIALECT_OPENAI_RESPONSES_H
#define DIALECT_OPENAI_RESPONSES_H

#include "base/json_writer.h"
#include "dialect/dialect.h"
#include "dialect/openai_custom.h"

/* Most items of an input. */
#define RESPONSES_MAX_ITEMS 10000

/* What item ids begin with; the rest is the answer_writer's id and a number. */
#define RESPONSES_ID_LENGTH 24

/* Reasoning's encrypted_content that is not OpenAI's own begins with one of these. */
#define RESPONSES_SIGNED   "sluice-signature:"
#define RESPONSES_REDACTED "sluice-redacted:"

/* How far a response is. */
enum response_status {
    RESPONSE_IN_PROGRESS,
    RESPONSE_COMPLETED,
    RESPONSE_INCOMPLETE,
    RESPONSE_FAILED,
    RESPONSE_CANCELLED,
    RESPONSE_QUEUED
};

/* ---- reading ---- */

/* As chat_request.expand. Refuses what no responses API would take; tools that are not functions
 * and items of their kind are put into the prompt as they are, for the provider's translator to
 * refuse. */
err_t responses_expand(const struct chat_request *ask, struct arena *arena,
                       struct prompt *out) ERR_MUST_CHECK;

/* The messages that `ask` is about: instructions, history, input. Errors: BAD_REQUEST. */
err_t responses_read_items(const struct chat_request *ask, struct arena *arena,
                           struct prompt *out) ERR_MUST_CHECK;

/* The item of this id in a JSON array of items, or a str with ptr NULL. */
struct str responses_find_item(struct str items, struct str id);

/* ---- writing ---- */

enum output_kind { OUTPUT_MESSAGE, OUTPUT_REASONING, OUTPUT_CALL, OUTPUT_CUSTOM_CALL };

/* An item of an answer: a run of parts of the gathered answer. */
struct output_item {
    enum output_kind kind;
    size_t index;                    /* in the response's output */
    const struct answer_part *first; /* MESSAGE: `count` neighbours from here */
    const struct answer_part *last;
    size_t count;
    bool is_done;
    struct openai_custom_input custom; /* CUSTOM_CALL in a stream */
    struct output_item *next;
};

/* What the writer remembers. Nothing of it points into the request's body. */
struct responses_state {
    struct str echo; /* members of every response object that repeat the request: text */
    struct str
        input; /* items of the request with ids, as the API lists them: JSON, comma-separated */
    struct answer answer; /* gathered from a stream, or the one that was given */
    struct output_item *items, *last_item;
    size_t item_count;
    uint64_t sequence;
    bool is_queued, is_begun, is_over;
};

/* The writer's state, made at the first call: that must come before the request's body is given
 * back. Errors: BUSY. */
err_t responses_state_get(struct answer_writer *writer,
                          struct responses_state **out) ERR_MUST_CHECK;

/* Note a part that has begun: it opens *item, or belongs to it. Errors: BUSY. */
err_t responses_add_part(struct answer_writer *writer, const struct answer_part *part,
                         struct output_item **item) ERR_MUST_CHECK;

/* The status that an answer's end means. */
enum response_status responses_status(const struct answer *answer);

/* Write the response object as it is now, as one value. `err` says why it FAILED. */
void responses_put_object(struct json_writer *w, const struct answer_writer *writer,
                          enum response_status status, err_t err);

/* Write an item as one value. An item that is not done has its text left out if `is_new`. */
void responses_put_item(struct json_writer *w, const struct answer_writer *writer,
                        const struct output_item *item, const char *status, bool is_new);

/* Write a content part of a message or of reasoning. */
void responses_put_part(struct json_writer *w, const struct answer_writer *writer,
                        const struct answer_part *part, bool is_new);

/* Write an item's id as a text: "msg_…", "rs_…", "fc_…", "ctc_…". */
void responses_put_item_id(struct json_writer *w, const char *name,
                           const struct answer_writer *writer, const struct output_item *item);

/* Write a member whose value is somebody else's JSON, without line breaks outside strings. */
void responses_put_json(struct json_writer *w, const char *name, struct str json);

/* A provider's citation as an annotation, in the arena; empty if it has no such form. */
struct str responses_annotation(struct str citation, struct arena *arena);

/* The entries of a DELTA_LOGPROBS or an answer's logprobs: "[…]". */
struct str responses_logprobs(struct str logprobs);

/* As dialect.write_event and write_error. */
err_t responses_write_event(struct answer_writer *writer, const struct event *event) ERR_MUST_CHECK;
err_t responses_write_error(struct answer_writer *writer, err_t err, struct arena *arena,
                            struct buf *out) ERR_MUST_CHECK;

/* The beginning of the stream of a response that is made in the background: what is known before a model is asked. */
err_t responses_write_queued(struct answer_writer *writer) ERR_MUST_CHECK;

/* Write the members of an object but for those in `left_out`, which ends with NULL. */
void responses_put_members(struct json_writer *w, struct str object, const char *const *left_out);

/* ---- for whoever keeps responses ---- */

/* The events of a response that has ended, as they would have been had each of its texts come in one piece. `object` is
 * what responses_print_object has printed. */
err_t responses_replay(struct str object, struct buf *out) ERR_MUST_CHECK;

/* What the writer has gathered or printed, or NULL. */
const struct answer *responses_answer(const struct answer_writer *writer);

/* The request's input as items with ids, and the answer's: JSON, separated by commas, without
 * brackets. The first is the writer's, the second is added to `out`. */
struct str responses_input(const struct answer_writer *writer);
err_t responses_print_output(const struct answer_writer *writer, enum response_status status,
                             struct buf *out) ERR_MUST_CHECK;

/* Print the object. `err` as above. */
err_t responses_print_object(const struct answer_writer *writer, enum response_status status,
                             err_t err, struct buf *out) ERR_MUST_CHECK;

#endif
