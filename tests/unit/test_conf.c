/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: what is read, what is refused and in which words, and what is shown. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json_members.h"
#include "conf/options.h"
#include "conf_world.h"
#include "observe/log.h"

static char secret_path[64];

/* ---- defaults and the environment ---- */

static void assert_defaults(const struct conf *c)
{
    assert_int_equal(c->listen.count, 1);
    assert_str(c->listen.items[0], "127.0.0.1:8080");
    assert_str(c->admin.items[0], "127.0.0.1:8081");
    assert_int_equal(c->workers, 0);
    assert_int_equal(c->provider_count, 0);
    assert_int_equal(c->model_count, 0);
    assert_int_equal(c->default_provider.len, 0);
    assert_int_equal(c->timeouts.connect_ms, 3000);
    assert_int_equal(c->timeouts.first_token_ms, 60000);
    assert_int_equal(c->timeouts.idle_ms, 30000);
    assert_int_equal(c->timeouts.total_ms, 900000);
    assert_int_equal(c->retry.attempts, 2);
    assert_int_equal(c->retry.budget_percent, 20);
    assert_int_equal(c->breaker.failures, 5);
    assert_int_equal(c->breaker.ratio_percent, 50);
    assert_int_equal(c->breaker.window_ms, 10000);
    assert_int_equal(c->breaker.open_ms, 5000);
    assert_int_equal(c->breaker.max_open_ms, 300000);
    assert_int_equal(c->breaker.recheck_ms, 60000);
    assert_int_equal(c->unsupported, CONF_UNSUPPORTED_AUTO);
    assert_false(c->route_header);
    assert_int_equal(c->http.head_timeout_ms, 10000);
    assert_int_equal(c->http.body_grace_ms, 5000);
    assert_int_equal(c->http.body_min_bytes_per_s, 1024);
    assert_int_equal(c->http.idle_timeout_ms, 60000);
    assert_int_equal(c->http.write_timeout_ms, 30000);
    assert_int_equal(c->http.max_body_bytes, 32 << 20);
    assert_int_equal(c->http.max_connections, 0);
    assert_false(c->http.serve_half_closed);
    assert_int_equal(c->stream.heartbeat_ms, 15000);
    assert_int_equal(c->stream.head_after_ms, 0);
    assert_int_equal(c->overload.max_in_flight, 10000);
    assert_int_equal(c->overload.max_memory_percent, 80);
    assert_int_equal(c->drain.delay_ms, 0);
    assert_int_equal(c->drain.timeout_ms, 30000);
    assert_false(c->keys.required);
    assert_int_equal(c->log.level, LOG_INFO);
    assert_int_equal(c->log.format, LOG_JSON);
    assert_true(c->log.access);
    assert_false(c->log.content);
    assert_int_equal(c->log.path.len, 0);
    assert_false(c->debug);
}

static void test_no_file(void **state)
{
    struct conf *c;

    assert_null(conf_load(STR(""), NULL, &c));
    assert_defaults(c);
    assert_int_equal(c->path.len, 0);
    assert_str(c->data_dir,
               geteuid() == 0 ? "/var/lib/sluice" : "/home/somebody/.local/share/sluice");
    conf_unref(c);
    setenv("XDG_DATA_HOME", "/data", 1);
    assert_null(conf_load(STR(""), NULL, &c));
    assert_str(c->data_dir, "/data/sluice");
    conf_unref(c);
}

static void test_empty_files(void **state)
{
    static const char *const texts[] = {"",      "\n\n", "# nothing\n",
                                        "---\n", "~\n",  "providers:\nhttp:\n"};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct conf *c = load_ok(texts[i]);
        assert_defaults(c);
        assert_str(c->path, path);
        conf_unref(c);
    }
}

static void test_key_in_environment(void **state)
{
    struct conf *c;

    setenv("OPENAI_API_KEY", "sk-env", 1);
    assert_null(conf_load(STR(""), NULL, &c));
    assert_int_equal(c->provider_count, 1);
    assert_str(c->providers[0].name, "openai");
    assert_str(c->providers[0].key, "sk-env");
    assert_str(c->providers[0].url, "https://api.openai.com/v1");
    assert_true(c->providers[0].stream_usage);
    assert_str(c->default_provider, "openai");
    conf_unref(c);

    setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/", 1);
    c = load_ok("providers: {vllm: {url: 'http://gpu/v1'}}\nmodels: {m: {targets: openai/x}}\n");
    assert_int_equal(c->provider_count, 2);
    assert_str(c->providers[1].url, "http://127.0.0.1:9/v1");
    assert_int_equal(c->providers[1].index, 1);
    assert_ptr_equal(c->models[0].targets[0].provider, &c->providers[1]);
    assert_str(c->default_provider, "openai");
    conf_unref(c);

    c = load_ok("providers: {openai: {key: mine-mine}}\n");
    assert_int_equal(c->provider_count, 1);
    assert_str(c->providers[0].key, "mine-mine");
    conf_unref(c);

    c = load_ok("providers: {vllm: {url: 'http://gpu/v1'}}\ndefault_provider: vllm\n");
    assert_str(c->default_provider, "vllm");
    conf_unref(c);

    setenv("OPENAI_BASE_URL", "gpu", 1);
    assert_problems("", " OPENAI_BASE_URL must be like https://host/v1");
    setenv("OPENAI_BASE_URL", "", 1);
    setenv("OPENAI_API_KEY", "sk\nx: y", 1);
    assert_problems("", " OPENAI_API_KEY must be ASCII without spaces or line breaks");
}

static void test_other_keys_in_environment(void **state)
{
    struct conf *c;

    setenv("GEMINI_API_KEY", "key-g", 1);
    assert_null(conf_load(STR(""), NULL, &c));
    assert_int_equal(c->provider_count, 1);
    assert_int_equal(c->providers[0].kind, CONF_PROVIDER_GEMINI);
    assert_int_equal(c->providers[0].auth, CONF_AUTH_X_GOOG_API_KEY);
    assert_str(c->providers[0].url, "https://generativelanguage.googleapis.com/v1beta");
    assert_str(c->default_provider, "gemini");
    conf_unref(c);

    setenv("ANTHROPIC_API_KEY", "key-a", 1);
    assert_null(conf_load(STR(""), NULL, &c));
    assert_int_equal(c->provider_count, 2);
    assert_str(c->providers[0].name, "anthropic");
    assert_int_equal(c->providers[0].auth, CONF_AUTH_X_API_KEY);
    assert_str(c->providers[0].url, "https://api.anthropic.com");
    assert_int_equal(c->providers[0].max_tokens, 4096);
    assert_str(c->default_provider, "anthropic");
    conf_unref(c);

    setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9/", 1);
    setenv("OPENAI_API_KEY", "key-o", 1);
    c = load_ok("models: {m: {targets: [anthropic/claude, gemini/g, openai/o]}}\n");
    assert_int_equal(c->provider_count, 3);
    assert_str(c->default_provider, "openai");
    assert_str(c->models[0].targets[0].provider->url, "http://127.0.0.1:9");
    assert_int_equal(c->models[0].targets[1].provider->index, 2);
    assert_true(c->providers[0].speaks_responses);
    conf_unref(c);
}

