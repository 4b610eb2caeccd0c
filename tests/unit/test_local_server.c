/* SPDX-License-Identifier: Apache-2.0 */
/* Supervised children: what keeps them from starting, how they start, die and are awaited.
 *
 * The program that is supervised is this one: started as "PROGRAM -m MODEL --host SOCKET …" it
 * plays llama-server, and the model's file name says how well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "fiber/fiber.h"
#include "model/local_command.h"
#include "model/local_server.h"

static char folder[64], program[512];
static struct loop *loop;
static struct arena *arena;
static struct conf conf;

/* ---- the fake llama-server ---- */

static int serve(const char *path, const char *answer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    char request[4096];

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0)
        return 98;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && read(fd, request, sizeof request) > 0 &&
            write(fd, answer, strlen(answer)) < 0)
            return 97;
        close(fd);
    }
}

/* Print short lines, faster than anybody reads them. */
static void chatter(void)
{
    static char lines[65536];

    for (size_t i = 0; i < sizeof lines; i++)
        lines[i] = i % 2 ? '\n' : 'x';
    while (write(STDOUT_FILENO, lines, sizeof lines) > 0)
        ;
}

static int play(const char *model, const char *socket)
{
    if (strstr(model, "dies")) {
        fprintf(stderr, "0.01 I loading\n0.02 E the tensors are of cheese\n0.03 I cleaning up\n");
        return 3;
    }
    if (strstr(model, "chatty") && fork() == 0)
        chatter();
    if (strstr(model, "stubborn"))
        signal(SIGTERM, SIG_IGN);
    if (strstr(model, "slow"))
        return serve(socket, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    return serve(socket, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
}

/* ---- the stage ---- */

static struct str path_of(const char *name)
{
    return str_from(arena_printf(arena, "%s/%s", folder, name));
}

static struct str write_file(const char *name, const char *start, size_t size)
{
    struct str path = path_of(name);
    FILE *file = fopen(path.ptr, "w");

    assert_non_null(file);
    fputs(start, file);
    assert_int_equal(fflush(file) | ftruncate(fileno(file), (off_t)size), 0);
    fclose(file);
    return path;
}

static struct conf_provider provider_of(const char *model_file)
{
    return (struct conf_provider){.name = STR("mine"),
                                  .kind = CONF_PROVIDER_LOCAL,
                                  .model = write_file(model_file, "GGUF", 4096),
                                  .server = str_from(program)};
}

static int set_up(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/sluice-test-XXXXXX");
    arena = arena_new(MEM_TOOL, 1024 * 1024);
    if (!mkdtemp(folder) || !arena || loop_open(&loop))
        return -1;
    conf = (struct conf){.data_dir = str_from(folder)};
    return 0;
}

static int tear_down(void **state)
{
    char *command = arena_printf(arena, "rm -rf %s", folder);

    loop_close(loop);
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
    assert_int_equal(system(command), 0);
    arena_free(arena);
    return 0;
}

static void run_in_fiber(void (*story)(void *arg))
{
    err_t err = fiber_start_later("story", story, NULL, NULL);

    assert_null(err);
    loop_run(loop);
}

/* How every story ends. */
static void finish(struct local_server *server)
{
    local_server_stop_all(1000);
    local_server_unref(server);
    fiber_set_arena(NULL);
    loop_stop(loop);
}

static struct local_server *get(const struct conf_provider *provider)
{
    struct local_server *server = NULL;

    fiber_set_arena(arena);
    assert_null(local_server_get(&conf, provider, &server));
    return server;
}

static struct local_server_view seen; /* of the last server */

static void see(const struct local_server_view *view, void *arg)
{
    seen = *view;
}

static const struct local_server_view *look(void)
{
    memset(&seen, 0, sizeof seen);
    local_server_each(see, NULL);
    return &seen;
}

static void assert_refused(struct local_server *server, const char *part)
{
    err_t err = local_server_await(server, loop_now_ms() + 10000);

    assert_non_null(err);
    assert_int_equal(err->kind, ERR_UPSTREAM);
    assert_string_equal(err->code, "local_model_unavailable");
    if (!strstr(err->text, part))
        fail_msg("'%s' does not say '%s'", err->text, part);
}

static bool is_gone(const char *path)
{
    return access(path, F_OK) != 0;
}

/* ---- starting ---- */

static void starts(void *arg)
{
    struct conf_provider provider = provider_of("good.gguf");
    struct local_server *server = get(&provider), *same = get(&provider);
    int pid;

    assert_ptr_equal(server, same);
    assert_string_equal(look()->state, "stopped");
    assert_null(local_server_await(server, loop_now_ms() + 10000));
    assert_string_equal(look()->state, "ready");
    assert_int_equal(look()->starts, 1);
    assert_true(look()->memory_bytes > 0);
    pid = look()->pid;
    assert_int_equal(getpgid(pid), pid);
    assert_null(local_server_await(server, loop_now_ms())); /* at once */
    local_server_unref(same);
    provider.slots = 3;
    same = get(&provider);
    assert_ptr_not_equal(server, same);
    assert_string_not_equal(local_server_socket(server), local_server_socket(same));
    local_server_unref(same);
    finish(server);
    assert_int_equal(kill(pid, 0), -1);
}

static void test_starts_on_demand(void **state)
{
    run_in_fiber(starts);
}

static void stops(void *arg)
{
    struct conf_provider provider = provider_of("stubborn.gguf");
    struct local_server *server = get(&provider);
    char *socket = arena_cstr(arena, str_from(local_server_socket(server)));
    err_t err;

    assert_null(local_server_await(server, loop_now_ms() + 10000));
    assert_false(is_gone(socket));
    local_server_stop_all(100);
    assert_string_equal(look()->state, "stopped");
    assert_true(is_gone(socket));
    *strrchr(socket, '/') = 0;
    assert_true(is_gone(socket));
    err = local_server_await(server, loop_now_ms() + 1000);
    assert_true(err_is(err, ERR_KILLED));
    finish(server);
}

static void test_stops_a_stubborn_child_and_leaves_nothing(void **state)
{
    run_in_fiber(stops);
}

/* A child that talks without end does not keep the thread. */
static void listens_to_a_chatterbox(void *arg)
{
    struct conf_provider provider = provider_of("chatty.gguf");
    struct local_server *server = get(&provider);

    assert_null(local_server_await(server, loop_now_ms() + 10000));
    assert_null(fiber_sleep(50));
    finish(server);
}

static void test_listens_to_a_chatterbox(void **state)
{
    run_in_fiber(listens_to_a_chatterbox);
}

static void starts_at_once(void *arg)
{
    struct conf_provider provider = provider_of("good.gguf");
    struct local_server *server;

    provider.start_at_once = true;
    server = get(&provider);
    for (int i = 0; i < 500 && strcmp(look()->state, "ready") != 0; i++)
        assert_null(fiber_sleep(10));
    assert_string_equal(look()->state, "ready");
    finish(server);
}

static void test_starts_at_once(void **state)
{
    run_in_fiber(starts_at_once);
}

static void test_made_but_never_run(void **state)
{
    struct conf_provider provider = provider_of("good.gguf");
    struct local_server *server;

    provider.start_at_once = true;
    assert_null(local_server_get(&conf, &provider, &server));
    local_server_unref(server); /* the loop closes with the messages still queued */
}

/* ---- what keeps it from starting ---- */

static void refuse_to_start(void *arg)
{
    struct conf_provider provider = {
        .name = STR("mine"), .kind = CONF_PROVIDER_LOCAL, .model = STR("smollm2-135m")};
    struct local_server *server;

    setenv("PATH", "/nonexistent", 1);
    server = get(&provider);
    assert_refused(server, "there is no llama-server");
    assert_refused(server, "providers.mine.server");
    local_server_unref(server);

    provider.server = path_of("no-such-program");
    server = get(&provider);
    assert_refused(server, "no-such-program, which is not a program");
    local_server_unref(server);

    provider.server = str_from(program);
    server = get(&provider);
    assert_refused(server, "sluice model pull smollm2-135m");
    local_server_unref(server);

    provider.model = STR("smolm2");
    server = get(&provider);
    assert_refused(server, "no model named smolm2");
    local_server_unref(server);

    provider.model = path_of("missing.gguf");
    server = get(&provider);
    assert_refused(server, "cannot be read: No such file");
    local_server_unref(server);

    provider.model = write_file("page.gguf", "<html>", 4096);
    server = get(&provider);
    assert_refused(server, "not a GGUF file");
    local_server_unref(server);

    provider.model = write_file("tiny.gguf", "GGUF", 100);
    server = get(&provider);
    assert_refused(server, "too small");
    local_server_unref(server);

    provider.model = write_file("huge.gguf", "GGUF", (size_t)1 << 42); /* a hole */
    server = get(&provider);
    assert_refused(server, "too little memory");
    assert_string_equal(look()->state, "failed");

    /* Mended, it works with the next request. */
    write_file("huge.gguf", "GGUF", 4096);
    assert_null(local_server_await(server, loop_now_ms() + 10000));
    finish(server);
}

static void test_says_what_is_missing(void **state)
{
    char *before = arena_cstr(arena, str_from(getenv("PATH")));

    run_in_fiber(refuse_to_start);
    setenv("PATH", before, 1);
}

static void runs_what_is_no_program(void *arg)
{
    struct conf_provider provider = provider_of("good.gguf");
    struct local_server *server;

    provider.server = write_file("text", "just words", 10);
    assert_int_equal(chmod(provider.server.ptr, 0755), 0);
    server = get(&provider);
    assert_refused(server, "Exec format error");
    finish(server);
}

static void test_says_why_exec_failed(void **state)
{
    run_in_fiber(runs_what_is_no_program);
}

/* ---- dying ---- */

static void dies_at_start(void *arg)
{
    struct conf_provider provider = provider_of("dies.gguf");
    struct local_server *server = get(&provider);

    assert_refused(server, "ended with status 3: the tensors are of cheese");
    assert_string_equal(look()->state, "waiting to restart");
    assert_refused(server, "cheese"); /* waits for the second start */
    assert_int_equal(look()->starts, 2);
    assert_refused(server, "cheese"); /* does not wait for a third */
    assert_int_equal(look()->starts, 2);
    finish(server);
}

static void test_dying_at_start_is_told(void **state)
{
    run_in_fiber(dies_at_start);
}

static void is_killed(void *arg)
{
    struct conf_provider provider = provider_of("good.gguf");
    struct local_server *server = get(&provider);

    assert_null(local_server_await(server, loop_now_ms() + 10000));
    kill(look()->pid, SIGKILL);
    while (strcmp(look()->state, "ready") == 0)
        assert_null(fiber_sleep(1));
    assert_non_null(strstr(look()->last_error, "was killed by signal 9 (Killed)"));
    assert_null(local_server_await(server, loop_now_ms() + 10000));
    assert_int_equal(look()->starts, 2);
    assert_int_equal(look()->restarts, 1);
    assert_string_equal(look()->last_error, "");
    finish(server);
}

static void test_killed_child_is_replaced(void **state)
{
    run_in_fiber(is_killed);
}

/* ---- waiting ---- */

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};
static err_t heard;

static void waits(void *server)
{
    heard = local_server_await(server, FIBER_FOREVER);
}

static void gives_up(void *arg)
{
    struct conf_provider provider = provider_of("slow.gguf");
    struct local_server *server = get(&provider);
    struct fiber *other;
    err_t err = local_server_await(server, loop_now_ms() + 150);

    assert_true(err_is(err, ERR_TIMED_OUT));
    assert_ptr_not_equal(err, &fiber_wait_over);
    assert_string_equal(look()->state, "starting");
    assert_null(fiber_start("other", waits, server, &other));
    fiber_cancel(other, &gone);
    assert_null(fiber_sleep(20));
    assert_ptr_equal(heard, &gone);
    heard = NULL;
    assert_null(fiber_start("other", waits, server, &other));
    local_server_stop_all(1000);
    assert_null(fiber_sleep(20));
    assert_true(err_is(heard, ERR_KILLED));
    finish(server);
}

static void test_waiters_give_up(void **state)
{
    run_in_fiber(gives_up);
}

/* A worker: its own thread, loop and fiber. */
struct worker {
    pthread_t thread;
    struct local_server *server;
    err_t err;
    uint64_t wait_ms;
};

static void work(void *arg)
{
    struct worker *w = arg;

    w->err = local_server_await(w->server, loop_now_ms() + w->wait_ms);
    loop_stop(loop_self());
}

static void *run_worker(void *arg)
{
    struct loop *own;

    if (!loop_open(&own) && !fiber_start_later("work", work, arg, NULL))
        loop_run(own);
    loop_close(own);
    return NULL;
}

static void serves_workers(void *arg)
{
    struct conf_provider provider = provider_of("good.gguf");
    struct local_server *server = get(&provider);
    struct worker workers[8];

    for (int i = 0; i < 8;
         i++) { /* every other one gives up, some of them about when the answer comes */
        workers[i] =
            (struct worker){.server = server, .wait_ms = i % 2 ? 10000 : (uint64_t)(40 + 2 * i)};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]), 0);
    }
    assert_null(local_server_await(server, loop_now_ms() + 10000));
    for (int i = 0; i < 8; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_true(i % 2 ? !workers[i].err
                          : !workers[i].err || workers[i].err->kind == ERR_TIMED_OUT);
    }
    assert_int_equal(look()->starts, 1);
    finish(server);
}

