/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics: sums over threads that come and go, bounded series, and a text that Prometheus reads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "observe/metrics.h"

static struct buf out;

static const char *print(void)
{
    buf_fini(&out);
    assert_null(metrics_print(&out));
    assert_null(buf_add_byte(&out, '\0'));
    return out.ptr;
}

static void assert_prints(const char *line)
{
    if (!strstr(print(), line))
        fail_msg("missing: %s in\n%s", line, out.ptr);
}

static int set_up(void **state)
{
    out = buf_make(MEM_TOOL, 4 * 1024 * 1024);
    return 0;
}

static int tear_down(void **state)
{
    buf_fini(&out);
    metrics_close();
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

static void test_counter_and_gauge(void **state)
{
    struct metric_series *s = metric_series_get(METRIC_LLM_REQUESTS, "gpt-4", "200", NULL);
    struct metric_series *active = metric_series_get(METRIC_LLM_ACTIVE_REQUESTS, NULL);

    assert_ptr_equal(s, metric_series_get(METRIC_LLM_REQUESTS, "gpt-4", "200", NULL));
    assert_ptr_not_equal(s, metric_series_get(METRIC_LLM_REQUESTS, "gpt-4", "500", NULL));
    metric_add(s, 2);
    metric_add(s, 1);
    metric_add(active, 5);
    metric_add(active, -2);
    assert_int_equal(metric_value(s), 3);
    assert_int_equal(metric_value(active), 3);
    assert_prints("# TYPE llm_requests_total counter\n");
    assert_prints("\nllm_requests_total{model=\"gpt-4\",status=\"200\"} 3\n");
    assert_prints("\nllm_requests_total{model=\"gpt-4\",status=\"500\"} 0\n");
    assert_prints("\nllm_active_requests 3\n");
    assert_prints("\nllm_stream_events_total 0\n");
}

static void test_histogram(void **state)
{
    struct metric_series *s = metric_series_get(METRIC_LLM_FIRST_TOKEN, "m", NULL);

    metric_observe_us(s, 0);
    metric_observe_us(s, 100);
    metric_observe_us(s, 101);
    metric_observe_us(s, 700000000);
    assert_int_equal(metric_value(s), 4);
    assert_prints("\nllm_first_token_seconds_bucket{model=\"m\",le=\"0.0001\"} 2\n");
    assert_prints("\nllm_first_token_seconds_bucket{model=\"m\",le=\"0.00025\"} 3\n");
    assert_prints("\nllm_first_token_seconds_bucket{model=\"m\",le=\"600\"} 3\n");
    assert_prints("\nllm_first_token_seconds_bucket{model=\"m\",le=\"+Inf\"} 4\n");
    assert_prints("\nllm_first_token_seconds_sum{model=\"m\"} 700.000201\n");
    assert_prints("\nllm_first_token_seconds_count{model=\"m\"} 4\n");
}

static void test_labels_are_escaped_and_cut(void **state)
{
    char longer[400];

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    metric_add(metric_series_get(METRIC_LLM_REQUESTS, "a\"b\\c\nd", "200", NULL), 1);
    metric_add(metric_series_get(METRIC_LLM_REQUESTS, "ok\xFFnot", longer, NULL), 1);
    assert_prints("{model=\"a\\\"b\\\\c\\nd\",status=\"200\"} 1\n");
    assert_prints("{model=\"ok\",status=\"xxxx");
}

static void test_series_are_bounded(void **state)
{
    char model[32];

    for (int i = 0; i < 2 * METRIC_MAX_SERIES; i++) {
        snprintf(model, sizeof model, "m%d", i);
        metric_add(metric_series_get(METRIC_LLM_REQUESTS, model, "200", NULL), 1);
    }
    assert_prints("\nllm_requests_total{model=\"m999\",status=\"200\"} 1\n");
    assert_prints("\nllm_requests_total{model=\"other\",status=\"other\"} 1000\n");
    assert_null(strstr(out.ptr, "model=\"m1000\""));
    /* What was there before is still found. */
    metric_add(metric_series_get(METRIC_LLM_REQUESTS, "m0", "200", NULL), 1);
    assert_prints("\nllm_requests_total{model=\"m0\",status=\"200\"} 2\n");
}

#define THREADS 4
#define ROUNDS  20000

static void *count(void *arg)
{
    struct metric_series *counter = metric_series_get(METRIC_LLM_REQUESTS, "m", "200", NULL);
    struct metric_series *histogram = metric_series_get(METRIC_HTTP_REQUEST_DURATION, "chat", NULL);

    for (int i = 0; i < ROUNDS; i++) {
        metric_add(counter, 1);
        metric_observe_us(histogram, (uint64_t)i);
    }
    return NULL;
}

static void test_threads_that_end_are_counted(void **state)
{
    pthread_t threads[THREADS];

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, count, NULL);
        for (int i = 0; i < 10; i++)
            print();
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
    count(NULL);
    assert_int_equal(metric_value(metric_series_get(METRIC_LLM_REQUESTS, "m", "200", NULL)),
                     (2 * THREADS + 1) * ROUNDS);
    assert_int_equal(metric_value(metric_series_get(METRIC_HTTP_REQUEST_DURATION, "chat", NULL)),
                     (2 * THREADS + 1) * ROUNDS);
}

