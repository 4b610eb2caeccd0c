/* SPDX-License-Identifier: Apache-2.0 */
/* Headers that show a provider's key, and what its answers tell of the key's rate limits.
 *
 * Providers count several things at once (requests, tokens, tokens in, tokens out); a key is as
 * full as the one of them that is nearest to its end. The hard thing is that every provider has
 * its own way to say when a count starts anew: Go durations, seconds, dates. */
#include "model/credential.h"

#include <stdatomic.h>

#include "base/sys.h"

#define ANTHROPIC_VERSION "2023-06-01"
#define ROOM_ALL          1000
#define DEFAULT_RESET_MS  60000 /* most limits are per minute */
#define MAX_RESET_MS      (24 * 60 * 60 * 1000)

/*   what is counted    OpenAI's, Groq's, Azure's suffix   Anthropic's infix */
#define COUNTS(X)                                                                                  \
    X(REQUESTS, "requests", "requests")                                                            \
    X(TOKENS, "tokens", "tokens")                                                                  \
    X(INPUT, "", "input-tokens")                                                                   \
    X(OUTPUT, "", "output-tokens")

enum count {
#define X(id, openai, anthropic) COUNT_##id,
    COUNTS(X)
#undef X
        COUNT_COUNT
};

/* Written by all workers; one that sees an old half of a new value errs once. */
struct credential_limits {
    struct {
        _Atomic uint64_t most; /* the largest number ever left */
        atomic_uint room;
        _Atomic uint64_t reset_ms;
    } counts[COUNT_COUNT];
};

/* ---- headers ---- */

static err_t add(struct credential *c, struct arena *arena, struct str name, const char *value)
{
    if (!value)
        return arena_err(arena);
    c->headers[c->header_count++] = (struct http_header){name, str_from(value)};
    return NULL;
}

static bool is_configured(const struct conf_provider *provider, struct str name)
{
    for (size_t i = 0; i < provider->headers.count; i++)
        if (str_eq_nocase(provider->headers.items[i].name, name))
            return true;
    return false;
}

static err_t add_key(struct credential *c, const struct conf_provider *provider, struct str key,
                     struct arena *arena)
{
    if (key.len == 0)
        return NULL;
    switch (provider->auth) {
    case CONF_AUTH_BEARER:
        return add(c, arena, STR("Authorization"),
                   arena_printf(arena, "Bearer %.*s", STR_ARG(key)));
    case CONF_AUTH_API_KEY:
        return add(c, arena, STR("api-key"), arena_cstr(arena, key));
    case CONF_AUTH_X_API_KEY:
        return add(c, arena, STR("x-api-key"), arena_cstr(arena, key));
    case CONF_AUTH_X_GOOG_API_KEY:
        return add(c, arena, STR("x-goog-api-key"), arena_cstr(arena, key));
    case CONF_AUTH_NONE:
        break;
    }
    return NULL;
}

static err_t make(struct credential *c, const struct conf_provider *provider, struct arena *arena,
                  const struct conf_provider_key *key)
{
    c->name = key->name;
    c->limits = arena_new_struct(arena, struct credential_limits);
    c->headers = arena_alloc_array(arena, provider->headers.count + 3, sizeof(*c->headers));
    if (!c->limits || !c->headers)
        return arena_err(arena);
    TRY(add(c, arena, STR("Content-Type"), "application/json"));
    TRY(add_key(c, provider, key->key, arena));
    if (provider->kind == CONF_PROVIDER_ANTHROPIC &&
        !is_configured(provider, STR("anthropic-version")))
        TRY(add(c, arena, STR("anthropic-version"), ANTHROPIC_VERSION));
    for (size_t i = 0; i < provider->headers.count; i++)
        c->headers[c->header_count++] =
            (struct http_header){provider->headers.items[i].name, provider->headers.items[i].value};
    return NULL;
}

err_t credential_make_all(const struct conf_provider *provider, struct arena *arena,
                          struct credential **out, size_t *count)
{
    const struct conf_provider_key only = {STR("key"), provider->key};
    const struct conf_provider_key *keys = provider->key_count ? provider->keys : &only;

    *count = provider->key_count ? provider->key_count : 1;
    *out = arena_alloc_array(arena, *count, sizeof(**out));
    if (!*out)
        return arena_err(arena);
    for (size_t i = 0; i < *count; i++)
        TRY(make(&(*out)[i], provider, arena, &keys[i]));
    return NULL;
}

/* ---- limits ---- */

/* A decimal number with a fraction, in thousandths, at the start of *s, which it is taken from. */
static bool take_milli(struct str *s, uint64_t *milli)
{
    uint64_t value = 0, scale = 0;
    size_t i = 0;

    for (; i < s->len && (s->ptr[i] == '.' || (s->ptr[i] >= '0' && s->ptr[i] <= '9')); i++) {
        if (s->ptr[i] == '.') {
            if (scale)
                return false;
            scale = 1000;
        } else if (!scale) {
            value = value * 10 + 1000 * (uint64_t)(s->ptr[i] - '0');
        } else {
            scale /= 10;
            value += scale * (uint64_t)(s->ptr[i] - '0');
        }
        if (value > 1000ULL * MAX_RESET_MS)
            return false;
    }
    *s = str_after(*s, i);
    *milli = value;
    return i > 0;
}

