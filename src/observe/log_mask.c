/* SPDX-License-Identifier: Apache-2.0 */
/* Finds registered secrets in text.
 *
 * Secrets hang in a hash table by their first eight bytes. Most of a text is not even looked at: a
 * table of byte pairs tells how far on the nearest such prefix can begin, which is seven bytes
 * where no prefix has the pair (Wu and Manber's search for many patterns). The hard thing is that
 * lines are composed while a reload registers more: entries are only ever added, published with release
 * order, and never freed. */
#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "observe/log.h"
#include "observe/log_mask.h"

#define PREFIX_BYTES 8
#define BUCKET_BITS  9
#define PAIR_BITS    10 /* a table that the kernel does not drive out of the cache at each request */

struct secret {
    struct secret *next;
    size_t len;
    char text[];
};

static _Atomic(struct secret *) buckets[1 << BUCKET_BITS];
/* By hash of a byte pair: the last place, from 1, where a prefix has such a pair; 0: nowhere. */
static _Atomic unsigned char pair_places[1 << PAIR_BITS];

static pthread_mutex_t add_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t bucket_of(const char *text)
{
    uint64_t prefix;

    memcpy(&prefix, text, sizeof prefix);
    return (size_t)((prefix * 0x9E3779B97F4A7C15u) >> (64 - BUCKET_BITS));
}

static size_t pair_of(const char *text)
{
    unsigned pair = (unsigned char)text[0] << 8 | (unsigned char)text[1];

    return pair * 0x9E3779B1u >> (32 - PAIR_BITS);
}

/* Length of the longest secret that `text` begins with, or 0. */
static size_t secret_at(const char *text, size_t len)
{
    size_t longest = 0;
    const struct secret *s = atomic_load_explicit(&buckets[bucket_of(text)], memory_order_acquire);

    for (; s; s = s->next)
        if (s->len <= len && s->len > longest && memcmp(s->text, text, s->len) == 0)
            longest = s->len;
    return longest;
}

struct found {
    size_t at, len;
};

/* The first secret from `at` on; its length is 0 if there is none. */
static struct found find_secret(const char *text, size_t len, size_t at)
{
    while (at + PREFIX_BYTES <= len) {
        size_t place = atomic_load_explicit(&pair_places[pair_of(text + at + PREFIX_BYTES - 2)],
                                            memory_order_acquire);
        size_t secret_len = place == PREFIX_BYTES - 1 ? secret_at(text + at, len - at) : 0;
        if (secret_len)
            return (struct found){at, secret_len};
        at += place == PREFIX_BYTES - 1 ? 1 : PREFIX_BYTES - 1 - place;
    }
    return (struct found){0};
}

/* Let searches stop at this prefix. Under the lock. */
static void add_pairs(const char *text)
{
    for (unsigned char place = 1; place < PREFIX_BYTES; place++) {
        _Atomic unsigned char *entry = &pair_places[pair_of(text + place - 1)];
        if (atomic_load_explicit(entry, memory_order_relaxed) < place)
            atomic_store_explicit(entry, place, memory_order_release);
    }
}

static void add_secret(const char *text, size_t len)
{
    _Atomic(struct secret *) *bucket = &buckets[bucket_of(text)];
    struct secret *first;

    pthread_mutex_lock(&add_lock);
    first = atomic_load_explicit(bucket, memory_order_relaxed);
    for (const struct secret *s = first; s; s = s->next)
        if (s->len == len && memcmp(s->text, text, len) == 0)
            goto known;
    struct secret *secret = mem_alloc(MEM_LOG, sizeof *secret + len);
    if (secret) {
        secret->next = first;
        secret->len = len;
        memcpy(secret->text, text, len);
        atomic_store_explicit(bucket, secret, memory_order_release);
        add_pairs(text);
    }
known:
    pthread_mutex_unlock(&add_lock);
}

/* The secret as it stands in a JSON string, when that differs: only quotes and backslashes
 * matter, for no credential holds control characters. */
static void add_escaped(struct str secret)
{
    char escaped[512];
    size_t len = 0;

    for (size_t i = 0; i < secret.len && len + 2 <= sizeof escaped; i++) {
        if (secret.ptr[i] == '"' || secret.ptr[i] == '\\')
            escaped[len++] = '\\';
        escaped[len++] = secret.ptr[i];
    }
    if (len != secret.len)
        add_secret(escaped, len);
}

void log_mask(struct str secret)
{
    if (secret.len < PREFIX_BYTES)
        return;
    add_secret(secret.ptr, secret.len);
    if (memchr(secret.ptr, '"', secret.len) || memchr(secret.ptr, '\\', secret.len))
        add_escaped(secret);
}

bool log_mask_in_place(char *text, size_t len)
{
    struct found found;
    size_t at = 0;

    while ((found = find_secret(text, len, at)).len > 0) {
        memset(text + found.at, '*', found.len);
        at = found.at + found.len;
    }
    return at > 0;
}

size_t log_mask_shorten(char *text, size_t len)
{
    struct found found;
    size_t at = 0;

    while ((found = find_secret(text, len, at)).len > 0) {
        memcpy(text + found.at, "***", 3);
        at = found.at + 3;
        len -= found.len - 3;
        memmove(text + at, text + found.at + found.len, len - at);
    }
    return len;
}
