/* SPDX-License-Identifier: Apache-2.0 */
/* The table of prices as its reader (price_file.c) fills it and price.c searches it. */
#ifndef GOVERN_PRICE_TABLE_H
#define GOVERN_PRICE_TABLE_H

#include <stdatomic.h>

#include "govern/price.h"

#define PRICE_MAX_KEY 256 /* bytes */

/* A price while it holds: from (included) until (not included), wall clock in ms. */
struct price_span {
    uint64_t from_ms, until_ms;
    struct price price;
    size_t line;
};

/* What the file says under one key, without the "*" at its end. */
struct price_key {
    struct str name;
    bool has_provider; /* "provider/model", not "model" alone */
    struct price_span *spans;
    size_t span_count;
};

struct prices {
    atomic_size_t users;
    struct arena *arena; /* the table is in it */
    struct str currency;
    struct price_key *keys; /* whole names, in byte order */
    size_t key_count;
    struct price_key *prefixes; /* the longest first */
    size_t prefix_count;
};

/* Byte order, as keys are sorted. */
int price_table_compare(struct str a, struct str b);

#endif
