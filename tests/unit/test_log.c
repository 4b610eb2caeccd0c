/* SPDX-License-Identifier: Apache-2.0 */
/* The log: well-formed lines whatever is in them, no secret in any, nothing lost while the
 * device works, and a service that goes on when it does not. */
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json_members.h"
#include "base/mem.h"
#include "base/sys.h"
#include "observe/log.h"

static char path[] = "/tmp/test_log_XXXXXX";
static char content[4 * 1024 * 1024];
static size_t content_len;

static void open_log(enum log_level level, enum log_format format)
{
    struct log_options options = {level, format, path};

    assert_int_equal(truncate(path, 0), 0);
    assert_null(log_open(&options));
}

/* Close the log and read what it wrote. */
static void close_and_read(void)
{
    log_close();
    FILE *file = fopen(path, "r");
    content_len = fread(content, 1, sizeof content - 1, file);
    content[content_len] = '\0';
    fclose(file);
}

static size_t count_lines(void)
{
    size_t count = 0;

    for (const char *at = content; (at = strchr(at, '\n')); at++)
        count++;
    return count;
}

/* Every line is one valid JSON object; the last one is left in *line. */
static void assert_lines_are_json(struct str *last)
{
    struct str rest = {content, content_len}, line;

    while (rest.ptr && str_split(&rest, '\n', &line)) {
        if (!line.len)
            continue;
        assert_null(json_check(line));
        assert_int_equal(line.ptr[0], '{');
        *last = line;
    }
}

static void assert_field(struct str line, const char *name, const char *json)
{
    struct str value = json_get(line, str_from(name));

    if (!str_eq(value, str_from(json)))
        fail_msg("%s is %.*s instead of %s", name, STR_ARG(value), json);
}

static void test_fields(void **state)
{
    struct str line;

    open_log(LOG_DEBUG, LOG_JSON);
    log_begin(LOG_WARN, "hello \"you\"");
    log_str("odd", STR("a\tb\x01\x7F\\ \xFF\xC3\xA9\xE2\x82 \xED\xA0\x80 \xF0\x9F\x98\x80"));
    log_cstr("none", NULL);
    log_u64("zero", 0);
    log_u64("most", UINT64_MAX);
    log_f64("pi", 3.14159);
    log_f64("less", -0.0014);
    log_f64("nan", NAN);
    log_bool("yes", true);
    log_raw("raw", STR("[1,2]"));
    log_err(err_new(ERR_UPSTREAM, "no \"answer\""));
    log_err(NULL);
    log_end();
    close_and_read();
    assert_lines_are_json(&line);
    assert_field(line, "level", "\"warn\"");
    assert_field(line, "msg", "\"hello \\\"you\\\"\"");
    assert_field(line, "odd", "\"a\\tb\\u0001\\u007f\\\\ �é�� ��� 😀\"");
    assert_null(json_get(line, STR("none")).ptr);
    assert_field(line, "zero", "0");
    assert_field(line, "most", "18446744073709551615");
    assert_field(line, "pi", "3.142");
    assert_field(line, "less", "-0.001");
    assert_field(line, "nan", "null");
    assert_field(line, "yes", "true");
    assert_field(line, "raw", "[1,2]");
    assert_field(line, "error", "\"upstream\"");
    assert_int_equal(json_get(line, STR("time")).len, 26);
}

/* The texts of the next test: letters, and one byte of each kind that may not stand as it is. */
#define ODD_LENGTHS 34
#define ODD_BYTES   (sizeof odd_bytes - 1)
static const char odd_bytes[] = "\x1f\"\\\x7f\x80\xff\n";

static size_t odd_text(size_t len, size_t place, size_t kind, char *text)
{
    memset(text, 'x', len);
    text[place] = odd_bytes[kind];
    return len;
}

static void test_odd_bytes_are_found_wherever_they_are(void **state)
{
    static const char *const printed[] = {"\\u001f",      "\\\"",         "\\\\", "\\u007f",
                                          "\xEF\xBF\xBD", "\xEF\xBF\xBD", "\\n"};
    char text[ODD_LENGTHS], expected[128];
    const char *at = content;

    open_log(LOG_INFO, LOG_JSON);
    for (size_t len = 1; len < ODD_LENGTHS; len++) {
        log_begin(LOG_INFO, "");
        for (size_t i = 0; i < len * ODD_BYTES; i++)
            log_str("t", (struct str){text, odd_text(len, i / ODD_BYTES, i % ODD_BYTES, text)});
        log_end();
    }
    close_and_read();
    for (size_t len = 1; len < ODD_LENGTHS; len++)
        for (size_t i = 0; i < len * ODD_BYTES; i++) {
            size_t place = i / ODD_BYTES, kind = i % ODD_BYTES;
            odd_text(len, place, kind, text);
            snprintf(expected, sizeof expected, "\"t\":\"%.*s%s%.*s\"", (int)place, text,
                     printed[kind], (int)(len - place - 1), text + place + 1);
            at = strstr(at, "\"t\":");
            assert_non_null(at);
            assert_memory_equal(at, expected, strlen(expected));
            at++;
        }
}

