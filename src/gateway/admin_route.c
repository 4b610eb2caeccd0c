/* SPDX-License-Identifier: Apache-2.0 */
/* POST /admin/route/explain: where a request would go, and why, without sending it.
 *
 * The body is a chat request; `prompt` may stand for its messages, and `tier` and `key` (the id of one, or a name alone) say
 * who would ask.
 * What it has beside these must mean something, so that a mistyped word is not taken for an answer. */
#include "base/json_writer.h"
#include "conf/quota.h"
#include "dialect/dialect.h"
#include "gateway/handlers.h"
#include "gateway/request.h"
#include "model/route_cost.h"

#define BODY_MAX_BYTES ((size_t)32 * 1024 * 1024)
#define OUT_MAX_BYTES  ((size_t)64 * 1024 * 1024)

/* What is asked, and what came of it. */
struct explanation {
    struct request *r;
    struct chat_request ask;
    struct subject subject;
    struct route_match match;
    const struct alias *alias;
    struct plan plan;
    err_t refusal; /* there is no plan: why */
    struct target **targets;
    size_t target_count;
    struct route_cost *cost; /* of all these */
};

/* ---- the request ---- */

static err_t not_text(const char *name)
{
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_type", .param = name),
                          "%s must be a text", name);
}

static void put_prompt(struct json_writer *w, struct str text)
{
    json_put_array(w, "messages");
    json_open_object(w);
    json_put_text(w, "role", STR("user"));
    json_put_raw(w, "content", text);
    json_close_object(w);
    json_close_array(w);
}

/* Take a member of ours, or pass it on to the chat request. */
static err_t take_member(struct explanation *e, struct route_caller *caller,
                         const struct json_member *m, struct json_writer *w)
{
    bool is_tier = json_key_is(m, STR("tier")), is_key = json_key_is(m, STR("key"));

    if (is_tier || is_key)
        return json_text(m->value, e->r->arena, is_tier ? &e->subject.tier : &caller->key)
                   ? NULL
                   : not_text(is_tier ? "tier" : "key");
    if (json_key_is(m, STR("prompt"))) {
        if (json_kind(m->value) != JSON_STRING)
            return not_text("prompt");
        put_prompt(w, m->value);
        return NULL;
    }
    json_name(w, arena_cstr(e->r->arena, m->key));
    json_add_raw(w, m->value);
    return NULL;
}

/* The body as a chat request. */
static err_t compose(struct explanation *e, struct str body, struct route_caller *caller,
                     struct json_writer *w)
{
    struct json_member m;
    bool has_model = false;

    json_open_object(w);
    for (size_t at = 0; json_object_next(body, &at, &m);) {
        TRY(take_member(e, caller, &m, w));
        has_model |= json_key_is(&m, STR("model"));
    }
    if (!has_model)
        json_put_text(w, "model", STR("auto"));
    json_close_object(w);
    return json_writer_err(w);
}

static void fini_out(void *out)
{
    buf_fini(out);
}

static err_t read_request(struct explanation *e, struct route_caller *caller)
{
    struct request *r = e->r;
    struct buf *out = arena_new_struct(r->arena, struct buf);
    struct json_writer w;
    struct str body;
    const struct prompt *prompt;

    TRY(request_check_json(r));
    TRY(exchange_read_body(r->exchange, BODY_MAX_BYTES, &body));
    TRY(json_check(body));
    if (json_kind(body) != JSON_OBJECT)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_json"), "an object is needed");
    if (!out)
        return arena_err(r->arena);
    *out = buf_make(MEM_REQUEST, OUT_MAX_BYTES);
    TRY(arena_defer(r->arena, fini_out, out));
    w = json_writer_make(out);
    TRY(compose(e, body, caller, &w));
    TRY(dialect_chat->parse(buf_str(out), r->arena, &e->ask));
    TRY(chat_prompt(&e->ask, r->arena, &prompt));
    if (prompt->unknown_count == 0)
        return NULL;
    return err_new_detail(ERR_BAD_REQUEST, (.code = "unknown_parameter"),
                          "Unknown parameter: '%.*s'.", STR_ARG(prompt->unknown[0]));
}