static void test_find(void **state)
{
    struct str found;

    assert_null(conf_find(errors, "given.yaml", &found));
    assert_str(found, "given.yaml");
    setenv("SLUICE_CONFIG", "/nonexistent.yaml", 1);
    err_t err = conf_find(errors, NULL, &found);
    assert_true(err_is(err, ERR_CONFIG));
    assert_non_null(strstr(err->text, "/nonexistent.yaml"));
    conf_unref(load_ok(""));
    setenv("SLUICE_CONFIG", path, 1);
    assert_null(conf_find(errors, NULL, &found));
    assert_str(found, path);
    unsetenv("SLUICE_CONFIG");
    assert_null(conf_find(errors, NULL, &found));
    assert_int_equal(found.len, 0);
}

/* ---- reading ---- */

static const char everything[] =
    "listen: [127.0.0.1:0, '[::1]:8080', 'unix:/run/sluice.sock', '0.0.0.0:80']\n"
    "admin: 10.0.0.1:8081\n"
    "admin_key: ${TEST_ADMIN_KEY}\n"
    "data_dir: data\n"
    "workers: 3\n"
    "debug: on\n"
    "tls: {certificate: cert.pem, key: /etc/key.pem}\n"
    "trusted_proxies: [10.0.0.0/8, 'fd00::/8', 192.0.2.1]\n"
    "cors: {origins: 'https://app.example.com'}\n"
    "providers:\n"
    "  vllm:\n"
    "    kind: openai\n"
    "    url: http://gpu1:8000/v1/\n"
    "    key: file:secret\n"
    "    headers: {x-team: search, api-key: \"${TEST_ADMIN_KEY}\"}\n"
    "    extra_body: {top_k: 20}\n"
    "    stream_usage: false\n"
    "    ca: ~/ca.pem\n"
    "    client_certificate: c.pem\n"
    "    client_key: k.pem\n"
    "    proxy: http://me:secret-word@proxy:3128\n"
    "    max_in_flight: 7\n"
    "    timeouts: {connect: 1s, first_token: 2s, idle: 3s, total: 4s}\n"
    "  claude:\n"
    "    kind: anthropic\n"
    "    keys: [{name: a, key: \"key-of-a\"}, {name: b, key: \"${TEST_ADMIN_KEY}\"}]\n"
    "    query: {api-version: key-of-query}\n"
    "    max_tokens: 100\n"
    "    retry: {attempts: 3, budget: 0.5}\n"
    "    breaker: {failures: 6, ratio: 0.75, window: 11s, open: 6s, max_open: 10m}\n"
    "    health: {recheck: 90s}\n"
    "  laptop: {kind: local, model: qwen2.5-coder-0.5b, server: /opt/llama-server, threads: 2,\n"
    "           slots: 4, context: 4096, start: at_once}\n"
    "models:\n"
    "  gpt-4:\n"
    "    targets: [vllm/a/b, {model: laptop/q}]\n"
    "    timeouts: {connect: 5s, first_token: 6s, idle: 7s, total: 8s}\n"
    "  routed:\n"
    "    route: sticky\n"
    "    sticky_by: user\n"
    "    targets:\n"
    "      - claude/c\n"
    "      - model: vllm/v\n"
    "        weight: 3\n"
    "        tools: off\n"
    "        vision: false\n"
    "        json_schema: no\n"
    "        context: 32000\n"
    "        when: {keys: [ci, ops], tags: batch, headers: {x-a: b}, min_prompt_tokens: 10,\n"
    "               max_prompt_tokens: 20}\n"
    "    context_fallbacks: claude/long\n"
    "    content_fallbacks: [{model: claude/x}, vllm/y]\n"
    "    when: {tags: [a, b], max_prompt_tokens: 5}\n"
    "    unsupported: error\n"
    "    continue: on\n"
    "    retry: {attempts: 1, budget: 10%}\n"
    "    breaker: {failures: 7}\n"
    "    health: {recheck: 30s}\n"
    "default_provider: vllm\n"
    "passthrough: vllm\n"
    "route_header: on\n"
    "unsupported: drop\n"
    "retry: {attempts: 4, budget: off}\n"
    "breaker: {failures: 8, ratio: 25%, window: 12s, open: 7s, max_open: 8s}\n"
    "health: {recheck: 2m}\n"
    "timeouts: {connect: 4s, first_token: 61s, idle: 31s, total: 16m}\n"
    "http: {head_timeout: 11s, body_grace: 0, body_min_rate: off, idle_timeout: 61s,\n"
    "       write_timeout: 31s, max_body: 33MiB, max_connections: 99, half_close: serve}\n"
    "stream: {heartbeat: off, head_after: 15s}\n"
    "overload: {max_in_flight: 5, max_memory: off}\n"
    "drain: {delay: 1s, timeout: 1h}\n"
    "keys:\n"
    "  required: true\n"
    "  static:\n"
    "    - {name: ci, key: \"${TEST_ADMIN_KEY}\"}\n"
    "    - {name: ops, key: key-of-ops, scopes: [models, admin]}\n"
    "log: {level: debug, format: text, access: off, content: true, file: /tmp/x.log}\n";

