/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka, and an arena for each test (or group of tests), where errors are written too:
 *
 *     cmocka_run_group_tests(tests, begin_arena, end_arena);
 *
 * Afterwards all of it must be free, and the clock is the machine's again. */
#ifndef TEST_ARENA_SCOPE_H
#define TEST_ARENA_SCOPE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/sys.h"

static struct arena *arena;

static inline void assert_ok(err_t err)
{
    if (err)
        fail_msg("%s (%s)", err->text, err->where);
}

static int begin_arena(void **state)
{
    arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);
    err_scope_set(arena);
    return arena ? 0 : -1;
}

static int end_arena(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    sys_set_clock_ms(0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    return 0;
}

#endif
