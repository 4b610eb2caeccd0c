/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the end of a request and the few words in it that steer the mock provider (see
 * mock_request.h).
 */
#include "mock_request.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    HEAD_MAX_BYTES = 64 * 1024,
    LOOK_BYTES = 1024, /* switches are looked for in this much of either end of a body */
};

const char *request_header(const struct request *r, const char *name)
{
    size_t name_len = strlen(name);
    const char *end = r->head + r->head_len;
    const char *line = memchr(r->head, '\n', r->head_len);
    for (; line && line + 1 + name_len < end;
         line = memchr(line + 1, '\n', (size_t)(end - line - 1))) {
        if (line[1 + name_len] == ':' && !strncasecmp(line + 1, name, name_len)) {
            line += name_len + 2;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

/* The length of a chunked body with its framing: 0 = not all here, SIZE_MAX = broken. */
static size_t chunked_length(const char *bytes, size_t len)
{
    size_t at = 0;
    for (;;) {
        const char *eol = memchr(bytes + at, '\n', len - at);
        if (!eol)
            return 0;
        char *digits_end;
        unsigned long size = strtoul(bytes + at, &digits_end, 16);
        if (digits_end == bytes + at || size > REQUEST_MAX_BYTES)
            return SIZE_MAX;
        at = (size_t)(eol - bytes) + 1 + size + 2;
        if (at > len)
            return 0;
        if (!size)
            return at;
    }
}

size_t request_read(struct request *r, const char *bytes, size_t len, size_t *need)
{
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);
    *need = len + 1;
    if (!end)
        return len > HEAD_MAX_BYTES ? SIZE_MAX : 0;
    r->head = bytes;
    r->head_len = (size_t)(end - bytes) + 4;
    r->body = bytes + r->head_len;
    if (request_header(r, "transfer-encoding")) {
        r->body_len = chunked_length(r->body, len - r->head_len);
        if (!r->body_len || r->body_len == SIZE_MAX)
            return r->body_len;
    } else {
        const char *value = request_header(r, "content-length");
        r->body_len = value ? strtoul(value, NULL, 10) : 0;
    }
    if (r->body_len > REQUEST_MAX_BYTES)
        return SIZE_MAX;
    *need = r->head_len + r->body_len;
    return *need <= len ? *need : 0;
}

/* Is there `"name":true` near either end of the body? */
static bool body_says(const struct request *r, const char *name)
{
    size_t look = r->body_len < LOOK_BYTES ? r->body_len : LOOK_BYTES;
    size_t name_len = strlen(name);
    const char *end = r->body + r->body_len;
    const char *at = memmem(r->body, look, name, name_len);
    if (!at)
        at = memmem(end - look, look, name, name_len);
    if (!at)
        return false;
    for (at += name_len; at < end && (*at == ' ' || *at == ':'); at++)
        ;
    return end - at >= 4 && !memcmp(at, "true", 4);
}

/* A number from the wishes, there as a string ("events":"20") or in the prompt (events:20). */
static unsigned long wish_number(const char *text, const char *name, unsigned long otherwise)
{
    const char *at = strstr(text, name);
    if (!at)
        return otherwise;
    at += strlen(name);
    return strtoul(at + strspn(at, "\": "), NULL, 10);
}

static void read_wishes(const char *text, struct ask *ask)
{
    ask->answer_bytes = wish_number(text, "answer_bytes", ask->answer_bytes);
    ask->events = wish_number(text, "events", ask->events);
    ask->rate = wish_number(text, "rate", ask->rate);
    ask->delay_ms = wish_number(text, "delay_ms", 0);
    ask->status = wish_number(text, "status", 0);
    ask->cut_after = wish_number(text, "cut_after", ask->cut_after);
    if (!ask->rate || ask->rate > 1000000)
        ask->rate = 1000000;
}

void request_ask(const struct request *r, const struct ask *defaults, struct ask *ask)
{
    *ask = *defaults;
    ask->stream = body_says(r, "\"stream\"");
    ask->usage = ask->stream && body_says(r, "\"include_usage\"");
    size_t look = r->body_len < LOOK_BYTES ? r->body_len : LOOK_BYTES;
    ask->flaky_status = memmem(r->body, look, "\"flaky_status\"", 14) != NULL;
    ask->flaky_reset = memmem(r->body, look, "\"flaky_reset\"", 13) != NULL;
    const char *wishes = memmem(r->body, look, "\"metadata\"", 10);
    if (!wishes)
        wishes = memmem(r->body, look, "wishes:", 7);
    if (!wishes)
        return;
    char text[256];
    size_t len = (size_t)(r->body + r->body_len - wishes);
    len = len < sizeof text - 1 ? len : sizeof text - 1;
    memcpy(text, wishes, len);
    text[len] = 0;
    text[strcspn(text, "}")] = 0;
    read_wishes(text, ask);
}