static void assert_providers(const struct conf *c)
{
    const struct conf_provider *vllm = conf_provider_get(c, STR("vllm"));
    const struct conf_provider *laptop = conf_provider_get(c, STR("laptop"));
    char full[128];

    assert_str(vllm->url, "http://gpu1:8000/v1");
    assert_str(vllm->key, "from-file");
    assert_int_equal(vllm->headers.count, 2);
    assert_str(vllm->headers.items[1].name, "api-key");
    assert_str(vllm->headers.items[1].value, "key-of-admin");
    assert_str(vllm->extra_body, "{\"top_k\":20}");
    assert_false(vllm->stream_usage);
    assert_str(vllm->ca, "/home/somebody/ca.pem");
    snprintf(full, sizeof full, "%s/c.pem", folder);
    assert_str(vllm->client_certificate, full);
    assert_str(vllm->proxy, "http://me:secret-word@proxy:3128");
    assert_int_equal(vllm->max_in_flight, 7);
    assert_int_equal(vllm->timeouts.first_token_ms, 2000);
    assert_int_equal(laptop->kind, CONF_PROVIDER_LOCAL);
    assert_str(laptop->model, "qwen2.5-coder-0.5b");
    assert_str(laptop->server, "/opt/llama-server");
    assert_int_equal(laptop->threads, 2);
    assert_int_equal(laptop->slots, 4);
    assert_int_equal(laptop->context_tokens, 4096);
    assert_true(laptop->start_at_once);
    assert_int_equal(laptop->url.len, 0);
    assert_int_equal(laptop->max_in_flight, 0);
    assert_null(conf_provider_get(c, STR("vll")));
}

static void assert_routed(const struct conf *c)
{
    const struct conf_provider *claude = conf_provider_get(c, STR("claude"));
    const struct conf_model *m = conf_model_get(c, STR("routed"));
    const struct conf_target *t = &m->targets[1];

    assert_int_equal(claude->key_count, 2);
    assert_str(claude->keys[0].name, "a");
    assert_str(claude->keys[1].key, "key-of-admin");
    assert_str(claude->query.items[0].name, "api-version");
    assert_int_equal(claude->max_tokens, 100);
    assert_int_equal(claude->retry.budget_percent, 50);
    assert_int_equal(claude->breaker.ratio_percent, 75);
    assert_int_equal(claude->breaker.max_open_ms, 600000);
    assert_int_equal(claude->breaker.recheck_ms, 90000);
    assert_int_equal(m->route, CONF_ROUTE_STICKY);
    assert_true(m->sticks_to_user);
    assert_int_equal(m->target_count, 2);
    assert_str(m->targets[0].model, "c");
    assert_int_equal(m->targets[0].weight, 1);
    assert_true(m->targets[0].takes_tools && m->targets[0].takes_images &&
                m->targets[0].takes_schemas);
    assert_int_equal(t->weight, 3);
    assert_false(t->takes_tools || t->takes_images || t->takes_schemas);
    assert_int_equal(t->context_tokens, 32000);
    assert_int_equal(t->when.keys.count, 2);
    assert_str(t->when.tags.items[0], "batch");
    assert_str(t->when.headers.items[0].value, "b");
    assert_int_equal(t->when.max_prompt_tokens, 20);
    assert_int_equal(m->context_fallback_count, 1);
    assert_ptr_equal(m->context_fallbacks[0].provider, claude);
    assert_int_equal(m->content_fallback_count, 2);
    assert_str(m->content_fallbacks[1].model, "y");
    assert_int_equal(m->when.tags.count, 2);
    assert_int_equal(m->unsupported, CONF_UNSUPPORTED_ERROR);
    assert_true(m->continues);
    assert_int_equal(m->retry.attempts, 1);
    assert_int_equal(m->breaker.failures, 7);
    assert_int_equal(m->breaker.ratio_percent, 0);
    assert_str(c->passthrough, "vllm");
    assert_true(c->route_header);
    assert_int_equal(c->unsupported, CONF_UNSUPPORTED_DROP);
    assert_int_equal(c->retry.attempts, 4);
    assert_int_equal(c->retry.budget_percent, 0);
    assert_int_equal(c->breaker.open_ms, 7000);
    assert_int_equal(c->breaker.recheck_ms, 120000);
}

static void assert_everything(const struct conf *c)
{
    const struct conf_model *m = conf_model_get(c, STR("gpt-4"));

    assert_int_equal(c->listen.count, 4);
    assert_str(c->listen.items[3], "0.0.0.0:80");
    assert_str(c->admin_key, "key-of-admin");
    assert_int_equal(c->workers, 3);
    assert_true(c->debug);
    assert_str(c->tls.key, "/etc/key.pem");
    assert_int_equal(c->trusted_proxies.count, 3);
    assert_int_equal(c->cors_origins.count, 1);
    assert_int_equal(m->target_count, 2);
    assert_ptr_equal(m->targets[0].provider, conf_provider_get(c, STR("vllm")));
    assert_str(m->targets[0].model, "a/b");
    assert_str(m->targets[1].model, "q");
    assert_int_equal(m->timeouts.connect_ms, 5000);
    assert_int_equal(m->timeouts.total_ms, 8000);
    assert_str(c->default_provider, "vllm");
    assert_int_equal(c->timeouts.total_ms, 960000);
    assert_int_equal(c->http.body_grace_ms, 0);
    assert_int_equal(c->http.body_min_bytes_per_s, 0);
    assert_int_equal(c->http.max_body_bytes, 33 << 20);
    assert_int_equal(c->http.max_connections, 99);
    assert_true(c->http.serve_half_closed);
    assert_int_equal(c->stream.heartbeat_ms, 0);
    assert_int_equal(c->stream.head_after_ms, 15000);
    assert_int_equal(c->overload.max_memory_percent, 0);
    assert_int_equal(c->drain.timeout_ms, 3600000);
    assert_true(c->keys.required);
    assert_int_equal(c->keys.fixed_count, 2);
    assert_str(c->keys.fixed[0].scopes.items[0], "models");
    assert_str(c->keys.fixed[1].key, "key-of-ops");
    assert_int_equal(c->keys.fixed[1].scopes.count, 2);
    assert_int_equal(c->log.level, LOG_DEBUG);
    assert_int_equal(c->log.format, LOG_TEXT);
    assert_false(c->log.access);
    assert_true(c->log.content);
    assert_str(c->log.path, "/tmp/x.log");
}

static void test_everything_is_read(void **state)
{
    char full[128];

    setenv("TEST_ADMIN_KEY", "key-of-admin", 1);
    write_file(secret_path, "from-file\r\n", 11);
    struct conf *c = load_ok(everything);
    assert_everything(c);
    assert_providers(c);
    assert_routed(c);
    snprintf(full, sizeof full, "%s/data", folder);
    assert_str(c->data_dir, full);
    conf_unref(c);
}