/* ---- the plan ---- */

/* All targets that the name means, whether they fit or not. */
static err_t list_targets(struct explanation *e)
{
    if (!e->alias) {
        e->targets = e->plan.targets;
        e->target_count = e->plan.target_count;
        return NULL;
    }
    e->target_count = e->alias->conf->target_count;
    e->targets = arena_alloc_array(e->r->arena, e->target_count, sizeof(*e->targets));
    for (size_t i = 0; e->targets && i < e->target_count; i++)
        e->targets[i] = &e->alias->targets[i];
    return e->targets ? NULL : arena_err(e->r->arena);
}

/* Ask as a key: with its name, its project's tier unless another was said, and what is left of its budgets. */
static err_t become_key(struct explanation *e, struct route_caller *caller)
{
    const struct identity_key *key =
        caller->key.len > 0 ? identity_get(e->r->identity, caller->key) : NULL;
    struct str tier = e->subject.tier;

    if (!key && str_starts(caller->key, STR("key_")))
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "key"),
                              "there is no key with this id");
    if (!key)
        return NULL;
    identity_subject(key, STR(""), false, &e->subject);
    if (tier.len > 0)
        e->subject.tier = tier;
    caller->key = key->name;
    return NULL;
}

static err_t make_plan(struct explanation *e, const struct route_caller *caller)
{
    struct request *r = e->r;

    e->alias = router_alias(r->providers, e->ask.model);
    e->match = (struct route_match){
        .providers = r->providers, .ask = &e->ask, .caller = caller, .arena = r->arena};
    e->refusal = router_plan(r->providers, &e->ask, caller, r->arena, &e->plan);
    if (e->refusal && (!e->alias || err_is(e->refusal, ERR_BUSY)))
        return e->refusal;
    TRY(list_targets(e));
    return route_cost_judge(&e->match, e->targets, e->target_count, &e->cost);
}

/* A target's place in the plan, from 1 on; 0: it is not in it. */
static size_t place_of(const struct explanation *e, const struct target *target)
{
    for (size_t i = 0; !e->refusal && i < e->plan.target_count; i++)
        if (e->plan.targets[i] == target)
            return i + 1;
    return 0;
}

/* Why a target is not in the plan, or "kept". */
static err_t verdict_of(struct explanation *e, size_t index, const char **out)
{
    static const char *const lacks[] = {
        [ROUTE_FITS] = "the model's conditions",
        [ROUTE_WHEN] = "its conditions",
        [ROUTE_CONTEXT] = "its context",
        [ROUTE_TOOLS] = "no tools",
        [ROUTE_IMAGES] = "no images",
        [ROUTE_SCHEMA] = "no JSON schemas",
    };
    const struct target *target = e->targets[index];
    const struct route_cost_choice *choice =
        e->plan.cost ? route_cost_choice(e->plan.cost, target) : NULL;
    enum route_lack lack;

    *out = "kept";
    if (place_of(e, target))
        return NULL;
    if (!choice)
        choice = &e->cost->choices[index];
    TRY(route_match_target(&e->match, target->conf, &lack));
    *out = lack == ROUTE_FITS && choice->verdict != ROUTE_COST_KEPT
               ? route_cost_verdict_name(choice->verdict)
               : lacks[lack];
    return NULL;
}

/* ---- the answer ---- */

static void put_points(struct json_writer *w, const char *name, int points, struct arena *arena)
{
    unsigned size = (unsigned)(points < 0 ? -points : points);
    const char *text =
        arena_printf(arena, "%s%u.%02u", points < 0 ? "-" : "", size / 100, size % 100);

    json_put_raw(w, name, text ? str_from(text) : STR("0"));
}

