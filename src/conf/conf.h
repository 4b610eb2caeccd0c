/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: read, checked, swapped.
 *
 * A snapshot is immutable, lives in its own arena and is counted. A reload builds a whole new
 * one and swaps a pointer; requests in flight keep theirs. Every option is one line of
 * options.def, from which reading, checking, defaults, `config show`, the JSON Schema and the
 * reference page come. */
#ifndef CONF_CONF_H
#define CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct conf_strings {
    struct str *items;
    size_t count;
};

/* One "name: value" of a map whose values are text (headers). */
struct conf_pair {
    struct str name, value;
};

struct conf_pairs {
    struct conf_pair *items;
    size_t count;
};

/* The four time-outs; at provider and model level 0 means "inherit". */
struct conf_timeouts {
    uint64_t connect_ms, first_token_ms, idle_ms, total_ms;
};

struct conf_tls {
    struct str certificate, key; /* file paths; empty: no TLS */
};

/* "100/60s": so many at once, and so many again in each window; count 0: no limit. */
struct conf_rate {
    uint64_t count, window_ms;
};

enum conf_period { CONF_PERIOD_DAY, CONF_PERIOD_MONTH, CONF_PERIOD_TOTAL };

/* "100000/day", "500/month", "2.50/total"; amount in tokens or nano-units of the currency. */
struct conf_quota {
    uint64_t amount;
    enum conf_period period;
};

struct conf_quotas {
    struct conf_quota *items;
    size_t count;
};

/* Rates of one kind of owner. */
struct conf_limits {
    struct conf_rate requests, tokens;
    uint64_t streams; /* at once; 0: any number */
};

/* Budgets of one kind of owner. */
struct conf_budgets {
    struct conf_quotas tokens, money;
};

/* Whose tokens (JSON Web Tokens) are believed. */
struct conf_issuer {
    struct str name;
    struct str issuer;   /* the claim `iss` */
    struct str audience; /* the claim `aud` */
    struct str jwks;     /* https URL or file of its keys; empty: found by OpenID discovery */
    struct str org; /* id: its tokens are good for projects of this organisation; "*": of all */
    struct str project_claim, user_claim, scope_claim;
    struct str project; /* of tokens without the project claim; empty: they are refused */
};

/* In the order of the words of providers.*.kind. */
enum conf_provider_kind {
    CONF_PROVIDER_OPENAI,
    CONF_PROVIDER_ANTHROPIC,
    CONF_PROVIDER_GEMINI,
    CONF_PROVIDER_LOCAL
};

/* How a provider is shown its key. */
enum conf_auth {
    CONF_AUTH_BEARER,         /* Authorization: Bearer KEY */
    CONF_AUTH_API_KEY,        /* api-key: KEY (Azure) */
    CONF_AUTH_X_API_KEY,      /* x-api-key: KEY (Anthropic) */
    CONF_AUTH_X_GOOG_API_KEY, /* x-goog-api-key: KEY (Gemini) */
    CONF_AUTH_NONE
};

/* When a model's earlier thoughts are sent back to it, in translated requests. */
enum conf_reasoning_back {
    CONF_REASONING_NEVER,
    CONF_REASONING_GIVEN, /* where the caller has them */
    CONF_REASONING_CALLS  /* and an empty one with every message that calls tools: DeepSeek */
};

/* What to do with parts of a request that a provider has no word for. */
enum conf_unsupported {
    CONF_UNSUPPORTED_AUTO,  /* refuse what changes the answer's content, drop what only tunes it */
    CONF_UNSUPPORTED_ERROR, /* refuse everything */
    CONF_UNSUPPORTED_DROP   /* drop everything */
};

/* Another try at the same target: how often, and how much of the traffic may be that. At provider and model level 0
 * means "inherit". */
struct conf_retry {
    uint64_t attempts; /* tries of one target, the first included */
    uint64_t budget_percent;
};

/* When a target is left alone. At provider and model level 0 means "inherit". */
struct conf_breaker {
    uint64_t failures;      /* so many in a row, or */
    uint64_t ratio_percent; /* this share of at least 20 calls within window_ms */
    uint64_t window_ms, open_ms, max_open_ms;
    uint64_t recheck_ms; /* health.recheck: between probes of an unhealthy one */
};

/* One of several keys of a provider. */
struct conf_provider_key {
    struct str name;
    struct str key; /* secret */
};

