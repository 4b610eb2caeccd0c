/* SPDX-License-Identifier: Apache-2.0 */
/* The bump allocator.
 *
 * The first chunk contains the arena itself. When the current chunk is full, one of half the size
 * of all before it (lent memory included) follows, at least SMALL_CHUNK bytes: a small request
 * stays small, a large one needs few chunks. A block too large for that gets a chunk of its own, behind the current one, which goes on
 * being filled.
 *
 * Under AddressSanitizer everything not handed out is poisoned, and a gap stays between blocks, so
 * that running over the end of one is found as it would be with malloc. */
#include "base/arena.h"

#include <stdalign.h>
#include <stdio.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(ptr, size)   __asan_poison_memory_region((ptr), (size))
#define UNPOISON(ptr, size) __asan_unpoison_memory_region((ptr), (size))
#define GAP                 16
#else
#define POISON(ptr, size)   ((void)(ptr), (void)(size))
#define UNPOISON(ptr, size) ((void)(ptr), (void)(size))
#define GAP                 0
#endif

#define ALIGN         alignof(max_align_t)
#define FIRST_CHUNK   3072
#define SMALL_CHUNK   1024 /* what glibc keeps at hand for each thread is at most 1,032 bytes */
#define LARGEST_CHUNK ((size_t)64 * 1024)

struct chunk {
    alignas(max_align_t) struct chunk *next;
    size_t size; /* of the whole block, this header included */
};

struct defer {
    struct defer *next;
    void (*fn)(void *arg);
    void *arg;
};

struct arena {
    char *at, *end; /* the free part of the current chunk */
    struct chunk *chunks;
    struct chunk *spare;  /* kept by arena_reset_keeping, or NULL */
    struct defer *defers; /* newest first */
    size_t bytes, limit;
    size_t next_chunk; /* size of the next ordinary chunk */
    enum mem_use use;
    bool hit_limit; /* by the last allocation that failed */
    bool lent_is_used;
    char *lent; /* memory to go on in when the chunk is full, or NULL */
    size_t lent_bytes;
};

static size_t round_up(size_t size)
{
    return (size + ALIGN - 1) & ~(ALIGN - 1);
}

struct arena *arena_new(enum mem_use use, size_t limit_bytes)
{
    return arena_new_of(use, FIRST_CHUNK, limit_bytes);
}

struct arena *arena_new_of(enum mem_use use, size_t first_bytes, size_t limit_bytes)
{
    struct chunk *chunk = mem_alloc(use, first_bytes);
    struct arena *arena;

    if (!chunk)
        return NULL;
    chunk->next = NULL;
    chunk->size = first_bytes;
    arena = (struct arena *)(chunk + 1);
    *arena = (struct arena){
        .at = (char *)arena + round_up(sizeof(*arena)),
        .end = (char *)chunk + first_bytes,
        .chunks = chunk,
        .bytes = first_bytes,
        .limit = limit_bytes,
        .next_chunk = SMALL_CHUNK,
        .use = use,
    };
    POISON(arena->at, (size_t)(arena->end - arena->at));
    return arena;
}

void arena_lend(struct arena *arena, void *ptr, size_t size)
{
    arena->lent = ptr;
    arena->lent_bytes = size;
    arena->lent_is_used = false;
    POISON(ptr, size);
}

static void forget_lent(struct arena *arena)
{
    if (arena->lent)
        UNPOISON(arena->lent, arena->lent_bytes);
    arena->lent = NULL;
}

static void run_defers(struct arena *arena)
{
    while (arena->defers) { /* a clean-up may defer another one */
        struct defer *defer = arena->defers;

        arena->defers = defer->next;
        defer->fn(defer->arg);
    }
}

static void free_chunk(enum mem_use use, struct chunk *chunk)
{
    UNPOISON(chunk, chunk->size);
    mem_free(use, chunk, chunk->size);
}

void arena_free(struct arena *arena)
{
    struct chunk *chunk, *next;
    enum mem_use use;

    if (!arena)
        return;
    run_defers(arena);
    forget_lent(arena);
    use = arena->use;
    if (arena->spare)
        free_chunk(use, arena->spare);
    for (chunk = arena->chunks; chunk; chunk = next) {
        next = chunk->next;
        free_chunk(use, chunk);
    }
}

void arena_reset_keeping(struct arena *arena, size_t spare_bytes)
{
    struct chunk *first = (struct chunk *)(void *)arena - 1; /* it contains the arena */
    struct chunk *chunk, *next;

    run_defers(arena);
    forget_lent(arena);
    for (chunk = arena->chunks; chunk; chunk = next) { /* the newest first, which is the largest */
        next = chunk->next;
        if (chunk == first)
            continue;
        if (arena->spare || chunk->size > spare_bytes) {
            free_chunk(arena->use, chunk);
            continue;
        }
        POISON(chunk + 1, chunk->size - sizeof(*chunk));
        arena->spare = chunk;
    }
    first->next = NULL;
    arena->chunks = first;
    arena->bytes = first->size + (arena->spare ? arena->spare->size : 0);
    arena->next_chunk = SMALL_CHUNK;
    arena->at = (char *)arena + round_up(sizeof(*arena));
    arena->end = (char *)first + first->size;
    POISON(arena->at, (size_t)(arena->end - arena->at));
}

