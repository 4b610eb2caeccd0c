/* SPDX-License-Identifier: Apache-2.0 */
/* gzip by zlib and zstd by libzstd, both as loops of "room, step, how far".
 *
 * The hard thing is a bomb: a few kilobytes that decode to gigabytes. Output goes straight to
 * the caller's buffer, which has a limit; when it is full one more byte is asked for, and if it
 * comes the body is too big. A zstd frame may ask for a window of its own size, which is limited
 * too. */
#include "net/coding.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "fiber/fiber.h"
#include "net/http_target.h"

#define STEP_BYTES          (64 * 1024)
#define YIELD_BYTES         (1024 * 1024)
#define ZSTD_WINDOW_LOG_MAX 23 /* 8 MiB, what RFC 8878 §3.1.1.1.2 asks decoders to support */

enum coding_kind { CODING_GZIP, CODING_ZSTD };

struct coding {
    enum coding_kind kind;
    bool is_complete; /* at the end of a member or frame */
    size_t since_yield;
    z_stream gzip;
    ZSTD_DCtx *zstd;
};

static void *zlib_alloc(void *arg, unsigned count, unsigned size)
{
    return mem_library_alloc(MEM_BODY, (size_t)count * size);
}

static void zlib_free(void *arg, void *ptr)
{
    mem_library_free(MEM_BODY, ptr);
}

/* Set up the library's part. */
static bool start(struct coding *coding)
{
    if (coding->kind == CODING_GZIP) {
        coding->gzip.zalloc = zlib_alloc;
        coding->gzip.zfree = zlib_free;
        return inflateInit2(&coding->gzip, 15 + 16) == Z_OK;
    }
    coding->zstd = ZSTD_createDCtx();
    return coding->zstd && !ZSTD_isError(ZSTD_DCtx_setParameter(coding->zstd, ZSTD_d_windowLogMax,
                                                                ZSTD_WINDOW_LOG_MAX));
}

err_t coding_open(struct str name, struct coding **out)
{
    enum coding_kind kind = CODING_GZIP;

    *out = NULL;
    if (name.len == 0 || str_eq_nocase(name, STR("identity")))
        return NULL;
    if (str_eq_nocase(name, STR("zstd")))
        kind = CODING_ZSTD;
    else if (!str_eq_nocase(name, STR("gzip")) && !str_eq_nocase(name, STR("x-gzip")))
        return HTTP_REFUSAL(415, "the Content-Encoding is not supported: use gzip, zstd or none");
    struct coding *coding = mem_alloc_zero(MEM_BODY, sizeof *coding);
    if (!coding)
        return err_no_memory();
    coding->kind = kind;
    if (!start(coding)) {
        coding_close(coding);
        return err_no_memory();
    }
    *out = coding;
    return NULL;
}

static err_t broken(void)
{
    return HTTP_REFUSAL(400, "the body is not what its Content-Encoding says");
}

/* One step of decoding from *in to `room` bytes at `to`; *made bytes were written. */
static err_t step_gzip(struct coding *coding, struct str *in, char *to, size_t room, size_t *made)
{
    z_stream *z = &coding->gzip;
    int verdict;

    if (coding->is_complete) {
        /* Another member follows (RFC 1952 §2.2). */
        inflateReset(z);
        coding->is_complete = false;
    }
    z->next_in = (Bytef *)(uintptr_t)in->ptr;
    z->avail_in = (unsigned)(in->len < STEP_BYTES ? in->len : STEP_BYTES);
    z->next_out = (Bytef *)to;
    z->avail_out = (unsigned)room;
    verdict = inflate(z, Z_NO_FLUSH);
    *in = str_after(*in, (size_t)((const char *)z->next_in - in->ptr));
    *made = room - z->avail_out;
    coding->is_complete = verdict == Z_STREAM_END;
    if (verdict == Z_MEM_ERROR)
        return err_no_memory();
    return verdict == Z_OK || verdict == Z_STREAM_END || verdict == Z_BUF_ERROR ? NULL : broken();
}

static err_t step_zstd(struct coding *coding, struct str *in, char *to, size_t room, size_t *made)
{
    ZSTD_inBuffer from = {.src = in->ptr, .size = in->len};
    ZSTD_outBuffer out = {.dst = to, .size = room};
    size_t verdict = ZSTD_decompressStream(coding->zstd, &out, &from);

    *in = str_after(*in, from.pos);
    *made = out.pos;
    coding->is_complete = verdict == 0;
    if (ZSTD_getErrorCode(verdict) == ZSTD_error_memory_allocation)
        return err_no_memory();
    return ZSTD_isError(verdict) ? broken() : NULL;
}

/* Let others run after a lot of work. */
static err_t rest_a_little(struct coding *coding, size_t made)
{
    coding->since_yield += made;
    if (coding->since_yield < YIELD_BYTES || !fiber_self())
        return NULL;
    coding->since_yield = 0;
    return fiber_yield();
}

err_t coding_push(struct coding *coding, struct str piece, struct buf *out)
{
    err_t (*step)(struct coding *, struct str *, char *, size_t, size_t *) =
        coding->kind == CODING_GZIP ? step_gzip : step_zstd;
    size_t made = 1;

    /* The decoder is asked once more after the input is used up, for what it may still hold. */
    while (piece.len > 0 || (made > 0 && !coding->is_complete)) {
        char beyond;
        size_t room = out->limit - out->len;
        if (room > STEP_BYTES)
            room = STEP_BYTES;
        TRY(buf_reserve(out, room));
        TRY(step(coding, &piece, room > 0 ? out->ptr + out->len : &beyond, room > 0 ? room : 1,
                 &made));
        if (room == 0 && made > 0)
            return err_new(ERR_TOO_BIG, "the decoded body is larger than %zu bytes",
                           (size_t)out->limit);
        out->len += made;
        TRY(rest_a_little(coding, made));
    }
    return NULL;
}

bool coding_is_complete(const struct coding *coding)
{
    return coding->is_complete;
}

void coding_close(struct coding *coding)
{
    if (!coding)
        return;
    if (coding->kind == CODING_GZIP)
        inflateEnd(&coding->gzip);
    else
        ZSTD_freeDCtx(coding->zstd);
    mem_free(MEM_BODY, coding, sizeof *coding);
}
