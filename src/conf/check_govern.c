/* SPDX-License-Identifier: Apache-2.0 */
/* Checks the options of stores, budgets and issuers.
 *
 * Addresses of stores and of Redis may hold passwords, so no message repeats one. What could be
 * found out only by calling somebody (is PostgreSQL there, does an issuer answer) is not asked here:
 * a configuration is right or wrong by itself. */
#include "conf/check_govern.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "base/sys.h"
#include "conf/nearest.h"
#include "conf/value.h"

#define ZONES           "/usr/share/zoneinfo"
#define ZONES_MAX_BYTES ((size_t)256 * 1024)
#define MAX_HOSTS       16

/* ---- the store ---- */

/* Make the path behind "sqlite:" absolute: it is relative to data_dir, and that to the folder that
 * the program was started in. */
static void settle_sqlite(struct reader *r, struct str path)
{
    struct str data = r->conf->data_dir;
    bool is_whole = path.ptr[0] == '/', data_is_whole = data.len && data.ptr[0] == '/';
    char *here = is_whole || data_is_whole ? NULL : arena_alloc_zero(r->scratch, PATH_MAX);
    const char *url;

    if (is_whole)
        url = arena_printf(r->arena, "sqlite:%.*s", STR_ARG(path));
    else if (here && getcwd(here, PATH_MAX))
        url = arena_printf(r->arena, "sqlite:%s/%.*s/%.*s", here, STR_ARG(data), STR_ARG(path));
    else
        url = arena_printf(r->arena, "sqlite:%.*s/%.*s", STR_ARG(data), STR_ARG(path));
    if (!url)
        reader_fail(r, r->arena);
    r->conf->store.url = str_from(url);
}

static bool has_control(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' || s.ptr[i] == 0x7F)
            return true;
    return false;
}

static void problem_of_store(struct reader *r, size_t line, struct str scheme)
{
    struct nearest near = nearest_begin(scheme);

    nearest_offer(&near, STR("sqlite"));
    nearest_offer(&near, STR("postgresql"));
    reader_problem(r, line, "store must be like sqlite:PATH or postgresql://user@host/database%s",
                   str_eq(scheme, near.word) ? "" : nearest_hint(&near, r->scratch));
}

static void check_store(struct reader *r)
{
    struct str url = r->conf->store.url;
    size_t colon = str_index(url, ':'), line = reader_line(r, "store", NULL);
    struct str scheme = {url.ptr, colon}, rest = str_after(url, colon);
    bool has_slashes = str_starts(rest, STR("://"));

    if (!url.len && !tree_get(r->root, STR("store")))
        settle_sqlite(r, STR("sluice.db"));
    else if (has_control(url))
        reader_problem(r, line, "store must not hold control characters");
    else if (str_eq(scheme, STR("sqlite")) && rest.len > 1 && !has_slashes)
        settle_sqlite(r, str_after(rest, 1));
    else if (!(has_slashes && rest.len > 3) ||
             !(str_eq(scheme, STR("postgresql")) || str_eq(scheme, STR("postgres"))))
        problem_of_store(r, line, scheme);
}

/* ---- Redis ---- */

static bool is_number_within(struct str s, uint64_t low, uint64_t high)
{
    uint64_t n;

    return s.len > 0 && s.len < 10 && str_to_u64(s, &n) && n >= low && n <= high;
}

/* "host", "host:port", "[v6]:port". */
static bool is_endpoint(struct str s)
{
    size_t end = str_index(s, ':');

    if (s.len && s.ptr[0] == '[')
        end = str_index(s, ']') + 1;
    if (end == 0 || end > s.len)
        return false;
    for (size_t i = 0; i < end; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] > '~' || strchr("/?#\\\"<>", s.ptr[i]))
            return false;
    return end == s.len || (s.ptr[end] == ':' && is_number_within(str_after(s, end + 1), 1, 65535));
}

