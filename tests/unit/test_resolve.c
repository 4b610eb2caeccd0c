/* SPDX-License-Identifier: Apache-2.0 */
/* Name lookup: numeric addresses, the cache and its bounds, failures, order, waits that end
 * early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "net/resolve.h"

static struct loop *loop;
static atomic_int lookups;
static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};

/* ---- a made-up name service ---- */

static void add(struct address *out, size_t *count, const char *ip)
{
    assert_true(address_set_ip(&out[(*count)++], str_from(ip), 0));
}

static err_t fake_lookup(const char *host, struct address *out, size_t *count)
{
    static const struct err no_such_name = {.kind = ERR_UPSTREAM, .text = "no such name"};

    lookups++;
    *count = 0;
    if (strcmp(host, "missing") == 0)
        return &no_such_name;
    if (strcmp(host, "slow") == 0)
        usleep(250000);
    if (strcmp(host, "empty") == 0)
        return NULL;
    if (strcmp(host, "mixed") == 0) {
        add(out, count, "2001:db8::1");
        add(out, count, "2001:db8::2");
        add(out, count, "2001:db8::3");
        add(out, count, "192.0.2.1");
        add(out, count, "192.0.2.2");
        return NULL;
    }
    add(out, count, "192.0.2.7");
    return NULL;
}

/* ---- running in fibers ---- */

static void run_body(void *arg)
{
    void (**body)(void) = arg;
    struct arena *arena = arena_new(MEM_REQUEST, 1 << 20);

    fiber_set_arena(arena);
    (*body)();
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(loop);
}

static void run(void (*body)(void))
{
    struct fiber *fiber;

    lookups = 0;
    resolve_set_lookup(fake_lookup);
    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("test", run_body, &body, &fiber));
    loop_run(loop);
    resolve_close();
    loop_close(loop);
    offload_stop_all();
    resolve_set_lookup(NULL);
    sys_set_clock_ms(0);
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
}

/* Look a name up; the addresses as text with blanks between, or the error's. */
static const char *look(const char *host, uint64_t wait_ms)
{
    struct address out[RESOLVE_MAX_ADDRESSES];
    static char text[1024];
    char one[128];
    size_t count, len = 0;
    err_t err = resolve_name(str_from(host), 443, loop_now_ms() + wait_ms, out, &count);

    if (err) {
        snprintf(text, sizeof(text), "%s", err->text);
        return text;
    }
    for (size_t i = 0; i < count; i++) {
        address_format(&out[i], one);
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i ? " " : "", one);
    }
    return text;
}

static void look_up_numbers(void)
{
    assert_string_equal(look("192.0.2.1", 1000), "192.0.2.1:443");
    assert_string_equal(look("::1", 1000), "[::1]:443");
    assert_int_equal(lookups, 0);
    assert_string_equal(look("", 1000), "no such name");
}

static void takes_addresses_as_they_are(void **state)
{
    run(look_up_numbers);
}

static void look_up_mixed(void)
{
    assert_string_equal(look("mixed", 1000), "[2001:db8::1]:443 192.0.2.1:443 [2001:db8::2]:443 "
                                             "192.0.2.2:443 [2001:db8::3]:443");
}

static void lets_the_families_take_turns(void **state)
{
    run(look_up_mixed);
}

static void look_up_twice(void)
{
    assert_string_equal(look("one", 1000), "192.0.2.7:443");
    assert_string_equal(look("one", 1000), "192.0.2.7:443");
    assert_int_equal(lookups, 1);
    assert_non_null(strstr(look("missing", 1000), "missing: no such name"));
    assert_non_null(strstr(look("missing", 1000), "no such name"));
    assert_non_null(strstr(look("empty", 1000), "no address"));
    assert_int_equal(lookups, 3);
}

static void keeps_answers_and_failures(void **state)
{
    run(look_up_twice);
}

static void look_up_later(void)
{
    uint64_t now_ms = sys_now_ms();

    assert_string_equal(look("one", 100000), "192.0.2.7:443");
    look("missing", 100000);
    sys_set_clock_ms(now_ms + RESOLVE_KEEP_FAILURE_MS + 500);
    assert_null(fiber_yield());
    assert_string_equal(look("one", 100000), "192.0.2.7:443");
    assert_int_equal(lookups, 2);
    look("missing", 100000);
    assert_int_equal(lookups, 3);
    sys_set_clock_ms(now_ms + RESOLVE_KEEP_MS + 500);
    assert_null(fiber_yield());
    assert_string_equal(look("one", 100000), "192.0.2.7:443");
    assert_int_equal(lookups, 4);
}