/* Every option of the table is settable, with its own default, at its own place. */
static void test_every_option_is_accepted(void **state)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        struct str rest = o->path, part;
        char text[512];
        size_t len = 0, depth = 0;
        struct conf *c = NULL;

        while (rest.ptr && str_split(&rest, '.', &part)) {
            bool is_list = str_ends(part, STR("[]"));
            part.len -= is_list ? 2 : 0;
            if (str_eq(part, STR("*")))
                part = STR("x");
            len += (size_t)snprintf(text + len, sizeof text - len, "%*s%.*s:%s", (int)depth, "",
                                    STR_ARG(part), rest.ptr ? "\n" : "");
            depth += 2;
            if (is_list) {
                len += (size_t)snprintf(text + len, sizeof text - len, "%*s-\n", (int)depth, "");
                depth += 2;
            }
        }
        bool has_default = o->by_default.len && !option_is_computed(o);
        snprintf(text + len, sizeof text - len, " %.*s\n",
                 STR_ARG(has_default ? o->by_default : STR("[[1]]")));
        err_t err = load(text, &c);
        assert_null(strstr(problems.ptr, "unknown option"));
        if (has_default && strncmp(o->path.ptr, "providers.*.start", 17) != 0 &&
            strncmp(o->path.ptr, "keys.", 5) != 0 && strncmp(o->path.ptr, "models", 6) != 0)
            assert_null(err);
        if (!err)
            conf_unref(c);
    }
}

/* A preset gives defaults, each of which the file can override. */
static void test_presets(void **state)
{
    struct conf *c = load_ok("providers:\n  a: {preset: mistral}\n"
                             "  b: {preset: ollama, url: 'http://gpu:1/v1', responses: on,\n"
                             "      max_tokens_field: max_completion_tokens, auth: none}\n"
                             "  c: {preset: azure, url: 'https://x.openai.azure.com/openai/v1'}\n"
                             "  d: {url: 'http://gpu/v1'}\n  e: {}\n  f: {kind: anthropic}\n");
    const struct conf_provider *p = c->providers;

    assert_str(p[0].preset, "mistral");
    assert_str(p[0].url, "https://api.mistral.ai/v1");
    assert_true(p[0].has_old_max_tokens);
    assert_false(p[0].stream_usage);
    assert_false(p[0].speaks_responses);
    assert_str(p[1].url, "http://gpu:1/v1");
    assert_str(p[1].reasoning_field, "reasoning");
    assert_int_equal(p[1].reasoning_back, CONF_REASONING_GIVEN);
    assert_true(p[1].speaks_responses);
    assert_false(p[1].has_old_max_tokens);
    assert_int_equal(p[1].auth, CONF_AUTH_NONE);
    assert_int_equal(p[2].auth, CONF_AUTH_API_KEY);
    assert_true(p[2].speaks_responses);
    assert_false(p[3].speaks_responses);
    assert_str(p[3].reasoning_field, "reasoning_content");
    assert_true(p[4].speaks_responses);
    assert_int_equal(p[5].auth, CONF_AUTH_X_API_KEY);
    conf_unref(c);
    assert_problems("providers:\n  a: {preset: azur}\n  b: {preset: azure}\n"
                    "  c: {kind: gemini, preset: groq}\n",
                    "2: preset must be one of azure|deepseek|groq|llamacpp|mistral|ollama|"
                    "openrouter|together|vllm|xai, not \"azur\" (did you mean \"azure\"?)\n"
                    "3: provider b needs a url\n"
                    "4: preset is not for providers of kind gemini");
}

/* The words that the option allows are the rows that there are. */
static void test_every_preset_is_a_row(void **state)
{
    static const char *const rows[] = {
#define X(name, ...) #name,
#include "conf/presets.def"
#undef X
    };
    size_t at = 0;

    while (!str_eq(options[at].path, STR("providers.*.preset")))
        at++;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_str(option_word(&options[at], i), rows[i]);
    assert_int_equal(option_word(&options[at], sizeof rows / sizeof *rows).len, 0);
}

static void test_routes_that_are_refused(void **state)
{
    assert_problems("providers:\n  p: {key: k, keys: [{name: a, key: b}]}\n"
                    "  q: {keys: [{name: a, key: b}, {name: a, key: c}, {name: 'x y', key: z}]}\n"
                    "  l: {kind: local, model: m, keys: [{name: a, key: b}]}\n"
                    "passthrough: x\nmodels:\n"
                    "  a: {targets: [{model: p/x, wheight: 2}]}\n"
                    "  b: {targets: [p/x], route: fastest}\n"
                    "  c: {targets: {model: p/x, when: {min_prompt_tokens: 5,\n"
                    "      max_prompt_tokens: 4, headers: {'a b': c}}}}\n"
                    "  d: {targets: [{weight: 2}], context_fallbacks: p}\n"
                    "retry: {budget: 1.5}\n",
                    "2: provider p has both key and keys\n"
                    "3: provider q has two keys named \"a\"\n"
                    "3: a key of a provider needs a key, and a name of letters, digits, \"-\", "
                    "\".\" and \"_\"\n"
                    "4: keys is not for providers of kind local\n"
                    "5: there is no provider \"x\"\n"
                    "7: unknown option \"wheight\" (did you mean \"weight\"?)\n"
                    "8: route must be one of order|weighted|least_busy|latency|sticky|cost, not "
                    "\"fastest\"\n"
                    "9: min_prompt_tokens is more than max_prompt_tokens\n"
                    "9: \"a b\" is no name of a header\n"
                    "11: a target must be provider/model, not \"p\"\n"
                    "11: a target must be provider/model\n"
                    "12: budget must be a share like 80% or 0.8 within off, 1%..100%, not \"1.5\"");
}