static void test_workers_wait_from_their_threads(void **state)
{
    run_in_fiber(serves_workers);
}

/* ---- memory ---- */

static void test_free_memory(void **state)
{
    struct str meminfo = write_file("meminfo", "MemTotal: 8000 kB\nMemAvailable:    1000 kB\n", 44);

    assert_int_equal(local_command_free_bytes(meminfo.ptr, folder), 1000 * 1024);
    write_file("memory.max", "max\n", 4);
    write_file("memory.current", "500000\n", 7);
    assert_int_equal(local_command_free_bytes(meminfo.ptr, folder), 1000 * 1024);
    write_file("memory.max", "600000\n", 7);
    assert_int_equal(local_command_free_bytes(meminfo.ptr, folder), 100000);
    write_file("memory.stat", "anon 7\ninactive_file 50000\nactive_file 3\n", 41);
    assert_int_equal(local_command_free_bytes(meminfo.ptr, folder), 150000);
    assert_true(local_command_free_bytes("/nonexistent", "/nonexistent") == UINT64_MAX);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_starts_on_demand, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_listens_to_a_chatterbox, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stops_a_stubborn_child_and_leaves_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_starts_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_made_but_never_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_says_what_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_says_why_exec_failed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dying_at_start_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_child_is_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_waiters_give_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_workers_wait_from_their_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_free_memory, set_up, tear_down),
    };
    ssize_t len;

    if (argc > 6 && strcmp(argv[5], "--host") == 0)
        return play(argv[2], argv[6]);
    len = readlink("/proc/self/exe", program, sizeof program - 1);
    return len < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
