/* SPDX-License-Identifier: Apache-2.0 */
/* Arenas: alignment, growth, the ceiling, clean-ups, and every allocation failing once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#define LIMIT ((size_t)1 << 20)

static int setup_arena(void **state)
{
    *state = arena_new(MEM_TOOL, LIMIT);
    return *state ? 0 : -1;
}

static int free_arena(void **state)
{
    arena_free(*state);
    return mem_in_use(MEM_TOOL) == 0 ? 0 : -1;
}

static void blocks_are_aligned_and_apart(void **state)
{
    static unsigned char *blocks[2000];

    for (size_t i = 0; i < 2000; i++) {
        size_t size = i % 97;

        blocks[i] = arena_alloc(*state, size);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % _Alignof(max_align_t), 0);
        memset(blocks[i], (int)(i % 251), size);
    }
    for (size_t i = 0; i < 2000; i++)
        for (size_t k = 0; k < i % 97; k++)
            assert_int_equal(blocks[i][k], i % 251);
}

static void memory_grows_with_what_is_used(void **state)
{
    size_t before = arena_bytes(*state), used = 0;

    while (used < 40000) {
        assert_non_null(arena_alloc(*state, 16));
        used += 16;
    }
    assert_true(arena_bytes(*state) > before + used - 4096);
    assert_true(arena_bytes(*state) < 4 * (before + used)); /* with the sanitizer's gaps */
    assert_int_equal(mem_in_use(MEM_TOOL), arena_bytes(*state));
}

static void fill(struct arena *arena, size_t bytes)
{
    for (; bytes >= 100; bytes -= 100)
        memset(arena_alloc(arena, 100), 'x', 100);
}

static bool lies_in(const char *ptr, const char *room, size_t size)
{
    return ptr >= room && ptr < room + size;
}

static void lent_memory_is_used_when_the_chunk_is_full(void **state)
{
    struct arena *arena = *state;
    static _Alignas(max_align_t) char room[512];
    size_t before = arena_bytes(arena);
    char *ptr;

    arena_lend(arena, room, sizeof(room));
    assert_false(lies_in(arena_alloc(arena, 16), room, sizeof(room)));
    assert_false(lies_in(arena_alloc(arena, 4000), room, sizeof(room))); /* it does not fit */
    do
        ptr = memset(arena_alloc(arena, 100), 'x', 100);
    while (!lies_in(ptr, room, sizeof(room)) && arena_bytes(arena) < before + 8000);
    assert_ptr_equal(ptr, room);
    assert_true(lies_in(arena_alloc(arena, 100), room, sizeof(room)));
    assert_false(lies_in(arena_alloc(arena, 500), room, sizeof(room))); /* not any more */
    assert_int_equal(mem_in_use(MEM_TOOL), arena_bytes(arena));
}

static void lent_memory_is_forgotten_by_a_reset(void **state)
{
    struct arena *arena = *state;
    static _Alignas(max_align_t) char room[512];

    arena_lend(arena, room, sizeof(room));
    fill(arena, 5000);
    arena_reset(arena);
    memset(room, 0, sizeof(room)); /* the lender's again */
    fill(arena, 5000);
    for (size_t i = 0; i < sizeof(room); i++)
        assert_int_equal(room[i], 0);
}

static void a_large_block_leaves_the_chunk_in_use(void **state)
{
    char *before = arena_alloc(*state, 16), *large = arena_alloc(*state, 100000);
    char *after = arena_alloc(*state, 16);

    assert_non_null(large);
    assert_true(after > before && after - before < 256);
    assert_true(arena_bytes(*state) < 105000);
}

static void what_is_kept_is_used_again(void **state)
{
    struct arena *arena = *state;
    size_t empty = arena_bytes(arena), filled, kept;

    fill(arena, 5000);
    filled = arena_bytes(arena);
    arena_reset_keeping(arena, 2048);
    kept = arena_bytes(arena);
    assert_true(kept > empty && kept < filled);
    assert_int_equal(mem_in_use(MEM_TOOL), kept);
    fill(arena, 3000);
    assert_int_equal(arena_bytes(arena), kept);
    fill(arena, 5000); /* one chunk more, and too large to be kept */
    assert_true(arena_bytes(arena) > kept);
    arena_reset_keeping(arena, 2048);
    assert_int_equal(arena_bytes(arena), kept);
    arena_reset_keeping(arena, 2048); /* unused, it stays */
    assert_int_equal(arena_bytes(arena), kept);
    assert_int_equal(mem_in_use(MEM_TOOL), kept);
}

static void nothing_large_is_kept(void **state)
{
    struct arena *arena = *state;
    size_t empty = arena_bytes(arena);

    assert_non_null(arena_alloc(arena, 100000));
    arena_reset_keeping(arena, 2048);
    assert_int_equal(arena_bytes(arena), empty);
    fill(arena, 5000);
    arena_reset(arena);
    assert_int_equal(arena_bytes(arena), empty);
    assert_int_equal(mem_in_use(MEM_TOOL), empty);
}

static void cleared_memory_is_clear(void **state)
{
    struct thing {
        uint64_t a[20];
    } *thing = arena_new_struct(*state, struct thing), *things;

    for (int i = 0; i < 20; i++)
        assert_int_equal(thing->a[i], 0);
    things = arena_alloc_array(*state, 100, sizeof(*things));
    for (int i = 0; i < 100; i++)
        assert_int_equal(things[i].a[19], 0);
}

