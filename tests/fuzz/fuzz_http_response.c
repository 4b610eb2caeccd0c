/* SPDX-License-Identifier: Apache-2.0 */
/* Answers from upstreams: the same questions as for requests. The first byte of the input
 * chooses the steps and whether the request was HEAD. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "net/http_parse.h"

struct outcome {
    bool is_bad, is_ready, is_done;
    int status;
    size_t head, body;
    uint64_t sum;
};

static void read_body(struct http_parser *parser, struct str bytes, size_t step,
                      struct outcome *outcome)
{
    size_t at = outcome->head, have = at;

    while (!parser->is_done) {
        struct str piece;
        size_t used;
        bool done, at_end;
        if (have == at)
            have = bytes.len - have < step ? bytes.len : have + step;
        at_end = at == bytes.len;
        outcome->is_bad = http_parse_body(parser, (struct str){bytes.ptr + at, have - at}, at_end,
                                          &used, &piece, &done);
        if (outcome->is_bad)
            return;
        if ((used == 0 && !done) || used > have - at)
            abort();
        for (size_t i = 0; i < piece.len; i++)
            outcome->sum = outcome->sum * 31 + (unsigned char)piece.ptr[i];
        outcome->body += piece.len;
        at += used;
    }
    outcome->is_done = true;
}

static struct outcome judge(struct str bytes, size_t step, enum http_method method)
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
        outcome.is_bad = http_parse_response(&parser, (struct str){bytes.ptr, have}, method, &head,
                                             &outcome.head, &progress);
        if (outcome.is_bad) {
            outcome.head = 0;
            return outcome;
        }
    }
    outcome.is_ready = progress == HTTP_READY;
    if (outcome.is_ready) {
        outcome.status = head.status;
        read_body(&parser, bytes, step, &outcome);
    }
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    char *copy = malloc(len - 1);
    struct str bytes = {copy, len - 1};
    memcpy(copy, data + 1, len - 1);
    enum http_method method = data[0] & 1 ? HTTP_HEAD_ : HTTP_POST_;
    struct outcome whole = judge(bytes, bytes.len, method),
                   steps = judge(bytes, (size_t)data[0] / 2 + 1, method);
    if (whole.is_bad != steps.is_bad || whole.is_ready != steps.is_ready ||
        whole.is_done != steps.is_done || whole.head != steps.head || whole.status != steps.status)
        abort();
    if (!whole.is_bad && (whole.body != steps.body || whole.sum != steps.sum))
        abort();
    free(copy);
    return 0;
}
