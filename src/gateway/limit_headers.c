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

/* The time until a limit is whole again, as OpenAI writes it. */
static void put_duration(struct http_pen *pen, struct str name, uint64_t ms)
{
    uint64_t s = (ms + 999) / 1000;
    char text[4 * TEXT_U64_BYTES], *at = text;

    if (ms < 1000) {
        at += text_put_u64(ms, at);
        *at++ = 'm';
    }
    if (s >= 3600 && ms >= 1000) {
        at += text_put_u64(s / 3600, at);
        *at++ = 'h';
    }
    if (s >= 60 && ms >= 1000) {
        at += text_put_u64(s / 60 % 60, at);
        *at++ = 'm';
    }
    if (ms >= 1000)
        at += text_put_u64(s % 60, at);
    *at++ = 's';
    http_pen_line(pen, name, (struct str){text, (size_t)(at - text)});
}

static void put_date(struct http_pen *pen, struct str name, uint64_t ms)
{
    char date[25];

    text_iso_date(sys_wall_ms() + ms, date);
    http_pen_line(pen, name, (struct str){date, 24});
}

/* The three lines of one unit. */
static void put_rule(struct http_pen *pen, const struct limit_rule *rule, bool is_anthropic)
{
    static const struct str names[2][2][3] = {
        {{HTTP_LINE("x-ratelimit-limit-requests"), HTTP_LINE("x-ratelimit-remaining-requests"),
          HTTP_LINE("x-ratelimit-reset-requests")},
         {HTTP_LINE("x-ratelimit-limit-tokens"), HTTP_LINE("x-ratelimit-remaining-tokens"),
          HTTP_LINE("x-ratelimit-reset-tokens")}},
        {{HTTP_LINE("anthropic-ratelimit-requests-limit"),
          HTTP_LINE("anthropic-ratelimit-requests-remaining"),
          HTTP_LINE("anthropic-ratelimit-requests-reset")},
         {HTTP_LINE("anthropic-ratelimit-tokens-limit"),
          HTTP_LINE("anthropic-ratelimit-tokens-remaining"),
          HTTP_LINE("anthropic-ratelimit-tokens-reset")}}};
    const struct str *name = names[is_anthropic][rule->unit];

    http_pen_line_u64(pen, name[0], rule->rate.count);
    http_pen_line_u64(pen, name[1], rule->remaining);
    (is_anthropic ? put_date : put_duration)(pen, name[2], rule->reset_ms);
}

void limit_headers_put(const struct limit_ticket *ticket, const struct dialect *dialect,
                       struct http_pen *pen)
{
    for (int unit = LIMIT_REQUESTS; ticket->is_told && unit <= LIMIT_TOKENS; unit++) {
        const struct limit_rule *rule = tightest(ticket, (enum limit_unit)unit);
        if (rule)
            put_rule(pen, rule, dialect->protocol == PROTOCOL_MESSAGES);
    }
}

void limit_headers_put_retry(uint64_t retry_ms, struct http_pen *pen)
{
    if (retry_ms == 0)
        return;
    http_pen_line_u64(pen, HTTP_LINE("retry-after"), (retry_ms + 999) / 1000);
    http_pen_line_u64(pen, HTTP_LINE("retry-after-ms"), retry_ms);
}
