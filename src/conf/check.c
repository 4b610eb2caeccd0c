/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a configuration as a whole: addresses, doors that would stand open, providers, models,
 * keys.
 *
 * The rule that matters most: without keys Sluice serves this machine only. Whoever opens an
 * address to others must say who may come in. */
#include "conf/check.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json_members.h"
#include "conf/check_govern.h"
#include "conf/nearest.h"
#include "conf/presets.h"
#include "conf/value.h"

#define MS_PER_MINUTE 60000

/* ---- addresses ---- */

static bool is_port(struct str s)
{
    uint64_t port;

    return s.len <= 5 && str_to_u64(s, &port) && port <= 65535;
}

static bool is_host(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i] | 0x20;
        if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.')
            return false;
    }
    return s.len > 0 && s.len < 254;
}

/* Copy into a C string for inet_pton; too long texts are no address. */
static bool parse_ip(int family, struct str s, unsigned char out[16])
{
    char text[INET6_ADDRSTRLEN];

    if (s.len >= sizeof text)
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = '\0';
    return inet_pton(family, text, out) == 1;
}

/* Whether this is an address to listen on, and whether only this machine can reach it. */
static bool parse_listen(struct str s, bool *is_local)
{
    static const unsigned char loopback6[16] = {[15] = 1};
    unsigned char ip[16];
    size_t colon = s.len;

    if (str_starts(s, STR("unix:"))) {
        *is_local = true;
        return s.len > 5 && s.len - 5 < sizeof(((struct sockaddr_un *)0)->sun_path);
    }
    while (colon && s.ptr[colon - 1] != ':')
        colon--;
    if (colon < 2 || !is_port(str_after(s, colon)))
        return false;
    struct str host = {s.ptr, colon - 1};
    if (host.ptr[0] == '[' && str_ends(host, STR("]"))) {
        bool ok = parse_ip(AF_INET6, (struct str){host.ptr + 1, host.len - 2}, ip);
        *is_local = ok && memcmp(ip, loopback6, sizeof ip) == 0;
        return ok;
    }
    *is_local = str_eq(host, STR("localhost")) || (parse_ip(AF_INET, host, ip) && ip[0] == 127);
    return is_host(host);
}

static bool has_twin(struct conf_strings list, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (str_eq(list.items[k], list.items[i]) && !str_ends(list.items[i], STR(":0")))
            return true;
    return false;
}

/* Check the addresses of one listener. *open is the first that others can reach, or empty. */
static void check_listen(struct reader *r, const char *name, struct conf_strings list,
                         struct str *open)
{
    size_t line = reader_line(r, name, NULL);

    *open = (struct str){0};
    if (list.count == 0)
        reader_problem(r, line, "%s must have at least one address", name);
    for (size_t i = 0; i < list.count; i++) {
        bool is_local = true;
        if (!parse_listen(list.items[i], &is_local))
            reader_problem(r, line,
                           "%s must be like 127.0.0.1:8080, [::1]:8080 or unix:/path, not \"%.*s\"",
                           name, STR_ARG(list.items[i]));
        else if (has_twin(list, i))
            reader_problem(r, line, "%s has %.*s twice", name, STR_ARG(list.items[i]));
        else if (!is_local && !open->len)
            *open = list.items[i];
    }
}

static void check_doors(struct reader *r)
{
    const struct conf *conf = r->conf;
    struct str open;

    check_listen(r, "listen", conf->listen, &open);
    if (open.len && !conf->keys.required)
        reader_problem(r, reader_line(r, "listen", NULL),
                       "%.*s is open to others, but keys.required is false: remove that, or "
                       "listen on 127.0.0.1 or a unix socket",
                       STR_ARG(open));
    check_listen(r, "admin", conf->admin, &open);
    if (open.len && !conf->admin_key.len)
        reader_problem(r, reader_line(r, "admin", NULL),
                       "%.*s is open to others: set admin_key, or use 127.0.0.1 or a unix socket",
                       STR_ARG(open));
    for (size_t i = 0; i < conf->listen.count; i++)
        for (size_t k = 0; k < conf->admin.count; k++)
            if (str_eq(conf->listen.items[i], conf->admin.items[k]) &&
                !str_ends(conf->admin.items[k], STR(":0")))
                reader_problem(r, reader_line(r, "admin", NULL), "admin and listen are both %.*s",
                               STR_ARG(conf->admin.items[k]));
}

