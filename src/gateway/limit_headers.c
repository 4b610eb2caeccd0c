/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of their rate limits.
 *
 * Of several rules that count the same the tightest is told: the one of which least is left. OpenAI writes
 * the time until a limit is whole again as a duration ("6m0s", "120ms"), Anthropic as a date (RFC 3339). */
#include "gateway/limit_headers.h"

#include "base/sys.h"
#include "base/text.h"

static const struct limit_rule *tightest(const struct limit_ticket *ticket, enum limit_unit unit)
{
    const struct limit_rule *found = NULL;

    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];
        if (rule->unit == unit && (!found || rule->remaining < found->remaining))
            found = rule;
    }
    return found;
}

/* A text under construction. These are made for every answer, so without printf. */
struct writer {
    char text[48];
    size_t len;
};

static void put_number(struct writer *w, uint64_t n, const char *unit)
{
    w->len += text_put_u64(n, w->text + w->len);
    while (*unit)
        w->text[w->len++] = *unit++;
}

/* A copy in the arena; its ptr is NULL without memory. */
static struct str finish(const struct writer *w, struct arena *arena)
{
    return arena_copy(arena, (struct str){w->text, w->len});
}

static struct str print_number(uint64_t n, struct arena *arena)
{
    struct writer w;

    w.len = 0;
    put_number(&w, n, "");
    return finish(&w, arena);
}

static struct str print_duration(uint64_t ms, struct arena *arena)
{
    uint64_t s = (ms + 999) / 1000;
    struct writer w;

    w.len = 0;
    if (ms < 1000)
        put_number(&w, ms, "ms");
    if (s >= 3600)
        put_number(&w, s / 3600, "h");
    if (ms >= 1000 && s >= 60)
        put_number(&w, s / 60 % 60, "m");
    if (ms >= 1000)
        put_number(&w, s % 60, "s");
    return finish(&w, arena);
}

static struct str print_date(uint64_t ms, struct arena *arena)
{
    char date[25];

    text_iso_date(sys_wall_ms() + ms, date);
    return arena_copy(arena, str_from(date));
}

/* The three headers of one unit; their values are NULL without memory. */
static void print_rule(const struct limit_rule *rule, bool is_anthropic, struct arena *arena,
                       struct http_header out[3])
{
    static const struct str names[2][2][3] = {
        {{STR("x-ratelimit-limit-requests"), STR("x-ratelimit-remaining-requests"),
          STR("x-ratelimit-reset-requests")},
         {STR("x-ratelimit-limit-tokens"), STR("x-ratelimit-remaining-tokens"),
          STR("x-ratelimit-reset-tokens")}},
        {{STR("anthropic-ratelimit-requests-limit"), STR("anthropic-ratelimit-requests-remaining"),
          STR("anthropic-ratelimit-requests-reset")},
         {STR("anthropic-ratelimit-tokens-limit"), STR("anthropic-ratelimit-tokens-remaining"),
          STR("anthropic-ratelimit-tokens-reset")}}};
    const struct str *name = names[is_anthropic][rule->unit];

    out[0] = (struct http_header){name[0], print_number(rule->rate.count, arena)};
    out[1] = (struct http_header){name[1], print_number(rule->remaining, arena)};
    out[2] = (struct http_header){name[2], is_anthropic ? print_date(rule->reset_ms, arena)
                                                        : print_duration(rule->reset_ms, arena)};
}

size_t limit_headers_make(const struct limit_ticket *ticket, const struct dialect *dialect,
                          struct arena *arena, struct http_header out[LIMIT_HEADERS_MAX])
{
    bool is_anthropic = dialect->protocol == PROTOCOL_MESSAGES;
    size_t count = 0;

    for (int unit = LIMIT_REQUESTS; ticket->is_told && unit <= LIMIT_TOKENS; unit++) {
        const struct limit_rule *rule = tightest(ticket, (enum limit_unit)unit);
        if (!rule)
            continue;
        print_rule(rule, is_anthropic, arena, out + count);
        for (int i = 0; i < 3; i++)
            if (!out[count + (size_t)i].value.ptr)
                return 0;
        count += 3;
    }
    return count;
}

size_t limit_headers_retry(uint64_t retry_ms, struct arena *arena, struct http_header out[2])
{
    if (retry_ms == 0)
        return 0;
    out[0] = (struct http_header){STR("retry-after"), print_number((retry_ms + 999) / 1000, arena)};
    out[1] = (struct http_header){STR("retry-after-ms"), print_number(retry_ms, arena)};
    return out[0].value.ptr && out[1].value.ptr ? 2 : 0;
}
