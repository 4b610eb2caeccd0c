/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of Redis: any bytes, cut anywhere, and what the limits make of them.
 *
 * The first byte chooses the number of rules and the size of the pieces. However the bytes are cut, the
 * same answers must come of them, and what is taken for one of the script must be sound. */
#include "base/check.h"
#include "govern/limit_store.h"
#include "store/redis_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Read all answers; their kinds and sizes are mixed into a sum. */
static uint64_t read_all(struct str bytes, size_t piece, size_t rules)
{
    struct limit_rule rule_list[LIMIT_MAX_RULES] = {{0}};
    struct limit_ticket ticket = {.rules = rule_list, .count = rules};
    struct limit_verdict verdict;
    struct redis_reader reader;
    struct redis_reply *reply;
    uint64_t sum = 0;
    err_t err = redis_reader_init(&reader);

    for (size_t i = 0; i < rules; i++)
        rule_list[i].rate = (struct conf_rate){10, 1000};
    while (!err && bytes.len > 0) {
        size_t n = piece < bytes.len ? piece : bytes.len;
        err = redis_reader_feed(&reader, (struct str){bytes.ptr, n});
        bytes = str_after(bytes, n);
        while (!err && !(err = redis_reader_next(&reader, &reply)) && reply) {
            sum = sum * 31 + (uint64_t)reply->kind + reply->text.len + reply->count + 7;
            if (!limit_redis_read(&ticket, reply, &verdict))
                continue;
            check(verdict.refused <= rules);
            for (size_t i = 0; i < rules; i++)
                check(rule_list[i].remaining <= 10);
        }
    }
    redis_reader_fini(&reader);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str bytes = {(const char *)data + 1, size - 1};

    if (size < 2)
        return 0;
    check(read_all(bytes, size, data[0] % 4) == read_all(bytes, 1 + data[0] / 4, data[0] % 4));
    return 0;
}
