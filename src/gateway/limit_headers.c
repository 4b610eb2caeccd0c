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

static const char *print_duration(uint64_t ms, struct arena *arena)
{
    unsigned long long s = (ms + 999) / 1000;

    if (ms < 1000)
        return arena_printf(arena, "%llums", (unsigned long long)ms);
    if (s < 60)
        return arena_printf(arena, "%llus", s);
    if (s < 3600)
        return arena_printf(arena, "%llum%llus", s / 60, s % 60);
    return arena_printf(arena, "%lluh%llum%llus", s / 3600, s / 60 % 60, s % 60);
}

static const char *print_date(uint64_t ms, struct arena *arena)
{
    char date[25];

    text_iso_date(sys_wall_ms() + ms, date);
    return arena_cstr(arena, str_from(date));
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
    const char *reset =
        is_anthropic ? print_date(rule->reset_ms, arena) : print_duration(rule->reset_ms, arena);

    out[0] = (struct http_header){
        name[0], str_from(arena_printf(arena, "%llu", (unsigned long long)rule->rate.count))};
    out[1] = (struct http_header){
        name[1], str_from(arena_printf(arena, "%llu", (unsigned long long)rule->remaining))};
    out[2] = (struct http_header){name[2], str_from(reset)};
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
    unsigned long long ms = retry_ms, seconds = (ms + 999) / 1000;

    if (ms == 0)
        return 0;
    out[0] =
        (struct http_header){STR("retry-after"), str_from(arena_printf(arena, "%llu", seconds))};
    out[1] = (struct http_header){STR("retry-after-ms"), str_from(arena_printf(arena, "%llu", ms))};
    return out[0].value.ptr && out[1].value.ptr ? 2 : 0;
}