static void test_extra_body(void **state)
{
    setenv("TEST_NUMBER", "12", 1);
    unsetenv("TEST_NONE");
    struct conf *c = load_ok(
        "providers:\n  p:\n    extra_body:\n"
        "      ints: [0, 007, +1, -5, 0x1F, 0o17, 123456789012345678901234567890]\n"
        "      floats: [.5, 5., -1.50, 1e3, 1.E-2, 6.02e+23]\n"
        "      words: [null, ~, True, false, yes, '12', \"tr\\u00fce\\n\", 1.2.3, 0x, -, .]\n"
        "      variables: [\"${TEST_NUMBER}\", 'x$${y}']\n"
        "      plain: ${TEST_NUMBER}\n"
        "      nested: {a: {b: []}, c: {}}\n"
        "      empty:\n");
    assert_str(c->providers[0].extra_body,
               "{\"ints\":[0,7,1,-5,31,15,123456789012345678901234567890],"
               "\"floats\":[0.5,5,-1.50,1e3,1e-2,6.02e+23],"
               "\"words\":[null,null,true,false,\"yes\",\"12\",\"tr\u00fce\\n\",\"1.2.3\",\"0x\","
               "\"-\",\".\"],"
               "\"variables\":[\"12\",\"x${y}\"],\"plain\":12,"
               "\"nested\":{\"a\":{\"b\":[]},\"c\":{}},\"empty\":null}");
    assert_null(json_check(c->providers[0].extra_body));
    conf_unref(c);
    assert_problems("providers: {p: {extra_body: {a: .inf}}}\n", "1: JSON has no number \".inf\"");
    assert_problems("providers: {p: {extra_body: {a: '${TEST_NONE}'}}}\n",
                    "1: the environment variable TEST_NONE is not set");
    assert_problems("providers: {p: {extra_body: {a: 1e999}}}\n",
                    "1: the number 1e999 is too large");
    assert_problems("providers: {p: {extra_body: {stream: true, \"m\\x6fdel\": x}}}\n",
                    "1: extra_body cannot set model\n1: extra_body cannot set stream");
    assert_problems("providers: {p: {extra_body: [1]}}\n", "1: extra_body must be a map");
}

static void test_variables(void **state)
{
    setenv("TEST_A", "a'b\"c: {#\nd", 1);
    setenv("TEST_EMPTY", "", 1);
    unsetenv("TEST_NONE");
    struct conf *c = load_ok("providers:\n  p:\n    headers:\n"
                             "      a: ${TEST_NONE:-x}${TEST_EMPTY:-y}${TEST_EMPTY}z\n"
                             "      b: $${TEST_A} $ {} $$\n"
                             "      c: ${TEST_NONE:-}\n"
                             "log: {file: \"/x/${TEST_A}\"}\n");
    assert_str(c->providers[0].headers.items[0].value, "xyz");
    assert_str(c->providers[0].headers.items[1].value, "${TEST_A} $ {} $$");
    assert_str(c->providers[0].headers.items[2].value, "");
    assert_str(c->log.path, "/x/a'b\"c: {#\nd");
    conf_unref(c);
    assert_problems("workers: ${TEST_NONE}\nadmin_key: a${TEST_NONE\nlisten: ['${0}', '${}']\n",
                    "1: the environment variable TEST_NONE is not set\n"
                    "2: \"${\" without \"}\"\n"
                    "3: \"${0}\" is not a variable: write ${NAME} or ${NAME:-default}\n"
                    "3: \"${}\" is not a variable: write ${NAME} or ${NAME:-default}\n"
                    "3: listen must have at least one address");
    assert_problems("workers: {a: ${TEST_A}}\n",
                    "1: not valid YAML: while parsing a flow mapping, did not find expected ',' or "
                    "'}' (within {…} a value with ${…} needs quotes)");
}

static void test_secrets_from_files(void **state)
{
    char text[256];

    write_file(secret_path, "top-secret\n\n", 12);
    assert_problems("admin_key: file:secret\n",
                    "1: admin_key must be ASCII without spaces or line breaks");
    assert_null(strstr(problems.ptr, "top-secret"));
    snprintf(text, sizeof text, "admin_key: file:%s\n", secret_path);
    write_file(secret_path, "top-secret\n", 11);
    struct conf *c = load_ok(text);
    assert_str(c->admin_key, "top-secret");
    conf_unref(c);
    assert_problems("admin_key: file:/nonexistent/key\n",
                    "1: /nonexistent/key: No such file or directory");
}

static void test_readable_secrets_are_warned_of(void **state)
{
    struct conf *c = NULL;

    setenv("TEST_KEY", "key-of-environment", 1);
    write_file(path, "admin_key: literal-secret\n", 26);
    assert_int_equal(chmod(path, 0644), 0);
    assert_null(conf_load(str_from(path), NULL, &c));
    assert_int_equal(c->warnings.count, 1);
    assert_non_null(strstr(c->warnings.items[0].ptr, "everybody may read this file"));
    conf_unref(c);
    write_file(path, "admin_key: ${TEST_KEY}\n", 23);
    assert_int_equal(chmod(path, 0644), 0);
    assert_null(conf_load(str_from(path), NULL, &c));
    assert_int_equal(c->warnings.count, 0);
    conf_unref(c);
    c = load_ok("admin_key: literal-secret\n");
    assert_int_equal(c->warnings.count, 0);
    conf_unref(c);
}

/* ---- what is refused ---- */

static void test_unknown_options(void **state)
{
    assert_problems("listn: 127.0.0.1:1\nhttp:\n  max_boddy: 1MiB\nmax_body: 1MiB\nretries: {}\n"
                    "providers:\n  p: {kees: x, zzz: 1}\nlog: {lvl: info}\ntls: {cert: x}\n",
                    "1: unknown option \"listn\" (did you mean \"listen\"?)\n"
                    "3: unknown option \"max_boddy\" (did you mean \"max_body\"?)\n"
                    "4: unknown option \"max_body\" (did you mean \"http.max_body\"?)\n"
                    "5: unknown option \"retries\" (did you mean \"retry\"?)\n"
                    "7: unknown option \"kees\" (did you mean \"keys\"?)\n"
                    "7: unknown option \"zzz\"\n"
                    "8: unknown option \"lvl\" (did you mean \"level\"?)\n"
                    "9: unknown option \"cert\" (did you mean \"certificate\"?)");
}

