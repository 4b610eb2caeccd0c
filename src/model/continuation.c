/* SPDX-License-Identifier: Apache-2.0 */
/* Going on with an answer that broke off. */
#include "model/continuation.h"

#include "model/provider_anthropic.h"
#include "model/tokens.h"

/* ---- which answers ---- */

/* Settings with which an answer holds more than one text. */
static const enum setting telling[] = {
    SETTING_N,     SETTING_BEST_OF,    SETTING_LOGPROBS, SETTING_MODALITIES,
    SETTING_AUDIO, SETTING_WEB_SEARCH, SETTING_ECHO,     SETTING_BACKGROUND,
};

static bool is_plain(const struct prompt *prompt)
{
    if (prompt->tool_count > 0 || prompt->format != FORMAT_TEXT || prompt->thinking)
        return false;
    for (size_t i = 0; i < sizeof(telling) / sizeof(*telling); i++) {
        struct str value = prompt->settings[telling[i]];
        if (value.ptr && json_kind(value) != JSON_NULL && !setting_is_default(telling[i], value))
            return false;
    }
    return true;
}

void continuation_begin(struct continuation *c, struct chat_request *ask, struct arena *arena)
{
    const struct prompt *prompt;

    *c = (struct continuation){.text = buf_make(MEM_REQUEST, CONTINUATION_MAX_BYTES)};
    c->is_possible =
        ask->is_stream && ask->expand && !chat_prompt(ask, arena, &prompt) && is_plain(prompt);
}

void continuation_fini(struct continuation *c)
{
    buf_fini(&c->text);
    c->is_possible = false;
}

/* Responses keep their provider's ids, by which they can be asked for there. */
bool continuation_wants_deltas(const struct continuation *c, enum protocol asked)
{
    return c->is_possible && asked != PROTOCOL_RESPONSES;
}

/* ---- the seam ---- */

err_t continuation_prefill(struct continuation *c, const struct conf_provider *provider,
                           const struct provider_ops *ops, enum protocol asked, struct str *out)
{
    enum protocol spoken = ops->choose(provider, asked);

    *out = buf_str(&c->text);
    if (spoken == PROTOCOL_RESPONSES)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "unsupported_parameter", .param = "model"),
                              "the provider %.*s cannot go on with another's response",
                              STR_ARG(provider->name));
    if (spoken == PROTOCOL_MESSAGES) /* as its encoder does; blank texts are left out altogether */
        *out = provider_anthropic_trim_end(*out);
    c->prefilled = c->repeat_at = out->len;
    c->repeat_end = c->text.len;
    return NULL;
}

uint64_t continuation_prefill_tokens(const struct continuation *c, struct str model)
{
    struct str text = {buf_str(&c->text).ptr, c->prefilled};

    return text.len > 0 ? tokens_count(tokens_family(model), text) : 0;
}

/* Leave out of a text what is said again; whatever else comes ends that. */
static struct str leave_out(struct continuation *c, struct str text)
{
    const char *told = buf_str(&c->text).ptr;

    while (text.len > 0 && c->repeat_at < c->repeat_end && text.ptr[0] == told[c->repeat_at]) {
        text = str_after(text, 1);
        c->repeat_at++;
    }
    if (text.len > 0)
        c->repeat_at = c->repeat_end;
    return text;
}

static err_t leave_out_of(struct continuation *c, struct event *event, struct arena *scratch)
{
    struct delta *deltas = arena_alloc_array(scratch, event->delta_count, sizeof(*deltas));

    if (!deltas)
        return arena_err(scratch);
    memcpy(deltas, event->deltas, event->delta_count * sizeof(*deltas));
    for (size_t i = 0; i < event->delta_count; i++)
        if (deltas[i].kind == DELTA_TEXT)
            deltas[i].text = leave_out(c, deltas[i].text);
    event->deltas = deltas;
    return NULL;
}

err_t continuation_take(struct continuation *c, struct event *event, struct arena *scratch)
{
    if (c->repeat_at < c->repeat_end)
        TRY(leave_out_of(c, event, scratch));
    for (size_t i = 0; i < event->delta_count && c->is_possible; i++) {
        const struct delta *delta = &event->deltas[i];
        c->is_possible = delta->kind == DELTA_TEXT && delta->choice == 0 &&
                         !buf_add(&c->text, delta->text); /* too long, or no memory */
    }
    return NULL;
}
