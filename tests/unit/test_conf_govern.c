/* SPDX-License-Identifier: Apache-2.0 */
/* The options that say who may use what: rates, quotas and money as text, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "conf/quota.h"
#include "conf_world.h"

/* ---- texts ---- */

static void test_rates(void **state)
{
    static const struct {
        const char *text, *printed;
        uint64_t count, window_ms;
    } good[] = {
        {"100/60s", "100/1m", 100, 60000},
        {"100/min", "100/1m", 100, 60000},
        {"1/s", "1/1s", 1, 1000},
        {"5/250ms", "5/250ms", 5, 250},
        {"20/90s", "20/90s", 20, 90000},
        {"1000000000000/day", "1000000000000/1d", 1000000000000, 86400000},
        {"7/h", "7/1h", 7, 3600000},
        {"off", "off", 0, 0},
    };
    static const char *const bad[] = {"",
                                      "100",
                                      "100/",
                                      "/60s",
                                      "0/60s",
                                      "-1/60s",
                                      "100/0s",
                                      "1/366d",
                                      "1.5/60s",
                                      "100 / 60s",
                                      "100/60",
                                      "100/60s ",
                                      "100/60/s",
                                      "OFF",
                                      "100/week",
                                      "1e3/s",
                                      "0x1/s",
                                      "+1/s",
                                      "100/-60s",
                                      "1/",
                                      "1000000000001/s",
                                      "99999999999999999999/s"};
    struct conf_rate rate;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(quota_parse_rate(str_from(good[i].text), &rate));
        assert_int_equal(rate.count, good[i].count);
        assert_int_equal(rate.window_ms, good[i].window_ms);
        printed.len = 0;
        assert_null(quota_print_rate(&rate, &printed));
        assert_str(buf_str(&printed), good[i].printed);
        assert_true(quota_parse_rate(buf_str(&printed), &rate));
        assert_int_equal(rate.window_ms, good[i].window_ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (quota_parse_rate(str_from(bad[i]), &rate))
            fail_msg("\"%s\" was taken for a rate", bad[i]);
}

static void test_money(void **state)
{
    static const struct {
        const char *text, *printed;
        uint64_t nano;
    } good[] = {
        {"0", "0", 0},
        {"1", "1", 1000000000},
        {"2.50", "2.5", 2500000000},
        {"0.000000001", "0.000000001", 1},
        {"0.1", "0.1", 100000000},
        {"12.000000340", "12.00000034", 12000000340},
        {"4000000000", "4000000000", QUOTA_MAX_AMOUNT},
        {"3999999999.999999999", "3999999999.999999999", QUOTA_MAX_AMOUNT - 1},
    };
    static const char *const bad[] = {"",
                                      ".5",
                                      "5.",
                                      "1.0000000001",
                                      "-1",
                                      "1,5",
                                      "$1",
                                      "1e3",
                                      "1.2.3",
                                      "4000000001",
                                      "4000000000.000000001",
                                      "1.-5",
                                      " 1",
                                      "99999999999999999999"};
    uint64_t nano;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(quota_parse_money(str_from(good[i].text), &nano));
        assert_int_equal(nano, good[i].nano);
        printed.len = 0;
        assert_null(quota_print_money(nano, &printed));
        assert_str(buf_str(&printed), good[i].printed);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (quota_parse_money(str_from(bad[i]), &nano))
            fail_msg("\"%s\" was taken for money", bad[i]);
}

static void test_quotas(void **state)
{
    static const char *const bad[] = {"",      "5",     "5/",     "/day",      "0/day", "0.0/day",
                                      "5/Day", "5/60s", "5/days", "5/day/day", "x/day"};
    struct conf_quota quota;

    assert_true(quota_parse(STR("100000/day"), QUOTA_TOKENS, &quota));
    assert_int_equal(quota.amount, 100000);
    assert_int_equal(quota.period, CONF_PERIOD_DAY);
    assert_true(quota_parse(STR("0.25/total"), QUOTA_MONEY, &quota));
    assert_int_equal(quota.amount, 250000000);
    assert_int_equal(quota.period, CONF_PERIOD_TOTAL);
    assert_null(quota_print(&quota, QUOTA_MONEY, &printed));
    assert_str(buf_str(&printed), "0.25/total");
    assert_false(quota_parse(STR("2.5/day"), QUOTA_TOKENS, &quota));
    assert_false(quota_parse(STR("4000000000000000001/day"), QUOTA_TOKENS, &quota));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(quota_parse(str_from(bad[i]), QUOTA_TOKENS, &quota));
        assert_false(quota_parse(str_from(bad[i]), QUOTA_MONEY, &quota));
    }
}

