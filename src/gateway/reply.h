/* SPDX-License-Identifier: Apache-2.0 */
/* Answers out: JSON, event streams, errors. */
#ifndef GATEWAY_REPLY_H
#define GATEWAY_REPLY_H

#include "base/err.h"
#include "base/str.h"
#include "fiber/loop.h"
#include "model/message.h"

struct answer_writer;

struct request;

#define REPLY_BATCH 4

/* The answer of one request in progress. */
struct reply {
    struct str batch[REPLY_BATCH]; /* events gathered since the last write, neighbours joined */
    struct timer
        early; /* sends the head before the first event: see reply_promise; and signs of life
                         * while another target is asked to go on */
    struct answer_writer *writer; /* of a translated answer, else NULL */
    unsigned batch_count;
    bool is_stream;
    bool is_raw;        /* an answer of unknown kind has begun: nothing may be added to it */
    bool sent_id_field; /* the provider's events carry "id:" lines: see reply_event */
};

/* PARKS: answer with a JSON document. */
err_t reply_json(struct request *request, int status, struct str body) ERR_MUST_CHECK;

/* PARKS: answer with plain text. */
err_t reply_text(struct request *request, int status, struct str content_type,
                 struct str body) ERR_MUST_CHECK;

/* The answer of the call is to be written in the caller's dialect: make the writer for it. `id` are
 * 24 letters and digits, or empty to mint them. Does not park. Errors: BUSY. */
err_t reply_translate(struct request *request, struct str id) ERR_MUST_CHECK;

/* PARKS: the whole answer of a call: byte for byte, or as its writer writes it. */
err_t reply_answer(struct request *request) ERR_MUST_CHECK;

/* PARKS: an answer that was given before, to the byte, whole or as a stream; `target` gave it. */
err_t reply_again(struct request *request, bool is_stream, struct str target,
                  struct str body) ERR_MUST_CHECK;

/* If the first event takes longer than stream.head_after, send the head of the stream and then
 * heartbeats without waiting for it, for clients and proxies that give up otherwise. What fails
 * after that is an error event. Does not park. Errors: BUSY. */
err_t reply_promise(struct request *request) ERR_MUST_CHECK;

/* Begin an event stream. The head goes out with the first event, if it is not out already. */
err_t reply_stream(struct request *request) ERR_MUST_CHECK;

/* Pass on an event: gathered until a PAUSE, then written at once; IDLE writes a heartbeat; END
 * writes the end marker and ends the answer. PARKS on those three. Errors: CANCELLED (the client
 * left), TIMED_OUT (it takes nothing). */
err_t reply_event(struct request *request, const struct event *event) ERR_MUST_CHECK;

/* PARKS: tell the caller of an error: as an HTTP error where nothing was sent yet, as an error
 * event in a stream. */
void reply_error(struct request *request, err_t err);

#endif
