/* SPDX-License-Identifier: Apache-2.0 */
/* Model requests without a conversation: embeddings and moderations as OpenAI's callers ask for them
 * (OpenAPI 2.3.0), and rerank, which has the form of Cohere (v2/rerank) and Jina (v1/rerank).
 *
 * They are judged and relayed, never expanded: whichever provider answers takes the same members. */
#include "dialect/body.h"
#include "dialect/dialect.h"
#include "dialect/openai_error.h"

#define MAX_INPUTS    2048 /* of one embeddings request, says the API */
#define MAX_DOCUMENTS 10000

/* ---- embeddings ---- */

static const struct body_rule embeddings_rules[] = {
    BODY_RULE("dimensions", COUNT, 1, 1e6),
    BODY_RULE("user", TEXT, 0, 0),
    BODY_RULES_REFUSED,
};

/* A text that is not empty, or a token. */
static bool is_input(struct str value)
{
    uint64_t token;

    return json_kind(value) == JSON_STRING ? value.len > 2 : json_u64(value, &token);
}

/* A list of tokens. */
static bool is_token_list(struct str value)
{
    struct str token;
    uint64_t number;

    if (json_kind(value) != JSON_ARRAY || json_is_empty(value))
        return false;
    for (size_t at = 0; json_array_next(value, &at, &token);)
        if (!json_u64(token, &number))
            return false;
    return true;
}

static err_t check_input(struct str input)
{
    struct str element;
    size_t count = 0;

    if (json_kind(input) == JSON_NONE)
        return body_bad("missing_required_parameter", "input",
                        "Missing required parameter: 'input'.");
    if (json_kind(input) == JSON_STRING && is_input(input))
        return NULL;
    if (json_kind(input) != JSON_ARRAY || json_is_empty(input))
        return body_bad(
            "invalid_type", "input",
            "Invalid 'input': expected a text that is not empty, or an array of texts or "
            "tokens with at least one element.");
    for (size_t at = 0; json_array_next(input, &at, &element); count++)
        if (!is_input(element) && !is_token_list(element))
            return body_bad(
                "invalid_type", "input",
                "Invalid 'input': element %zu is neither a text that is not empty nor a "
                "token nor a list of tokens.",
                count);
    if (count > MAX_INPUTS && !is_token_list(input))
        return body_bad("invalid_value", "input", "Invalid 'input': more than %d elements.",
                        MAX_INPUTS);
    return NULL;
}

static err_t parse_embeddings(struct str body, struct arena *arena, struct chat_request *out)
{
    struct str format;

    TRY(body_read(body, embeddings_rules, sizeof(embeddings_rules) / sizeof(*embeddings_rules),
                  arena, out));
    out->protocol = PROTOCOL_EMBEDDINGS;
    format = body_get(out, STR("encoding_format"));
    if (json_kind(format) != JSON_NONE && json_kind(format) != JSON_NULL &&
        !str_eq(format, STR("\"float\"")) && !str_eq(format, STR("\"base64\"")))
        return body_bad("invalid_value", "encoding_format",
                        "Invalid 'encoding_format': expected 'float' or 'base64'.");
    TRY(body_read_model(arena, out));
    return check_input(body_get(out, STR("input")));
}

/* ---- rerank ---- */

static const struct body_rule rerank_rules[] = {
    BODY_RULE("top_n", COUNT, 1, 1e9),
    BODY_RULE("return_documents", BOOL, 0, 0),
    BODY_RULE("max_tokens_per_doc", COUNT, 1, 1e9),
    BODY_RULES_REFUSED,
};

/* A text, or an object that holds one (Jina, Cohere v1). */
static bool is_document(struct str value)
{
    return json_kind(value) == JSON_STRING ||
           (json_kind(value) == JSON_OBJECT && !json_is_empty(value));
}

static err_t check_documents(struct str documents)
{
    struct str document;
    size_t count = 0;

    if (json_kind(documents) == JSON_NONE)
        return body_bad("missing_required_parameter", "documents",
                        "Missing required parameter: 'documents'.");
    if (json_kind(documents) != JSON_ARRAY || json_is_empty(documents))
        return body_bad("invalid_type", "documents",
                        "Invalid 'documents': expected an array with at least one text.");
    for (size_t at = 0; json_array_next(documents, &at, &document); count++)
        if (!is_document(document))
            return body_bad("invalid_type", "documents",
                            "Invalid 'documents': element %zu is neither a text nor an object.",
                            count);
    if (count > MAX_DOCUMENTS)
        return body_bad("invalid_value", "documents", "Invalid 'documents': more than %d elements.",
                        MAX_DOCUMENTS);
    return NULL;
}

static err_t parse_rerank(struct str body, struct arena *arena, struct chat_request *out)
{
    struct str query;

    TRY(body_read(body, rerank_rules, sizeof(rerank_rules) / sizeof(*rerank_rules), arena, out));
    out->protocol = PROTOCOL_RERANK;
    TRY(body_read_model(arena, out));
    query = body_get(out, STR("query"));
    if (json_kind(query) == JSON_NONE)
        return body_bad("missing_required_parameter", "query",
                        "Missing required parameter: 'query'.");
    if (json_kind(query) != JSON_STRING)
        return body_wrong_type("query", "a string", query);
    return check_documents(body_get(out, STR("documents")));
}

/* ---- moderations ---- */

static const struct body_rule moderations_rules[] = {BODY_RULES_REFUSED};

static err_t parse_moderations(struct str body, struct arena *arena, struct chat_request *out)
{
    TRY(body_read(body, moderations_rules, sizeof(moderations_rules) / sizeof(*moderations_rules),
                  arena, out));
    out->protocol = PROTOCOL_MODERATIONS;
    if (json_kind(body_get(out, STR("input"))) == JSON_NONE)
        return body_bad("missing_required_parameter", "input",
                        "Missing required parameter: 'input'.");
    if (json_kind(body_get(out, STR("model"))) != JSON_NONE)
        return body_read_model(arena, out);
    out->model = STR("omni-moderation-latest"); /* the API's default */
    return NULL;
}

/* ---- the dialects ---- */

#define PLAIN(symbol, text, id, reader)                                                            \
    static const struct dialect symbol = {                                                         \
        .name = text,                                                                              \
        .protocol = id,                                                                            \
        .parse = reader,                                                                           \
        .forwards = openai_error_forwards,                                                         \
        .error_status = openai_error_status,                                                       \
        .print_error = openai_error_print,                                                         \
        .write_error = openai_error_write,                                                         \
    };                                                                                             \
    const struct dialect *const dialect_##symbol = &(symbol)

PLAIN(embeddings, "embeddings", PROTOCOL_EMBEDDINGS, parse_embeddings);
PLAIN(rerank, "rerank", PROTOCOL_RERANK, parse_rerank);
PLAIN(moderations, "moderations", PROTOCOL_MODERATIONS, parse_moderations);