/* What an address of Redis may begin with. */
static const struct redis_scheme {
    struct str name;
    size_t most_hosts;
    bool has_tls, has_master;
    uint64_t last_database;
    const char *like; /* what is said of wrong hosts */
} redis_schemes[] = {
#define NAME(text) {text, sizeof text - 1}
    {NAME("redis"), 1, false, false, 1000000, "must name one host, like redis://host:6379"},
    {NAME("rediss"), 1, true, false, 1000000, "must name one host, like rediss://host:6379"},
    {NAME("redis+sentinel"), MAX_HOSTS, false, true, 1000000,
     "must be like redis+sentinel://host:26379,host:26379/name"},
    {NAME("rediss+sentinel"), MAX_HOSTS, true, true, 1000000,
     "must be like rediss+sentinel://host:26379,host:26379/name"},
    {NAME("redis+cluster"), MAX_HOSTS, false, false, 0,
     "must be like redis+cluster://host:6379,host:6379"},
    {NAME("rediss+cluster"), MAX_HOSTS, true, false, 0,
     "must be like rediss+cluster://host:6379,host:6379"},
#undef NAME
};

static const struct redis_scheme *find_scheme(struct str name)
{
    for (size_t i = 0; i < sizeof redis_schemes / sizeof *redis_schemes; i++)
        if (str_eq(redis_schemes[i].name, name))
            return &redis_schemes[i];
    return NULL;
}

/* "?ca=FILE" at the end, which is cut off. */
static const char *problem_of_redis_option(const struct redis_scheme *scheme, struct str *rest)
{
    size_t at = str_index(*rest, '?');
    struct str option = str_after(*rest, at + (at < rest->len));
    bool is_there = at < rest->len;

    rest->len = at;
    if (is_there && (!str_starts(option, STR("ca=")) || option.len == 3))
        return "may end in ?ca=FILE and nothing else";
    return is_there && !scheme->has_tls ? "has a ?ca=FILE, but no TLS: it must begin with rediss"
                                        : NULL;
}

/* scheme://[user:password@]host[:port][/database][?ca=file], and with Sentinel several hosts and the name of
 * the master before the database. */
static const char *problem_of_redis(struct str url)
{
    size_t start = str_find(url, STR("://"));
    const struct redis_scheme *scheme = find_scheme((struct str){url.ptr, start});
    struct str rest, hosts, host, name;
    const char *problem;
    size_t count = 0;

    if (start == url.len || !scheme)
        return "must begin with redis://, redis+sentinel:// or redis+cluster://, or with "
               "rediss instead of redis for TLS";
    rest = str_after(url, start + 3);
    for (size_t at = str_index(rest, '@'); at < rest.len; at = str_index(rest, '@'))
        rest = str_after(rest, at + 1);
    problem = problem_of_redis_option(scheme, &rest);
    if (problem)
        return problem;
    hosts = (struct str){rest.ptr, str_index(rest, '/')};
    rest = str_after(rest, hosts.len + (hosts.len < rest.len));
    while (hosts.ptr && str_split(&hosts, ',', &host))
        if (!is_endpoint(host) || ++count > scheme->most_hosts)
            return scheme->like;
    if (scheme->has_master) {
        name = (struct str){rest.ptr, str_index(rest, '/')};
        rest = str_after(rest, name.len + (name.len < rest.len));
        if (name.len == 0)
            return "must name the master that the sentinels watch: redis+sentinel://host/name";
    }
    if (rest.len == 0 || is_number_within(rest, 0, scheme->last_database))
        return NULL;
    return scheme->last_database ? "must end in the number of a database"
                                 : "must name no database: a cluster has only one";
}

static void check_redis(struct reader *r)
{
    struct str url = r->conf->redis.url;
    const char *problem = url.len ? problem_of_redis(url) : NULL;

    if (problem || has_control(url))
        reader_problem(r, reader_line(r, "redis", "url", NULL), "url %s",
                       problem ? problem : "must not hold control characters");
}

/* ---- budgets ---- */

/* "+02:00", at most 14 hours. */
static bool is_offset(struct str s)
{
    return s.len == 6 && (s.ptr[0] == '+' || s.ptr[0] == '-') && s.ptr[3] == ':' &&
           is_number_within((struct str){s.ptr + 1, 2}, 0, 14) &&
           is_number_within(str_after(s, 4), 0, 59);
}

