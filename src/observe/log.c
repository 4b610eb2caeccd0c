/* SPDX-License-Identifier: Apache-2.0 */
/* Composes log lines.
 *
 * A line grows in a thread-local buffer, field by field, in JSON or as text, and is handed to
 * the writer (log_writer.c) when it ends. The hard thing is that every line stays well-formed
 * whatever is in it: a field is put whole, or with its text cut, or not at all, and room for the
 * end is always kept. */
#include "observe/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/sys.h"
#include "base/text.h"
#include "base/word.h"
#include "observe/log_mask.h"
#include "observe/log_writer.h"

#define END_ROOM 2 /* for "}\n" */

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *const level_labels[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};

static atomic_int level_now = LOG_INFO;
static atomic_int format_now = LOG_JSON;

static _Thread_local struct {
    bool is_wanted; /* else the fields of this line are ignored */
    bool is_json;
    char *at;        /* where the next byte goes in `text` */
    uint64_t date_s; /* the second that `date` shows */
    char date[25];
    char text[LOG_LINE_BYTES];
} line;

/* ---- bytes ---- */

static size_t line_room(void)
{
    return (size_t)(line.text + sizeof line.text - END_ROOM - line.at);
}

/* Append bytes for which there is room. */
static void add(const char *bytes, size_t len)
{
    memcpy(line.at, bytes, len);
    line.at += len;
}

/* Append all of it or nothing. */
static void put(const char *bytes, size_t len)
{
    if (len <= line_room())
        add(bytes, len);
}

static void put_cstr(const char *text)
{
    put(text, strlen(text));
}

/* The next three need room as well, which put_name sees to. */

static void put_byte(char c)
{
    *line.at++ = c;
}

static void put_quote(void)
{
    if (line.is_json)
        put_byte('"');
}

static void put_u64(uint64_t n)
{
    line.at += text_put_u64(n, line.at);
}

