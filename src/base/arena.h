/* SPDX-License-Identifier: Apache-2.0 */
/* Memory with the lifetime of a request (or of a configuration snapshot).
 *
 * A bump allocator over chunks that grow up to 64 KiB, with a ceiling over all of them.
 * Nothing is freed singly; arena_free runs the deferred clean-ups, newest first, and then gives all
 * memory back. That is why request code may return early anywhere. Unused parts are poisoned under
 * AddressSanitizer. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

struct arena;

/* A new arena whose chunks count as `use` and may sum up to `limit_bytes`. NULL when memory is
 * short. */
struct arena *arena_new(enum mem_use use, size_t limit_bytes);

/* The same with a first chunk of `first_bytes`, at least 1 KiB: for who knows how much is needed as a rule. */
struct arena *arena_new_of(enum mem_use use, size_t first_bytes, size_t limit_bytes);

/* Let the arena go on in `size` bytes at `ptr`, aligned for any type, when a chunk is full. They are the caller's, must
 * last until the arena is freed or reset, and do not count. Once between resets. */
void arena_lend(struct arena *arena, void *ptr, size_t size);

/* Run clean-ups newest first, then free everything. NULL is allowed. */
void arena_free(struct arena *arena);

/* Run clean-ups and forget everything in the arena, but keep its first chunk, and one more if that is no larger than
 * `spare_bytes`: for one that is filled again and again. */
void arena_reset_keeping(struct arena *arena, size_t spare_bytes);

static inline void arena_reset(struct arena *arena)
{
    arena_reset_keeping(arena, 0);
}

/* `size` bytes aligned for any type, not cleared; size 0 gives a valid pointer. NULL when memory is
 * short or the ceiling is reached: return arena_err(arena) then. */
void *arena_alloc(struct arena *arena, size_t size);

/* The same, cleared. */
static inline void *arena_alloc_zero(struct arena *arena, size_t size)
{
    void *ptr = arena_alloc(arena, size);

    return ptr ? memset(ptr, 0, size) : NULL;
}

/* One cleared struct of the given type, or NULL. */
#define arena_new_struct(arena, type) ((type *)arena_alloc_zero((arena), sizeof(type)))

/* `count` cleared elements with the multiplication checked, or NULL. */
void *arena_alloc_array(struct arena *arena, size_t count, size_t size);

/* A copy of `s`, NUL-terminated beyond its length; ptr is NULL when memory is short. */
struct str arena_copy(struct arena *arena, struct str s);

/* The same as a C string, or NULL. An embedded NUL ends it early for C readers. */
char *arena_cstr(struct arena *arena, struct str s);

/* printf into the arena, or NULL. */
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same with the arguments as a list. */
char *arena_vprintf(struct arena *arena, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

/* Why the last allocation failed: TOO_BIG at the ceiling, else out of memory. */
err_t arena_err(const struct arena *arena);

/* Call fn(arg) when the arena is freed. When the record cannot be allocated, fn(arg) is called at
 * once and the error returned, so that nothing leaks either way. */
err_t arena_defer(struct arena *arena, void (*fn)(void *arg), void *arg) ERR_MUST_CHECK;

/* Bytes taken from the heap. */
size_t arena_bytes(const struct arena *arena);

#endif
