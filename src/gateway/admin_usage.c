/* SPDX-License-Identifier: Apache-2.0 */
/* /admin/usage, ledger, budgets and prices: what was used, what is left, and what it costs.
 *
 * Whoever rules over a project or an organisation sees what is theirs; filters only narrow that. Parameters
 * that no view has are refused, because a mistyped filter would show too much. */
#include "base/json_writer.h"
#include "base/sys.h"
#include "base/text.h"
#include "gateway/auth.h"
#include "gateway/handlers.h"
#include "gateway/request.h"
#include "govern/govern.h"
#include "govern/ledger_query.h"
#include "govern/price_decimal.h"
#include "govern/price_table.h"
#include "observe/metrics.h"

#define PAGE_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define DEFAULT_PAGE   100
#define DAY_MS         UINT64_C(86400000)
#define USUAL_DAYS     30

/* ---- parameters ---- */

static err_t bad(const char *name, const char *must)
{
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = name),
                          "%s must be %s", name, must);
}

static err_t read_by(struct str value, unsigned *by)
{
    struct str part;
    unsigned one;

    *by = 0;
    while (value.len > 0 && value.ptr && str_split(&value, ',', &part)) {
        if (!ledger_query_word(part, &one))
            return bad("by",
                       "some of project, key, user, model, provider, upstream_model, day, hour");
        *by |= one;
    }
    return NULL;
}

static err_t read_flag(const char *name, struct str value, bool *out)
{
    *out = str_eq(value, STR("1")) || str_eq(value, STR("true"));
    return *out || str_eq(value, STR("0")) || str_eq(value, STR("false")) ? NULL
                                                                          : bad(name, "1 or 0");
}

static err_t read_number(struct str name, struct str value, struct ledger_query *q)
{
    static const char moment[] = "a date like 2026-11-01 or 2026-11-01T12:30:00Z";

    if (str_eq(name, STR("from")))
        return text_parse_iso_date(value, &q->from_ms) ? NULL : bad("from", moment);
    if (str_eq(name, STR("to")))
        return text_parse_iso_date(value, &q->to_ms) ? NULL : bad("to", moment);
    if (!str_to_u64(value, &q->limit) || q->limit < 1 || q->limit > LEDGER_MAX_PAGE)
        return bad("limit", "1 to 1000");
    return NULL;
}

static err_t read_format(struct str value, struct ledger_query *q)
{
    q->as_csv = str_eq(value, STR("csv"));
    return q->as_csv || str_eq(value, STR("json")) ? NULL : bad("format", "json or csv");
}

static struct str *filter_of(struct str name, struct ledger_query *q)
{
    const struct {
        struct str name;
        struct str *value;
    } filters[] = {{STR("project"), &q->project},
                   {STR("key"), &q->key},
                   {STR("user"), &q->user},
                   {STR("model"), &q->model},
                   {STR("cursor"), &q->cursor}};

    for (size_t i = 0; i < sizeof(filters) / sizeof(*filters); i++)
        if (str_eq(name, filters[i].name))
            return filters[i].value;
    return NULL;
}

static err_t read_one(struct str name, struct str value, struct ledger_query *q)
{
    struct str *filter = filter_of(name, q);

    if (filter) {
        *filter = value;
        return NULL;
    }
    if (str_eq(name, STR("by")))
        return read_by(value, &q->by);
    if (str_eq(name, STR("format")))
        return read_format(value, q);
    if (str_eq(name, STR("check")))
        return read_flag("check", value, &q->is_checked);
    if (str_eq(name, STR("all")))
        return read_flag("all", value, &q->is_all);
    return read_number(name, value, q);
}

static bool lists(struct str words, struct str name)
{
    struct str word;

    while (words.ptr && str_split(&words, ' ', &word))
        if (str_eq(word, name))
            return true;
    return false;
}

/* Read the query string; `names` are the parameters that the view has, with spaces between. */
static err_t read_query(const struct request *r, struct str names, struct ledger_query *q)
{
    struct str rest = r->exchange->head.query, pair, name, value;

    while (rest.len > 0 && rest.ptr && str_split(&rest, '&', &pair)) {
        size_t equals = str_index(pair, '=');
        if (pair.len == 0)
            continue;
        TRY(http_decode((struct str){pair.ptr, equals}, true, r->arena, &name));
        TRY(http_decode(equals < pair.len ? str_after(pair, equals + 1) : STR(""), true, r->arena,
                        &value));
        if (!lists(names, name))
            return err_new_detail(ERR_BAD_REQUEST, (.code = "unknown_parameter"),
                                  "there is no parameter '%.*s'; there are: %.*s",
                                  (int)(name.len < 60 ? name.len : 60), name.ptr, STR_ARG(names));
        TRY(read_one(name, value, q));
    }
    if (q->from_ms >= q->to_ms)
        return bad("to", "later than from");
    return NULL;
}

/* ---- what all have ---- */