/* Write the escape of an ASCII character that may not stand in a string; returns its length. */
static size_t escape(unsigned char c, char out[6])
{
    static const char shorts[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    static const char hex[] = "0123456789abcdef";

    for (const char *s = shorts; *s; s += 2) {
        if ((unsigned char)*s == c) {
            out[0] = '\\';
            out[1] = s[1];
            return 2;
        }
    }
    memcpy(out, "\\u00", 4);
    out[4] = hex[c >> 4];
    out[5] = hex[c & 15];
    return 6;
}

/* Length of the character that `s` begins with and that needs no escape; 0 if it needs one. */
static size_t plain_len(struct str s)
{
    unsigned char c = (unsigned char)s.ptr[0];
    size_t len = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;

    if (c < 0x80)
        return c >= 0x20 && c != '"' && c != '\\' && c != 0x7F;
    return len <= s.len && text_is_utf8((struct str){s.ptr, len}) ? len : 0;
}

/* Mark bytes that are not ASCII or need an escape. Without bytes beyond ASCII sums and differences reach the top bit only
 * where they should; with them there is a mark anyway. */
static uint64_t odd_bytes(uint64_t word)
{
    uint64_t quote = word ^ WORD_ALL('"'), backslash = word ^ WORD_ALL('\\');

    return ((word - WORD_ALL(0x20)) | (word + WORD_ALL(1)) | (quote - WORD_ALL(1)) |
            (backslash - WORD_ALL(1)) | word) &
           WORD_TOPS;
}

static bool is_plain_word(uint64_t word)
{
    return odd_bytes(word) == 0;
}

/* How many bytes at the start of `s` are ASCII that needs no escape. */
static size_t plain_run(struct str s)
{
    size_t n = 0;

    if (s.len > 0 && s.len < WORD_BYTES && is_plain_word(word_load_few(s.ptr, s.len)))
        return s.len;
    while (s.len - n >= WORD_BYTES && is_plain_word(word_load(s.ptr + n)))
        n += WORD_BYTES;
    if (n > 0 && s.len - n < WORD_BYTES && is_plain_word(word_load(s.ptr + s.len - WORD_BYTES)))
        return s.len;
    while (n < s.len && s.ptr[n] >= 0x20 && s.ptr[n] != '"' && s.ptr[n] != '\\' && s.ptr[n] != 0x7F)
        n++;
    return n;
}

/* Room for the text of a field, of which put_name and put_escaped leave enough for the end of one that is cut. */
static size_t text_room(void)
{
    return line_room() - sizeof "…\"";
}

/* The text between quotes, escaped; cut, with "…", when the line is full. Not inlined: most texts
 * need neither. */
static __attribute__((noinline)) void put_escaped(struct str s)
{
    char escaped[6];

    while (s.len) {
        size_t room = text_room();
        size_t run = plain_run(s);
        size_t used = run ? run : plain_len(s), len = used;
        const char *bytes = s.ptr;
        if (run > room && room > 0) /* as much as fits, then the mark */
            used = len = room;
        if (used == 0) {
            used = 1;
            bytes = (unsigned char)*s.ptr < 0x80 ? escaped : "\xEF\xBF\xBD";
            len = bytes == escaped ? escape((unsigned char)*s.ptr, escaped) : 3;
        }
        if (len > room) {
            put_cstr("…");
            return;
        }
        put(bytes, len);
        s = str_after(s, used);
    }
}

/* Copy a word; marks as odd_bytes. */
static uint64_t copy_word(char *to, const char *from)
{
    uint64_t word = word_load(from);

    word_store(to, word);
    return odd_bytes(word);
}

/* Append a text for which there is room, if all of it is ASCII that needs no escape. */
static bool add_if_plain(struct str s)
{
    char *at = line.at;
    uint64_t odd;

    if (s.len < WORD_BYTES) {
        odd = s.len > 0 ? odd_bytes(word_load_few(s.ptr, s.len)) : 0;
        memcpy(at, s.len > 0 ? s.ptr : "", s.len);
    } else { /* the last word overlaps the one before */
        odd = copy_word(at + s.len - WORD_BYTES, s.ptr + s.len - WORD_BYTES);
        for (size_t i = 0; i + WORD_BYTES < s.len; i += WORD_BYTES)
            odd |= copy_word(at + i, s.ptr + i);
    }
    line.at += odd ? 0 : s.len;
    return !odd;
}

/* The text between quotes without the secrets in it. Most texts need no escape. */
static void put_masked(struct str s)
{
    char *start = line.at;

    if (s.len > text_room() || !add_if_plain(s))
        put_escaped(s);
    line.at = start + log_mask_shorten(start, (size_t)(line.at - start));
}

/* A name as it stands in a JSON line, without its ," and ": */
static __attribute__((noinline)) void add_plain_name(struct str name)
{
    put_byte(' ');
    add(name.ptr + 2, name.len - 4);
    put_byte('=');
}

/* Begin a field; false when there is no room for it and a value of `value_len` bytes. */
static bool put_name(struct str name, size_t value_len)
{
    if (!line.is_wanted || line_room() < name.len + value_len)
        return false;
    if (line.is_json)
        add(name.ptr, name.len);
    else
        add_plain_name(name);
    return true;
}

/* Text format leaves out quotes where nothing is unclear without them. */
static bool is_word(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] <= ' ' || (unsigned char)s.ptr[i] >= 0x7F || s.ptr[i] == '"' ||
            s.ptr[i] == '=' || s.ptr[i] == '\\')
            return false;
    return s.len > 0;
}

/* ---- lines ---- */

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&level_now, memory_order_relaxed);
}

static void put_date(void)
{
    uint64_t now_ms = sys_wall_tick_ms();
    unsigned ms = (unsigned)(now_ms % 1000);

    if (now_ms / 1000 != line.date_s) {
        line.date_s = now_ms / 1000;
        text_iso_date(now_ms, line.date);
    }
    line.date[20] = (char)('0' + ms / 100);
    line.date[21] = (char)('0' + ms / 10 % 10);
    line.date[22] = (char)('0' + ms % 10);
    put(line.date, 24);
}

void log_begin(enum log_level level, const char *msg)
{
    line.is_wanted = log_enabled(level);
    if (!line.is_wanted)
        return;
    line.is_json = atomic_load_explicit(&format_now, memory_order_relaxed) == LOG_JSON;
    line.at = line.text;
    if (line.is_json)
        put_cstr("{\"time\":\"");
    put_date();
    put_cstr(line.is_json ? "\",\"level\":\"" : " ");
    put_cstr(line.is_json ? level_names[level] : level_labels[level]);
    put_cstr(line.is_json ? "\",\"msg\":\"" : " ");
    put_masked(str_from(msg));
    put_quote();
}