/* A network in CIDR form, or a single address. */
static bool is_network(struct str s)
{
    size_t slash = str_index(s, '/');
    struct str address = {s.ptr, slash};
    unsigned char ip[16];
    uint64_t bits = 0, most = 0;

    if (parse_ip(AF_INET, address, ip))
        most = 32;
    else if (parse_ip(AF_INET6, address, ip))
        most = 128;
    if (most && slash < s.len)
        return str_to_u64(str_after(s, slash + 1), &bits) && bits <= most;
    return most > 0;
}

/* RFC 6454: a scheme, a host and perhaps a port, without a path. */
static bool is_origin(struct str s)
{
    size_t start = str_find(s, STR("://"));
    struct str host = start < s.len ? str_after(s, start + 3) : (struct str){0};

    for (size_t i = 0; i < host.len; i++)
        if (host.ptr[i] <= ' ' || host.ptr[i] > '~' || strchr("/?#@\"*", host.ptr[i]))
            return false;
    return start > 0 && host.len > 0;
}

static void check_networks(struct reader *r)
{
    const struct conf *conf = r->conf;

    for (size_t i = 0; i < conf->trusted_proxies.count; i++)
        if (!is_network(conf->trusted_proxies.items[i]))
            reader_problem(r, reader_line(r, "trusted_proxies", NULL),
                           "trusted_proxies must be networks like 10.0.0.0/8, not \"%.*s\"",
                           STR_ARG(conf->trusted_proxies.items[i]));
    for (size_t i = 0; i < conf->cors_origins.count; i++)
        if (!is_origin(conf->cors_origins.items[i]))
            reader_problem(r, reader_line(r, "cors", "origins", NULL),
                           "origins must be like https://app.example.com, not \"%.*s\"",
                           STR_ARG(conf->cors_origins.items[i]));
    if (!conf->tls.certificate.len != !conf->tls.key.len)
        reader_problem(r, reader_line(r, "tls", NULL), "tls needs both certificate and key");
}

/* ---- providers ---- */

static bool is_provider_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i] | 0x20;
        if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && !strchr("-._", s.ptr[i]))
            return false;
    }
    return s.len > 0 && s.len <= 64;
}

/* RFC 9110 §5.6.2. */
static bool is_header_token(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] > '~' || strchr("\"(),/:;<=>?@[\\]{}", s.ptr[i]))
            return false;
    return s.len > 0;
}

/* A header's name, and none of the fields that frame a message or belong to the connection. */
static bool is_header_name(struct str s)
{
    static const char *const ours[] = {"host",         "content-length",   "transfer-encoding",
                                       "connection",   "keep-alive",       "te",
                                       "trailer",      "upgrade",          "expect",
                                       "content-type", "content-encoding", "accept-encoding"};

    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (str_eq_nocase(s, str_from(ours[i])))
            return false;
    return is_header_token(s);
}

static bool is_header_value(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' && s.ptr[i] != '\t')
            return false;
    return !memchr(s.ptr, 0x7F, s.len);
}

static void check_headers(struct reader *r, const struct conf_provider *p)
{
    for (size_t i = 0; i < p->headers.count; i++) {
        const struct conf_pair *header = &p->headers.items[i];
        size_t line = reader_line(r, "providers", p->name.ptr, "headers", header->name.ptr, NULL);
        if (!is_header_name(header->name))
            reader_problem(r, line, "\"%.*s\" cannot be set as a header", STR_ARG(header->name));
        else if (!is_header_value(header->value))
            reader_problem(r, line, "the value of header %.*s has control characters",
                           STR_ARG(header->name));
    }
}

/* Members of a request that are ours to write: with two of one name nobody knows which one counts. */
static void check_extra_body(struct reader *r, const struct conf_provider *p)
{
    static const char *const ours[] = {"model", "messages", "stream", "stream_options"};

    for (size_t i = 0; p->extra_body.len && i < sizeof ours / sizeof *ours; i++)
        if (json_get(p->extra_body, str_from(ours[i])).ptr)
            reader_problem(r, reader_line(r, "providers", p->name.ptr, "extra_body", ours[i], NULL),
                           "extra_body cannot set %s", ours[i]);
}

/* Options that only other kinds have. */
static void check_kind(struct reader *r, const struct conf_provider *p)
{
    const struct tree_node *node = tree_get(tree_get(r->root, STR("providers")), p->name);
    struct option_child child, kind;
    size_t start = 0;

    options_next_child(STR("providers.*."), &start, &kind); /* the first option */
    for (size_t at = 0; options_next_child(STR("providers.*."), &at, &child);) {
        const struct tree_node *set = tree_get(node, child.name);
        if (set && child.kind == CHILD_LIST) { /* its options are of one mind */
            size_t first = 0;
            options_next_child(child.prefix, &first, &child);
        }
        if (set && child.option && option_is_foreign(child.option, (int)p->kind))
            reader_problem(r, set->line, "%.*s is not for providers of kind %.*s",
                           STR_ARG(set->key), STR_ARG(option_word(kind.option, p->kind)));
    }
}