static void test_text_format(void **state)
{
    open_log(LOG_INFO, LOG_TEXT);
    log_begin(LOG_ERROR, "upstream failed");
    log_str("provider", STR("openai"));
    log_str("why", STR("no answer"));
    log_str("empty", STR(""));
    log_u64("status", 502);
    log_end();
    close_and_read();
    assert_string_equal(content + 24,
                        " ERROR upstream failed provider=openai why=\"no answer\" empty=\"\" "
                        "status=502\n");
}

static void test_levels(void **state)
{
    struct log_options less = {LOG_ERROR, LOG_JSON, path};

    open_log(LOG_INFO, LOG_JSON);
    assert_true(log_enabled(LOG_INFO));
    assert_false(log_enabled(LOG_DEBUG));
    log_begin(LOG_DEBUG, "unseen");
    log_u64("n", 1);
    log_end();
    log_info("seen");
    assert_null(log_reopen(&less));
    log_info("unseen too");
    log_error("failed", NULL);
    close_and_read();
    assert_int_equal(count_lines(), 2);
    assert_null(strstr(content, "unseen"));
}

static void test_long_lines_are_cut_and_stay_valid(void **state)
{
    static char big[3 * LOG_LINE_BYTES];
    struct str line;

    open_log(LOG_INFO, LOG_JSON);
    for (size_t shift = 0; shift < 8; shift++) {
        for (size_t i = 0; i < sizeof big; i++)
            big[i] = "\xF0\x9F\x98\x80\"\n\x01\xFF"[(i + shift) % 8];
        log_begin(LOG_INFO, "big");
        log_str("a", (struct str){big, LOG_LINE_BYTES - 300 + shift});
        log_str("b", (struct str){big, sizeof big});
        for (int i = 0; i < 40; i++)
            log_u64("number", UINT64_MAX);
        log_raw("raw", STR("[\"does not fit any more\"]"));
        log_str("c", STR("neither"));
        log_end();
    }
    close_and_read();
    assert_int_equal(count_lines(), 8);
    assert_lines_are_json(&line);
    assert_non_null(strstr(content, "…"));
}

static void test_secrets_are_masked(void **state)
{
    char text[] = "key sk-very-secret-1, again sk-very-secret-12";
    struct str line;

    log_mask(STR("short"));
    log_mask(STR("sk-very-secret-1"));
    log_mask(STR("sk-very-secret-12"));
    log_mask(STR("quote\"and\\slash"));
    open_log(LOG_INFO, LOG_JSON);
    log_begin(LOG_INFO, "with sk-very-secret-1sk-very-secret-1");
    log_str("a", STR("Bearer sk-very-secret-12."));
    log_str("b", STR("quote\"and\\slash short"));
    log_raw("c", STR("{\"k\":\"sk-very-secret-1\"}"));
    log_end();
    close_and_read();
    assert_lines_are_json(&line);
    assert_field(line, "msg", "\"with ******\"");
    assert_field(line, "a", "\"Bearer ***.\"");
    assert_field(line, "b", "\"*** short\"");
    assert_field(line, "c", "{\"k\":\"***\"}");

    assert_true(log_mask_in_place(text, strlen(text)));
    assert_string_equal(text, "key ****************, again *****************");
    assert_false(log_mask_in_place(text, strlen(text)));
}

/* ---- many threads ---- */

#define THREADS    4
#define LINES_EACH 5000

static void *write_lines(void *arg)
{
    for (uint64_t i = 0; i < LINES_EACH; i++) {
        log_begin(LOG_INFO, "line");
        log_u64("thread", (uint64_t)(size_t)arg);
        log_u64("n", i);
        log_end();
        if (i % 100 == 0) {
            log_mask(STR("another-secret"));
            usleep(1000); /* the point is order and wholeness, not overflow */
        }
    }
    return NULL;
}

static void test_threads_lose_and_tear_nothing(void **state)
{
    pthread_t threads[THREADS];
    uint64_t next[THREADS] = {0}, thread, n;
    struct str rest, line;
    uint64_t dropped_before = log_dropped();

    open_log(LOG_INFO, LOG_JSON);
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, write_lines, (void *)i);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    close_and_read();
    assert_int_equal(log_dropped(), dropped_before);
    assert_int_equal(count_lines(), THREADS * LINES_EACH);
    assert_lines_are_json(&line);
    rest = (struct str){content, content_len};
    while (rest.ptr && str_split(&rest, '\n', &line)) {
        if (!line.len)
            continue;
        assert_true(json_u64(json_get(line, STR("thread")), &thread) && thread < THREADS);
        assert_true(json_u64(json_get(line, STR("n")), &n));
        assert_int_equal(n, next[thread]++);
    }
}