/* A new chunk for `needed` bytes: of the ordinary size where that is enough and within the ceiling, else
 * just large enough. */
static struct chunk *new_chunk(struct arena *arena, size_t needed)
{
    size_t chunk_size = arena->next_chunk;
    size_t room = arena->limit > arena->bytes ? arena->limit - arena->bytes : 0;
    struct chunk *chunk;

    if (chunk_size < needed || chunk_size > room)
        chunk_size = needed;
    arena->hit_limit = chunk_size > room;
    if (arena->hit_limit)
        return NULL;
    chunk = mem_alloc(arena->use, chunk_size);
    if (!chunk)
        return NULL;
    chunk->size = chunk_size;
    arena->bytes += chunk_size;
    POISON(chunk + 1, chunk_size - sizeof(*chunk));
    return chunk;
}

/* A chunk with room for `size` bytes. */
static struct chunk *add_chunk(struct arena *arena, size_t size)
{
    size_t needed = sizeof(struct chunk) + size;
    struct chunk *chunk = arena->spare;

    if (chunk && chunk->size >= needed)
        arena->spare = NULL;
    else
        chunk = new_chunk(arena, needed);
    if (!chunk)
        return NULL;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    return chunk;
}

/* Half of what there is, in whole small chunks and within the bounds. */
static size_t next_size(size_t bytes)
{
    size_t size = (bytes / 2) & ~(size_t)(SMALL_CHUNK - 1);

    return size < SMALL_CHUNK ? SMALL_CHUNK : size > LARGEST_CHUNK ? LARGEST_CHUNK : size;
}

/* Go on in the memory that was lent: `size` fits there, and not into what is left of the chunk. */
static void *alloc_in_lent(struct arena *arena, size_t size)
{
    arena->lent_is_used = true;
    arena->at = arena->lent + size;
    arena->end = arena->lent + arena->lent_bytes;
    return arena->lent;
}

/* The slow path: `size` does not fit into the current chunk. Not inlined: the usual one would pay for
 * its registers. */
static __attribute__((noinline)) void *alloc_in_new_chunk(struct arena *arena, size_t size)
{
    struct chunk *chunk;
    char *start, *end;

    if (arena->lent && !arena->lent_is_used && size <= arena->lent_bytes)
        return alloc_in_lent(arena, size);
    chunk = add_chunk(arena, size);
    if (!chunk)
        return NULL;
    start = (char *)(chunk + 1);
    end = (char *)chunk + chunk->size;
    /* Go on in whichever chunk has more room left. */
    if (end - (start + size) > arena->end - arena->at) {
        arena->at = start + size;
        arena->end = end;
        arena->next_chunk = next_size(arena->bytes + (arena->lent ? arena->lent_bytes : 0));
    }
    return start;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    size_t taken;
    void *ptr;

    if (size > PTRDIFF_MAX / 2) {
        arena->hit_limit = true;
        return NULL;
    }
    if (mem_fault()) { /* each allocation could be the one that needs a new chunk */
        arena->hit_limit = false;
        return NULL;
    }
    taken = round_up(size + (size == 0)) + GAP;
    if (taken <= (size_t)(arena->end - arena->at)) {
        ptr = arena->at;
        arena->at += taken;
    } else {
        ptr = alloc_in_new_chunk(arena, taken);
        if (!ptr)
            return NULL;
    }
    UNPOISON(ptr, size);
    return ptr;
}

void *arena_alloc_array(struct arena *arena, size_t count, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(count, size, &total))
        total = SIZE_MAX; /* refused with the right reason */
    return arena_alloc_zero(arena, total);
}

struct str arena_copy(struct arena *arena, struct str s)
{
    char *copy = arena_cstr(arena, s);

    return (struct str){copy, copy ? s.len : 0};
}

char *arena_cstr(struct arena *arena, struct str s)
{
    char *copy = arena_alloc(arena, s.len + 1);

    if (!copy)
        return NULL;
    if (s.len > 0)
        memcpy(copy, s.ptr, s.len);
    copy[s.len] = '\0';
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args;
    char *text;

    va_start(args, format);
    text = arena_vprintf(arena, format, args);
    va_end(args);
    return text;
}

char *arena_vprintf(struct arena *arena, const char *format, va_list args)
{
    va_list again;
    char *text;
    int len;

    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (len < 0) { /* the C library had no memory, or a text beyond INT_MAX */
        arena->hit_limit = false;
        return NULL;
    }
    text = arena_alloc(arena, (size_t)len + 1);
    if (text)
        vsnprintf(text, (size_t)len + 1, format, args);
    return text;
}

err_t arena_err(const struct arena *arena)
{
    /* Static, as there is no room for anything else. */
    static const struct err too_big = {.kind = ERR_TOO_BIG,
                                       .where = ERR_HERE,
                                       .text = "the request needs more memory than is allowed"};

    return arena->hit_limit ? &too_big : err_no_memory();
}

err_t arena_defer(struct arena *arena, void (*fn)(void *arg), void *arg)
{
    struct defer *defer = arena_alloc(arena, sizeof(*defer));

    if (!defer) {
        fn(arg);
        return arena_err(arena);
    }
    *defer = (struct defer){.next = arena->defers, .fn = fn, .arg = arg};
    arena->defers = defer;
    return NULL;
}

size_t arena_bytes(const struct arena *arena)
{
    return arena->bytes;
}
