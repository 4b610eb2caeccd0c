/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that refuse.
 *
 * The hard thing is whose fault it is. A key of ours that is not accepted, or a model of ours that
 * does not exist, is the operator's trouble and never the caller's 401; a prompt that is too long is
 * the caller's, but another target may take it. */
#include "model/refusal.h"

#include "base/sys.h"
#include "base/text.h"
#include "model/encode.h"

/* A model that an alias names but the provider does not have is a mistake in our configuration. */
static bool is_missing_target(const struct refusal *refusal, const struct target *target)
{
    return refusal->status == 404 && target->alias.len > 0 &&
           (str_eq(refusal->code, STR("model_not_found")) ||
            str_eq(refusal->code, STR("not_found_error")) ||
            str_eq(refusal->code, STR("NOT_FOUND")));
}

static bool is_auth(const struct refusal *refusal, const struct target *target)
{
    return refusal->status == 401 || refusal->status == 403 || is_missing_target(refusal, target);
}

/* What the provider itself got wrong, whoever asks. */
static bool is_failure(int status)
{
    return status < 400 || status > 499 || status == 407 || status == 408;
}

/* OpenAI's and Azure's codes, and Anthropic's words, which has no code for it. */
static bool is_filtered(const struct refusal *refusal)
{
    return str_eq(refusal->code, STR("content_filter")) ||
           str_eq(refusal->code, STR("content_policy_violation")) ||
           str_find(refusal->message, STR("content filtering policy")) < refusal->message.len;
}

/* When a Retry-After is over (RFC 9110 §10.2.3: seconds or a date; or retry-after-ms, which is more
 * exact). */
static uint64_t read_retry_after(const struct refusal *refusal)
{
    uint64_t n;

    if (str_to_u64(refusal->retry_after_ms, &n) && n < 1000000000)
        return loop_now_ms() + n;
    if (str_to_u64(refusal->retry_after, &n) && n < 1000000)
        return loop_now_ms() + n * 1000;
    if (text_parse_http_date(refusal->retry_after, &n) && n * 1000 > sys_wall_ms())
        return loop_now_ms() + (n * 1000 - sys_wall_ms());
    return 0;
}

/* A copy of a header's value. The head does not last until the body was read. */
static err_t keep_header(const struct http_head *head, struct str name, struct arena *arena,
                         struct str *out)
{
    struct str value = http_header_get(head, name);

    *out = (struct str){0};
    if (value.len == 0)
        return NULL;
    *out = arena_copy(arena, value);
    return out->ptr ? NULL : arena_err(arena);
}

err_t refusal_read(struct upstream *up, enum protocol protocol, struct arena *arena,
                   const struct refusal **out)
{
    struct refusal *refusal = arena_new_struct(arena, struct refusal);
    const struct http_head *head = up->http.head;
    struct str body;

    if (!refusal)
        return arena_err(arena);
    refusal->status = head->status;
    TRY(keep_header(head, STR("content-type"), arena, &refusal->content_type));
    TRY(keep_header(head, STR("retry-after"), arena, &refusal->retry_after));
    TRY(keep_header(head, STR("retry-after-ms"), arena, &refusal->retry_after_ms));
    TRY(upstream_read_refusal(up, loop_now_ms() + up->target->timeouts.idle_ms, arena, &body));
    refusal->body = arena_copy(arena, body); /* it outlasts the attempt */
    if (!refusal->body.ptr)
        return arena_err(arena);
    refusal->until_ms = read_retry_after(refusal);
    TRY(decode_refusal(refusal->body, arena, &refusal->message, &refusal->code));
    refusal->is_relayed = protocol_family(up->decoder.protocol) == protocol_family(protocol) &&
                          refusal->body.len > 0 && !json_check(refusal->body) &&
                          !is_failure(refusal->status) && !is_auth(refusal, up->target);
    *out = refusal;
    return NULL;
}

enum attempt_result refusal_judge(const struct refusal *refusal, const struct target *target)
{
    int status = refusal->status;

    if (is_auth(refusal, target))
        return ATTEMPT_AUTH;
    if (status >= 300 && status <= 399)
        return ATTEMPT_REDIRECT;
    if (is_failure(status))
        return ATTEMPT_STATUS;
    if (status == 429)
        return ATTEMPT_LIMITED;
    if (str_eq(refusal->code, STR("context_length_exceeded")))
        return ATTEMPT_CONTEXT;
    return is_filtered(refusal) ? ATTEMPT_FILTERED : ATTEMPT_REFUSED;
}

err_t refusal_err(const struct refusal *refusal, const struct target *target, struct arena *arena)
{
    struct str name = target->provider->conf->name;
    int status = refusal->status;
    bool is_limit = status == 429, is_overload = status == 503 || status == 529;

    if (is_auth(refusal, target))
        return err_new_detail(ERR_UPSTREAM, (.code = "provider_auth"),
                              "the provider %.*s refused this server's credentials or model (%d)",
                              STR_ARG(name), status);
    if (is_failure(status))
        return err_new_detail(ERR_UPSTREAM,
                              (.status = status == 529 ? 503 : 0,
                               .code = is_overload ? "overloaded" : "upstream_error"),
                              "the provider %.*s answered %d", STR_ARG(name), status);
    return err_new_detail(is_limit ? ERR_LIMITED : ERR_BAD_REQUEST,
                          (.status = status, .code = is_limit ? "rate_limit_exceeded"
                                                     : refusal->code.len > 0
                                                         ? arena_cstr(arena, refusal->code)
                                                         : NULL),
                          "the provider %.*s refused the request (%d)", STR_ARG(name), status);
}

err_t refusal_told(const struct refusal *refusal, err_t err, struct arena *arena)
{
    struct err *told;

    if (!refusal || refusal->message.len == 0 ||
        (err->kind != ERR_BAD_REQUEST && err->kind != ERR_LIMITED))
        return err;
    told = arena_alloc(arena, sizeof(*told));
    if (!told)
        return err;
    *told = *err;
    told->text = arena_cstr(arena, refusal->message);
    return told->text ? told : err;
}