/* "6m0s", "20ms", "7.66s", "1h2m" as Go prints durations, or plain seconds. */
static bool parse_go_duration(struct str s, uint64_t *ms)
{
    uint64_t milli, total = 0;

    while (s.len > 0) {
        if (!take_milli(&s, &milli))
            return false;
        if (str_starts(s, STR("ms"))) {
            total += milli / 1000;
            s = str_after(s, 2);
        } else if (s.len == 0 || s.ptr[0] == 's') {
            total += milli;
            s = str_after(s, s.len > 0);
        } else if (s.ptr[0] == 'm' || s.ptr[0] == 'h') {
            total += milli * (s.ptr[0] == 'm' ? 60 : 3600);
            s = str_after(s, 1);
        } else {
            return false;
        }
    }
    *ms = total;
    return true;
}

/* Two digits of a date. */
static bool digits2(struct str s, size_t at, uint64_t *out)
{
    return str_to_u64((struct str){s.ptr + at, 2}, out);
}

/* RFC 3339, UTC: "2026-11-22T17:06:19Z", as milliseconds since 1970. */
static bool parse_date(struct str s, uint64_t *wall_ms)
{
    uint64_t year, month, day, hour, minute, second;

    if (s.len < 20 || s.ptr[s.len - 1] != 'Z' || s.ptr[10] != 'T' ||
        !str_to_u64((struct str){s.ptr, 4}, &year) || !digits2(s, 5, &month) ||
        !digits2(s, 8, &day) || !digits2(s, 11, &hour) || !digits2(s, 14, &minute) ||
        !digits2(s, 17, &second) || year < 1970 || month < 1 || month > 12)
        return false;
    /* Days since 1970 by counting from a March (Howard Hinnant, "chrono-Compatible Low-Level Date
     * Algorithms"). */
    year -= month <= 2;
    uint64_t era = year / 400, of_era = year % 400;
    uint64_t of_year = (153 * (month + (month > 2 ? 0 : 12) - 3) + 2) / 5 + day - 1;
    uint64_t days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
    *wall_ms = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000;
    return true;
}

/* How long until a count starts anew. */
static uint64_t parse_reset(struct str text, uint64_t wall_ms)
{
    uint64_t ms, at_ms;

    if (text.len > 0 && parse_go_duration(text, &ms) && ms <= MAX_RESET_MS)
        return ms;
    if (parse_date(text, &at_ms))
        return at_ms > wall_ms && at_ms - wall_ms < MAX_RESET_MS ? at_ms - wall_ms : 0;
    return DEFAULT_RESET_MS;
}

/* Most answers of most servers tell nothing. */
static bool tells_limits(const struct http_head *head)
{
    for (size_t i = 0; i < head->header_count; i++) {
        struct str name = head->headers[i].name;
        if (name.len > 22 && (str_same_nocase(name.ptr, "x-ratelimit-", 12) ||
                              str_same_nocase(name.ptr, "anthropic-ratelimit-", 20)))
            return true;
    }
    return false;
}

struct count_names {
    struct str remaining, limit, reset;
};

static void note(const struct credential *c, enum count which, const struct count_names *names,
                 const struct http_head *head, uint64_t now_ms)
{
    struct str remaining = http_header_get(head, names->remaining);
    uint64_t left, limit, most;

    if (!remaining.ptr || !str_to_u64(remaining, &left))
        return;
    most = atomic_load_explicit(&c->limits->counts[which].most, memory_order_relaxed);
    if (str_to_u64(http_header_get(head, names->limit), &limit) && limit >= left)
        most = limit;
    else if (most < left)
        most = left;
    atomic_store_explicit(&c->limits->counts[which].most, most, memory_order_relaxed);
    atomic_store_explicit(&c->limits->counts[which].room,
                          most ? (unsigned)((double)left / (double)most * ROOM_ALL) : 0,
                          memory_order_relaxed);
    atomic_store_explicit(&c->limits->counts[which].reset_ms,
                          now_ms + parse_reset(http_header_get(head, names->reset), sys_wall_ms()),
                          memory_order_relaxed);
}

/* OpenAI, "Rate limits", headers; Groq, "Rate limits"; Anthropic, "Rate limits", response
 * headers. */
void credential_note(const struct credential *credential, const struct http_head *head,
                     uint64_t now_ms)
{
    static const struct {
        struct count_names openai, anthropic;
    } names[] = {
#define TEXT_OF(literal) {literal, sizeof(literal) - 1}
#define X(id, openai, anthropic)                                                                   \
    {{TEXT_OF("x-ratelimit-remaining-" openai), TEXT_OF("x-ratelimit-limit-" openai),              \
      TEXT_OF("x-ratelimit-reset-" openai)},                                                       \
     {TEXT_OF("anthropic-ratelimit-" anthropic "-remaining"),                                      \
      TEXT_OF("anthropic-ratelimit-" anthropic "-limit"),                                          \
      TEXT_OF("anthropic-ratelimit-" anthropic "-reset")}},
        COUNTS(X)
#undef X
#undef TEXT_OF
    };

    if (!tells_limits(head))
        return;
    for (size_t i = 0; i < COUNT_COUNT; i++) {
        note(credential, (enum count)i, &names[i].openai, head, now_ms);
        note(credential, (enum count)i, &names[i].anthropic, head, now_ms);
    }
}

unsigned credential_room(const struct credential *credential, uint64_t now_ms)
{
    unsigned least = ROOM_ALL;

    for (size_t i = 0; i < COUNT_COUNT; i++) {
        unsigned room =
            atomic_load_explicit(&credential->limits->counts[i].room, memory_order_relaxed);
        uint64_t reset_ms =
            atomic_load_explicit(&credential->limits->counts[i].reset_ms, memory_order_relaxed);
        if (now_ms < reset_ms && room < least)
            least = room;
    }
    return least;
}
