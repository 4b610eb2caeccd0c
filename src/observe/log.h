/* SPDX-License-Identifier: Apache-2.0 */
/* Lines for operators.
 *
 * One line per event, {"time":…,"level":…,"msg":…, fields…}, or the same as text. A line is
 * composed in a thread-local buffer (no allocation, no snprintf on the hot path) and handed to a
 * writer thread through a bounded ring per thread, so that a blocked or full device never stops
 * the service: what does not fit is counted, and reported once the device works again. Secrets
 * registered with log_mask are replaced by "***". */
#ifndef OBSERVE_LOG_H
#define OBSERVE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_JSON, LOG_TEXT };

/* Longest line, with its newline. A text that would make it longer is cut and ends in "…"; other
 * fields that do not fit are left out. */
#define LOG_LINE_BYTES (16 * 1024)

struct log_options {
    enum log_level level;
    enum log_format format;
    const char *path; /* NULL or "-": standard error; else a file to append to */
};

/* Start the writer. Before it (and after log_close) lines go to standard error at once. Once per
 * log_close. Errors: SYSTEM, BUSY. */
err_t log_open(const struct log_options *options) ERR_MUST_CHECK;

/* Change level and format, and open the path again (rotation): on reload. On an error everything
 * stays as it was. Errors: SYSTEM. */
err_t log_reopen(const struct log_options *options) ERR_MUST_CHECK;

/* Write out what is queued (waiting at most 1 s) and stop the writer. */
void log_close(void);

/* Best effort for a crash report: write what is queued to the log, or to `fd` if the log is not
 * open. Async-signal-safe; the writer stops for good. A line that is being written may appear
 * twice. */
void log_flush_crash(int fd);

/* Whether lines of this level are written. */
bool log_enabled(enum log_level level);

/* Compose a line: begin, fields, end. The line is thread-local, so begin…end must not park and
 * must not nest. Bytes of a text that are not UTF-8 become U+FFFD. Field names are literals of
 * ours and written as they are.
 *     log_begin(LOG_WARN, "upstream failed");
 *     log_str("provider", name);
 *     log_u64("status", 502);
 *     log_end(); */
void log_begin(enum log_level level, const char *msg);
#define log_str(name, ...)    log_put_str(LOG_NAME(name), __VA_ARGS__)
#define log_cstr(name, value) log_put_cstr(LOG_NAME(name), (value)) /* NULL is left out */
#define log_word(name, value) log_put_word(LOG_NAME(name), (value)) /* our own: not escaped */
#define log_u64(name, value)  log_put_u64(LOG_NAME(name), (value))
#define log_f64(name, value)  log_put_f64(LOG_NAME(name), (value)) /* three decimals, or null */
#define log_bool(name, value) log_put_bool(LOG_NAME(name), (value))
#define log_raw(name, ...)    log_put_raw(LOG_NAME(name), __VA_ARGS__) /* JSON on one line */
void log_err(err_t err); /* "error" (kind), "text", "where"; NULL is left out */
void log_end(void);

/* What the macros call: names are literals, and come as they stand in a JSON line. */
#define LOG_NAME(name) STR(",\"" name "\":")
void log_put_str(struct str name, struct str value);
void log_put_cstr(struct str name, const char *value);
void log_put_word(struct str name, const char *value);
void log_put_u64(struct str name, uint64_t value);
void log_put_f64(struct str name, double value);
void log_put_bool(struct str name, bool value);
void log_put_raw(struct str name, struct str json);

/* Short forms. */
void log_info(const char *msg);
void log_error(const char *msg, err_t err);

/* Replace this secret wherever it occurs in a line from now on, in every thread (secrets under 8
 * bytes are ignored: too much else would match). Kept for the process' life. Any thread. */
void log_mask(struct str secret);

/* Replace every registered secret in `text` in place by '*' of the same length; returns whether
 * there were any. */
bool log_mask_in_place(char *text, size_t len);

/* Lines dropped since start because the device did not keep up. */
uint64_t log_dropped(void);

#endif
