/* SPDX-License-Identifier: Apache-2.0 */
/* Requests from the network. What is checked beside memory: the verdict, the head's length and
 * the body's bytes are the same whether everything comes at once or in steps whose size the
 * first byte of the input chooses. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "net/http_parse.h"

struct outcome {
    int status;        /* of the error; 0: none */
    size_t head, body; /* lengths */
    uint64_t sum;      /* of the body's bytes */
    bool is_ready, is_done;
};

static void read_body(struct http_parser *parser, struct str bytes, size_t step,
                      struct outcome *outcome)
{
    size_t at = outcome->head, have = at;

    while (!parser->is_done && at < bytes.len) {
        struct str piece;
        size_t used;
        bool done;
        if (have == at)
            have = bytes.len - have < step ? bytes.len : have + step;
        err_t err = http_parse_body(parser, (struct str){bytes.ptr + at, have - at}, false, &used,
                                    &piece, &done);
        if (err) {
            outcome->status = err_status(err);
            return;
        }
        if (used == 0 || used > have - at)
            abort();
        for (size_t i = 0; i < piece.len; i++)
            outcome->sum = outcome->sum * 31 + (unsigned char)piece.ptr[i];
        outcome->body += piece.len;
        at += used;
    }
    outcome->is_done = parser->is_done;
}

static struct outcome judge(struct str bytes, size_t step)
{
    struct outcome outcome = {0};
    struct http_parser parser;
    struct http_head head;
    enum http_progress progress = HTTP_MORE;
    size_t have = 0, before = 0;

    while (progress == HTTP_MORE && have < bytes.len) {
        before = have;
        have = bytes.len - have < step ? bytes.len : have + step;
        /* As connections do: another try is worth it when a line has come. */
        if (before > 0 && have < bytes.len && !memchr(bytes.ptr + before, '\n', have - before))
            continue;
        err_t err = http_parse_request(&parser, (struct str){bytes.ptr, have}, &head, &outcome.head,
                                       &progress);
        if (err) {
            outcome.status = err_status(err);
            return outcome;
        }
    }
    outcome.is_ready = progress == HTTP_READY;
    if (outcome.is_ready)
        read_body(&parser, bytes, step, &outcome);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    /* An exact copy, so that reads beyond it are seen. */
    char *copy = malloc(len - 1);
    struct str bytes = {copy, len - 1};
    memcpy(copy, data + 1, len - 1);
    struct outcome whole = judge(bytes, bytes.len), steps = judge(bytes, (size_t)data[0] + 1);
    /* A body that turns out bad has given out more or less of itself before. */
    if (whole.status != steps.status || whole.is_ready != steps.is_ready ||
        whole.is_done != steps.is_done || whole.head != steps.head)
        abort();
    if (whole.status == 0 && (whole.body != steps.body || whole.sum != steps.sum))
        abort();
    free(copy);
    return 0;
}