static void hook(void)
{
    metric_set(metric_series_get(METRIC_FIBERS, NULL), 42);
}

static void test_scrape(void **state)
{
    metric_on_scrape(hook);
    assert_prints("\nfibers 42\n");
    assert_prints("\nlog_dropped_total 0\n");
    assert_prints("\nmemory_bytes{use=\"process\"} ");
    double start = 0, cpu = 0;
    assert_int_equal(sscanf(strstr(print(), "\nprocess_start_time_seconds "), "%*s %lf", &start),
                     1);
    assert_true(start > 1.5e9 && start < 1e11);
    assert_int_equal(sscanf(strstr(print(), "\nprocess_cpu_seconds_total "), "%*s %lf", &cpu), 1);
    assert_true(cpu > 0);
    long fds = 0, resident = 0;
    assert_int_equal(sscanf(strstr(print(), "\nprocess_open_fds "), "%*s %ld", &fds), 1);
    assert_true(fds >= 3);
    assert_int_equal(
        sscanf(strstr(print(), "\nprocess_resident_memory_bytes "), "%*s %ld", &resident), 1);
    assert_true(resident > 100000);
}

/* Every line is a comment or `name{labels} number`; no series appears twice. */
static void test_output_is_well_formed(void **state)
{
    metric_add(metric_series_get(METRIC_UPSTREAM_CONNECTIONS, "idle", NULL), 1);
    metric_observe_us(metric_series_get(METRIC_UPSTREAM_CONNECT, "openai", NULL), 5);
    struct str rest = str_from(print()), line;
    while (rest.len && str_split(&rest, '\n', &line)) {
        if (str_starts(line, STR("# HELP ")) || str_starts(line, STR("# TYPE ")) || !line.len)
            continue;
        size_t space = line.len;
        while (space && line.ptr[space - 1] != ' ')
            space--;
        assert_true(space > 1);
        for (size_t i = space; i < line.len; i++)
            assert_non_null(strchr("-.0123456789", line.ptr[i]));
        size_t brace = str_index(line, '{');
        assert_true(brace == line.len || line.ptr[space - 2] == '}');
    }
}

static void test_no_memory(void **state)
{
#ifdef SLUICE_FAULTS
    for (uint64_t n = 1; n < 12; n++) {
        mem_fail_nth(n);
        struct metric_series *s = metric_series_get(METRIC_LLM_REQUESTS, "m", "200", NULL);
        metric_add(s, 1);
        metric_observe_us(metric_series_get(METRIC_UPSTREAM_CONNECT, "p", NULL), 1);
        mem_fail_nth(0);
        assert_true(metric_value(s) >= 1);
        metrics_close();
        assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counter_and_gauge, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_histogram, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_labels_are_escaped_and_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_series_are_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads_that_end_are_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_scrape, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_output_is_well_formed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_memory, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
