/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: the table of kinds, texts and wrapping, and what is left without scope or memory. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/err.h"

static int setup_scope(void **state)
{
    struct arena *arena = arena_new(MEM_TOOL, 65536);

    *state = arena;
    err_scope_set(arena);
    return arena ? 0 : -1;
}

static int leave_scope(void **state)
{
    err_scope_set(NULL);
    arena_free(*state);
    return mem_in_use(MEM_TOOL) == 0 ? 0 : -1;
}

static void kinds_have_their_facts(void **state)
{
    assert_int_equal(err_status(NULL), 200);
    assert_int_equal(err_status(err_new(ERR_BAD_REQUEST, "x")), 400);
    assert_int_equal(err_status(err_new(ERR_CANCELLED, "x")), 499);
    assert_int_equal(err_status(err_new(ERR_BUG, "x")), 500);
    assert_string_equal(err_kind_name(ERR_TIMED_OUT), "timed_out");
    assert_string_equal(err_kind_name(ERR_BUG), "bug");
    assert_true(err_may_retry(err_new(ERR_UPSTREAM, "x")));
    assert_false(err_may_retry(err_new(ERR_BAD_REQUEST, "x")));
    assert_false(err_may_retry(NULL));
    assert_true(err_is(err_new(ERR_BUSY, "x"), ERR_BUSY));
    assert_false(err_is(err_new(ERR_BUSY, "x"), ERR_BUG));
    assert_false(err_is(NULL, ERR_BAD_REQUEST));
}

static void an_error_carries_its_details(void **state)
{
    err_t err =
        err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "n"), "n must be %d", 1);

    assert_string_equal(err->text, "n must be 1");
    assert_string_equal(err->code, "invalid_value");
    assert_string_equal(err->param, "n");
    assert_non_null(strstr(err->where, "test_err.c:"));
    assert_null(err->cause);
    assert_int_equal(err_status(err), 400);
    assert_int_equal(err_status(err_new_detail(ERR_BAD_REQUEST, (.status = 415), "x")), 415);
}

static void wrapping_keeps_everything_but_the_text(void **state)
{
    err_t cause = err_new_detail(ERR_TOO_BIG, (.status = 431, .code = "c", .param = "p"), "inner");
    err_t err = err_wrap(cause, "calling %s", "openai");

    assert_string_equal(err->text, "calling openai: inner");
    assert_ptr_equal(err->cause, cause);
    assert_int_equal(err->kind, ERR_TOO_BIG);
    assert_int_equal(err->status, 431);
    assert_string_equal(err->code, "c");
    assert_string_equal(err->param, "p");
    assert_null(err_wrap(NULL, "x"));
}

static void system_errors_name_the_call(void **state)
{
    err_t err = err_system(ENOENT, "open");

    assert_int_equal(err->kind, ERR_SYSTEM);
    assert_string_equal(err->text, "open: No such file or directory");
    assert_ptr_equal(err_system(ENOMEM, "mmap"), err_no_memory());
}

static err_t passes_on(err_t err)
{
    TRY(err);
    return err_new(ERR_BUG, "not reached with an error");
}

static void try_returns_the_error(void **state)
{
    err_t err = err_new(ERR_DENIED, "x");

    assert_ptr_equal(passes_on(err), err);
    assert_int_equal(passes_on(NULL)->kind, ERR_BUG);
}

static void without_scope_errors_are_static(void **state)
{
    err_t err, again;

    err_scope_set(NULL);
    err = err_new(ERR_NOT_FOUND, "model %s", "x");
    again = err_new(ERR_NOT_FOUND, "model %s", "y");
    assert_ptr_equal(err, again);
    assert_int_equal(err->kind, ERR_NOT_FOUND);
    assert_non_null(err->text);
    assert_ptr_equal(err_wrap(err, "x"), err);
}

static void scopes_nest(void **state)
{
    struct arena *inner = arena_new(MEM_TOOL, 4096);

    assert_ptr_equal(err_scope_set(inner), *state);
    assert_ptr_equal(err_scope_set(*state), inner);
    arena_free(inner);
}

static void without_memory_errors_are_static(void **state)
{
    err_t cause = err_new(ERR_STORE, "inner");

    while (arena_alloc(*state, 16)) /* to the ceiling */
        ;
    assert_int_equal(err_new(ERR_LIMITED, "x")->kind, ERR_LIMITED);
    assert_int_equal(err_status(err_new_detail(ERR_LIMITED, (.code = "c"), "x")), 429);
    assert_ptr_equal(err_wrap(cause, "outer"), cause);
    assert_int_equal(err_no_memory()->kind, ERR_BUSY);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_scope, leave_scope)
    const struct CMUnitTest tests[] = {
        TEST(kinds_have_their_facts),
        TEST(an_error_carries_its_details),
        TEST(wrapping_keeps_everything_but_the_text),
        TEST(system_errors_name_the_call),
        TEST(try_returns_the_error),
        TEST(without_scope_errors_are_static),
        TEST(scopes_nest),
        TEST(without_memory_errors_are_static),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
