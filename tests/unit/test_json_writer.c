/* SPDX-License-Identifier: Apache-2.0 */
/* JSON text written member by member: commas, escapes, and errors that stick. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/json_members.h"
#include "base/json_writer.h"

static void assert_written(const struct buf *out, const char *json)
{
    assert_int_equal(out->len, strlen(json));
    assert_memory_equal(out->ptr, json, out->len);
}

static void members_are_separated(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 1000);
    struct json_writer w = json_writer_make(&out);

    json_open_object(&w);
    json_put_text(&w, "a", STR("x"));
    json_put_u64(&w, "b", UINT64_MAX);
    json_put_bool(&w, "c", true);
    json_put_bool(&w, "d", false);
    json_put_null(&w, "e");
    json_put_raw(&w, "f", STR("1.50"));
    json_close_object(&w);
    assert_null(json_writer_err(&w));
    assert_written(&out, "{\"a\":\"x\",\"b\":18446744073709551615,\"c\":true,\"d\":false,"
                         "\"e\":null,\"f\":1.50}");
    assert_null(json_check(buf_str(&out)));
    buf_fini(&out);
}

static void containers_nest(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 1000);
    struct json_writer w = json_writer_make(&out);

    json_open_array(&w);
    json_open_object(&w);
    json_put_array(&w, "list");
    json_add_text(&w, STR("one"));
    json_add_raw(&w, STR("2"));
    json_open_array(&w);
    json_close_array(&w);
    json_close_array(&w);
    json_put_object(&w, "empty");
    json_close_object(&w);
    json_put_object(&w, "full");
    json_put_u64(&w, "n", 0);
    json_close_object(&w);
    json_close_object(&w);
    json_add_raw(&w, STR("null"));
    json_close_array(&w);
    assert_null(json_writer_err(&w));
    assert_written(&out, "[{\"list\":[\"one\",2,[]],\"empty\":{},\"full\":{\"n\":0}},null]");
    buf_fini(&out);
}

static void texts_are_escaped(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 1000);
    struct json_writer w = json_writer_make(&out);

    json_open_object(&w);
    json_put_text(&w, "a", STR("\"\\\n\x01"));
    json_put_text(&w, "b", STR("\xFF"));
    json_close_object(&w);
    assert_null(json_writer_err(&w));
    assert_written(&out, "{\"a\":\"\\\"\\\\\\n\\u0001\",\"b\":\"\xEF\xBF\xBD\"}");
    buf_fini(&out);
}

static void empty_texts_are_null_or_nothing(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 1000);
    struct json_writer w = json_writer_make(&out);

    json_open_object(&w);
    json_put_text_if(&w, "a", STR(""));
    json_put_text_or_null(&w, "b", STR(""));
    json_put_text_if(&w, "c", STR("x"));
    json_put_text_or_null(&w, "d", STR("y"));
    json_close_object(&w);
    assert_written(&out, "{\"b\":null,\"c\":\"x\",\"d\":\"y\"}");
    buf_fini(&out);
}

/* After the first error nothing more is written, and it is still told at the end. */
static void errors_stick(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 8);
    struct json_writer w = json_writer_make(&out);

    json_open_object(&w);
    json_put_text(&w, "long", STR("beyond the limit"));
    json_put_u64(&w, "b", 1);
    json_close_object(&w);
    assert_true(err_is(json_writer_err(&w), ERR_TOO_BIG));
    assert_written(&out, "{\"long\":");
    buf_fini(&out);
}

/* A second document in the same buffer begins anew. */
static void writing_begins_at_the_end(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 100);
    struct json_writer w;

    assert_null(buf_add(&out, STR("data: ")));
    w = json_writer_make(&out);
    json_open_object(&w);
    json_close_object(&w);
    assert_written(&out, "data: {}");
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_are_separated), cmocka_unit_test(containers_nest),
        cmocka_unit_test(texts_are_escaped),     cmocka_unit_test(empty_texts_are_null_or_nothing),
        cmocka_unit_test(errors_stick),          cmocka_unit_test(writing_begins_at_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
