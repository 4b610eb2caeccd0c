/* SPDX-License-Identifier: Apache-2.0 */
/* Counting the tokens of a request without asking a model: with the tokenizer that its name means,
 * exactly for OpenAI's texts, and by a documented ratio for others (model/tokens.h). Limits of requests hold for it. */
#include "base/json_writer.h"
#include "dialect/anthropic_messages.h"
#include "gateway/auth.h"
#include "gateway/handlers.h"
#include "gateway/request.h"
#include "model/call_govern.h"
#include "model/prompt_tokens.h"

/* Read the body and count. The name of an alias means its first target's model. */
static err_t count(struct request *r,
                   err_t (*parse)(struct str, struct arena *, struct chat_request *),
                   uint64_t *tokens)
{
    const struct alias *alias;
    struct str body, model;

    request_step(r, "read");
    TRY(request_check_json(r));
    TRY(exchange_read_body(r->exchange, r->conf->http.max_body_bytes, &body));

    request_step(r, "parse");
    TRY(parse(body, r->arena, &r->ask));
    TRY(auth_check_model(r));

    request_step(r, "limit");
    r->call.subject = &r->subject;
    TRY(call_limit_unasked(&r->call));
    if (r->dialect == dialect_responses)
        TRY(response_hold_prepare(r));

    request_step(r, "count");
    alias = providers_alias(r->providers, r->ask.model);
    model = alias ? alias->targets[0].model : r->ask.model;
    return prompt_tokens_of(&r->ask, model, r->arena, tokens);
}

static err_t answer(struct request *r, struct str object, uint64_t tokens)
{
    struct buf text = buf_make(MEM_REQUEST, 256);
    struct json_writer w = json_writer_make(&text);
    err_t err;

    json_open_object(&w);
    json_put_text_if(&w, "object", object);
    json_put_u64(&w, "input_tokens", tokens);
    json_close_object(&w);
    err = json_writer_err(&w);
    if (!err)
        err = reply_json(r, 200, buf_str(&text));
    buf_fini(&text);
    return err;
}

err_t messages_count(struct request *r)
{
    uint64_t tokens;

    r->dialect = dialect_messages;
    TRY(count(r, anthropic_parse_count, &tokens));
    return answer(r, (struct str){0}, tokens);
}

err_t responses_count(struct request *r)
{
    uint64_t tokens;

    r->dialect = dialect_responses;
    TRY(count(r, dialect_responses->parse, &tokens));
    return answer(r, STR("response.input_tokens"), tokens);
}
