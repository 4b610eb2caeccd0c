/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes texts: encode_tokens DATA_DIR o200k|cl100k. Each text on standard input is its length
 * (32 bits in the machine's order) and its bytes, each answer on standard output the number of its
 * ids and the ids. Counting, whole and as a stream, and decoding must agree with the ids, or it
 * stops with status 1. */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "model/tokens.h"

static void fail(const char *what, struct str text)
{
    fprintf(stderr, "encode_tokens: %s: %.*s\n", what, STR_ARG(text));
    exit(1);
}

/* Whether pieces of a stream, whose lengths vary, add up. A long run may be cut where its count
 * changes. */
static bool is_tally_right(enum token_family family, struct str text, size_t count)
{
    struct tokens_tally tally = {.family = family};
    uint64_t slack = text.len < TOKENS_TALLY_BYTES ? 0 : 8 * (text.len / TOKENS_TALLY_BYTES), sum;

    for (size_t len, step = 1; text.len > 0; step = step * 5 % 97) {
        len = step < text.len ? step : text.len;
        tokens_tally_add(&tally, (struct str){text.ptr, len});
        text = str_after(text, len);
    }
    sum = tokens_tally_count(&tally);
    tokens_tally_fini(&tally);
    return sum + slack >= count && sum <= count + slack;
}

static void answer(enum token_family family, struct str text, uint32_t *ids)
{
    struct buf back = buf_make(MEM_TOOL, SIZE_MAX / 2);
    uint32_t written;
    size_t count;

    if (tokens_encode(family, text, ids, &count))
        fail("not encoded", text);
    if (tokens_count(family, text) != count)
        fail("counted otherwise", text);
    if (!is_tally_right(family, text, count))
        fail("counted otherwise as a stream", text);
    if (tokens_decode(family, ids, count, &back) || !str_eq(buf_str(&back), text))
        fail("not the same when decoded", text);
    buf_fini(&back);
    written = (uint32_t)count;
    fwrite(&written, sizeof(written), 1, stdout);
    fwrite(ids, sizeof(*ids), count, stdout);
}

int main(int argc, char **argv)
{
    enum token_family family;
    uint32_t len;

    if (argc != 3)
        return 2;
    err_scope_set(arena_new(MEM_TOOL, (size_t)64 * 1024));
    family = str_eq(str_from(argv[2]), STR("cl100k")) ? TOKENS_CL100K : TOKENS_O200K;
    tokens_use(str_from(argv[1]));
    if (!tokens_is_exact(family))
        return 3;
    while (fread(&len, sizeof(len), 1, stdin) == 1) {
        char *text = malloc(len > 0 ? len : 1); /* exactly as long: a sanitizer sees */
        uint32_t *ids = malloc(((size_t)len + 1) * sizeof(*ids));
        if (!text || !ids || fread(text, 1, len, stdin) != len)
            return 4;
        answer(family, (struct str){text, len}, ids);
        free(text);
        free(ids);
    }
    return fflush(stdout) == 0 ? 0 : 5;
}
