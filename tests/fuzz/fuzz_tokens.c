/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-tokenizers over any bytes: pieces cover the text; where a place is called firm, both
 * sides are cut apart as they are together, and whatever follows. The first byte of an input
 * chooses the encoding. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "model/tokens_build.h"
#include "model/tokens_split.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The place behind the last piece that begins before `at`, when the text ends at `end`. */
static const char *border(enum tokens_encoding encoding, const char *begin, const char *at,
                          const char *end)
{
    while (begin < at) {
        size_t len = tokens_split_next(encoding, begin, end);
        check(len > 0 && len <= (size_t)(end - begin));
        begin += len;
    }
    return begin;
}

/* Pieces up to `at` are the same whether the text ends there or at `end`. */
static void check_same(enum tokens_encoding encoding, const char *begin, const char *at,
                       const char *end)
{
    while (begin < at) {
        size_t whole = tokens_split_next(encoding, begin, end);
        size_t alone = tokens_split_next(encoding, begin, at);
        check(whole == alone);
        begin += whole;
    }
    check(begin == at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    enum tokens_encoding encoding = len > 0 && data[0] & 1 ? TOKENS_CL100K_BASE : TOKENS_O200K_BASE;
    const char *begin = (const char *)data + 1, *end = (const char *)data + len;
    struct tokens_head *image;

    if (len < 2 || len > 700)
        return 0;
    check(border(encoding, begin, end, end) == end);
    for (const char *at = begin; at < end;) {
        at += tokens_split_next(encoding, at, end);
        if (at < end && tokens_split_is_firm(begin, at, end))
            check_same(encoding, begin, at, end);
    }
    if (!tokens_build((struct str){begin, len - 1}, &image))
        mem_free(MEM_PROCESS, image, image->bytes);
    return 0;
}