/* ---- in a file ---- */

static const char everything[] =
    "store: postgresql://me:pass-word@db/sluice?password=other-word\n"
    "postgresql: {connections: 20}\n"
    "redis: {url: \"redis+sentinel://:pass-word@a:1,[::1]:2,c/main/3\", timeout: 20ms}\n"
    "limits:\n"
    "  per_key: {requests: 100/min, tokens: 200000/h, streams: 5}\n"
    "  per_user: {requests: off}\n"
    "  per_project: {streams: off}\n"
    "  per_model: {tokens: 10/1d}\n"
    "  replicas: 3\n"
    "budgets:\n"
    "  per_key: {tokens: 100000/day, money: 2.50/day}\n"
    "  per_user: {tokens: [5/day, 6/month, 7/total], money: off}\n"
    "  per_project: {tokens: [], money: [500/month, 20.000000001/day]}\n"
    "  timezone: Europe/Berlin\n"
    "  currency: EUR\n"
    "  dry_run: on\n"
    "  max_tokens: 100\n"
    "  lease: 10%\n"
    "  lease_ttl: 5s\n"
    "  webhook: {url: \"https://hooks.example.com/x\", secret: hook-word}\n"
    "prices: prices.yaml\n"
    "ledger: {retention: 30d}\n"
    "idempotency: {ttl: off, max_body: 2MiB}\n"
    "providers: {p: {}}\n"
    "models:\n"
    "  m:\n"
    "    route: cost\n"
    "    targets: [{model: p/small, max_complexity: 40%, tiers: [free, pro]}, p/large]\n"
    "keys:\n"
    "  static: [{name: ops, key: key-of-ops, scopes: [admin, route], project: proj_1}]\n"
    "  issuers:\n"
    "    - {name: corp, issuer: \"https://id.example.com/\", audience: sluice}\n"
    "    - name: ci\n"
    "      issuer: ci\n"
    "      audience: gate\n"
    "      jwks: file:jwks.json\n"
    "      project_claim: \"\"\n"
    "      user_claim: actor\n"
    "      scope_claim: may\n"
    "      project: proj_2\n"
    "      org: org_7\n";

static void assert_limits(const struct conf *c)
{
    assert_int_equal(c->limits.per_key.requests.count, 100);
    assert_int_equal(c->limits.per_key.requests.window_ms, 60000);
    assert_int_equal(c->limits.per_key.tokens.window_ms, 3600000);
    assert_int_equal(c->limits.per_key.streams, 5);
    assert_int_equal(c->limits.per_user.requests.count, 0);
    assert_int_equal(c->limits.per_project.streams, 0);
    assert_int_equal(c->limits.per_model.tokens.count, 10);
    assert_int_equal(c->limits.replicas, 3);
}

static void assert_budgets(const struct conf *c)
{
    assert_int_equal(c->budgets.per_key.tokens.count, 1);
    assert_int_equal(c->budgets.per_key.tokens.items[0].amount, 100000);
    assert_int_equal(c->budgets.per_key.money.items[0].amount, 2500000000);
    assert_int_equal(c->budgets.per_user.tokens.count, 3);
    assert_int_equal(c->budgets.per_user.tokens.items[2].period, CONF_PERIOD_TOTAL);
    assert_int_equal(c->budgets.per_user.money.count, 0);
    assert_int_equal(c->budgets.per_project.tokens.count, 0);
    assert_int_equal(c->budgets.per_project.money.items[1].amount, 20000000001);
    assert_str(c->budgets.timezone, "Europe/Berlin");
    assert_str(c->budgets.currency, "EUR");
    assert_true(c->budgets.dry_run);
    assert_int_equal(c->budgets.max_tokens, 100);
    assert_int_equal(c->budgets.lease_percent, 10);
    assert_int_equal(c->budgets.lease_ttl_ms, 5000);
    assert_str(c->budgets.webhook_secret, "hook-word");
}