static void test_wrong_types(void **state)
{
    assert_problems(
        "workers: many\nlisten: {a: b}\nhttp: [1]\nproviders: [a]\nkeys: {static: {a: b}}\n"
        "debug: maybe\nlog: {level: inf, format: []}\ntimeouts: {connect: 5, total: 8d}\n"
        "overload: {max_memory: 80}\nstream: {heartbeat: 1ms}\nadmin_key:\n",
        "1: workers must be a whole number within 1..1024, not \"many\"\n"
        "2: listen must be a list\n"
        "3: http must be a map of options\n"
        "4: providers must be a map\n"
        "5: static must be a list\n"
        "6: debug must be true or false, not \"maybe\"\n"
        "7: level must be one of debug|info|warn|error, not \"inf\" (did you mean \"info\"?)\n"
        "7: format must be a single value (word)\n"
        "8: connect must be a duration like 250ms, 10s or 15m within 1ms..1h, not \"5\"\n"
        "8: total must be a duration like 250ms, 10s or 15m within 1ms..7d, not \"8d\"\n"
        "9: max_memory must be a share like 80% or 0.8 within off, 1%..100%, not \"80\"\n"
        "10: heartbeat must be a duration like 250ms, 10s or 15m within off, "
        "100ms..1h, not \"1ms\"\n"
        "11: admin_key has no value");
    assert_problems("- a\n", "1: the file must be a map of options");
    assert_problems("just text\n", "1: the file must be a map of options");
    assert_problems("keys:\n  static: [sk-a]\n  issuers:\n  - [a]\n"
                    "providers:\n  openai: {keys: [sk-b]}\n",
                    "2: an element of keys.static must be a map of options\n"
                    "2: a key needs a name and a key\n"
                    "4: an element of keys.issuers must be a map of options\n"
                    "4: an issuer needs a name, an issuer and an audience\n"
                    "6: an element of providers.*.keys must be a map of options\n"
                    "6: a key of a provider needs a key, and a name of letters, digits, \"-\", "
                    "\".\" and \"_\"");
    assert_problems(
        "keys: {static: [{name: a, key: 12345678, scopes: [model]}]}\n",
        "1: keys.static[].scopes can hold models|admin|route, not \"model\" (did you mean "
        "\"models\"?)");
}

static void test_yaml_that_is_refused(void **state)
{
    assert_problems("a: &x 1\n", "1: anchors (&) and aliases (*) are not supported");
    assert_problems("a: *x\n", "1: anchors (&) and aliases (*) are not supported");
    assert_problems("http: &x {}\n", "1: anchors (&) and aliases (*) are not supported");
    assert_problems("workers: !!int 1\n", "1: tags (!) are not supported");
    assert_problems("log: {}\nhttp: {}\nlog: {}\n", "3: \"log\" is here again, after line 1");
    assert_problems("---\nlog: {}\n---\nlog: {}\n", "3: a second document (---) is not supported");
    assert_problems("? [a]\n: b\n", "1: a key must be plain text");
    assert_problems("log: \"a\\0b\"\n", "1: a value must not hold a NUL byte");
    assert_problems("\"a\\0b\": 1\n", "1: a key must not hold a NUL byte");
    assert_problems(
        "log: {level: info\nworkers: 1\n",
        "2: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'");
    assert_problems("log:\n\t- x\n",
                    "2: not valid YAML: while scanning for the next token, found character that "
                    "cannot start any token");
    assert_problems("a: [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\n", "1: nested too deeply");
    assert_problems("log: \xFF\n", " byte 5: invalid leading UTF-8 octet");
}

static void test_big_files(void **state)
{
    size_t len = 10 * 1024 * 1024;
    char *text = malloc(len + 1);

    memset(text, '\n', len);
    text[len] = '\0';
    assert_problems(text, " the file is larger than 1 MiB");
    for (size_t i = 0; i < 100000; i++)
        memcpy(text + 2 * i, "[,", 2);
    memcpy(text, "a:", 2);
    memcpy(text + 2, " [", 2);
    for (size_t i = 2; i < 50000; i++)
        memcpy(text + 2 * i, "1,", 2);
    strcpy(text + 100000, "]\n");
    assert_problems(text, "1: too many values");
    free(text);
    struct conf *c;
    assert_true(err_is(conf_load(STR("/nonexistent.yaml"), NULL, &c), ERR_CONFIG));
    assert_true(err_is(conf_load(str_from(folder), NULL, &c), ERR_CONFIG));
}

static void test_addresses(void **state)
{
    assert_problems(
        "listen: [8080, ':8080', '127.0.0.1:99999', '::1:80', 'unix:', 'a b:1']\nadmin: []\n",
        "1: listen must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not \"8080\"\n"
        "1: listen must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not \":8080\"\n"
        "1: listen must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not "
        "\"127.0.0.1:99999\"\n"
        "1: listen must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not \"::1:80\"\n"
        "1: listen must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not \"unix:\"\n"
        "1: listen must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not \"a b:1\"\n"
        "2: admin must have at least one address");
    assert_problems("listen: [localhost:1, localhost:1]\nadmin: localhost:1\n",
                    "1: listen has localhost:1 twice\n"
                    "2: admin and listen are both localhost:1\n"
                    "2: admin and listen are both localhost:1");
    conf_unref(load_ok("listen: ['127.0.0.1:0', '127.0.0.1:0']\nadmin: '127.0.0.1:0'\n"));
    assert_problems("trusted_proxies: [10.0.0.0/33, x]\ncors: {origins: ['*', 'https://a/b']}\n"
                    "tls: {key: x}\n",
                    "1: trusted_proxies must be networks like 10.0.0.0/8, not \"10.0.0.0/33\"\n"
                    "1: trusted_proxies must be networks like 10.0.0.0/8, not \"x\"\n"
                    "2: origins must be like https://app.example.com, not \"*\"\n"
                    "2: origins must be like https://app.example.com, not \"https://a/b\"\n"
                    "3: tls needs both certificate and key");
}

static void test_open_doors(void **state)
{
    static const char *const open[] = {"0.0.0.0:80",
                                       "'[::]:80'",
                                       "example.com:80",
                                       "10.1.2.3:80",
                                       "'[::ffff:127.0.0.1]:80'",
                                       "127.0.0.1.evil.com:80"};
    static const char *const local[] = {"127.9.9.9:80", "'[::1]:80'", "localhost:80", "unix:/x"};
    char text[256];
    struct conf *c;

    for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
        snprintf(text, sizeof text, "listen: %s\n", open[i]);
        c = load_ok(text);
        assert_true(c->keys.required);
        conf_unref(c);
        snprintf(text, sizeof text,
                 "listen: %s\nkeys: {required: false, static: [{name: a, key: b}]}\n", open[i]);
        assert_true(err_is(load(text, &c), ERR_CONFIG));
        assert_non_null(strstr(problems.ptr, "is open to others, but keys.required is false"));
        snprintf(text, sizeof text, "listen: %s\nkeys: {static: [{name: a, key: b}]}\n", open[i]);
        conf_unref(load_ok(text));
        snprintf(text, sizeof text, "admin: %s\n", open[i]);
        assert_true(err_is(load(text, &c), ERR_CONFIG));
        assert_non_null(strstr(problems.ptr, "is open to others: set admin_key"));
        snprintf(text, sizeof text, "admin: %s\nadmin_key: b\n", open[i]);
        conf_unref(load_ok(text));
    }
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        snprintf(text, sizeof text, "listen: %s\nadmin: unix:/y\n", local[i]);
        c = load_ok(text);
        assert_false(c->keys.required);
        conf_unref(c);
    }
}

