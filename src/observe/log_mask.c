/* SPDX-License-Identifier: Apache-2.0 */
/* Finds registered secrets in text.
 *
 * Secrets hang in a hash table by their first eight bytes, so a text costs one multiplication
 * and one look per byte however many secrets there are. The hard thing is that lines are
 * composed while a reload registers more: entries are only ever added, published with release
 * order, and never freed. */
#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "observe/log.h"
#include "observe/log_mask.h"

#define PREFIX_BYTES 8
#define BUCKET_BITS  9

struct secret {
    struct secret *next;
    size_t len;
    char text[];
};

static _Atomic(struct secret *) buckets[1 << BUCKET_BITS];
static pthread_mutex_t add_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t bucket_of(const char *text)
{
    uint64_t prefix;

    memcpy(&prefix, text, sizeof prefix);
    return (size_t)((prefix * 0x9E3779B97F4A7C15u) >> (64 - BUCKET_BITS));
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
    bool found = false;

    for (size_t i = 0; i + PREFIX_BYTES <= len;) {
        size_t secret_len = secret_at(text + i, len - i);
        if (secret_len)
            found = true;
        memset(text + i, '*', secret_len);
        i += secret_len ? secret_len : 1;
    }
    return found;
}

size_t log_mask_shorten(char *text, size_t len)
{
    for (size_t i = 0; i + PREFIX_BYTES <= len;) {
        size_t secret_len = secret_at(text + i, len - i);
        if (secret_len) {
            memcpy(text + i, "***", 3);
            memmove(text + i + 3, text + i + secret_len, len - i - secret_len);
            len -= secret_len - 3;
            i += 3;
        } else {
            i++;
        }
    }
    return len;
}