static void assert_identities(const struct conf *c)
{
    char full[128];

    assert_str(c->keys.fixed[0].project, "proj_1");
    assert_int_equal(c->keys.issuer_count, 2);
    assert_str(c->keys.issuers[0].user_claim, "sub");
    assert_str(c->keys.issuers[0].project_claim, "sluice_project");
    assert_str(c->keys.issuers[0].scope_claim, "sluice_scopes");
    assert_str(c->keys.issuers[0].jwks, "");
    snprintf(full, sizeof full, "file:%s/jwks.json", folder);
    assert_str(c->keys.issuers[1].jwks, full);
    assert_str(c->keys.issuers[0].org, "default");
    assert_str(c->keys.issuers[1].org, "org_7");
    assert_str(c->keys.issuers[1].user_claim, "actor");
    assert_str(c->keys.issuers[1].project, "proj_2");
}

static void test_everything_is_read(void **state)
{
    struct conf *c = load_ok(everything);
    const struct conf_target *small = &c->models[0].targets[0];
    char full[128];

    assert_str(c->store.url, "postgresql://me:pass-word@db/sluice?password=other-word");
    assert_int_equal(c->store.connections, 20);
    assert_int_equal(c->redis.timeout_ms, 20);
    assert_limits(c);
    assert_budgets(c);
    assert_identities(c);
    snprintf(full, sizeof full, "%s/prices.yaml", folder);
    assert_str(c->prices, full);
    assert_int_equal(c->ledger.retention_ms, UINT64_C(30) * 86400000);
    assert_int_equal(c->idempotency.ttl_ms, 0);
    assert_int_equal(c->idempotency.max_bytes, 2 << 20);
    assert_int_equal(c->models[0].route, CONF_ROUTE_COST);
    assert_int_equal(small->max_complexity_percent, 40);
    assert_int_equal(small->tiers.count, 2);
    assert_int_equal(small[1].max_complexity_percent, 100);
    assert_int_equal(small[1].tiers.count, 0);
    conf_unref(c);
}

static void test_defaults(void **state)
{
    struct conf *c;

    setenv("XDG_DATA_HOME", "/home/somebody/data", 1);
    c = load_ok("");
    assert_str(c->store.url, "sqlite:/home/somebody/data/sluice/sluice.db");
    assert_int_equal(c->store.connections, 10);
    assert_int_equal(c->redis.url.len, 0);
    assert_int_equal(c->limits.per_key.requests.count, 0);
    assert_int_equal(c->limits.per_user.requests.count, 100);
    assert_int_equal(c->limits.per_user.requests.window_ms, 60000);
    assert_int_equal(c->limits.per_model.streams, 0);
    assert_int_equal(c->budgets.per_key.money.count, 0);
    assert_str(c->budgets.timezone, "UTC");
    assert_str(c->budgets.currency, "USD");
    assert_int_equal(c->prices.len, 0);
    assert_int_equal(c->idempotency.ttl_ms, 86400000);
    assert_false(c->keys.required);
    conf_unref(c);
}

/* What is printed reads back, and shows no password. */
static void test_print_reads_back(void **state)
{
    struct buf again = buf_make(MEM_TOOL, 1024 * 1024);
    struct conf *c = load_ok(everything);

    assert_null(conf_print(c, &printed));
    assert_null(buf_add_byte(&printed, '\0'));
    assert_null(strstr(printed.ptr, "-word"));
    assert_non_null(strstr(printed.ptr, "store: \"postgresql://***@db/sluice?***\"\n"));
    assert_non_null(strstr(printed.ptr, "url: \"redis+sentinel://***@a:1,[::1]:2,c/main/3\"\n"));
    assert_non_null(strstr(printed.ptr, "requests: \"100/1m\"\n"));
    assert_non_null(strstr(printed.ptr, "money: [\"500/month\", \"20.000000001/day\"]\n"));
    conf_unref(c);
    c = load_ok(printed.ptr);
    assert_limits(c);
    assert_identities(c);
    assert_null(conf_print(c, &again));
    assert_null(buf_add_byte(&again, '\0'));
    assert_string_equal(again.ptr, printed.ptr);
    conf_unref(c);
    buf_fini(&again);
}