static err_t begin(struct request *r, struct str names, struct ledger_query *q, struct buf *out)
{
    uint64_t now_ms = sys_wall_ms();

    *out = buf_make(MEM_REQUEST, PAGE_MAX_BYTES);
    *q = (struct ledger_query){.from_ms = now_ms - now_ms % DAY_MS - (USUAL_DAYS - 1) * DAY_MS,
                               .to_ms = now_ms - now_ms % DAY_MS + DAY_MS,
                               .retention_ms = r->conf->ledger.retention_ms,
                               .hourly_ms = r->conf->ledger.hourly_ms,
                               .conf = r->conf,
                               .identity = r->identity,
                               .project = STR(""),
                               .key = STR(""),
                               .user = STR(""),
                               .model = STR(""),
                               .cursor = STR(""),
                               .limit = DEFAULT_PAGE,
                               .arena = r->arena,
                               .out = out};
    if (!govern_db())
        return err_new(ERR_BUSY, "there is no store");
    exchange_cancel_on_half_close(r->exchange);
    auth_realm(r, &q->realm_org, &q->realm_project);
    return read_query(r, names, q);
}

static err_t finish(struct request *r, const struct ledger_query *q, err_t err)
{
    if (!err)
        err = q->as_csv ? reply_text(r, 200, STR("text/csv; charset=utf-8"), buf_str(q->out))
                        : reply_json(r, 200, buf_str(q->out));
    buf_fini(q->out);
    return err;
}

/* ---- the routes ---- */

err_t admin_usage(struct request *r)
{
    struct ledger_query q;
    struct buf out;

    TRY(begin(r, STR("from to by project key user model limit cursor format"), &q, &out));
    return finish(r, &q, ledger_query_usage(govern_db(), &q));
}

err_t admin_ledger(struct request *r)
{
    struct ledger_query q;
    struct buf out;

    TRY(begin(r, STR("from to project key user model limit cursor format"), &q, &out));
    return finish(r, &q, ledger_query_rows(govern_db(), &q));
}

/* Whether every budget there is was looked at. */
static bool is_whole(const struct ledger_query *q)
{
    return q->realm_org.len + q->realm_project.len + q->project.len + q->key.len + q->user.len +
               q->cursor.len ==
           0;
}

err_t admin_budgets(struct request *r)
{
    struct ledger_query q;
    uint64_t drifted = 0;
    struct buf out;
    err_t err;

    TRY(begin(r, STR("project key user all check limit cursor format"), &q, &out));
    err = ledger_query_budgets(govern_db(), &q, &drifted);
    if (!err && q.is_checked && (drifted > 0 || is_whole(&q)))
        metric_set(metric_series_get(METRIC_BUDGET_DRIFT, NULL), (int64_t)drifted);
    return finish(r, &q, err);
}

/* ---- prices ---- */

static void put_price(struct json_writer *w, const char *name, uint64_t pico, int power)
{
    struct buf text = buf_make(MEM_REQUEST, 64);

    if (!w->err)
        w->err = price_decimal_print(pico, power, &text);
    if (!w->err)
        json_put_raw(w, name, buf_str(&text));
    buf_fini(&text);
}

static void put_date(struct json_writer *w, const char *name, uint64_t ms, bool is_set)
{
    char text[25];

    if (!is_set)
        return;
    text_iso_date(ms, text);
    json_put_text(w, name, str_from(text));
}

static void put_span(struct json_writer *w, const struct price_key *key, bool is_prefix,
                     const struct price_span *span)
{
    const struct price *p = &span->price;

    json_open_object(w);
    json_name(w, "model");
    json_open_text(w);
    json_more_text(w, key->name);
    if (is_prefix)
        json_more_text(w, STR("*"));
    json_close_text(w);
    put_price(w, "input", p->input_pico, 6);
    put_price(w, "output", p->output_pico, 6);
    put_price(w, "cached", p->cached_pico, 6);
    put_price(w, "cache_written", p->cache_written_pico, 6);
    put_price(w, "reasoning", p->reasoning_pico, 6);
    put_price(w, "image", p->image_pico, 12);
    put_price(w, "request", p->request_pico, 12);
    put_date(w, "from", span->from_ms, span->from_ms > 0);
    put_date(w, "until", span->until_ms, span->until_ms < UINT64_MAX);
    json_close_object(w);
}

static void put_keys(struct json_writer *w, const struct price_key *keys, size_t count,
                     bool is_prefix)
{
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < keys[i].span_count; k++)
            put_span(w, &keys[i], is_prefix, &keys[i].spans[k]);
}

err_t admin_prices(struct request *r)
{
    const struct prices *prices = r->providers->prices;
    struct buf out = buf_make(MEM_REQUEST, PAGE_MAX_BYTES);
    struct json_writer w = json_writer_make(&out);
    err_t err;

    json_open_object(&w);
    json_put_text(&w, "object", STR("list"));
    json_put_text_or_null(&w, "currency", prices ? prices->currency : STR(""));
    json_put_array(&w, "data");
    if (prices) {
        put_keys(&w, prices->keys, prices->key_count, false);
        put_keys(&w, prices->prefixes, prices->prefix_count, true);
    }
    json_close_array(&w);
    json_close_object(&w);
    err = json_writer_err(&w);
    if (!err)
        err = reply_json(r, 200, buf_str(&out));
    buf_fini(&out);
    return err;
}
