/* SPDX-License-Identifier: Apache-2.0 */
/* How callers of OpenAI's dialects are told of errors.
 *
 * The four inner members are always there; `param` and `code` may be null. SDKs choose their
 * exception by the status, people and agents by `code`. */
#include "dialect/openai_error.h"

#include "base/json_writer.h"

/* The longest error object; texts are far shorter. */
#define ERROR_MAX_BYTES ((size_t)64 * 1024)

int openai_error_status(err_t err)
{
    int status = err_status(err);

    return status == 529 ? 503 : status;
}

/* Not a matter of seconds: there is no money. */
static bool is_about_quota(err_t err)
{
    return err->code && (strcmp(err->code, "insufficient_quota") == 0 ||
                         strcmp(err->code, "budget_exceeded") == 0);
}

static const char *error_type(err_t err)
{
    if (err->kind == ERR_LIMITED)
        return is_about_quota(err) ? "insufficient_quota" : "requests";
    return err_status(err) >= 500 ? "server_error" : "invalid_request_error";
}

static err_t print(err_t err, struct buf *out)
{
    struct json_writer w = json_writer_make(out);

    json_open_object(&w);
    json_put_object(&w, "error");
    json_put_text(&w, "message", str_from(err->text));
    json_put_text(&w, "type", str_from(error_type(err)));
    json_put_text_or_null(&w, "param", str_from(err->param));
    json_put_text_or_null(&w, "code", str_from(err->code));
    json_close_object(&w);
    json_close_object(&w);
    return json_writer_err(&w);
}

struct str openai_error_print(err_t err, struct str request_id, struct arena *arena)
{
    struct buf text = buf_make(MEM_REQUEST, ERROR_MAX_BYTES);
    err_t failed = print(err, &text);
    struct str copy = failed || !arena ? (struct str){0} : arena_copy(arena, buf_str(&text));

    buf_fini(&text);
    return copy.ptr ? copy
                    : STR("{\"error\":{\"message\":\"the server is out of "
                          "memory\",\"type\":\"server_error\","
                          "\"param\":null,\"code\":null}}");
}

err_t openai_error_write(struct answer_writer *writer, err_t err, struct arena *arena,
                         struct buf *out)
{
    TRY(buf_add(out, STR("data: ")));
    TRY(buf_add(out, openai_error_print(err, (struct str){0}, arena)));
    return buf_add(out, STR("\n\n"));
}

bool openai_error_forwards(struct str header)
{
    return str_eq_nocase(header, STR("idempotency-key")) ||
           (header.len > 7 && (header.ptr[0] | 0x20) == 'o' &&
            str_eq_nocase((struct str){header.ptr, 7}, STR("openai-")));
}
