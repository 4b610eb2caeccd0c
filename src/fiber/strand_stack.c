/* SPDX-License-Identifier: Apache-2.0 */
/* Strands as stacks: Boost.Context's switch, guarded mappings, and what sanitizers must be told.
 *
 * A stack is an anonymous mapping with a guard page at its low end. Only touched pages cost memory,
 * and a parked fiber has usually touched one, of which the frames fill half: the strand itself and its
 * owner's record lie at the high end, above them. Guards are installed with madvise where the kernel
 * can (Linux 6.13): mprotect would split the mapping in two, and mappings per process are limited.
 *
 * The hard thing is that tools which follow the stack pointer must hear of every switch, before
 * and after it, from both sides: AddressSanitizer by the bounds of the stack to come,
 * ThreadSanitizer by a fiber handle. valgrind only needs to know which memory is a stack. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "fiber/strand.h"

#ifdef STRAND_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef STRAND_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#define STRAND_VALGRIND 1
#include <valgrind/valgrind.h>
#endif
#endif

#if defined(STRAND_ASAN) || defined(STRAND_TSAN)
#define STACK_BYTES (256u * 1024)
#else
#define STACK_BYTES (64u * 1024)
#endif

/* From linux/mman.h of Linux 6.13, which Debian 12 does not have. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* Boost.Context's C interface; the library installs no C header. The layout is the same since
 * 1.61. */
typedef void *fcontext_t;
struct transfer {
    fcontext_t context; /* where we came from */
    void *data;
};
extern fcontext_t make_fcontext(void *stack_top, size_t size, void (*fn)(struct transfer));
extern struct transfer jump_fcontext(fcontext_t to, void *data);

struct strand {
    fcontext_t context; /* where to go on, while it is not running */
    fcontext_t enterer; /* where to go back to, while it is */
    void (*run)(void *record);
    void *record;
    char *mapping;
    char *bottom; /* lowest usable address of the stack */
    char *top;    /* of the stack, where the first frame begins */
#ifdef STRAND_ASAN
    void *fake_stack;
    const void *enterer_bottom;
    size_t enterer_bytes;
#endif
#ifdef STRAND_TSAN
    void *tsan_fiber, *tsan_enterer;
#endif
#ifdef STRAND_VALGRIND
    unsigned valgrind_id;
#endif
};

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* The guard and the strand included. */
static size_t mapping_bytes(void)
{
    return page_bytes() + STACK_BYTES;
}

static size_t stack_bytes(const struct strand *strand)
{
    return (size_t)(strand->top - strand->bottom);
}

/* ---- switching ---- */

void strand_enter(struct strand *strand)
{
#ifdef STRAND_ASAN
    void *our_fake_stack = NULL;
    __sanitizer_start_switch_fiber(&our_fake_stack, strand->bottom, stack_bytes(strand));
#endif
#ifdef STRAND_TSAN
    strand->tsan_enterer = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(strand->tsan_fiber, 0);
#endif
    struct transfer back = jump_fcontext(strand->context, strand);
    strand->context = back.context;
#ifdef STRAND_ASAN
    __sanitizer_finish_switch_fiber(our_fake_stack, NULL, NULL);
#endif
}

/* Note who has entered the strand, on its own stack. */
static void arrive(struct strand *strand, struct transfer from)
{
    strand->enterer = from.context;
#ifdef STRAND_ASAN
    __sanitizer_finish_switch_fiber(strand->fake_stack, &strand->enterer_bottom,
                                    &strand->enterer_bytes);
#endif
}

/* Jump back to the enterer; `has_ended` when no frame of run is left. */
static void jump_out(struct strand *strand, bool has_ended)
{
#ifdef STRAND_ASAN
    /* No place to keep the fake stack means that it can be dropped. */
    strand->fake_stack = NULL;
    __sanitizer_start_switch_fiber(has_ended ? NULL : &strand->fake_stack, strand->enterer_bottom,
                                   strand->enterer_bytes);
#endif
#ifdef STRAND_TSAN
    __tsan_switch_to_fiber(strand->tsan_enterer, 0);
#endif
    arrive(strand, jump_fcontext(strand->enterer, NULL));
    (void)has_ended;
}

/* The bottom frame. It has no address-taken locals, as its fake frame would not outlive a run. */
static void strand_main(struct transfer from)
{
    struct strand *strand = from.data;

    arrive(strand, from);
    for (;;) {
        strand->run(strand->record);
        jump_out(strand, true);
    }
}