static void test_providers_and_models(void **state)
{
    assert_problems(
        "providers:\n  open ai: {}\n  a: {url: 'ftp://x'}\n  b: {url: 'http://u:pw@x'}\n"
        "  c: {kind: local}\n  d: {kind: local, model: m, url: 'http://x', key: k}\n"
        "  e: {threads: 2}\n  f: {client_key: k}\n  g: {proxy: 'socks://u:pw@x'}\n"
        "  h:\n    headers:\n      host: x\n      a b: x\n      ok: \"x\\ny\"\n"
        "  i: {kind: opnai}\n",
        "2: a provider's name has letters, digits, \"-\", \".\" and \"_\"\n"
        "3: url must be like https://host/v1, not \"ftp://x\"\n"
        "4: url must not hold a password: use key or headers\n"
        "5: provider c of kind local needs a model\n"
        "6: url is not for providers of kind local\n"
        "6: key is not for providers of kind local\n"
        "7: threads is not for providers of kind openai\n"
        "8: provider f needs both client_certificate and client_key\n"
        "9: proxy must be like http://host:port, or off\n"
        "12: \"host\" cannot be set as a header\n"
        "13: \"a b\" cannot be set as a header\n"
        "14: the value of header ok has control characters\n"
        "15: kind must be one of openai|anthropic|gemini|local, not \"opnai\" (did you mean "
        "\"openai\"?)");
    assert_problems(
        "providers: {openai: {}}\ndefault_provider: opnai\nmodels:\n"
        "  a: {targets: opena/x}\n  b: {targets: [openai, openai/, /x]}\n  c: {}\n"
        "  d: {targets: []}\n  e: {targets: [{}, [a]]}\n  f: {targets: {model: openai/x}}\n",
        "2: there is no provider \"opnai\" (did you mean \"openai\"?)\n"
        "4: there is no provider \"opena\" (did you mean \"openai\"?)\n"
        "5: a target must be provider/model, not \"openai\"\n"
        "5: a target must be provider/model, not \"openai/\"\n"
        "5: a target must be provider/model, not \"/x\"\n"
        "6: model c needs targets\n"
        "7: model d needs targets\n"
        "8: a target must be provider/model\n"
        "8: a target must be provider/model");
    assert_null(strstr(problems.ptr, "pw"));
}

static void test_local_models_get_more_time(void **state)
{
    char full[128];
    struct conf *c =
        load_ok("providers:\n  a: {kind: local, model: m.gguf}\n"
                "  b: {kind: local, model: m, timeouts: {first_token: 7s}}\n  c: {}\n");

    assert_int_equal(c->providers[0].timeouts.first_token_ms, 300000);
    assert_int_equal(c->providers[1].timeouts.first_token_ms, 7000);
    assert_int_equal(c->providers[2].timeouts.first_token_ms, 0);
    snprintf(full, sizeof full, "%s/m.gguf", folder);
    assert_str(c->providers[0].model, full);
    conf_unref(c);
    c = load_ok("providers: {a: {kind: local, model: m}}\ntimeouts: {first_token: 9s}\n");
    assert_int_equal(c->providers[0].timeouts.first_token_ms, 0);
    conf_unref(c);
}

static void test_keys(void **state)
{
    struct conf *c = load_ok("keys: {static: [{name: a, key: secret-1}]}\n");

    assert_true(c->keys.required);
    conf_unref(c);
    c = load_ok("keys: {required: false, static: [{name: a, key: secret-1}]}\n");
    assert_false(c->keys.required);
    conf_unref(c);
    c = load_ok("keys: {required: true}\n"); /* keys live in the store, too */
    assert_true(c->keys.required);
    conf_unref(c);
    assert_problems(
        "keys:\n  static:\n    - {name: a, key: secret-1}\n    - {name: b, key: secret-1}\n"
        "    - {name: a, key: secret-2}\n    - {name: c}\n    - {name: d, key: x, scopes: []}\n"
        "    - {name: e, key: 'secret 3'}\n",
        "4: the keys \"a\" and \"b\" are the same\n"
        "5: there are two keys named \"a\"\n"
        "6: a key needs a name and a key\n"
        "7: a key needs at least one scope\n"
        "8: key must be ASCII without spaces or line breaks");
    assert_null(strstr(problems.ptr, "secret-1"));
}

/* The error's own text is enough for one line of log. */
static void test_error_text(void **state)
{
    struct conf *c;
    err_t err = load("a1: 1\nb2: 2\nc3: 3\n", &c);
    char expected[256];

    snprintf(expected, sizeof expected, "%s:1: unknown option \"a1\" (and 2 more)", path);
    assert_string_equal(err->text, expected);
    assert_true(err_is(conf_load(str_from(path), NULL, &c), ERR_CONFIG));
}

/* ---- showing ---- */

static void test_print_reads_back(void **state)
{
    struct buf again = buf_make(MEM_TOOL, 1024 * 1024);

    setenv("TEST_ADMIN_KEY", "key-of-admin", 1);
    write_file(secret_path, "from-file", 9);
    struct conf *c = load_ok(everything);
    assert_null(conf_print(c, &printed));
    assert_null(buf_add_byte(&printed, '\0'));
    assert_null(strstr(printed.ptr, "key-of"));
    assert_null(strstr(printed.ptr, "from-file"));
    assert_null(strstr(printed.ptr, "secret-word"));
    assert_non_null(strstr(printed.ptr, "proxy: \"http://***@proxy:3128\"\n"));
    assert_non_null(strstr(printed.ptr, "    targets:\n      -\n        model: \"vllm/a/b\"\n"));
    assert_non_null(strstr(printed.ptr, "headers: {\"x-a\": \"b\"}\n"));
    conf_unref(c);
    /* Two keys are equal once they are masked. */
    char *second = strstr(strstr(printed.ptr, "\"***\"\n      scopes"), "name: \"ops\"");
    char *key = strstr(second, "\"***\"");
    memcpy(key, "\"*+*\"", 5);
    c = load_ok(printed.ptr);
    memcpy(key, "\"***\"", 5);
    assert_null(conf_print(c, &again));
    assert_null(buf_add_byte(&again, '\0'));
    assert_string_equal(again.ptr, printed.ptr);
    conf_unref(c);
    buf_fini(&again);
}

