/* SPDX-License-Identifier: Apache-2.0 */
/* Libraries' allocators, routed through the seam.
 *
 * Libraries free without naming a size, so each of their blocks carries its size in front.
 *
 * libuv is exempt from faults: it aborts when it cannot grow its table of descriptors
 * (uv__io_start), which it does once in a while in the middle of anything. OpenSSL is not: it
 * returns its errors. */
#include <openssl/crypto.h>
#include <stdalign.h>
#include <stdint.h>
#include <string.h>
#include <uv.h>

#include "base/check.h"
#include "base/fault.h"
#include "base/mem.h"

struct header {
    alignas(max_align_t) size_t size; /* of the whole block, this header included */
};

void *mem_library_alloc(enum mem_use use, size_t size)
{
    struct header *header;

    if (size > PTRDIFF_MAX)
        return NULL;
    header = mem_alloc(use, sizeof(*header) + size);
    if (!header)
        return NULL;
    header->size = sizeof(*header) + size;
    return header + 1;
}

void *mem_library_resize(enum mem_use use, void *ptr, size_t size)
{
    struct header *header = ptr ? (struct header *)ptr - 1 : NULL;

    if (size > PTRDIFF_MAX)
        return NULL;
    header = mem_resize(use, header, header ? header->size : 0, sizeof(*header) + size);
    if (!header)
        return NULL;
    header->size = sizeof(*header) + size;
    return header + 1;
}

void mem_library_free(enum mem_use use, void *ptr)
{
    struct header *header = ptr ? (struct header *)ptr - 1 : NULL;

    mem_free(use, header, header ? header->size : 0);
}

size_t mem_library_size(const void *ptr)
{
    const struct header *header = ptr ? (const struct header *)ptr - 1 : NULL;

    return header ? header->size - sizeof(*header) : 0;
}

#ifdef SLUICE_FAULTS
#define PAUSE_FAULTS(is_paused) fault_pause(is_paused)
#else
#define PAUSE_FAULTS(is_paused) ((void)0)
#endif

static void *uv_resize(void *ptr, size_t size)
{
    PAUSE_FAULTS(true);
    ptr = mem_library_resize(MEM_LIBRARY, ptr, size);
    PAUSE_FAULTS(false);
    return ptr;
}

static void *uv_alloc(size_t size)
{
    return uv_resize(NULL, size);
}

static void *uv_alloc_zero(size_t count, size_t size)
{
    size_t total;
    void *ptr;

    if (__builtin_mul_overflow(count, size, &total))
        return NULL;
    ptr = uv_alloc(total);
    return ptr ? memset(ptr, 0, total) : NULL;
}

static void uv_release(void *ptr)
{
    mem_library_free(MEM_LIBRARY, ptr);
}

static void *ssl_alloc(size_t size, const char *file, int line)
{
    return mem_library_alloc(MEM_LIBRARY, size);
}

static void *ssl_resize(void *ptr, size_t size, const char *file, int line)
{
    return mem_library_resize(MEM_LIBRARY, ptr, size);
}

static void ssl_release(void *ptr, const char *file, int line)
{
    mem_library_free(MEM_LIBRARY, ptr);
}

void mem_adopt_libraries(void)
{
    /* Both refuse only a missing function or a call after their first allocation. */
    check(uv_replace_allocator(uv_alloc, uv_resize, uv_alloc_zero, uv_release) == 0);
    check(CRYPTO_set_mem_functions(ssl_alloc, ssl_resize, ssl_release) == 1);
}