static void the_ceiling_holds(void **state)
{
    assert_null(arena_alloc(*state, LIMIT));
    assert_int_equal(arena_err(*state)->kind, ERR_TOO_BIG);
    assert_null(arena_alloc(*state, SIZE_MAX));
    assert_int_equal(arena_err(*state)->kind, ERR_TOO_BIG);
    assert_null(arena_alloc_array(*state, SIZE_MAX / 8, 16));
    assert_int_equal(arena_err(*state)->kind, ERR_TOO_BIG);
    assert_non_null(arena_alloc(*state, LIMIT - 5120)); /* what fits is still given */
    while (arena_alloc(*state, 1))
        ;
    assert_true(arena_bytes(*state) <= LIMIT);
}

static void texts_are_copied_with_a_nul(void **state)
{
    struct str empty = arena_copy(*state, (struct str){0});
    struct str copy = arena_copy(*state, (struct str){"a\0b", 3});

    assert_non_null(empty.ptr);
    assert_int_equal(empty.len, 0);
    assert_int_equal(empty.ptr[0], '\0');
    assert_memory_equal(copy.ptr, "a\0b", 4);
    assert_string_equal(arena_cstr(*state, (struct str){"abcdef", 3}), "abc");
    assert_string_equal(arena_printf(*state, "%d-%s", 7, "x"), "7-x");
    assert_int_equal(strlen(arena_printf(*state, "%5000d", 1)), 5000);
}

/* Clean-ups write their letters here. */
static char order[8];
static char letters[] = "abcde";

static void note(void *arg)
{
    order[strlen(order)] = *(char *)arg;
}

static void note_and_defer(void *arg)
{
    note(&letters[2]);
    assert_null(arena_defer(arg, note, &letters[3]));
}

static void cleanups_run_newest_first(void **state)
{
    struct arena *arena = arena_new(MEM_TOOL, LIMIT);

    memset(order, 0, sizeof(order));
    assert_null(arena_defer(arena, note, &letters[0]));
    assert_null(arena_defer(arena, note_and_defer, arena));
    assert_null(arena_defer(arena, note, &letters[1]));
    assert_string_equal(order, "");
    arena_free(arena);
    assert_string_equal(order, "bcda");
    arena_free(NULL);
}

static void a_cleanup_that_cannot_be_kept_runs_at_once(void **state)
{
    while (arena_alloc(*state, 16))
        ;
    memset(order, 0, sizeof(order));
    assert_non_null(arena_defer(*state, note, &letters[4]));
    assert_string_equal(order, "e");
}

/* Something of everything; false when memory ran out on the way. */
static bool work(size_t *cleanups)
{
    struct arena *arena = arena_new(MEM_TOOL, LIMIT);
    bool good = arena != NULL;

    for (int i = 0; good && i < 50; i++)
        good = arena_alloc(arena, 100) && arena_printf(arena, "%300d", i) &&
               arena_copy(arena, STR("text")).ptr && arena_alloc(arena, 3000);
    if (arena) {
        memset(order, 0, sizeof(order));
        *cleanups = 1;
        if (arena_defer(arena, note, &letters[4]))
            good = false;
        if (!good)
            assert_int_equal(arena_err(arena)->kind, ERR_BUSY);
    }
    arena_free(arena);
    return good;
}

static void every_allocation_may_fail(void **state)
{
    size_t cleanups = 0;
    uint64_t n = 0;

#ifndef SLUICE_FAULTS
    skip();
#endif
    do {
        mem_fail_nth(++n);
        cleanups = 0;
        memset(order, 0, sizeof(order));
        bool good = work(&cleanups);
        uint64_t count = mem_fail_count();

        mem_fail_nth(0);
        assert_int_equal(strlen(order), cleanups); /* run once, however it went */
        assert_true(good == (count < n));
        if (good)
            break;
    } while (n < 1000);
    assert_true(n > 5 && n < 1000);
}

static void unused_memory_is_poisoned(void **state)
{
#if defined(__SANITIZE_ADDRESS__)
    char *block = arena_alloc(*state, 13);

    assert_false(__asan_address_is_poisoned(block + 12));
    assert_true(__asan_address_is_poisoned(block + 13));
    assert_true(__asan_address_is_poisoned(block + 16));
#else
    skip();
#endif
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_arena, free_arena)
    const struct CMUnitTest tests[] = {
        TEST(blocks_are_aligned_and_apart),
        TEST(memory_grows_with_what_is_used),
        TEST(lent_memory_is_used_when_the_chunk_is_full),
        TEST(lent_memory_is_forgotten_by_a_reset),
        TEST(a_large_block_leaves_the_chunk_in_use),
        TEST(what_is_kept_is_used_again),
        TEST(nothing_large_is_kept),
        TEST(cleared_memory_is_clear),
        TEST(the_ceiling_holds),
        TEST(texts_are_copied_with_a_nul),
        TEST(cleanups_run_newest_first),
        TEST(a_cleanup_that_cannot_be_kept_runs_at_once),
        TEST(every_allocation_may_fail),
        TEST(unused_memory_is_poisoned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