static void forgets_after_a_while(void **state)
{
#ifndef SLUICE_FAULTS
    skip(); /* the clock cannot be set */
#endif
    run(look_up_later);
}

static void look_up_many(void)
{
    char name[32];

    for (int i = 0; i < RESOLVE_MAX_NAMES + 10; i++) {
        snprintf(name, sizeof(name), "name%d", i);
        look(name, 1000);
        look("often", 1000);
    }
    assert_int_equal(lookups, RESOLVE_MAX_NAMES + 11);
    look("name0", 1000);
    assert_int_equal(lookups, RESOLVE_MAX_NAMES + 12);
    assert_true(mem_in_use(MEM_UPSTREAM) < (size_t)RESOLVE_MAX_NAMES * 2048);
}

static void forgets_the_least_used_of_many(void **state)
{
    run(look_up_many);
}

static int running;

static void look_up_slow(void *arg)
{
    assert_string_equal(look("slow", 1000), "192.0.2.7:443");
    running--;
}

static void look_up_together(void)
{
    struct fiber *fiber;

    for (running = 0; running < 5; running++)
        assert_null(fiber_start_later("other", look_up_slow, NULL, &fiber));
    while (running > 0)
        assert_null(fiber_sleep(5));
    assert_int_equal(lookups, 1);
}

static void asks_once_for_many(void **state)
{
    run(look_up_together);
}

static void give_up_early(void)
{
    struct fiber *fiber;

    assert_string_equal(look("slow", 5), fiber_wait_over.text);
    assert_null(fiber_start_later("other", look_up_slow, NULL, &fiber));
    running = 1;
    while (running > 0)
        assert_null(fiber_sleep(5));
    assert_int_equal(lookups, 2);
}

static void gives_up_in_time(void **state)
{
    run(give_up_early);
}

static void look_up_cancelled(void *arg)
{
    assert_string_equal(look("slow", 1000), "gone");
    running--;
}

static void cancel_leader(void)
{
    struct fiber *leader, *other;

    running = 2;
    assert_null(fiber_start("leader", look_up_cancelled, NULL, &leader));
    assert_null(fiber_start("other", look_up_slow, NULL, &other));
    assert_null(fiber_sleep(5));
    fiber_cancel(leader, &gone);
    while (running > 0)
        assert_null(fiber_sleep(5));
    assert_int_equal(lookups, 2);
}

static void another_takes_over_when_the_asker_leaves(void **state)
{
    run(cancel_leader);
}

static void fail_memory(void)
{
    for (uint64_t n = 1;; n++) {
        struct address out[RESOLVE_MAX_ADDRESSES];
        size_t count;
        err_t err;

        resolve_close();
        mem_fail_nth(n);
        err = resolve_name(STR("one"), 1, loop_now_ms() + 1000, out, &count);
        mem_fail_nth(0);
        if (!err)
            break;
        assert_true(err_is(err, ERR_BUSY));
    }
}

static void reports_missing_memory(void **state)
{
    run(fail_memory);
}

static void look_up_localhost(void)
{
    resolve_set_lookup(NULL);
    const char *text = look("localhost", 5000);

    assert_true(strstr(text, "127.0.0.1:443") || strstr(text, "[::1]:443"));
}

static void asks_the_system(void **state)
{
    run(look_up_localhost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_addresses_as_they_are),
        cmocka_unit_test(lets_the_families_take_turns),
        cmocka_unit_test(keeps_answers_and_failures),
        cmocka_unit_test(forgets_after_a_while),
        cmocka_unit_test(forgets_the_least_used_of_many),
        cmocka_unit_test(asks_once_for_many),
        cmocka_unit_test(gives_up_in_time),
        cmocka_unit_test(another_takes_over_when_the_asker_leaves),
        cmocka_unit_test(reports_missing_memory),
        cmocka_unit_test(asks_the_system),
    };

    return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}
