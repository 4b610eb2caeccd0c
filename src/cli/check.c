/* SPDX-License-Identifier: Apache-2.0 */
/* sluice check: is this configuration good, with the files that it names, and (--online) do its providers
 * answer?
 *
 * A provider is asked for its list of models, which costs nothing and needs the same key as a
 * question. A local model is started for it. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/conf_option.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "model/local_server.h"
#include "model/providers.h"
#include "observe/log.h"

#define MAX_PROBLEM_BYTES ((size_t)1024 * 1024)
#define ANSWER_MS         15000
#define START_MS          ((uint64_t)5 * 60 * 1000)

struct check {
    const char *path;
    bool is_online;
};

/* ---- asking providers ---- */

static err_t judge(int status)
{
    if (status == 401 || status == 403)
        return err_new(ERR_UPSTREAM, "it refuses the key (%d)", status);
    /* Not every server that answers questions lists its models. */
    if ((status >= 200 && status < 300) || status == 404 || status == 405)
        return NULL;
    return err_new(ERR_UPSTREAM, "it answers %d", status);
}

static err_t ask_provider(struct provider *provider, struct http_pool *pool)
{
    uint64_t connect_ms = provider->conf->timeouts.connect_ms;
    struct http_ask ask = {
        .origin = &provider->origin,
        .method = HTTP_GET_,
        .method_text = "GET",
        .target =
            provider->conf->kind == CONF_PROVIDER_ANTHROPIC ? STR("/v1/models") : STR("/models"),
        .headers = provider->credentials[0].headers,
        .header_count = provider->credentials[0].header_count,
        .connect_ms = connect_ms ? connect_ms : 3000,
    };
    struct http_call call;
    int status;

    if (provider->server)
        TRY(local_server_await(provider->server, loop_now_ms() + START_MS));
    ask.head_at_ms = loop_now_ms() + ANSWER_MS;
    TRY(http_call_open(pool, &ask, fiber_arena(), &call));
    status = call.status;
    http_call_close(&call);
    return judge(status);
}

/* One line per configured provider. *failed counts those that do not work. */
static err_t ask_all(const struct conf *conf, const struct providers *providers, unsigned *failed)
{
    struct http_pool *pool;
    err_t err = http_pool_open(&pool);

    for (size_t i = 0; !err && i < conf->provider_count; i++) {
        struct provider *provider = &providers->items[i];
        uint64_t began_ms = loop_now_ms();
        err_t refusal = ask_provider(provider, pool);
        if (refusal)
            printf("%.*s: failed: %s\n", STR_ARG(provider->conf->name), refusal->text);
        else
            printf("%.*s: ok (%llu ms)\n", STR_ARG(provider->conf->name),
                   (unsigned long long)(loop_now_ms() - began_ms));
        fflush(stdout);
        *failed += refusal != NULL;
    }
    if (!err)
        http_pool_close(pool);
    local_server_stop_all(5000);
    return err;
}

/* ---- files that the configuration names ---- */

/* What a server would log at its start: allowed, but unwise. */
static void print_warnings(const struct conf *conf)
{
    for (size_t i = 0; i < conf->warnings.count; i++)
        fprintf(stderr, "warning: %.*s\n", STR_ARG(conf->warnings.items[i]));
}

/* Prices, certificates and authorities are read as a server reads them. *is_wrong: the error is about one of them. */
static err_t try_all(const struct check *check, const struct conf *conf, struct str file,
                     bool *is_wrong, unsigned *failed)
{
    const struct log_options only_warnings = {.level = LOG_WARN, .format = LOG_TEXT};
    struct providers *providers;
    err_t err;

    TRY(log_open(&only_warnings));
    print_warnings(conf);
    err = providers_open(conf, &providers);
    *is_wrong = err_is(err, ERR_CONFIG);
    if (!err) {
        if (file.len)
            printf("%.*s: ok\n", STR_ARG(file));
        else
            printf("no configuration file; the defaults are in force\n");
        if (providers->prices)
            printf("%.*s: ok, %zu models, in %.*s\n", STR_ARG(conf->prices),
                   prices_count(providers->prices), STR_ARG(prices_currency(providers->prices)));
        if (check->is_online)
            err = ask_all(conf, providers, failed);
        providers_unref(providers);
    }
    log_close();
    return err;
}

/* ---- the command ---- */

static int run(void *arg)
{
    struct check *check = arg;
    struct buf problems = buf_make(MEM_TOOL, MAX_PROBLEM_BYTES);
    struct conf *conf = NULL;
    struct str file = {0};
    unsigned failed = 0;
    bool is_wrong = false;
    err_t err = conf_option_load(check->path, fiber_arena(), &problems, &file, &conf);

    if (err && problems.len) {
        fwrite(problems.ptr, 1, problems.len, stdout);
        buf_fini(&problems);
        return COMMAND_CONFIG;
    }
    buf_fini(&problems);
    if (!err) {
        err = try_all(check, conf, file, &is_wrong, &failed);
        conf_unref(conf);
    }
    if (is_wrong) {
        puts(err->text);
        return COMMAND_CONFIG;
    }
    if (err)
        return command_fail("check", err);
    return failed ? COMMAND_FAILED : COMMAND_OK;
}

int command_check(int argc, char **argv)
{
    struct check check = {0};

    for (int i = 1; i < argc; i++) {
        if (conf_option_take(argc, argv, &i, &check.path)) {
            if (!check.path)
                return command_misuse("check", "a file name must follow", argv[i]);
        } else if (strcmp(argv[i], "--online") == 0) {
            check.is_online = true;
        } else {
            return command_misuse("check", "unknown option", argv[i]);
        }
    }
    return command_run_in_fiber(run, &check);
}