void strand_leave(struct strand *strand)
{
    jump_out(strand, false);
}

/* ---- stacks ---- */

/* A new mapping with its guard, zeroed; NULL if there is none to be had. */
static char *stack_map(void)
{
    char *ptr;

    if (mem_fault())
        return NULL;
    ptr = mmap(NULL, mapping_bytes(), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (ptr == MAP_FAILED)
        return NULL;
    if (madvise(ptr, page_bytes(), MADV_GUARD_INSTALL) < 0 &&
        mprotect(ptr, page_bytes(), PROT_NONE) < 0) {
        munmap(ptr, mapping_bytes());
        return NULL;
    }
    /* Neighbouring stacks merge into one mapping; a huge page over it would touch them all. */
    madvise(ptr, mapping_bytes(), MADV_NOHUGEPAGE);
    mem_account(MEM_FIBER, (ptrdiff_t)mapping_bytes());
    return ptr;
}

/* Take `size` bytes off the high end, aligned for anything. */
static char *below(char *end, size_t size)
{
    return end - (size + 15) / 16 * 16;
}

struct strand *strand_new(void (*run)(void *record), size_t record_bytes, void **record)
{
    char *mapping = stack_map();
    struct strand *strand;

    if (!mapping)
        return NULL;
    *record = below(mapping + mapping_bytes(), record_bytes);
    strand = (struct strand *)(void *)below(*record, sizeof *strand);
    strand->mapping = mapping;
    strand->bottom = mapping + page_bytes();
    strand->top = (char *)strand;
    strand->run = run;
    strand->record = *record;
    strand->context = make_fcontext(strand->top, stack_bytes(strand), strand_main);
#ifdef STRAND_TSAN
    strand->tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef STRAND_VALGRIND
    strand->valgrind_id = VALGRIND_STACK_REGISTER(strand->bottom, strand->top);
#endif
    return strand;
}

void strand_free(struct strand *strand)
{
#ifdef STRAND_TSAN
    __tsan_destroy_fiber(strand->tsan_fiber);
#endif
#ifdef STRAND_VALGRIND
    VALGRIND_STACK_DEREGISTER(strand->valgrind_id);
#endif
#ifdef STRAND_ASAN
    /* What its last frames left poisoned would stay so for whatever is mapped here next. */
    __asan_unpoison_memory_region(strand->mapping, mapping_bytes());
#endif
    munmap(strand->mapping, mapping_bytes()); /* the strand with it */
    mem_account(MEM_FIBER, -(ptrdiff_t)mapping_bytes());
}

void strand_trim(struct strand *strand)
{
    /* Enough for this frame, what it calls, and the area below the stack pointer that ABIs let a
     * leaf use. */
    const size_t margin_bytes = 1024;
    char *here = __builtin_frame_address(0);
    bool is_inside = here > strand->bottom && here <= strand->top;
    char *depth = is_inside ? here : strand->context;

    size_t unused_bytes = (size_t)(depth - strand->bottom);
    if (unused_bytes < margin_bytes + page_bytes())
        return;
    unused_bytes -= margin_bytes;
    madvise(strand->bottom, unused_bytes - unused_bytes % page_bytes(), MADV_DONTNEED);
}

/* A new mapping reads as zeros, so the deepest byte that is not zero is how deep the stack went.
 * Pages that are not resident were never touched, and are not to be touched now. (This reads
 * between the variables of live frames, which AddressSanitizer would mind.) */
__attribute__((no_sanitize("address"))) size_t strand_depth_bytes(struct strand *strand)
{
    unsigned char resident[STACK_BYTES / 4096];
    size_t at = 0, size = stack_bytes(strand);

#ifdef STRAND_VALGRIND
    if (RUNNING_ON_VALGRIND) /* which takes memory below the stack pointer for undefined */
        return 0;
#endif
    if (mincore(strand->bottom, STACK_BYTES, resident) < 0)
        return 0;
    while (at < size && !(resident[at / page_bytes()] & 1))
        at += page_bytes();
    const uint64_t *words = (const uint64_t *)(const void *)strand->bottom;
    while (at < size && words[at / sizeof *words] == 0)
        at += sizeof *words;
    return at < size ? size - at : 0;
}