struct conf_provider {
    struct str name;
    enum conf_provider_kind kind;
    struct str preset; /* kind openai: a row of presets.def, or empty */
    struct str
        url; /* base, e.g. https://api.openai.com/v1, no slash at the end; may hold {model} */
    struct str key;                 /* secret; empty: none is sent, or one of keys */
    struct conf_provider_key *keys; /* if there are several */
    size_t key_count;
    enum conf_auth auth;
    struct conf_pairs query; /* added to every target: api-version */
    struct conf_pairs headers;
    struct str extra_body; /* a JSON object as text, or empty */
    bool stream_usage;     /* ask for stream_options.include_usage (default true) */
    struct str ca, client_certificate, client_key; /* files; empty: system CAs, none */
    struct str proxy; /* http://host:port; empty: from HTTPS_PROXY/HTTP_PROXY/NO_PROXY; "off" */
    struct conf_timeouts timeouts;
    struct conf_retry retry;
    struct conf_breaker breaker;
    uint64_t max_in_flight;     /* per process; 0: no limit */
    uint64_t max_tokens;        /* told to a provider that must be told, when the caller did not */
    bool has_old_max_tokens;    /* max_tokens_field: wants max_tokens, not max_completion_tokens */
    struct str seed_field;      /* "seed" or "random_seed" */
    bool takes_extensions;      /* top_k, min_p, repeat_penalty: vLLM, llama.cpp, Ollama */
    bool speaks_responses;      /* has /responses itself */
    struct str reasoning_field; /* "reasoning_content" or "reasoning" */
    enum conf_reasoning_back reasoning_back;
    bool schema_is_tool, effort_is_budget; /* kind anthropic */
    /* kind local */
    struct str model;                        /* catalogue name or path of a .gguf */
    struct str server;                       /* path of llama-server; empty: found */
    uint64_t threads, slots, context_tokens; /* 0: chosen */
    bool start_at_once;                      /* start: on_demand (default) | at_once */
    size_t index;                            /* position in conf.providers */
};

/* Conditions that a request must meet; all that are given. */
struct conf_when {
    struct conf_strings keys, tags; /* one of them each */
    struct conf_pairs headers;
    uint64_t min_prompt_tokens, max_prompt_tokens; /* 0: none */
};

enum conf_route {
    CONF_ROUTE_ORDER,
    CONF_ROUTE_WEIGHTED,
    CONF_ROUTE_LEAST_BUSY,
    CONF_ROUTE_LATENCY,
    CONF_ROUTE_STICKY,
    CONF_ROUTE_COST
};

/* One target of a model: provider and the provider's own name of the model. Of fallbacks only these
 * two are set. */
struct conf_target {
    const struct conf_provider *provider;
    struct str model;
    uint64_t weight; /* 0: only after all others */
    bool takes_tools, takes_images, takes_schemas;
    uint64_t context_tokens;         /* 0: not known */
    uint64_t max_complexity_percent; /* route: cost; harder prompts pass it by */
    struct conf_strings tiers;       /* route: cost; callers of other tiers pass it by; none: all */
    struct conf_when when;
};

/* An alias that callers use. */
struct conf_model {
    struct str name;
    struct conf_target *targets; /* at least one */
    size_t target_count;
    struct conf_target *context_fallbacks, *content_fallbacks;
    size_t context_fallback_count, content_fallback_count;
    enum conf_route route;
    bool sticks_to_user; /* sticky_by: conversation (false) | user */
    struct conf_when when;
    enum conf_unsupported unsupported; /* AUTO: as the global one */
    bool continues;                    /* continue: mid-stream continuation */
    struct conf_timeouts timeouts;
    struct conf_retry retry;
    struct conf_breaker breaker;
};

struct conf_key {
    struct str name;
    struct str key;             /* secret */
    struct conf_strings scopes; /* "models", "admin", "route" */
    struct str project;         /* id; empty: "default" */
};

struct conf {
    struct arena *arena;
    uint64_t version;             /* rises with every reload, in every log line of a request */
    struct str path;              /* file it came from; empty: none */
    struct conf_strings warnings; /* what is allowed but unwise, as "file:line: message": log it */

    struct conf_strings listen; /* public: host:port, [v6]:port, unix:/path */
    struct conf_strings admin;
    struct str data_dir;
    uint64_t workers; /* 0: one per core */
    struct conf_tls tls;
    struct conf_strings trusted_proxies; /* CIDR */
    struct conf_strings cors_origins;
    struct str admin_key;
    bool debug; /* debug switches under /admin/debug */

    struct conf_provider *providers;
    size_t provider_count;
    struct conf_model *models;
    size_t model_count;
    struct str default_provider;
    struct str passthrough; /* provider of the paths under /v1 that are not ours; empty: none */
    bool route_header;      /* any key may choose a target with x-sluice-target */
    bool tells_reasoning;   /* reasoning_content in chat answers that are translated */
    enum conf_unsupported unsupported;

