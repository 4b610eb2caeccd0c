/* SPDX-License-Identifier: Apache-2.0 */
/* The allocator seam: what is counted, across threads and libraries, and faults. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <uv.h>
#include <yyjson.h>

#include "base/json_members.h"
#include "base/mem.h"

static void bytes_are_counted_per_use(void **state)
{
    char *a = mem_alloc(MEM_TOOL, 100), *b = mem_alloc_zero(MEM_BODY, 50);

    assert_int_equal(mem_in_use(MEM_TOOL), 100);
    assert_int_equal(mem_in_use(MEM_BODY), 50);
    for (size_t i = 0; i < 50; i++)
        assert_int_equal(b[i], 0);
    memset(a, 'x', 100);
    a = mem_resize(MEM_TOOL, a, 100, 1000);
    assert_int_equal(a[99], 'x');
    assert_int_equal(mem_in_use(MEM_TOOL), 1000);
    mem_free(MEM_TOOL, a, 1000);
    mem_free(MEM_BODY, b, 50);
    mem_free(MEM_BODY, NULL, 0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    assert_int_equal(mem_in_use(MEM_BODY), 0);
}

static void size_zero_is_a_block(void **state)
{
    void *a = mem_alloc(MEM_TOOL, 0), *b = mem_alloc_zero(MEM_TOOL, 0);

    assert_non_null(a);
    assert_non_null(b);
    b = mem_resize(MEM_TOOL, b, 0, 0);
    assert_non_null(b);
    mem_free(MEM_TOOL, a, 0);
    mem_free(MEM_TOOL, b, 0);
}

static void absurd_sizes_are_refused(void **state)
{
    char *a = mem_alloc(MEM_TOOL, 1);

    assert_null(mem_alloc(MEM_TOOL, SIZE_MAX));
    assert_null(mem_alloc_zero(MEM_TOOL, (size_t)PTRDIFF_MAX + 1));
    assert_null(mem_resize(MEM_TOOL, a, 1, SIZE_MAX));
    assert_null(mem_library_alloc(MEM_TOOL, SIZE_MAX - 8));
    assert_int_equal(mem_in_use(MEM_TOOL), 1);
    mem_free(MEM_TOOL, a, 1);
}

static void labels_and_foreign_memory(void **state)
{
    assert_string_equal(mem_use_label(MEM_REQUEST), "request");
    assert_string_equal(mem_use_label(MEM_TOOL), "tool");
    mem_account(MEM_FIBER, 65536);
    assert_int_equal(mem_in_use(MEM_FIBER), 65536);
    mem_account(MEM_FIBER, -65536);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
}

#define THREADS 100 /* more than have a row of their own */

static void *allocate_in_thread(void *arg)
{
    void **slot = arg;

    for (int i = 0; i < 1000; i++)
        mem_free(MEM_TOOL, mem_alloc(MEM_TOOL, 10), 10);
    *slot = mem_alloc(MEM_TOOL, 10);
    return NULL;
}

static void blocks_may_be_freed_by_another_thread(void **state)
{
    pthread_t threads[THREADS];
    void *blocks[THREADS];

    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, allocate_in_thread, &blocks[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(mem_in_use(MEM_TOOL), 10 * THREADS);
    for (int i = 0; i < THREADS; i++)
        mem_free(MEM_TOOL, blocks[i], 10);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
}

static void libraries_are_counted(void **state)
{
    size_t before = mem_in_use(MEM_LIBRARY);
    uv_loop_t loop;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    assert_true(mem_in_use(MEM_LIBRARY) > before);
    EVP_MD_CTX_free(ctx);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void library_blocks_resize(void **state)
{
    char *a = mem_library_resize(MEM_TOOL, NULL, 5);

    assert_true(mem_in_use(MEM_TOOL) >= 5);
    memcpy(a, "abcd", 5);
    a = mem_library_resize(MEM_TOOL, a, 5000);
    assert_string_equal(a, "abcd");
    assert_true(mem_in_use(MEM_TOOL) >= 5000);
    mem_library_free(MEM_TOOL, a);
    mem_library_free(MEM_TOOL, NULL);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
}

static void yyjson_uses_the_seam(void **state)
{
    yyjson_doc *doc = yyjson_read_opts((char[]){"[1,2]"}, 5, 0, json_yyjson_alc(), NULL);

    assert_non_null(doc);
    assert_true(mem_in_use(MEM_REQUEST) > 0);
    yyjson_doc_free(doc);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
}

#ifdef SLUICE_FAULTS

static void the_nth_allocation_fails_once(void **state)
{
    char *kept = mem_alloc(MEM_TOOL, 1);
    void *a;

    mem_fail_nth(2);
    a = mem_alloc(MEM_TOOL, 1);
    assert_non_null(a);
    assert_null(mem_resize(MEM_TOOL, kept, 1, 2));
    assert_int_equal(mem_fail_count(), 2);
    kept = mem_resize(MEM_TOOL, kept, 1, 2);
    assert_non_null(kept);
    mem_fail_nth(0);
    mem_free(MEM_TOOL, a, 1);
    mem_free(MEM_TOOL, kept, 2);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);

    mem_fail_nth(1);
    assert_null(yyjson_read_opts((char[]){"[1,2]"}, 5, 0, json_yyjson_alc(), NULL));
    mem_fail_nth(0);
}

#else

static void the_nth_allocation_fails_once(void **state)
{
    skip(); /* no faults in this build */
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_counted_per_use),
        cmocka_unit_test(size_zero_is_a_block),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(labels_and_foreign_memory),
        cmocka_unit_test(blocks_may_be_freed_by_another_thread),
        cmocka_unit_test(libraries_are_counted),
        cmocka_unit_test(library_blocks_resize),
        cmocka_unit_test(yyjson_uses_the_seam),
        cmocka_unit_test(the_nth_allocation_fails_once),
    };

    mem_adopt_libraries();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
