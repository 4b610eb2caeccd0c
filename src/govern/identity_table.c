/* SPDX-License-Identifier: Apache-2.0 */
/* An open table: an entry lies within WINDOW slots from where its hash points, and the table is made as large as that
 * needs. With a quarter of the slots in use that is nearly always so at once. Behind the last slot are some more, so that
 * a look-up reads WINDOW slots in a row, which takes no more than a few steps of vectors. */
#include "govern/identity_table.h"

#include <stdlib.h>

#define WINDOW      16
#define SLOTS_LEAST 64
#define GROWTHS     6

/* The first eight bytes point to a slot, the next eight are the tag. */
static uint64_t word_of(const uint8_t *hash, size_t i)
{
    uint64_t word;

    memcpy(&word, hash + i * sizeof(word), sizeof(word));
    return word;
}

static uint64_t tag_of(const uint8_t *hash)
{
    uint64_t tag = word_of(hash, 1);

    return tag ? tag : 1;
}

/* All ones if a = b, else 0; without a branch. */
static uint64_t equal_mask(uint64_t a, uint64_t b)
{
    uint64_t difference = a ^ b;

    return 0 - (((difference - 1) & ~difference) >> 63);
}

/* All ones if the whole hashes are equal, else 0; in a time that tells nothing about where they differ. */
static uint64_t same_mask(const uint8_t *a, const uint8_t *b)
{
    uint64_t difference = 0;

    for (size_t i = 0; i < IDENTITY_HASH_BYTES / sizeof(difference); i++)
        difference |= word_of(a, i) ^ word_of(b, i);
    return equal_mask(difference, 0);
}

const struct identity_key *identity_table_find(const struct identity_table *table,
                                               const uint8_t hash[IDENTITY_HASH_BYTES])
{
    static const struct identity_entry nobody;
    uint64_t tag = tag_of(hash);
    uintptr_t found = 0, none;
    const struct identity_entry *entry;
    const struct identity_slot *slots;

    if (!table->slots)
        return NULL;
    slots = &table->slots[word_of(hash, 0) & table->mask];
    for (size_t i = 0; i < WINDOW; i++)
        found |= (uintptr_t)slots[i].entry & (uintptr_t)equal_mask(slots[i].tag, tag);
    none = (uintptr_t)equal_mask(found, 0);
    entry = (const struct identity_entry *)(found | ((uintptr_t)&nobody & none));
    return same_mask(entry->hash, hash) && found ? &entry->key : NULL;
}

/* ---- by id ---- */

static int compare_texts(struct str a, struct str b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.ptr, b.ptr, len) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_ids(const void *a, const void *b)
{
    const struct identity_entry *const *x = a, *const *y = b;

    return compare_texts((*x)->key.id, (*y)->key.id);
}

const struct identity_key *identity_table_get(const struct identity_table *table, struct str id)
{
    struct identity_entry wanted = {.key.id = id}, *key = &wanted;
    const struct identity_entry **found;

    if (table->count == 0)
        return NULL;
    found = bsearch(&key, table->by_id, table->count, sizeof(struct identity_entry *), compare_ids);
    return found ? &(*found)->key : NULL;
}

/* ---- making one ---- */

enum fit { FITS, IS_DOUBLE, IS_FULL };

static enum fit put(const struct identity_table *table, const struct identity_entry *entry)
{
    struct identity_slot *slots = &table->slots[word_of(entry->hash, 0) & table->mask];
    uint64_t tag = tag_of(entry->hash);

    for (size_t i = 0; i < WINDOW; i++) {
        if (slots[i].entry && slots[i].tag == tag)
            return IS_DOUBLE;
        if (slots[i].entry)
            continue;
        slots[i] = (struct identity_slot){tag, entry};
        return FITS;
    }
    return IS_FULL;
}

static bool put_all(struct identity_table *table, const struct identity_entry *entries,
                    size_t count)
{
    table->count = 0;
    for (size_t i = 0; i < count; i++) {
        if (put(table, &entries[i]) == IS_FULL)
            return false;
        if (!entries[i].is_old)
            table->by_id[table->count++] = &entries[i];
    }
    return true;
}

err_t identity_table_make(const struct identity_entry *entries, size_t count, struct arena *arena,
                          struct identity_table *out)
{
    size_t slots = SLOTS_LEAST;

    *out = (struct identity_table){0};
    out->by_id = arena_alloc_array(arena, count, sizeof(*out->by_id));
    if (!out->by_id)
        return arena_err(arena);
    while (slots / 4 < count)
        slots *= 2;
    for (int i = 0; i < GROWTHS; i++, slots *= 2) {
        out->slots = arena_alloc_array(arena, slots + WINDOW - 1, sizeof(*out->slots));
        if (!out->slots)
            return arena_err(arena);
        out->mask = slots - 1;
        if (!put_all(out, entries, count))
            continue;
        if (out->count > 0)
            qsort(out->by_id, out->count, sizeof(*out->by_id), compare_ids);
        return NULL;
    }
    return err_new(ERR_BUG, "keys do not fit their table");
}
