/* SPDX-License-Identifier: Apache-2.0 */
/* The allocator seam: malloc with counting per use, and with faults on demand.
 *
 * The hard thing is to count without the threads fighting for a cache line: each thread counts in a
 * row of its own, and readers sum the rows. A row may go negative, as a block may be freed by
 * another thread than the one that allocated it; only the sum means something. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/fault.h"

/* Threads beyond ROWS - 1 share the last row. Threads live as long as the process, so rows are not
 * reused. */
#define ROWS 64

struct row {
    _Alignas(64) _Atomic int64_t bytes[MEM_USE_COUNT];
};

static struct row rows[ROWS];
static _Atomic unsigned rows_given;
static _Thread_local struct row *own_row;

static struct row *row_get(void)
{
    if (!own_row) {
        unsigned n = atomic_fetch_add(&rows_given, 1);

        own_row = &rows[n < ROWS - 1 ? n : ROWS - 1];
    }
    return own_row;
}

void mem_account(enum mem_use use, ptrdiff_t delta)
{
    struct row *row = row_get();
    _Atomic int64_t *bytes = &row->bytes[use];

    if (row == &rows[ROWS - 1])
        atomic_fetch_add_explicit(bytes, delta, memory_order_relaxed);
    else /* one writer: a plain load and store will do, and spares the bus lock */
        atomic_store_explicit(bytes, atomic_load_explicit(bytes, memory_order_relaxed) + delta,
                              memory_order_relaxed);
}

size_t mem_in_use(enum mem_use use)
{
    int64_t sum = 0;

    for (size_t i = 0; i < ROWS; i++)
        sum += atomic_load_explicit(&rows[i].bytes[use], memory_order_relaxed);
    return sum > 0 ? (size_t)sum : 0;
}

const char *mem_use_label(enum mem_use use)
{
    static const char *const labels[] = {
#define X(name, label, meaning) [MEM_##name] = label,
        MEM_USES(X)
#undef X
    };

    return labels[use];
}

/* ---- Faults ---- */

#ifdef SLUICE_FAULTS

static struct fault allocation = {.what = "allocation"};

bool mem_fault(void)
{
    return fault_strikes(&allocation);
}

void mem_fail_nth(uint64_t n)
{
    fault_arm(&allocation, n);
}

uint64_t mem_fail_count(void)
{
    return fault_count(&allocation);
}

#else

void mem_fail_nth(uint64_t n)
{
    (void)n;
}

uint64_t mem_fail_count(void)
{
    return 0;
}

#endif

/* ---- Blocks ---- */

/* PTRDIFF_MAX bounds every size, so that counts and pointer differences cannot overflow. */
static bool refuse(size_t size)
{
    return size > PTRDIFF_MAX || mem_fault();
}

void *mem_alloc(enum mem_use use, size_t size)
{
    void *ptr = refuse(size) ? NULL : malloc(size + !size);

    if (ptr)
        mem_account(use, (ptrdiff_t)size);
    return ptr;
}

void *mem_alloc_zero(enum mem_use use, size_t size)
{
    void *ptr = refuse(size) ? NULL : calloc(1, size + !size);

    if (ptr)
        mem_account(use, (ptrdiff_t)size);
    return ptr;
}

void *mem_resize(enum mem_use use, void *ptr, size_t old_size, size_t new_size)
{
    void *moved = refuse(new_size) ? NULL : realloc(ptr, new_size + !new_size);

    if (moved)
        mem_account(use, (ptrdiff_t)new_size - (ptrdiff_t)old_size);
    return moved;
}

void mem_free(enum mem_use use, void *ptr, size_t size)
{
    if (!ptr)
        return;
    free(ptr);
    mem_account(use, -(ptrdiff_t)size);
}
