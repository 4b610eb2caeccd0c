/* SPDX-License-Identifier: Apache-2.0 */
/* What models cost: a table with validity dates, and the cost of a call in nano-units (10^-9) of one currency.
 *
 * A price is kept in pico-units per token (equal to micro-units per million tokens), so that a sum of whole
 * numbers is rounded once, up. */
#ifndef GOVERN_PRICE_H
#define GOVERN_PRICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

struct prices; /* an immutable table, counted */

/* Prices of one model in one span of time. */
struct price {
    uint64_t input_pico, output_pico, cached_pico, cache_written_pico,
        reasoning_pico;                /* per token */
    uint64_t image_pico, request_pico; /* each */
};

/* What a call used; tokens as in struct usage of the model layer. */
struct price_usage {
    uint64_t input, output, cached, cache_written, reasoning, images;
};

/* Read a price file (YAML; docs/prices.md). Errors: CONFIG, with "file:line: message" lines. Blocks on a file. */
err_t prices_load(struct str path, struct prices **out) ERR_MUST_CHECK;

/* The same from text; `path` is for messages. */
err_t prices_read(struct str path, struct str text, struct prices **out) ERR_MUST_CHECK;

/* What its prices are in ("USD"), as long as the table; and how many keys it has. */
struct str prices_currency(const struct prices *prices);
size_t prices_count(const struct prices *prices);

/* Counted use; NULL is allowed. Any thread. */
struct prices *prices_ref(struct prices *prices);
void prices_unref(struct prices *prices);

/* The price of provider/model at a time (wall clock, ms), or NULL; good as long as the table. A key with a
 * slash stands for provider/model, one without for a model of any provider; the former is looked for first. Of
 * each the whole name wins, then the longest key that ends in "*". What has a key but no price at that time
 * has none. */
const struct price *price_find(const struct prices *prices, struct str provider, struct str model,
                               uint64_t at_ms);

/* Cost in nano-units, rounded up. What does not fit costs UINT64_MAX. */
uint64_t price_cost(const struct price *price, const struct price_usage *usage);

/* Turn LiteLLM's model_prices_and_context_window.json into a price file (YAML text in the arena). Errors:
 * BAD_REQUEST naming the place. */
err_t price_import_litellm(struct str json, struct arena *arena, struct str *yaml) ERR_MUST_CHECK;

#endif