/* ---- what is refused ---- */

static void test_amounts_that_are_refused(void **state)
{
    assert_problems(
        "limits:\n  per_key: {requests: 100, tokens: 5/week, streams: 0}\n  replicas: off\n"
        "budgets:\n  per_key:\n    tokens: 2.5/day\n    money:\n      - 5/mnth\n      - 6/day\n"
        "      - 7/day\n  per_user: {tokens: {a: 1}, money: [[]]}\n  max_tokens: off\n",
        "2: requests must be so many per time like 100/60s, or off, not \"100\"\n"
        "2: tokens must be so many per time like 100/60s, or off, not \"5/week\"\n"
        "2: streams must be a whole number within off, 1..1000000, not \"0\"\n"
        "3: replicas must be a whole number within 1..10000, not \"off\"\n"
        "6: budgets.per_key.tokens must be a number of tokens per day, month or total, like "
        "100000/day, not \"2.5/day\"\n"
        "8: budgets.per_key.money must be an amount with at most 9 digits after the point per day, "
        "month or total, like 2.50/day, not \"5/mnth\" (did you mean \"month\"?)\n"
        "10: budgets.per_key.money has two amounts per day\n"
        "11: tokens must be a list\n"
        "11: an element of budgets.per_user.money must be a text\n"
        "12: max_tokens must be a whole number within 1..10000000, not \"off\"");
}

static void test_budgets_that_are_refused(void **state)
{
    assert_problems("budgets:\n  timezone: Europe/Berlni\n  currency: usd\n  webhook:\n"
                    "    url: http://x/\n    secret: \"${NOT_SET:-}\"\n",
                    "2: timezone must be UTC, like +02:00, or a name in /usr/share/zoneinfo, not "
                    "\"Europe/Berlni\" (did you mean \"Europe/Berlin\"?)\n"
                    "3: currency must be three capital letters like USD (ISO 4217)\n"
                    "6: a webhook needs a secret: without one nobody could tell our calls from "
                    "forged ones");
    assert_problems("budgets: {webhook: {url: 'http://x'}, webhok: {}}\n",
                    "1: unknown option \"webhok\" (did you mean \"webhook\"?)\n"
                    "1: a webhook needs a secret: without one nobody could tell our calls from "
                    "forged ones");
}

static void test_timezones(void **state)
{
    static const char *const good[] = {"UTC", "+00:00", "-05:30", "+14:00", "America/New_York"};
    static const char *const bad[] = {
        "''",     "'+2'",   "'+15:00'",        "'02:00'",  "'+02:60'",    "utc",
        "Europe", "/etc/x", "../zoneinfo/UTC", "zone.tab", "Mars/Olympus"};
    struct conf *c;
    char text[128];

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(text, sizeof text, "budgets: {timezone: '%s'}\n", good[i]);
        conf_unref(load_ok(text));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "budgets: {timezone: %s}\n", bad[i]);
        if (!load(text, &c))
            fail_msg("%s was taken for a time zone", bad[i]);
    }
}

