/* SPDX-License-Identifier: Apache-2.0 */
/* JSON text, written member by member into a buffer.
 *
 * Commas take care of themselves. An error sticks: after one nothing more is written, and whoever
 * finishes asks for it once (json_writer_err), so that the code that writes reads like the document
 * it makes. Names are literals of ours and written as they are; texts are escaped. */
#ifndef BASE_JSON_WRITER_H
#define BASE_JSON_WRITER_H

#include "base/buf.h"

struct json_writer {
    struct buf *out;
    bool needs_comma;
    err_t err;
};

/* Begin writing at the end of `out`, which the caller owns. */
static inline struct json_writer json_writer_make(struct buf *out)
{
    return (struct json_writer){.out = out};
}

/* Why something was not written: TOO_BIG, BUSY; NULL if everything was. */
static inline err_t json_writer_err(const struct json_writer *w)
{
    return w->err;
}

/* As an element of a list, or the whole document. */
void json_open_object(struct json_writer *w);
void json_close_object(struct json_writer *w);
void json_open_array(struct json_writer *w);
void json_close_array(struct json_writer *w);
void json_add_text(struct json_writer *w, struct str text); /* "escaped" */
void json_add_raw(struct json_writer *w, struct str json);  /* one value, already JSON */

/* A text in pieces: open it, add pieces, close it. */
void json_open_text(struct json_writer *w);
void json_more_text(struct json_writer *w, struct str piece);
void json_close_text(struct json_writer *w);

/* The name of a member; a value must follow. */
void json_name(struct json_writer *w, const char *name);

/* As a member of the object that is open. */
void json_put_object(struct json_writer *w, const char *name);
void json_put_array(struct json_writer *w, const char *name);
void json_put_text(struct json_writer *w, const char *name, struct str text);
void json_put_raw(struct json_writer *w, const char *name, struct str json);
void json_put_u64(struct json_writer *w, const char *name, uint64_t n);
void json_put_bool(struct json_writer *w, const char *name, bool yes);
void json_put_null(struct json_writer *w, const char *name);

/* A text as it is or null if it is empty; nothing at all if it is empty. */
void json_put_text_or_null(struct json_writer *w, const char *name, struct str text);
void json_put_text_if(struct json_writer *w, const char *name, struct str text);

#endif
