/* SPDX-License-Identifier: Apache-2.0 */
/* How callers of Anthropic's API are told of errors.
 *
 * Its SDKs choose their exception by the status, and Anthropic has statuses of its own: 529 for
 * "overloaded", 402 for a budget that is spent. A provider that failed is an internal error to it,
 * since it knows of no servers behind servers. */
#include "base/json_writer.h"
#include "dialect/anthropic_messages.h"

/* The longest error object; texts are far shorter. */
#define ERROR_MAX_BYTES ((size_t)64 * 1024)

static bool has_code(err_t err, const char *code)
{
    return err->code && strcmp(err->code, code) == 0;
}

int anthropic_error_status(err_t err)
{
    int status = err_status(err);

    if (status == 503 || has_code(err, "overloaded"))
        return 529;
    if (status == 429 && has_code(err, "insufficient_quota"))
        return 402;
    if (status >= 500 && status != 504 && status != 529)
        return 500;
    return status;
}

static const char *error_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 402:
        return "billing_error";
    case 403:
        return "permission_error";
    case 404:
    case 405:
        return "not_found_error";
    case 409:
        return "conflict_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 504:
        return "timeout_error";
    case 529:
        return "overloaded_error";
    default:
        return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

static err_t print(err_t err, struct str request_id, struct buf *out)
{
    struct json_writer w = json_writer_make(out);

    json_open_object(&w);
    json_put_text(&w, "type", STR("error"));
    json_put_object(&w, "error");
    json_put_text(&w, "type", str_from(error_type(anthropic_error_status(err))));
    json_put_text(&w, "message", str_from(err->text));
    json_close_object(&w);
    json_put_text_if(&w, "request_id", request_id);
    json_close_object(&w);
    return json_writer_err(&w);
}

struct str anthropic_error_print(err_t err, struct str request_id, struct arena *arena)
{
    struct buf text = buf_make(MEM_REQUEST, ERROR_MAX_BYTES);
    err_t failed = print(err, request_id, &text);
    struct str copy = failed || !arena ? (struct str){0} : arena_copy(arena, buf_str(&text));

    buf_fini(&text);
    return copy.ptr ? copy
                    : STR("{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
                          "\"message\":\"the server is out of memory\"}}");
}

err_t anthropic_error_write(struct answer_writer *writer, err_t err, struct arena *arena,
                            struct buf *out)
{
    (void)writer;
    TRY(buf_add(out, STR("event: error\ndata: ")));
    TRY(buf_add(out, anthropic_error_print(err, (struct str){0}, arena)));
    return buf_add(out, STR("\n\n"));
}
