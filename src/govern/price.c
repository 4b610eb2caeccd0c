/* SPDX-License-Identifier: Apache-2.0 */
/* What a call costs.
 *
 * A table is immutable and counted: a reload puts a new one in force, and a call that has begun ends
 * with the prices that it began with. Sums are made in pico-units and 128 bits, so nothing is lost
 * or wraps before the one rounding at the end. */
#include "govern/price.h"

#include <stdlib.h>

#include "govern/price_table.h"

#define PICO_PER_NANO 1000

typedef unsigned __int128 wide;

/* ---- in force ---- */

struct prices *prices_ref(struct prices *prices)
{
    if (prices)
        atomic_fetch_add_explicit(&prices->users, 1, memory_order_relaxed);
    return prices;
}

void prices_unref(struct prices *prices)
{
    if (prices && atomic_fetch_sub_explicit(&prices->users, 1, memory_order_acq_rel) == 1)
        arena_free(prices->arena);
}

struct str prices_currency(const struct prices *prices)
{
    return prices->currency;
}

size_t prices_count(const struct prices *prices)
{
    return prices->key_count + prices->prefix_count;
}

/* ---- finding ---- */

int price_table_compare(struct str a, struct str b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.ptr, b.ptr, len) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_key(const void *name, const void *key)
{
    return price_table_compare(*(const struct str *)name, ((const struct price_key *)key)->name);
}

/* The key for this name: itself, or the longest beginning of it. */
static const struct price_key *find_key(const struct prices *prices, struct str name,
                                        bool has_provider)
{
    const struct price_key *key =
        prices->key_count
            ? bsearch(&name, prices->keys, prices->key_count, sizeof(*prices->keys), compare_key)
            : NULL;

    if (key && key->has_provider != has_provider)
        key = NULL;
    for (size_t i = 0; !key && i < prices->prefix_count; i++)
        if (prices->prefixes[i].has_provider == has_provider &&
            str_starts(name, prices->prefixes[i].name))
            key = &prices->prefixes[i];
    return key;
}

const struct price *price_find(const struct prices *prices, struct str provider, struct str model,
                               uint64_t at_ms)
{
    char name[2 * PRICE_MAX_KEY];
    size_t room = sizeof name - 1;
    /* No key is as long as the room, so what is cut off here decides nothing. */
    size_t provider_len = provider.len < room ? provider.len : room;
    size_t model_len = model.len < room - provider_len ? model.len : room - provider_len;
    const struct price_key *key;

    if (provider_len)
        memcpy(name, provider.ptr, provider_len);
    name[provider_len] = '/';
    if (model_len)
        memcpy(name + provider_len + 1, model.ptr, model_len);
    key = find_key(prices, (struct str){name, provider_len + 1 + model_len}, true);
    if (!key)
        key = find_key(prices, model, false);
    for (size_t i = 0; key && i < key->span_count; i++)
        if (key->spans[i].from_ms <= at_ms && at_ms < key->spans[i].until_ms)
            return &key->spans[i].price;
    return NULL;
}

/* ---- cost ---- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Prices are at most 10^18 (price_decimal.h), so each of the seven products is less than 2^124. */
uint64_t price_cost(const struct price *price, const struct price_usage *usage)
{
    uint64_t cached = least(usage->cached, usage->input);
    uint64_t written = least(usage->cache_written, usage->input - cached);
    uint64_t reasoning = least(usage->reasoning, usage->output);
    wide pico = price->request_pico;

    pico += (wide)(usage->input - cached - written) * price->input_pico;
    pico += (wide)cached * price->cached_pico;
    pico += (wide)written * price->cache_written_pico;
    pico += (wide)(usage->output - reasoning) * price->output_pico;
    pico += (wide)reasoning * price->reasoning_pico;
    pico += (wide)usage->images * price->image_pico;
    pico += PICO_PER_NANO - 1;
    if (pico <= UINT64_MAX) /* as good as always, and much cheaper */
        return (uint64_t)pico / PICO_PER_NANO;
    wide nano = pico / PICO_PER_NANO;
    return nano > UINT64_MAX ? UINT64_MAX : (uint64_t)nano;
}
