/* SPDX-License-Identifier: Apache-2.0 */
/* The allocator seam: every heap block of ours comes from here.
 *
 * Each block belongs to a use, and bytes are counted per use, so that the admin view can show who
 * holds memory and tests can insist that a count returns to zero. Frees name the size, which spares
 * a header per block.
 *
 * In builds with faults (sanitizer builds), the n-th allocation can be made to fail; libraries
 * whose allocator can be replaced are routed through here too. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*    use        what it holds */
#define MEM_USES(X)                                                                                \
    X(PROCESS, "process", "long-lived services")                                                   \
    X(CONF, "conf", "configuration snapshots")                                                     \
    X(CONNECTION, "connection", "client connections and bytes not yet consumed")                   \
    X(REQUEST, "request", "request arenas")                                                        \
    X(BODY, "body", "request and answer bodies")                                                   \
    X(UPSTREAM, "upstream", "upstream connections")                                                \
    X(FIBER, "fiber", "fiber stacks and records")                                                  \
    X(LOG, "log", "log buffers")                                                                   \
    X(STORE, "store", "the embedded database and prepared statements")                             \
    X(GOVERN, "govern", "keys, limits, budgets, rows of the ledger")                               \
    X(TOKENS, "tokens", "what a thread remembers of the tokens it has counted")                    \
    X(LIBRARY, "library", "blocks of libraries")                                                   \
    X(TOOL, "tool", "commands and tests")

enum mem_use {
#define X(name, label, meaning) MEM_##name,
    MEM_USES(X)
#undef X
        MEM_USE_COUNT
};

/* Allocate `size` bytes, not cleared; size 0 gives a valid pointer, too. NULL when memory is short.
 * Free with the same use and size. */
void *mem_alloc(enum mem_use use, size_t size);

/* The same, cleared. */
void *mem_alloc_zero(enum mem_use use, size_t size);

/* Change a block from `old_size` to `new_size`; NULL leaves the old block as it was. `ptr` may be
 * NULL when old_size is 0. */
void *mem_resize(enum mem_use use, void *ptr, size_t old_size, size_t new_size);

/* Free a block of `size` bytes. NULL is allowed. */
void mem_free(enum mem_use use, void *ptr, size_t size);

/* Bytes in use now. */
size_t mem_in_use(enum mem_use use);

/* Label of a use ("request"), for views and metrics. */
const char *mem_use_label(enum mem_use use);

/* Count memory that does not come from here (mmapped stacks): delta may be negative. */
void mem_account(enum mem_use use, ptrdiff_t delta);

/* Fault injection; no-ops (and 0) in builds without SLUICE_FAULTS. Arms the n-th allocation from
 * now on (1 = the next one), in any thread, to fail once; 0 disarms. */
void mem_fail_nth(uint64_t n);

/* Allocations attempted since mem_fail_nth was last called. */
uint64_t mem_fail_count(void);

/* For allocators on top of this one (arenas): count an allocation; true: it must fail, although the
 * memory would be there. */
#ifdef SLUICE_FAULTS
bool mem_fault(void);
#else
static inline bool mem_fault(void)
{
    return false;
}
#endif

/* Route the allocators of libuv and OpenSSL through this seam (use LIBRARY). Call once, first thing
 * in main. yyjson takes json_yyjson_alc (json_members.h) where it is used. */
void mem_adopt_libraries(void);

/* For libraries, which free without naming a size: blocks that carry their size in front. Same
 * contracts as malloc, realloc and free; a size of 0 gives a valid pointer. */
void *mem_library_alloc(enum mem_use use, size_t size);
void *mem_library_resize(enum mem_use use, void *ptr, size_t size);
void mem_library_free(enum mem_use use, void *ptr);

/* The size that such a block was asked for. NULL: 0. */
size_t mem_library_size(const void *ptr);

#endif
