/* SPDX-License-Identifier: Apache-2.0 */
/* Errors as values.
 *
 * err_t is a pointer and NULL means that it worked. An error is made once, where it is known,
 * wrapped only where a boundary adds knowledge, and logged once, at the end of the request. Code
 * branches on `kind` (and never on text); the table below gives each kind its HTTP status and says
 * whether another attempt may help, so that policy is data.
 *
 * The hard thing is who owns an error. It lives in the arena of the scope that made it: the fiber
 * scheduler points the thread at the running fiber's arena (err_scope_set), so an error is good
 * until its request ends. Without a scope, or without memory, static errors take its place. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

struct arena;

/*    kind, name, HTTP status, whether another attempt may help, what happened */
#define ERR_KINDS(X)                                                                               \
    X(BAD_REQUEST, "bad_request", 400, false, "the request is not acceptable")                     \
    X(DENIED, "denied", 401, false, "no or not enough rights")                                     \
    X(NOT_FOUND, "not_found", 404, false, "there is no such thing")                                \
    X(TOO_BIG, "too_big", 413, false, "a size limit was exceeded")                                 \
    X(LIMITED, "limited", 429, false, "a rate limit or budget is used up")                         \
    X(CANCELLED, "cancelled", 499, false, "the caller has gone")                                   \
    X(TIMED_OUT, "timed_out", 504, true, "time ran out")                                           \
    X(BUSY, "busy", 503, true, "no capacity at the moment")                                        \
    X(KILLED, "killed", 503, false, "the server is shutting down")                                 \
    X(UPSTREAM, "upstream", 502, true, "a provider failed")                                        \
    X(STORE, "store", 503, true, "the store failed")                                               \
    X(CONFIG, "config", 500, false, "the configuration is wrong")                                  \
    X(SYSTEM, "system", 500, true, "the operating system refused")                                 \
    X(BUG, "bug", 500, false, "a defect of ours")

enum err_kind {
#define X(kind, name, status, retry, meaning) ERR_##kind,
    ERR_KINDS(X)
#undef X
};

struct err {
    enum err_kind kind;
    int status;        /* HTTP status, where it differs from the kind's; else 0 */
    const char *code;  /* machine-readable code for the caller ("model_not_found"), or NULL */
    const char *param; /* the request's field that is to blame, or NULL */
    const char *where; /* file:line that made it */
    const char *text;  /* what people read; code never parses it */
    const struct err *cause;
};

/* The one typedef of the project. */
typedef const struct err *err_t;

#define ERR_MUST_CHECK __attribute__((warn_unused_result))

/* Return from the calling function if `call` failed. The only macro that hides a return. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        err_t err_ = (call);                                                                       \
        if (err_)                                                                                  \
            return err_;                                                                           \
    } while (0)

/* What the caller's answer needs besides kind and text; zero values mean "as the kind says". */
struct err_detail {
    int status;
    const char *code;  /* static or arena memory that outlives the error */
    const char *param; /* the same */
};

#define ERR_STRING_(x) #x
#define ERR_STRING(x)  ERR_STRING_(x)
#define ERR_HERE       __FILE__ ":" ERR_STRING(__LINE__)

/* Make an error of `kind` with a printf-style text. Never fails: without memory or scope the kind's
 * static error is returned, which carries no text of its own. */
#define err_new(kind, ...) err_make((kind), (struct err_detail){0}, ERR_HERE, __VA_ARGS__)

/* The same with details, given as designated initialisers in parentheses:
 *     err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "n"), "n must be 1") */
#define err_new_detail(kind, detail, ...)                                                          \
    err_make((kind), (struct err_detail){ERR_UNPAREN detail}, ERR_HERE, __VA_ARGS__)
#define ERR_UNPAREN(...) __VA_ARGS__

/* What the two macros call. */
err_t err_make(enum err_kind kind, struct err_detail detail, const char *where, const char *format,
               ...) __attribute__((format(printf, 4, 5)));

/* Add knowledge at a boundary ("calling openai"): same kind, status, code and param as `cause`, a
 * new text that starts with the given one and ends with the cause's. `cause` must outlive the
 * result. Wrapping NULL gives NULL; without memory or scope the cause itself is returned. */
err_t err_wrap(err_t cause, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Say less at a boundary: same kind, status, code and param as `cause`, but a text that callers may see. The
 * cause, with addresses and the like, goes to the log. Lifetimes and failures as err_wrap. */
err_t err_cover(err_t cause, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Make an error from errno `number` with the text "what: strerror": SYSTEM, or BUSY for ENOMEM. */
#define err_system(number, what) err_make_system((number), (what), ERR_HERE)
err_t err_make_system(int number, const char *what, const char *where);

/* The static error for "out of memory" (BUSY). */
err_t err_no_memory(void);

/* HTTP status of an error: its own or its kind's. NULL is 200. */
int err_status(err_t err);

/* The kind's name in lower case ("timed_out"), for logs and metrics. */
const char *err_kind_name(enum err_kind kind);

/* Whether another attempt may help, by kind. */
bool err_may_retry(err_t err);

/* Whether `err` is non-NULL and of `kind`. */
bool err_is(err_t err, enum err_kind kind);

/* Set the arena in which this thread's errors are made until the next call; NULL for none. Returns
 * the previous one. Called by the fiber scheduler at every switch, and by main for start-up. */
struct arena *err_scope_set(struct arena *arena);

#endif