void log_put_str(struct str name, struct str value)
{
    /* At least the mark of a cut text and the quotes must fit. */
    if (!put_name(name, sizeof "\"…\""))
        return;
    bool quoted = line.is_json || !is_word(value);
    if (quoted)
        put_byte('"');
    put_masked(value);
    if (quoted)
        put_byte('"');
}

void log_put_cstr(struct str name, const char *value)
{
    if (value)
        log_put_str(name, str_from(value));
}

void log_put_word(struct str name, const char *value)
{
    size_t len = strlen(value);

    if (!put_name(name, len + 2))
        return;
    put_quote();
    put(value, len);
    put_quote();
}

void log_put_u64(struct str name, uint64_t value)
{
    if (put_name(name, 20))
        put_u64(value);
}

void log_put_f64(struct str name, double value)
{
    double size = fabs(value);

    if (!put_name(name, 32))
        return;
    if (!isfinite(value)) {
        put_cstr("null");
    } else if (size >= 1e15) {
        char text[32];
        put(text, (size_t)snprintf(text, sizeof text, "%.6e", value));
    } else {
        uint64_t thousandths = (uint64_t)(size * 1000 + 0.5);
        if (value < 0 && thousandths)
            put_byte('-');
        put_u64(thousandths / 1000);
        put_byte('.');
        put_byte((char)('0' + thousandths / 100 % 10));
        put_byte((char)('0' + thousandths / 10 % 10));
        put_byte((char)('0' + thousandths % 10));
    }
}

void log_put_bool(struct str name, bool value)
{
    if (put_name(name, 5))
        put_cstr(value ? "true" : "false");
}

void log_err(err_t err)
{
    if (!err)
        return;
    log_cstr("error", err_kind_name(err->kind));
    log_cstr("text", err->text);
    if (err->cause)
        log_cstr("cause", err->cause->text);
    log_cstr("where", err->where);
}

void log_put_raw(struct str name, struct str json)
{
    if (!put_name(name, json.len))
        return;
    put(json.ptr, json.len);
    line.at -= json.len;
    line.at += log_mask_shorten(line.at, json.len);
}

void log_end(void)
{
    if (!line.is_wanted)
        return;
    line.is_wanted = false;
    if (line.is_json)
        *line.at++ = '}';
    *line.at++ = '\n';
    log_writer_put(line.text, (size_t)(line.at - line.text));
}

void log_info(const char *msg)
{
    log_begin(LOG_INFO, msg);
    log_end();
}

void log_error(const char *msg, err_t err)
{
    log_begin(LOG_ERROR, msg);
    log_err(err);
    log_end();
}

/* ---- opening ---- */

/* The line about lost lines, made in the writer's thread: composed like any other, but not
 * queued. */
static size_t compose_dropped(uint64_t count, char out[512])
{
    size_t len;

    log_begin(LOG_ERROR, "log lines were lost: the device did not keep up");
    log_u64("lines", count);
    if (line.is_json)
        *line.at++ = '}';
    *line.at++ = '\n';
    line.is_wanted = false;
    len = (size_t)(line.at - line.text);
    memcpy(out, line.text, len);
    return len;
}

static err_t open_device(const char *path, int *fd)
{
    *fd = STDERR_FILENO;
    if (!path || strcmp(path, "-") == 0)
        return NULL;
    *fd = sys_open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_NONBLOCK, 0640);
    return *fd < 0 ? err_system(errno, path) : NULL;
}

static void use_options(const struct log_options *options)
{
    atomic_store(&level_now, (int)options->level);
    atomic_store(&format_now, (int)options->format);
}

err_t log_open(const struct log_options *options)
{
    int fd;

    TRY(open_device(options->path, &fd));
    err_t err = log_writer_open(fd, compose_dropped);
    if (!err)
        use_options(options);
    else if (fd != STDERR_FILENO)
        sys_close(fd);
    return err;
}

err_t log_reopen(const struct log_options *options)
{
    int fd;

    TRY(open_device(options->path, &fd));
    use_options(options);
    log_writer_switch(fd);
    return NULL;
}

void log_close(void)
{
    log_writer_close();
}