/* Whether the zone database has a file of this name; none of its names leads out of it. */
static bool is_zone(struct reader *r, struct str name)
{
    static const char magic[] = "TZif";
    char found[4] = "";
    const char *path;

    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i] | 0x20;
        if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && !strchr("/_+-", name.ptr[i]))
            return false;
    }
    if (!name.len || name.len > 64 || name.ptr[0] == '/')
        return false;
    path = arena_printf(r->scratch, ZONES "/%.*s", STR_ARG(name));
    if (!path) {
        reader_fail(r, r->scratch);
        return false;
    }
    int fd = sys_open(path, O_RDONLY, 0);
    if (fd < 0)
        return false;
    bool is_whole = sys_read(fd, found, sizeof found) == (ssize_t)sizeof found;
    sys_close(fd);
    return is_whole && memcmp(found, magic, sizeof found) == 0;
}

/* Offer all names of zones: column 3 of zone.tab. */
static void offer_zones(struct reader *r, struct nearest *near)
{
    char *text = arena_alloc(r->scratch, ZONES_MAX_BYTES);
    struct str rest = {text, 0}, line, name;
    ssize_t n = 0;

    int fd = text ? sys_open(ZONES "/zone.tab", O_RDONLY, 0) : -1;
    while (fd >= 0 && rest.len < ZONES_MAX_BYTES &&
           (n = sys_read(fd, text + rest.len, ZONES_MAX_BYTES - rest.len)) > 0)
        rest.len += (size_t)n;
    if (fd >= 0)
        sys_close(fd);
    while (rest.ptr && str_split(&rest, '\n', &line)) {
        if (line.len == 0 || line.ptr[0] == '#')
            continue;
        for (size_t column = 0; column < 3 && line.ptr; column++)
            str_split(&line, '\t', &name);
        nearest_offer(near, name);
    }
}

static void check_timezone(struct reader *r)
{
    struct str zone = r->conf->budgets.timezone;
    struct nearest near = nearest_begin(zone);

    if (str_eq(zone, STR("UTC")) || is_offset(zone) || is_zone(r, zone))
        return;
    nearest_offer(&near, STR("UTC"));
    offer_zones(r, &near);
    reader_problem(r, reader_line(r, "budgets", "timezone", NULL),
                   "timezone must be UTC, like +02:00, or a name in " ZONES ", not \"%.*s\"%s",
                   (int)(zone.len < 60 ? zone.len : 60), zone.ptr, nearest_hint(&near, r->scratch));
}

static bool has_money_budget(const struct conf *conf)
{
    return conf->budgets.per_key.money.count + conf->budgets.per_user.money.count +
               conf->budgets.per_project.money.count >
           0;
}

static void check_budgets(struct reader *r)
{
    const struct conf *conf = r->conf;
    struct str currency = conf->budgets.currency;
    bool is_code = currency.len == 3;

    for (size_t i = 0; is_code && i < 3; i++)
        is_code = currency.ptr[i] >= 'A' && currency.ptr[i] <= 'Z';
    if (!is_code)
        reader_problem(r, reader_line(r, "budgets", "currency", NULL),
                       "currency must be three capital letters like USD (ISO 4217)");
    check_timezone(r);
    if (conf->budgets.webhook_url.len && !conf->budgets.webhook_secret.len)
        reader_problem(r, reader_line(r, "budgets", "webhook", "secret", NULL),
                       "a webhook needs a secret: without one nobody could tell our calls from "
                       "forged ones");
    if (!conf->prices.len && !conf->budgets.dry_run && has_money_budget(conf))
        reader_warn(
            r, reader_line(r, "budgets", NULL),
            "a budget in money holds and `prices` names no file: every call will be refused");
}

/* ---- issuers of JSON Web Tokens ---- */

static bool is_loopback_host(struct str rest)
{
    char text[INET_ADDRSTRLEN] = "";
    struct in_addr ip;

    if (str_starts(rest, STR("[::1]")))
        return rest.len == 5 || rest.ptr[5] == ':' || rest.ptr[5] == '/';
    rest.len = str_index(rest, '/');
    rest.len = str_index(rest, ':');
    if (rest.len < sizeof text)
        memcpy(text, rest.ptr, rest.len);
    return str_eq(rest, STR("localhost")) ||
           (inet_pton(AF_INET, text, &ip) == 1 && ntohl(ip.s_addr) >> 24 == 127);
}

/* Where keys are fetched from must be beyond forging: https, or this machine. */
static bool is_safe_url(struct str url)
{
    return value_is_url(url) && !memchr(url.ptr, '@', url.len) &&
           (str_starts(url, STR("https://")) ||
            (str_starts(url, STR("http://")) && is_loopback_host(str_after(url, 7))));
}