static void test_print_json(void **state)
{
    setenv("TEST_ADMIN_KEY", "key-of-admin", 1);
    write_file(secret_path, "from-file", 9);
    struct conf *c = load_ok(everything);
    assert_null(conf_print_json(c, &printed));
    assert_null(json_check(buf_str(&printed)));
    struct str vllm = json_get(json_get(buf_str(&printed), STR("providers")), STR("vllm"));
    assert_str(json_get(vllm, STR("key")), "\"***\"");
    assert_str(json_get(vllm, STR("extra_body")), "{\"top_k\":20}");
    assert_str(json_get(json_get(buf_str(&printed), STR("http")), STR("max_body")), "\"33MiB\"");
    assert_null(buf_add_byte(&printed, '\0'));
    assert_null(strstr(printed.ptr, "key-of"));
    conf_unref(c);
}

static void test_schema(void **state)
{
    assert_null(conf_print_schema(&printed));
    printed.len--; /* the newline */
    assert_null(json_check(buf_str(&printed)));
    struct str http = json_get(json_get(buf_str(&printed), STR("properties")), STR("http"));
    assert_str(json_get(http, STR("additionalProperties")), "false");
    assert_non_null(json_get(json_get(http, STR("properties")), STR("max_body")).ptr);
}

static struct str read_whole(const char *name, struct buf *out)
{
    FILE *file = fopen(name, "r");
    static char block[4096];
    size_t n;

    if (!file)
        fail_msg("%s: %s", name, strerror(errno));
    while ((n = fread(block, 1, sizeof block, file)) > 0)
        assert_null(buf_add(out, (struct str){block, n}));
    fclose(file);
    return buf_str(out);
}

/* The page's table is this program's. */
static void test_reference_page(void **state)
{
    struct buf page = buf_make(MEM_TOOL, 1024 * 1024);
    struct str text = read_whole("docs/configuration.md", &page);
    struct str begin = STR("<!-- options: generated, do not edit -->\n"),
               end = STR("<!-- options end -->");
    size_t at = str_find(text, begin);

    assert_true(at < text.len);
    text = str_after(text, at + begin.len);
    text.len = str_find(text, end);
    assert_null(conf_print_reference(&printed));
    if (!str_eq(text, buf_str(&printed))) {
        fwrite(printed.ptr, 1, printed.len, stdout);
        fail_msg("docs/configuration.md does not have this table");
    }
    buf_fini(&page);
}

static void test_example_file(void **state)
{
    struct conf *c;

    setenv("OPENAI_API_KEY", "sk-example", 1);
    problems.len = 0;
    err_t err = conf_load(STR("sluice.example.yaml"), &problems, &c);
    if (err)
        fail_msg("%s", err->text);
    assert_true(c->provider_count > 0);
    conf_unref(c);
}

/* ---- snapshots ---- */

static void test_outlives_its_first_user(void **state)
{
    struct conf *first = load_ok("workers: 1\n"),
                *second = load_ok("workers: 1\nlog: {level: warn}\n");

    assert_true(second->version > first->version);
    assert_null(conf_check_reload(first, second));
    conf_ref(first);
    conf_unref(first);
    assert_int_equal(first->log.level, LOG_INFO);
    conf_unref(first);
    conf_unref(second);
}

static void test_what_needs_a_restart(void **state)
{
    static const char *const texts[] = {"listen: 127.0.0.1:1\n", "admin: unix:/x\n",
                                        "data_dir: /x\n", "workers: 2\n", "store: sqlite:/x\n"};
    struct conf *now = load_ok("");

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct conf *next = load_ok(texts[i]);
        err_t err = conf_check_reload(now, next);
        assert_true(err_is(err, ERR_CONFIG));
        assert_memory_equal(err->text, texts[i], str_index(str_from(texts[i]), ':'));
        conf_unref(next);
    }
    conf_unref(now);
}

/* With every allocation failing in turn, loading fails cleanly or works; nothing leaks. */
static void test_no_memory(void **state)
{
#ifdef SLUICE_FAULTS
    struct conf *c;
    err_t err;

    setenv("TEST_ADMIN_KEY", "key-of-admin", 1);
    setenv("OPENAI_API_KEY", "sk-x", 1);
    write_file(secret_path, "from-file", 9);
    write_file(path, everything, sizeof everything - 1);
    err_scope_set(NULL);
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        err = conf_load(str_from(path), NULL, &c);
        bool over = mem_fail_count() < n;
        mem_fail_nth(0);
        assert_true(over ? !err : err != NULL);
        assert_true(!err || err->kind != ERR_CONFIG);
        if (!err)
            conf_unref(c);
        assert_int_equal(mem_in_use(MEM_CONF), 0);
        if (over)
            break;
        assert_true(n < 10000);
    }
#endif
}

static int make_folder(void **state)
{
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/sluice.yaml", folder);
    snprintf(secret_path, sizeof secret_path, "%s/secret", folder);
    return 0;
}

static int remove_folder(void **state)
{
    unlink(path);
    unlink(secret_path);
    return rmdir(folder);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(no_file),
        TEST(empty_files),
        TEST(key_in_environment),
        TEST(other_keys_in_environment),
        TEST(find),
        TEST(everything_is_read),
        TEST(every_option_is_accepted),
        TEST(presets),
        TEST(every_preset_is_a_row),
        TEST(routes_that_are_refused),
        TEST(extra_body),
        TEST(variables),
        TEST(secrets_from_files),
        TEST(readable_secrets_are_warned_of),
        TEST(unknown_options),
        TEST(wrong_types),
        TEST(yaml_that_is_refused),
        TEST(big_files),
        TEST(addresses),
        TEST(open_doors),
        TEST(providers_and_models),
        TEST(local_models_get_more_time),
        TEST(keys),
        TEST(error_text),
        TEST(print_reads_back),
        TEST(print_json),
        TEST(schema),
        TEST(reference_page),
        TEST(example_file),
        TEST(outlives_its_first_user),
        TEST(what_needs_a_restart),
        TEST(no_memory),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
