/* SPDX-License-Identifier: Apache-2.0 */
/* Making errors, and the table behind their kinds.
 *
 * An error and its text live in the arena of the running scope. The hard thing is that reporting a
 * failure must not fail: when there is no scope or no memory, the kind's static error stands in. */
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/check.h"

struct kind_facts {
    const char *name;
    int status;
    bool retry;
};

static const struct kind_facts kinds[] = {
#define X(kind, name, status, retry, meaning) [ERR_##kind] = {name, status, retry},
    ERR_KINDS(X)
#undef X
};

/* What is returned when nothing can be allocated. */
static const struct err static_errs[] = {
#define X(enum_kind, name, http_status, retry, meaning)                                            \
    [ERR_##enum_kind] = {.kind = ERR_##enum_kind, .where = ERR_HERE, .text = meaning},
    ERR_KINDS(X)
#undef X
};

static const struct err no_memory = {.kind = ERR_BUSY, .where = ERR_HERE, .text = "out of memory"};

static _Thread_local struct arena *scope;

struct arena *err_scope_set(struct arena *arena)
{
    struct arena *previous = scope;

    scope = arena;
    return previous;
}

/* A copy of `like` with another text in the scope's arena, or NULL. */
__attribute__((format(printf, 2, 0))) static err_t make(const struct err *like, const char *format,
                                                        va_list args)
{
    struct err *err;

    if (!scope)
        return NULL;
    err = arena_new_struct(scope, struct err);
    if (!err)
        return NULL;
    *err = *like;
    err->text = arena_vprintf(scope, format, args);
    return err->text ? err : NULL;
}

err_t err_make(enum err_kind kind, struct err_detail detail, const char *where, const char *format,
               ...)
{
    const struct err like = {.kind = kind,
                             .status = detail.status,
                             .code = detail.code,
                             .param = detail.param,
                             .where = where};
    va_list args;
    err_t err;

    va_start(args, format);
    err = make(&like, format, args);
    va_end(args);
    return err ? err : &static_errs[kind];
}

/* What `cause` says of itself, under another text; the cause itself when there is none. */
static err_t retell(err_t cause, const char *text)
{
    struct err *err = text ? arena_new_struct(scope, struct err) : NULL;

    if (!err)
        return cause;
    *err = *cause;
    err->cause = cause;
    err->text = text;
    return err;
}

err_t err_wrap(err_t cause, const char *format, ...)
{
    const char *text;
    va_list args;

    if (!cause || !scope)
        return cause;
    va_start(args, format);
    text = arena_vprintf(scope, format, args);
    va_end(args);
    return retell(cause, text ? arena_printf(scope, "%s: %s", text, cause->text) : NULL);
}

err_t err_cover(err_t cause, const char *format, ...)
{
    const char *text;
    va_list args;

    if (!cause || !scope)
        return cause;
    va_start(args, format);
    text = arena_vprintf(scope, format, args);
    va_end(args);
    return retell(cause, text);
}

err_t err_make_system(int number, const char *what, const char *where)
{
    char space[128];

    if (number == ENOMEM)
        return err_no_memory();
    return err_make(ERR_SYSTEM, (struct err_detail){0}, where, "%s: %s", what,
                    strerror_r(number, space, sizeof(space)));
}

err_t err_no_memory(void)
{
    return &no_memory;
}

int err_status(err_t err)
{
    if (!err)
        return 200;
    return err->status ? err->status : kinds[err->kind].status;
}

const char *err_kind_name(enum err_kind kind)
{
    return kinds[kind].name;
}

bool err_may_retry(err_t err)
{
    return err && kinds[err->kind].retry;
}

bool err_is(err_t err, enum err_kind kind)
{
    return err && err->kind == kind;
}
