/* SPDX-License-Identifier: Apache-2.0 */
/* Reads, shows and compares lists of quotas.
 *
 * At most one amount per period makes sense: of two, the larger could never be reached. */
#include "conf/value_quota.h"

#include "conf/expand.h"
#include "conf/nearest.h"
#include "conf/quota.h"

static enum quota_unit unit_of(const struct option *option)
{
    return option->type == OPTION_MONEY ? QUOTA_MONEY : QUOTA_TOKENS;
}

static void problem_of_amount(struct reader *r, const struct option *option,
                              const struct tree_node *node, struct str text)
{
    bool is_money = unit_of(option) == QUOTA_MONEY;
    size_t slash = str_index(text, '/');
    struct nearest near = nearest_begin(str_after(text, slash + (slash < text.len)));

    for (int i = CONF_PERIOD_DAY; i <= CONF_PERIOD_TOTAL; i++)
        nearest_offer(&near, str_from(quota_period_name((enum conf_period)i)));
    reader_problem(
        r, node->line, "%.*s must be %s per day, month or total, like %s, not \"%.*s\"%s",
        STR_ARG(option->path),
        is_money ? "an amount with at most 9 digits after the point" : "a number of tokens",
        is_money ? "2.50/day" : "100000/day", (int)(node->text.len < 60 ? node->text.len : 60),
        node->text.ptr, str_eq(near.text, near.word) ? "" : nearest_hint(&near, r->scratch));
}

static void read_amount(struct reader *r, const struct option *option, const struct tree_node *node,
                        struct conf_quotas *out)
{
    struct conf_quota quota;
    bool has_variables;
    struct str text;

    if (node->kind != TREE_SCALAR || tree_is_null(node)) {
        reader_problem(r, node->line, "an element of %.*s must be a text", STR_ARG(option->path));
        return;
    }
    if (!expand_scalar(r, node, &text, &has_variables))
        return;
    if (!quota_parse(text, unit_of(option), &quota)) {
        problem_of_amount(r, option, node, text);
        return;
    }
    for (size_t i = 0; i < out->count; i++)
        if (out->items[i].period == quota.period)
            reader_problem(r, node->line, "%.*s has two amounts per %s", STR_ARG(option->path),
                           quota_period_name(quota.period));
    out->items[out->count++] = quota;
}

void value_quota_read(struct reader *r, const struct option *option, const struct tree_node *node,
                      struct conf_quotas *out)
{
    bool is_list = node->kind == TREE_LIST;
    const struct tree_node *first = is_list ? node->first : node;

    if (node->kind == TREE_MAP) {
        reader_problem(r, node->line, "%.*s must be a list", STR_ARG(node->key));
        return;
    }
    out->count = 0;
    if (!is_list && str_eq(node->text, STR("off")))
        return;
    out->items = arena_alloc_array(r->arena, is_list ? node->count : 1, sizeof *out->items);
    if (!out->items) {
        reader_fail(r, r->arena);
        return;
    }
    for (const struct tree_node *n = first; n; n = is_list ? n->next : NULL)
        read_amount(r, option, n, out);
}

err_t value_quota_print(const struct option *option, const struct conf_quotas *quotas,
                        struct buf *out)
{
    TRY(buf_add_byte(out, '['));
    for (size_t i = 0; i < quotas->count; i++) {
        TRY(buf_add(out, i ? STR(", \"") : STR("\"")));
        TRY(quota_print(&quotas->items[i], unit_of(option), out));
        TRY(buf_add_byte(out, '"'));
    }
    return buf_add_byte(out, ']');
}

bool value_quota_equal(const struct conf_quotas *a, const struct conf_quotas *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (a->items[i].amount != b->items[i].amount || a->items[i].period != b->items[i].period)
            return false;
    return true;
}
