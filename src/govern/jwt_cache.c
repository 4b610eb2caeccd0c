/* SPDX-License-Identifier: Apache-2.0 */
/* A table of sets of four. The hash chooses the set, and whoever could choose a hash would need tokens that are good. */
#include "govern/jwt_cache.h"

#include <pthread.h>

#include "base/mem.h"

#define SETS  2048
#define WAYS  4
#define LOCKS 64

struct entry {
    uint8_t hash[IDENTITY_HASH_BYTES];
    struct jwt_caller caller; /* its texts follow */
    char texts[];
};

struct jwt_cache {
    pthread_mutex_t locks[LOCKS];      /* each over the sets of its number, modulo LOCKS */
    struct entry *entries[SETS][WAYS]; /* of a set, the latest first */
};

static size_t size_of(const struct jwt_caller *caller)
{
    return sizeof(struct entry) + caller->project.len + caller->user.len;
}

static void release(struct entry *entry)
{
    if (entry)
        mem_free(MEM_GOVERN, entry, size_of(&entry->caller));
}

struct jwt_cache *jwt_cache_new(void)
{
    struct jwt_cache *cache = mem_alloc_zero(MEM_GOVERN, sizeof(*cache));

    for (size_t i = 0; cache && i < LOCKS; i++)
        pthread_mutex_init(&cache->locks[i], NULL);
    return cache;
}

void jwt_cache_free(struct jwt_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < SETS; i++)
        for (size_t k = 0; k < WAYS; k++)
            release(cache->entries[i][k]);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&cache->locks[i]);
    mem_free(MEM_GOVERN, cache, sizeof(*cache));
}

static size_t set_of(const uint8_t *hash)
{
    return ((size_t)hash[0] << 8 | hash[1]) % SETS;
}

static bool copy(const struct jwt_caller *from, struct arena *arena, struct jwt_caller *out)
{
    *out = *from;
    out->project = arena_copy(arena, from->project);
    out->user = arena_copy(arena, from->user);
    return out->project.ptr && out->user.ptr;
}

bool jwt_cache_get(struct jwt_cache *cache, const uint8_t hash[IDENTITY_HASH_BYTES],
                   uint64_t now_ms, struct arena *arena, struct jwt_caller *out)
{
    size_t set = set_of(hash);
    bool is_there = false;

    pthread_mutex_lock(&cache->locks[set % LOCKS]);
    for (size_t i = 0; i < WAYS && !is_there; i++) {
        const struct entry *entry = cache->entries[set][i];
        if (entry && memcmp(entry->hash, hash, IDENTITY_HASH_BYTES) == 0)
            is_there = entry->caller.until_ms > now_ms && copy(&entry->caller, arena, out);
    }
    pthread_mutex_unlock(&cache->locks[set % LOCKS]);
    return is_there;
}

/* Text after text behind the entry. */
static char *keep(char *at, struct str *text)
{
    memcpy(at, text->ptr, text->len);
    text->ptr = at;
    return at + text->len;
}

void jwt_cache_put(struct jwt_cache *cache, const uint8_t hash[IDENTITY_HASH_BYTES],
                   const struct jwt_caller *caller)
{
    struct entry *entry = mem_alloc(MEM_GOVERN, size_of(caller)), **set;
    size_t number = set_of(hash);
    char *at;

    if (!entry)
        return;
    memcpy(entry->hash, hash, IDENTITY_HASH_BYTES);
    entry->caller = *caller;
    at = keep(entry->texts, &entry->caller.project);
    keep(at, &entry->caller.user);
    set = cache->entries[number];
    pthread_mutex_lock(&cache->locks[number % LOCKS]);
    release(set[WAYS - 1]);
    memmove(set + 1, set, (WAYS - 1) * sizeof(struct entry *));
    set[0] = entry;
    pthread_mutex_unlock(&cache->locks[number % LOCKS]);
}
