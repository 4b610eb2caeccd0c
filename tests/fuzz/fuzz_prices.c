/* SPDX-License-Identifier: Apache-2.0 */
/* Reads bytes as a price file and as LiteLLM's list. A table that was accepted answers every
 * question; of a list every object of JSON is imported, whatever is wrong with its prices; what was
 * imported is a price file, unless there is too much of it; and no byte of memory is left. */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "base/json_members.h"
#include "base/mem.h"
#include "govern/price.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Ask for a few models, and for the most that a call can use. */
static void use(struct prices *prices, struct str text)
{
    static const struct price_usage most = {UINT64_MAX, UINT64_MAX, 9, 9, 9, UINT64_MAX};
    struct str half = {text.ptr, text.len / 2};

    check(prices_currency(prices).len == 3);
    for (uint64_t at_ms = 0; at_ms < UINT64_C(4000000000000); at_ms += UINT64_C(500000000000)) {
        const struct price *price = price_find(prices, STR("a"), STR("b"), at_ms);
        check(!price || price_cost(price, &(struct price_usage){0}) <= price_cost(price, &most));
        (void)price_find(prices, half, text, at_ms);
    }
    prices_unref(prices);
}

static bool is_object(struct str text)
{
    struct str rest = text;

    while (rest.len && (rest.ptr[0] == ' ' || rest.ptr[0] == '\t' || rest.ptr[0] == '\r' ||
                        rest.ptr[0] == '\n'))
        rest = str_after(rest, 1);
    return !json_check(text) && json_kind(rest) == JSON_OBJECT;
}

static void import(struct str text)
{
    struct arena *arena = arena_new(MEM_TOOL, (size_t)64 * 1024 * 1024);
    struct prices *prices;
    struct str yaml;

    check(arena != NULL);
    bool is_imported = !price_import_litellm(text, arena, &yaml);
    check(is_imported == is_object(text) || text.len > 100000);
    if (is_imported) {
        err_t err = prices_read(STR("p"), yaml, &prices);
        check(!err || yaml.len > 100000);
        if (!err)
            use(prices, text);
    }
    arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct str text = {(const char *)data, len};
    struct prices *prices;

    if (!prices_read(STR("p"), text, &prices))
        use(prices, text);
    import(text);
    check(mem_in_use(MEM_CONF) == 0 && mem_in_use(MEM_TOOL) == 0);
    return 0;
}