/* The same with a query behind its path, which some issuers need: one that has a set of keys for each policy or client. */
static bool is_address_of_keys(struct str url)
{
    struct str base = {url.ptr, str_index(url, '?')}, query = str_after(url, base.len);

    for (size_t i = 0; i < query.len; i++)
        if (query.ptr[i] <= ' ' || query.ptr[i] > '~' || query.ptr[i] == '#' ||
            query.ptr[i] == '\\')
            return false;
    return is_safe_url(base) &&
           (!query.len || str_find(str_after(base, 8), STR("/")) + 8 < base.len);
}

static void settle_jwks(struct reader *r, size_t line, struct conf_issuer *issuer)
{
    struct str path;

    if (str_starts(issuer->jwks, STR("file:"))) {
        path = value_resolve_path(r, str_after(issuer->jwks, 5));
        const char *full = arena_printf(r->arena, "file:%.*s", STR_ARG(path));
        if (!full)
            reader_fail(r, r->arena);
        issuer->jwks = str_from(full);
        if (!path.len)
            reader_problem(r, line, "jwks must be an https address, or file:/path");
    } else if (issuer->jwks.len && !is_address_of_keys(issuer->jwks)) {
        reader_problem(r, line, "jwks must be an https address, or file:/path");
    } else if (!issuer->jwks.len && issuer->issuer.len && !is_safe_url(issuer->issuer)) {
        reader_problem(r, line,
                       "its keys cannot be found: issuer is no https address, so set jwks");
    }
}

/* Whether such an organisation exists only the store knows; a name in place of an id is what is written by mistake. */
static void check_issuer_org(struct reader *r, size_t line, const struct conf_issuer *issuer)
{
    struct str org = issuer->org;
    bool is_default = str_eq(org, STR("default")), is_any = str_eq(org, STR("*"));

    if (!is_default && !is_any && !(org.len > 4 && str_starts(org, STR("org_"))))
        reader_problem(r, line,
                       "org must be the id of an organisation (default, or org_…), or * for all");
    else if (!is_default && !is_any && str_eq(issuer->project, STR("default")))
        reader_problem(r, line, "the project default is not of this organisation");
}

static void check_issuer(struct reader *r, size_t line, size_t index)
{
    struct conf_issuer *issuer = &r->conf->keys.issuers[index];

    if (!issuer->name.len || !issuer->issuer.len || !issuer->audience.len)
        reader_problem(r, line, "an issuer needs a name, an issuer and an audience");
    /* It is in ids of callers, between slashes. */
    if (str_index(issuer->name, '/') < issuer->name.len)
        reader_problem(r, line, "the name of an issuer cannot have a \"/\"");
    if (!issuer->user_claim.len)
        reader_problem(r, line, "an issuer needs a user_claim");
    if (!issuer->project_claim.len && !issuer->project.len)
        reader_problem(r, line, "an issuer needs a project_claim or a project");
    settle_jwks(r, line, issuer);
    check_issuer_org(r, line, issuer);
    for (size_t i = 0; i < index; i++) {
        const struct conf_issuer *other = &r->conf->keys.issuers[i];
        if (issuer->name.len && str_eq(other->name, issuer->name))
            reader_problem(r, line, "there are two issuers named \"%.*s\"", STR_ARG(issuer->name));
        else if (issuer->issuer.len && str_eq(other->issuer, issuer->issuer) &&
                 str_eq(other->audience, issuer->audience))
            reader_problem(r, line, "the issuers \"%.*s\" and \"%.*s\" are the same",
                           STR_ARG(other->name), STR_ARG(issuer->name));
    }
}

static void check_issuers(struct reader *r)
{
    const struct tree_node *list = tree_get(tree_get(r->root, STR("keys")), STR("issuers"));
    const struct tree_node *node = list ? list->first : NULL;

    for (size_t i = 0; i < r->conf->keys.issuer_count; i++, node = node ? node->next : NULL)
        check_issuer(r, node ? node->line : 0, i);
}

void check_govern(struct reader *r)
{
    check_store(r);
    check_redis(r);
    check_budgets(r);
    check_issuers(r);
}