/* ---- devices that fail ---- */

/* Lines go to a pipe that nobody reads: they are counted, never waited for, and told of
 * afterwards. */
static void test_blocked_device(void **state)
{
    int ends[2];
    char pipe_path[64];
    uint64_t dropped_before = log_dropped();

    assert_int_equal(pipe(ends), 0);
    snprintf(pipe_path, sizeof pipe_path, "/proc/self/fd/%d", ends[1]);
    struct log_options options = {LOG_INFO, LOG_JSON, pipe_path};
    assert_null(log_open(&options));
    close(ends[1]);
    uint64_t start_ms = sys_now_ms();
    for (int i = 0; i < 20000; i++)
        log_info("a line that nobody takes");
    assert_true(sys_now_ms() - start_ms < 5000);
    assert_true(log_dropped() > dropped_before);

    /* The device works again. */
    content_len = 0;
    struct pollfd ready = {.fd = ends[0], .events = POLLIN};
    while (poll(&ready, 1, 700) == 1 && content_len < sizeof content - 4096) {
        ssize_t n = read(ends[0], content + content_len, 4096);
        assert_true(n > 0);
        content_len += (size_t)n;
    }
    content[content_len] = '\0';
    assert_non_null(strstr(content, "log lines were lost"));
    struct str last;
    assert_lines_are_json(&last);
    log_close();
    close(ends[0]);
}

static void test_closed_device_and_end(void **state)
{
    int ends[2];
    char pipe_path[64];

    assert_int_equal(pipe(ends), 0);
    snprintf(pipe_path, sizeof pipe_path, "/proc/self/fd/%d", ends[1]);
    struct log_options options = {LOG_INFO, LOG_JSON, pipe_path};
    assert_null(log_open(&options));
    close(ends[0]);
    close(ends[1]);
    log_info("into the void");
    usleep(30000);
    uint64_t start_ms = sys_now_ms();
    log_close();
    assert_true(sys_now_ms() - start_ms < 3000);
}

static void test_full_device(void **state)
{
    struct log_options options = {LOG_INFO, LOG_JSON, "/dev/full"},
                       good = {LOG_INFO, LOG_JSON, path};

    assert_int_equal(truncate(path, 0), 0);
    assert_null(log_open(&options));
    log_info("first");
    usleep(30000);
    assert_null(log_reopen(&good));
    log_info("second");
    close_and_read();
    assert_non_null(strstr(content, "first"));
    assert_non_null(strstr(content, "second"));
}

static void test_reopen(void **state)
{
    struct log_options options = {LOG_INFO, LOG_JSON, path};
    struct log_options bad = {LOG_INFO, LOG_JSON, "/nonexistent/log"};
    char moved[64];

    open_log(LOG_INFO, LOG_JSON);
    log_info("before");
    usleep(30000);
    snprintf(moved, sizeof moved, "%s.1", path);
    assert_int_equal(rename(path, moved), 0);
    assert_null(log_reopen(&options));
    usleep(30000);
    log_info("after");
    err_t err = log_reopen(&bad);
    assert_non_null(err);
    assert_int_equal(err->kind, ERR_SYSTEM);
    close_and_read();
    assert_int_equal(count_lines(), 1);
    assert_non_null(strstr(content, "after"));
    unlink(moved);
}

static void test_crash_flushes_what_is_queued(void **state)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        open_log(LOG_INFO, LOG_JSON);
        log_info("last words");
        log_flush_crash(STDERR_FILENO);
        log_close();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close_and_read();
    assert_int_equal(count_lines(), 1);
    assert_non_null(strstr(content, "last words"));
}

static void test_no_memory(void **state)
{
    struct log_options options = {LOG_INFO, LOG_JSON, path};

#ifdef SLUICE_FAULTS
    mem_fail_nth(1);
    assert_non_null(log_open(&options));
    assert_null(log_open(&options));
    uint64_t before = log_dropped();
    mem_fail_nth(1);
    log_info("no ring");
    assert_int_equal(log_dropped(), before + 1);
    log_info("ring");
    mem_fail_nth(0);
    log_close();
#else
    (void)options;
#endif
}

static int remove_file(void **state)
{
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_odd_bytes_are_found_wherever_they_are),
        cmocka_unit_test(test_text_format),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_long_lines_are_cut_and_stay_valid),
        cmocka_unit_test(test_threads_lose_and_tear_nothing),
        cmocka_unit_test(test_blocked_device),
        cmocka_unit_test(test_closed_device_and_end),
        cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_crash_flushes_what_is_queued),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_secrets_are_masked),
    };

    close(mkstemp(path));
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