/* Either one key or several with names. */
static void check_provider_keys(struct reader *r, const struct conf_provider *p)
{
    size_t line = reader_line(r, "providers", p->name.ptr, "keys", NULL);

    if (p->key.len && p->key_count)
        reader_problem(r, line, "provider %.*s has both key and keys", STR_ARG(p->name));
    for (size_t i = 0; i < p->key_count; i++) {
        const struct conf_provider_key *key = &p->keys[i];
        if (!key->key.len || !is_provider_name(key->name))
            reader_problem(r, line,
                           "a key of a provider needs a key, and a name of letters, digits, \"-\", "
                           "\".\" and \"_\"");
        for (size_t k = 0; k < i; k++)
            if (str_eq(p->keys[k].name, key->name))
                reader_problem(r, line, "provider %.*s has two keys named \"%.*s\"",
                               STR_ARG(p->name), STR_ARG(key->name));
    }
}

/* A remote provider needs an address; OpenAI's own has /responses. */
static void settle_remote(struct reader *r, struct conf_provider *p)
{
    const struct tree_node *node = tree_get(tree_get(r->root, STR("providers")), p->name);

    if (!p->url.len)
        reader_problem(r, reader_line(r, "providers", p->name.ptr, NULL),
                       "provider %.*s needs a url", STR_ARG(p->name));
    if (p->kind == CONF_PROVIDER_OPENAI && !tree_get(node, STR("responses")))
        p->speaks_responses |= presets_is_openai(p->url);
    check_provider_keys(r, p);
}

/* A local model may need minutes to load and read a prompt, so it gets more time unless the file
 * says something about it. */
static void settle_local(struct reader *r, struct conf_provider *p)
{
    if (!p->model.len)
        reader_problem(r, reader_line(r, "providers", p->name.ptr, NULL),
                       "provider %.*s of kind local needs a model", STR_ARG(p->name));
    if (str_ends(p->model, STR(".gguf")))
        p->model = value_resolve_path(r, p->model);
    p->url = (struct str){0};
    if (!p->timeouts.first_token_ms &&
        !tree_get(tree_get(r->root, STR("timeouts")), STR("first_token")))
        p->timeouts.first_token_ms = 5 * MS_PER_MINUTE;
}

static void check_providers(struct reader *r)
{
    for (size_t i = 0; i < r->conf->provider_count; i++) {
        struct conf_provider *p = &r->conf->providers[i];
        size_t line = reader_line(r, "providers", p->name.ptr, NULL);
        p->index = i;
        if (!is_provider_name(p->name))
            reader_problem(r, line,
                           "a provider's name has letters, digits, \"-\", \".\" and \"_\"");
        if (!p->client_certificate.len != !p->client_key.len)
            reader_problem(r, line, "provider %.*s needs both client_certificate and client_key",
                           STR_ARG(p->name));
        check_kind(r, p);
        check_headers(r, p);
        check_extra_body(r, p);
        if (p->kind == CONF_PROVIDER_LOCAL)
            settle_local(r, p);
        else
            settle_remote(r, p);
    }
}

/* ---- models and keys ---- */

/* A condition that nothing can meet is a mistake. */
static void check_when(struct reader *r, size_t line, const struct conf_when *when)
{
    if (when->max_prompt_tokens && when->min_prompt_tokens > when->max_prompt_tokens)
        reader_problem(r, line, "min_prompt_tokens is more than max_prompt_tokens");
    for (size_t i = 0; i < when->headers.count; i++)
        if (!is_header_token(when->headers.items[i].name))
            reader_problem(r, line, "\"%.*s\" is no name of a header",
                           STR_ARG(when->headers.items[i].name));
}

/* Every element of these targets must have got a provider, unless that is a problem noted before. */
static void check_targets(struct reader *r, const struct conf_model *m, const char *name,
                          const struct conf_target *targets, size_t count)
{
    const struct tree_node *node =
        tree_get(tree_get(tree_get(r->root, STR("models")), m->name), str_from(name));
    const struct tree_node *at = node && node->kind == TREE_LIST ? node->first : node;

    for (size_t i = 0; i < count && at; i++, at = at->next) {
        if (at->kind == TREE_MAP && !tree_get(at, STR("model")))
            reader_problem(r, at->line, "a target must be provider/model");
        check_when(r, at->line, &targets[i].when);
    }
}

