/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers: growth and its limit, appending of each kind, JSON strings checked by yyjson, and memory
 * failing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/buf.h"

static void assert_content(const struct buf *b, const char *text)
{
    assert_int_equal(b->len, strlen(text));
    assert_memory_equal(b->ptr, text, b->len);
}

static void pieces_are_appended(void **state)
{
    struct buf b = buf_make(MEM_TOOL, 1000);

    assert_null(b.ptr);
    assert_null(buf_add(&b, (struct str){0}));
    assert_null(buf_add(&b, STR("ab")));
    assert_null(buf_add_byte(&b, '-'));
    assert_null(buf_printf(&b, "%s%03d", "x", 7));
    assert_null(buf_add_u64(&b, 0));
    assert_null(buf_add_u64(&b, UINT64_MAX));
    assert_content(&b, "ab-x007018446744073709551615");
    assert_true(str_eq(buf_str(&b), STR("ab-x007018446744073709551615")));
    buf_drop(&b, 3);
    buf_drop(&b, 0);
    assert_content(&b, "x007018446744073709551615");
    buf_drop(&b, b.len);
    assert_int_equal(b.len, 0);
    buf_fini(&b);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    assert_null(buf_add_byte(&b, 'z')); /* usable again */
    assert_content(&b, "z");
    buf_fini(&b);
}

static void the_limit_holds(void **state)
{
    struct buf b = buf_make(MEM_TOOL, 100);
    char text[101];

    memset(text, 'x', sizeof(text));
    assert_null(buf_add(&b, (struct str){text, 60}));
    assert_int_equal(buf_add(&b, (struct str){text, 41})->kind, ERR_TOO_BIG);
    assert_int_equal(b.len, 60);
    assert_null(buf_add(&b, (struct str){text, 40}));
    assert_int_equal(buf_add_byte(&b, 'x')->kind, ERR_TOO_BIG);
    assert_int_equal(buf_reserve(&b, SIZE_MAX)->kind, ERR_TOO_BIG);
    assert_int_equal(buf_printf(&b, "%300d", 1)->kind, ERR_TOO_BIG);
    assert_int_equal(b.len, 100);
    assert_true(b.cap <= 100);
    buf_fini(&b);

    b = buf_make(MEM_TOOL, 0);
    assert_int_equal(buf_add_byte(&b, 'x')->kind, ERR_TOO_BIG);
    assert_null(buf_reserve(&b, 0));
    buf_fini(&b);
}

static void growth_doubles(void **state)
{
    struct buf b = buf_make(MEM_TOOL, 1 << 20);
    size_t moves = 0, cap = 0;

    while (b.len < 1 << 20) {
        assert_null(buf_add_byte(&b, 'x'));
        moves += b.cap != cap;
        cap = b.cap;
    }
    assert_true(moves <= 16);
    assert_int_equal(buf_add_byte(&b, 'x')->kind, ERR_TOO_BIG);
    buf_fini(&b);
}

static void long_printf(void **state)
{
    struct buf b = buf_make(MEM_TOOL, 1000);

    assert_null(buf_printf(&b, "%255d", 1));
    assert_null(buf_printf(&b, "%256d", 2));
    assert_int_equal(b.len, 511);
    assert_int_equal(b.ptr[510], '2');
    buf_fini(&b);
}

static void json_strings(void **state)
{
    static const struct {
        struct str in;
        const char *out;
    } cases[] = {
        {{"", 0}, "\"\""},
        {{NULL, 0}, "\"\""},
        {{"plain äöü 😀", 17}, "\"plain äöü 😀\""},
        {{"\"\\/", 3}, "\"\\\"\\\\/\""},
        {{"\b\f\n\r\t\x01\x1f\x7f", 8}, "\"\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\""},
        {{"a\0b", 3}, "\"a\\u0000b\""},
        {{"a\xFFz", 3}, "\"a\xEF\xBF\xBDz\""},
        {{"\xC3", 1}, "\"\xEF\xBF\xBD\""},
        {{"\xED\xA0\x80", 3}, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf b = buf_make(MEM_TOOL, 1000);

        assert_null(buf_add_json(&b, cases[i].in));
        assert_content(&b, cases[i].out);
        buf_fini(&b);
    }
}

static void any_bytes_make_valid_json(void **state)
{
    uint64_t random = 1;

    for (int round = 0; round < 2000; round++) {
        struct buf b = buf_make(MEM_TOOL, 1000);
        char text[40];
        yyjson_doc *doc;

        for (size_t i = 0; i < sizeof(text); i++) {
            random = random * 6364136223846793005U + 1442695040888963407U;
            text[i] = (char)(random >> 56);
        }
        assert_null(buf_add_json(&b, (struct str){text, (size_t)round % sizeof(text)}));
        doc = yyjson_read(b.ptr, b.len, 0);
        assert_non_null(doc);
        yyjson_doc_free(doc);
        buf_fini(&b);
    }
}

static err_t work(struct buf *b)
{
    for (int i = 0; i < 100; i++) {
        TRY(buf_add(b, STR("some text")));
        TRY(buf_add_json(b, STR("with \"quotes\"")));
        TRY(buf_printf(b, "%400d", i));
    }
    return NULL;
}

static void every_allocation_may_fail(void **state)
{
    struct buf b = buf_make(MEM_TOOL, 1 << 20);
    uint64_t n = 1;
    err_t err;

#ifndef SLUICE_FAULTS
    skip();
#endif
    for (mem_fail_nth(n); (err = work(&b)); mem_fail_nth(++n)) {
        assert_int_equal(err->kind, ERR_BUSY);
        buf_fini(&b);
        assert_int_equal(mem_in_use(MEM_TOOL), 0);
        assert_true(n < 100);
    }
    mem_fail_nth(0);
    assert_true(n > 5);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_appended),
        cmocka_unit_test(the_limit_holds),
        cmocka_unit_test(growth_doubles),
        cmocka_unit_test(long_printf),
        cmocka_unit_test(json_strings),
        cmocka_unit_test(any_bytes_make_valid_json),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