    struct conf_timeouts timeouts;
    struct conf_retry retry;
    struct conf_breaker breaker;
    struct {
        uint64_t head_timeout_ms, body_grace_ms, body_min_bytes_per_s, idle_timeout_ms,
            write_timeout_ms;
        uint64_t max_body_bytes, max_connections;
        bool serve_half_closed; /* half_close: cancel (default) | serve */
    } http;
    struct {
        uint64_t heartbeat_ms;
        uint64_t head_after_ms; /* 0: off */
    } stream;
    struct {
        uint64_t max_in_flight;
        uint64_t max_memory_percent; /* of the machine's or cgroup's memory; 0: off */
    } overload;
    struct {
        uint64_t ttl_ms; /* of responses that are kept for their callers */
    } responses;
    struct {
        uint64_t delay_ms, timeout_ms;
    } drain;
    struct {
        bool required; /* default: true with static keys, issuers, or an open address */
        struct conf_key *fixed;
        size_t fixed_count;
        struct conf_issuer *issuers;
        size_t issuer_count;
    } keys;
    struct {
        struct str url;       /* sqlite:/absolute/path or postgresql://… */
        uint64_t connections; /* PostgreSQL: most of them in this process */
    } store;
    struct {
        struct str url; /* redis://, redis+cluster:// and the like; empty: none */
        uint64_t timeout_ms;
    } redis;
    struct {
        struct conf_limits per_key, per_user, per_project, per_model;
        uint64_t replicas; /* how many processes share the limits when Redis is away */
    } limits;
    struct {
        struct conf_budgets per_key, per_user, per_project;
        struct str timezone; /* "UTC", "+02:00", or a name of the zone database */
        struct str currency;
        bool dry_run;
        uint64_t max_tokens; /* of an answer, where the caller said nothing and a budget holds */
        uint64_t image_tokens, file_tokens; /* what one in a prompt may come to */
        uint64_t lease_percent, lease_ttl_ms;
        struct str webhook_url, webhook_secret;
    } budgets;
    struct str prices; /* file; empty: none */
    struct {
        bool has_all;                 /* rows: governed (default) | all */
        uint64_t retention_ms;        /* of rows */
        uint64_t hourly_ms, daily_ms; /* of sums */
    } ledger;
    struct {
        uint64_t ttl_ms;    /* of answers kept for Idempotency-Key; 0: off */
        uint64_t max_bytes; /* of one of them */
    } idempotency;
    struct {
        int level, format; /* enum log_level, log_format */
        bool access, content;
        struct str path; /* empty: standard error */
    } log;
};

/* Where to look when no path was given: $SLUICE_CONFIG, ./sluice.yaml, /etc/sluice/sluice.yaml;
 * the first that exists, or an empty str for "no file". In the arena. Errors: CONFIG when
 * $SLUICE_CONFIG names a missing file. */
err_t conf_find(struct arena *arena, const char *given, struct str *path) ERR_MUST_CHECK;

/* Read and check a configuration (path empty: built-in defaults and the environment:
 * OPENAI_API_KEY with OPENAI_BASE_URL gives a provider "openai"). All findings are collected as
 * "file:line: message" lines in `problems` (may be NULL: only the error's text), and the call
 * fails with CONFIG if there was one. The result has one reference. Otherwise BUSY without memory.
 * Blocks on files: start-up, or a pool. */
err_t conf_load(struct str path, struct buf *problems, struct conf **out) ERR_MUST_CHECK;

/* Counted use. Any thread. */
const struct conf *conf_ref(const struct conf *conf);
void conf_unref(const struct conf *conf);

/* What may not change in a reload (listen, workers, data_dir…): NULL if `next` may replace
 * `now`, else an error naming the option. */
err_t conf_check_reload(const struct conf *now, const struct conf *next) ERR_MUST_CHECK;

/* Print what is in force as YAML that could be read back: every option that has a value. Secrets,
 * values of headers and the proxy's password are shown as "***". */
err_t conf_print(const struct conf *conf, struct buf *out) ERR_MUST_CHECK;

/* The same as a JSON object (admin view). */
err_t conf_print_json(const struct conf *conf, struct buf *out) ERR_MUST_CHECK;

/* JSON Schema (2020-12) of the file, from options.def. */
err_t conf_print_schema(struct buf *out) ERR_MUST_CHECK;

/* The reference table of docs/configuration.md (Markdown), from options.def. */
err_t conf_print_reference(struct buf *out) ERR_MUST_CHECK;

/* Provider or model alias by name, or NULL. */
const struct conf_provider *conf_provider_get(const struct conf *conf, struct str name);
const struct conf_model *conf_model_get(const struct conf *conf, struct str name);

#endif