static void test_stores(void **state)
{
    static const char *const bad[] = {
        "mysql://u:pass-word@h/d",
        "sqlite",
        "sqlite:",
        "sqlite://x",
        "postgresql:",
        "postgresql://",
        "",
        "/var/lib/sluice.db",
        "Sqlite:x",
        "postgresql:/x",
    };
    char text[256];
    struct conf *c = load_ok("data_dir: data\nstore: sqlite:a b/c.db\n");

    snprintf(text, sizeof text, "sqlite:%s/data/a b/c.db", folder);
    assert_str(c->store.url, text);
    conf_unref(c);
    c = load_ok("store: sqlite:/x/y.db\n");
    assert_str(c->store.url, "sqlite:/x/y.db");
    conf_unref(c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "store: '%s'\n", bad[i]);
        assert_true(err_is(load(text, &c), ERR_CONFIG));
        assert_non_null(
            strstr(problems.ptr, ":1: store must be like sqlite:PATH or postgresql://"));
        assert_null(strstr(problems.ptr, "pass-word"));
    }
    assert_problems("store: postgres-sql://me:pass-word@h/d\n",
                    "1: store must be like sqlite:PATH or postgresql://user@host/database (did you "
                    "mean \"postgresql\"?)");
    assert_problems("store: mysql-9://h/d\n",
                    "1: store must be like sqlite:PATH or postgresql://user@host/database");
}

static void test_redis(void **state)
{
    static const char *const good[] = {"redis://h",
                                       "redis://h:6379/0",
                                       "rediss://u:p@ss@h/15",
                                       "redis://[::1]:6379/",
                                       "redis://:p@h",
                                       "redis+sentinel://a,b:26379/main",
                                       "redis+sentinel://:p@a:1/main/2",
                                       "rediss://h:6379/1?ca=/etc/ca.pem",
                                       "rediss+sentinel://u:p@a,b/main/2?ca=ca.pem",
                                       "redis+cluster://u:p@a,b:7000,[::1]:7001",
                                       "rediss+cluster://a/0?ca=ca.pem"};
    static const char *const bad[] = {"h:6379",
                                      "http://h",
                                      "redis://",
                                      "redis://h:0",
                                      "redis://h:65536",
                                      "redis://a,b",
                                      "redis://h/main",
                                      "redis+sentinel://a,b",
                                      "redis://h:6379/x",
                                      "redis+sentinel://,/m",
                                      "redis://:pass-word@",
                                      "redis://[::1",
                                      "redis://h?x=1",
                                      "redis+sentinel://a/",
                                      "redis+sentinel://a/m?ca=ca.pem",
                                      "rediss+sentinel://a",
                                      "redis+cluster://a/1",
                                      "redis+cluster://",
                                      "redis+clusters://a",
                                      "redis://h?ca=ca.pem",
                                      "rediss://h?ca=",
                                      "rediss://h?x=1",
                                      "redis://:6379"};
    struct conf *c;
    char text[256];

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(text, sizeof text, "redis: {url: '%s'}\n", good[i]);
        conf_unref(load_ok(text));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "redis: {url: '%s'}\n", bad[i]);
        if (!load(text, &c))
            fail_msg("%s was taken for Redis", bad[i]);
        assert_null(strstr(problems.ptr, "pass-word"));
    }
}

static void test_service_from_file(void **state)
{
    char text[256], name[128];
    struct conf *c;

    snprintf(name, sizeof name, "%s/redis-url", folder);
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs("redis://:pass-word@h\n", file);
    fclose(file);
    snprintf(text, sizeof text, "redis: {url: file:redis-url}\n");
    c = load_ok(text);
    assert_str(c->redis.url, "redis://:pass-word@h");
    conf_unref(c);
    unlink(name);
}