static void put_complexity(struct json_writer *w, const struct complexity *complexity,
                           struct arena *arena)
{
    json_put_object(w, "complexity");
    json_put_u64(w, "score", complexity->score);
    put_points(w, "base", complexity_base_points(), arena);
    json_put_array(w, "features");
    for (int i = 0; i < COMPLEXITY_FEATURE_COUNT; i++) {
        enum complexity_feature feature = (enum complexity_feature)i;
        json_open_object(w);
        json_put_text(w, "name", str_from(complexity_feature_name(feature)));
        json_put_u64(w, "count", complexity->counts[i]);
        put_points(w, "points", complexity_feature_points(complexity, feature), arena);
        json_close_object(w);
    }
    json_close_array(w);
    json_close_object(w);
}

static err_t put_cost(struct json_writer *w, uint64_t nano)
{
    struct buf text = buf_make(MEM_REQUEST, 64);
    err_t err = nano == UINT64_MAX ? NULL : quota_print_money(nano, &text);

    if (!err)
        json_put_text_or_null(w, "cost", buf_str(&text));
    buf_fini(&text);
    return err;
}

static err_t put_target(struct explanation *e, size_t index, struct json_writer *w)
{
    const struct target *target = e->targets[index];
    size_t place = place_of(e, target);
    const char *verdict;

    TRY(verdict_of(e, index, &verdict));
    json_open_object(w);
    json_put_text(w, "target", target->label);
    json_put_u64(w, "max_complexity", target->conf ? target->conf->max_complexity_percent : 100);
    TRY(put_cost(w, e->cost->choices[index].nano));
    json_put_text(w, "verdict", str_from(verdict));
    if (place)
        json_put_u64(w, "place", place);
    else
        json_put_null(w, "place");
    json_close_object(w);
    return NULL;
}

static struct str decision_of(const struct explanation *e)
{
    if (e->refusal)
        return str_from(e->refusal->text);
    return e->plan.explained.len ? e->plan.explained : str_from(e->plan.reason);
}

static err_t print(struct explanation *e, struct buf *out)
{
    struct json_writer w = json_writer_make(out);

    json_open_object(&w);
    json_put_text(&w, "model", e->ask.model);
    json_put_text_or_null(&w, "alias", e->alias ? e->alias->conf->name : STR(""));
    json_put_text(&w, "decision", decision_of(e));
    put_complexity(&w, &e->cost->complexity, e->r->arena);
    json_put_u64(&w, "input_tokens", e->cost->input_tokens);
    json_put_u64(&w, "output_tokens", e->cost->output_tokens);
    json_put_u64(&w, "budget_left_percent", e->cost->budget_left_percent);
    json_put_text(&w, "currency", e->r->conf->budgets.currency);
    json_put_array(&w, "targets");
    for (size_t i = 0; i < e->target_count; i++)
        TRY(put_target(e, i, &w));
    json_close_array(&w);
    json_put_array(&w, "order");
    for (size_t i = 0; !e->refusal && i < e->plan.target_count; i++)
        json_add_text(&w, e->plan.targets[i]->label);
    json_close_array(&w);
    json_close_object(&w);
    return json_writer_err(&w);
}

err_t admin_route_explain(struct request *r)
{
    struct explanation *e = arena_new_struct(r->arena, struct explanation);
    struct buf out = buf_make(MEM_REQUEST, OUT_MAX_BYTES);
    struct route_caller caller = {.head = &r->exchange->head};
    err_t err;

    if (!e)
        return arena_err(r->arena);
    e->r = r;
    e->subject =
        (struct subject){.org = STR("default"), .project = STR("default"), .key = STR("default")};
    caller.subject = &e->subject;
    TRY(read_request(e, &caller));
    TRY(become_key(e, &caller));
    TRY(make_plan(e, &caller));
    err = print(e, &out);
    if (!err)
        err = reply_json(r, 200, buf_str(&out));
    buf_fini(&out);
    return err;
}