static void check_model(struct reader *r, const struct conf_model *m)
{
    size_t line = reader_line(r, "models", m->name.ptr, NULL);

    if (!m->name.len || m->name.len > 256 || !is_header_value(m->name))
        reader_problem(r, line, "a model's name has 1 to 256 bytes without control characters");
    if (!m->target_count)
        reader_problem(r, line, "model %.*s needs targets", STR_ARG(m->name));
    check_when(r, line, &m->when);
    check_targets(r, m, "targets", m->targets, m->target_count);
    check_targets(r, m, "context_fallbacks", m->context_fallbacks, m->context_fallback_count);
    check_targets(r, m, "content_fallbacks", m->content_fallbacks, m->content_fallback_count);
}

/* The provider that an option at the top names must exist. */
static void check_provider_exists(struct reader *r, const char *option, struct str name)
{
    struct nearest near = nearest_begin(name);

    for (size_t i = 0; i < r->conf->provider_count; i++)
        nearest_offer(&near, r->conf->providers[i].name);
    if (name.len && !conf_provider_get(r->conf, name))
        reader_problem(r, reader_line(r, option, NULL), "there is no provider \"%.*s\"%s",
                       STR_ARG(name), nearest_hint(&near, r->scratch));
}

static void check_models(struct reader *r)
{
    for (size_t i = 0; i < r->conf->model_count; i++)
        check_model(r, &r->conf->models[i]);
    check_provider_exists(r, "default_provider", r->conf->default_provider);
    check_provider_exists(r, "passthrough", r->conf->passthrough);
}

/* Line of an element of keys.static. */
static size_t key_line(const struct reader *r, size_t index)
{
    const struct tree_node *list = tree_get(tree_get(r->root, STR("keys")), STR("static"));
    const struct tree_node *node = list ? list->first : NULL;

    while (node && index--)
        node = node->next;
    return node ? node->line : 0;
}

/* Whether others can reach one of the public addresses. */
static bool is_open(const struct conf *conf)
{
    bool is_local;

    for (size_t i = 0; i < conf->listen.count; i++)
        if (parse_listen(conf->listen.items[i], &is_local) && !is_local)
            return true;
    return false;
}

static void check_keys(struct reader *r)
{
    struct conf *conf = r->conf;

    if (!tree_get(tree_get(r->root, STR("keys")), STR("required")))
        conf->keys.required = conf->keys.fixed_count || conf->keys.issuer_count || is_open(conf);
    for (size_t i = 0; i < conf->keys.fixed_count; i++) {
        const struct conf_key *key = &conf->keys.fixed[i];
        if (!key->name.len || !key->key.len)
            reader_problem(r, key_line(r, i), "a key needs a name and a key");
        if (!key->scopes.count)
            reader_problem(r, key_line(r, i), "a key needs at least one scope");
        for (size_t k = 0; k < i; k++) {
            if (key->name.len && str_eq(conf->keys.fixed[k].name, key->name))
                reader_problem(r, key_line(r, i), "there are two keys named \"%.*s\"",
                               STR_ARG(key->name));
            else if (key->key.len && str_eq(conf->keys.fixed[k].key, key->key))
                reader_problem(r, key_line(r, i), "the keys \"%.*s\" and \"%.*s\" are the same",
                               STR_ARG(conf->keys.fixed[k].name), STR_ARG(key->name));
        }
    }
}

/* The XDG base directory, or as root the system's place for services. */
static void settle_data_dir(struct reader *r)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    const char *folder;

    if (r->conf->data_dir.len)
        return;
    if (data && data[0] == '/')
        folder = arena_printf(r->arena, "%s/sluice", data);
    else if (geteuid() == 0)
        folder = arena_cstr(r->arena, STR("/var/lib/sluice"));
    else if (home && home[0] == '/')
        folder = arena_printf(r->arena, "%s/.local/share/sluice", home);
    else {
        reader_problem(r, 0, "data_dir is not set, and neither is $HOME");
        return;
    }
    if (!folder)
        reader_fail(r, r->arena);
    r->conf->data_dir = str_from(folder);
}

void check_conf(struct reader *r)
{
    settle_data_dir(r);
    check_keys(r);
    check_doors(r);
    check_networks(r);
    check_providers(r);
    check_models(r);
    check_govern(r);
}