static void test_issuers(void **state)
{
    struct conf *c;

    assert_problems(
        "keys:\n  issuers:\n    - {name: a, issuer: 'https://i', audience: x}\n"
        "    - {name: a, issuer: 'https://i', audience: y}\n"
        "    - {name: b, issuer: 'https://i', audience: x}\n"
        "    - {name: c, issuer: 'https://j'}\n"
        "    - {name: d, issuer: 'http://j', audience: x}\n"
        "    - {name: e, issuer: e, audience: x, jwks: 'http://127.0.0.1.example.com/keys'}\n"
        "    - {name: f, issuer: f, audience: x, jwks: 'file:'}\n"
        "    - {name: g, issuer: 'https://g', audience: x, project_claim: '', user_claim: ''}\n"
        "    - {name: h, isuer: h}\n"
        "    - {name: i, issuer: 'https://i', audience: z, org: acme}\n"
        "    - {name: j, issuer: 'https://j', audience: x, org: ''}\n"
        "    - {name: k, issuer: 'https://k', audience: x, org: org_}\n"
        "    - {name: l, issuer: 'https://l', audience: x, org: org_1, project: default}\n"
        "    - {name: a/b, issuer: 'https://m', audience: x}\n"
        "    - {name: m, issuer: m, audience: y, jwks: 'https://m?p=1'}\n"
        "    - {name: n, issuer: n, audience: y, jwks: 'https://n/keys?p=1#f'}\n"
        "    - {name: o, issuer: 'https://o?p=1', audience: y}\n",
        "4: there are two issuers named \"a\"\n"
        "5: the issuers \"a\" and \"b\" are the same\n"
        "6: an issuer needs a name, an issuer and an audience\n"
        "7: its keys cannot be found: issuer is no https address, so set jwks\n"
        "8: jwks must be an https address, or file:/path\n"
        "9: jwks must be an https address, or file:/path\n"
        "10: an issuer needs a user_claim\n"
        "10: an issuer needs a project_claim or a project\n"
        "11: unknown option \"isuer\" (did you mean \"issuer\"?)\n"
        "11: an issuer needs a name, an issuer and an audience\n"
        "12: org must be the id of an organisation (default, or org_…), or * for all\n"
        "13: org must be the id of an organisation (default, or org_…), or * for all\n"
        "14: org must be the id of an organisation (default, or org_…), or * for all\n"
        "15: the project default is not of this organisation\n"
        "16: the name of an issuer cannot have a \"/\"\n"
        "17: jwks must be an https address, or file:/path\n"
        "18: jwks must be an https address, or file:/path\n"
        "19: its keys cannot be found: issuer is no https address, so set jwks");
    c = load_ok("keys: {issuers: [{name: a, issuer: 'http://127.0.0.1:99', audience: x},\n"
                "  {name: b, issuer: b, audience: x, jwks: 'http://[::1]:99/keys'},\n"
                "  {name: c, issuer: b, audience: y, jwks: 'http://localhost/keys', org: '*',\n"
                "   project: default},\n"
                "  {name: d, issuer: b, audience: z, jwks: 'https://i/keys?p=1&q=%20'}]}\n");
    assert_true(c->keys.required);
    conf_unref(c);
    c = load_ok(
        "keys: {required: false, issuers: [{name: a, issuer: 'https://i', audience: x}]}\n");
    assert_false(c->keys.required);
    conf_unref(c);
}

/* Only literal passwords are worth a warning. */
static void test_readable_passwords_are_warned_of(void **state)
{
    static const struct {
        const char *text;
        size_t warnings;
    } rows[] = {
        {"store: postgresql://me:word@h/d\n", 1},
        {"store: postgresql://me@h/d\n", 0},
        {"store: postgresql://h/d?password=w\n", 1},
        {"redis: {url: 'redis://h:6379'}\n", 0},
        {"redis: {url: 'redis://:w@h:6379'}\n", 1},
        {"redis: {url: 'redis://:${W}@h:6379'}\n", 0},
        {"store: sqlite:a@b:c\n", 0},
    };
    struct conf *c;

    setenv("W", "word", 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        conf_unref(load_ok(rows[i].text));
        assert_int_equal(chmod(path, 0644), 0);
        assert_null(conf_load(str_from(path), NULL, &c));
        assert_int_equal(c->warnings.count, rows[i].warnings);
        conf_unref(c);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rates),
        TEST(money),
        TEST(quotas),
        TEST(everything_is_read),
        TEST(defaults),
        TEST(print_reads_back),
        TEST(amounts_that_are_refused),
        TEST(budgets_that_are_refused),
        TEST(timezones),
        TEST(stores),
        TEST(redis),
        TEST(service_from_file),
        TEST(issuers),
        TEST(readable_passwords_are_warned_of),
    };
    int failed;

    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/sluice.yaml", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(folder);
    return failed;
}
