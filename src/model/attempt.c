/* SPDX-License-Identifier: Apache-2.0 */
/* The record of what was tried. */
#include "model/attempt.h"

#include <pthread.h>
#include <stdio.h>

#include "base/check.h"
#include "base/sys.h"

static const struct {
    const char *name;
    enum health_sign sign;
    enum attempt_next next;
} results[ATTEMPT_RESULT_COUNT] = {
#define STOP                    ATTEMPT_STOP
#define NEXT                    ATTEMPT_NEXT
#define AGAIN                   ATTEMPT_AGAIN
#define CONTEXT                 ATTEMPT_TO_CONTEXT
#define CONTENT                 ATTEMPT_TO_CONTENT
#define X(id, name, sign, next) [ATTEMPT_##id] = {name, HEALTH_##sign, next},
#include "model/attempts.def"
#undef X
#undef STOP
#undef NEXT
#undef AGAIN
#undef CONTEXT
#undef CONTENT
};

enum health_sign attempt_sign(enum attempt_result result)
{
    return results[result].sign;
}

enum attempt_next attempt_next(enum attempt_result result)
{
    return results[result].next;
}

const char *attempt_result_name(const struct attempt *attempt, char text[32])
{
    switch (attempt->result) {
    case ATTEMPT_REFUSED:
    case ATTEMPT_LIMITED:
    case ATTEMPT_STATUS:
    case ATTEMPT_REDIRECT:
    case ATTEMPT_AUTH:
        snprintf(text, 32, "%s_%d", results[attempt->result].name, attempt->status);
        return text;
    default:
        return results[attempt->result].name;
    }
}

/* Every answer carries this, so it is put together by hand. */
static size_t print_one(char *to, const struct attempt *attempt)
{
    char text[32], digits[20];
    struct str result = str_from(attempt_result_name(attempt, text));
    struct str label = attempt->target->label;
    uint64_t ms = attempt->ms;
    size_t len = 0, n = 0;

    memcpy(to, label.ptr, label.len);
    len += label.len;
    to[len++] = ';';
    memcpy(to + len, result.ptr, result.len);
    len += result.len;
    to[len++] = ';';
    do
        digits[n++] = (char)('0' + ms % 10);
    while ((ms /= 10) > 0);
    while (n > 0)
        to[len++] = digits[--n];
    return len;
}

struct str attempts_print(const struct attempt *attempts, size_t count, struct arena *arena)
{
    size_t room = 0, len = 0;
    char few[256], *text = few; /* most records are much shorter than they might be */

    for (size_t i = 0; i < count; i++)
        room += attempts[i].target->label.len + 2 + 32 + 20 + 2;
    if (room > sizeof(few))
        text = arena_alloc(arena, room);
    if (count == 0 || !text)
        return STR("");
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            text[len++] = ',';
            text[len++] = ' ';
        }
        len += print_one(text + len, &attempts[i]);
    }
    return text == few ? arena_copy(arena, (struct str){few, len}) : (struct str){text, len};
}

/* ---- the last ones that did not go smoothly ---- */

#define KEPT 256

struct kept {
    uint64_t at_ms;
    char request_id[48], model[96], outcome[24], record[400];
};

static struct {
    pthread_mutex_t lock;
    struct kept items[KEPT];
    size_t count; /* ever kept */
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void copy(char *to, size_t room, struct str from)
{
    size_t len = from.len < room ? from.len : room - 1;

    memcpy(to, len ? from.ptr : "", len);
    to[len] = '\0';
}

void attempts_keep(const char *request_id, struct str model, struct str record, const char *outcome)
{
    struct kept *item;

    pthread_mutex_lock(&ring.lock);
    item = &ring.items[ring.count++ % KEPT];
    item->at_ms = sys_wall_ms();
    copy(item->request_id, sizeof(item->request_id), str_from(request_id));
    copy(item->model, sizeof(item->model), model);
    copy(item->outcome, sizeof(item->outcome), str_from(outcome));
    copy(item->record, sizeof(item->record), record);
    pthread_mutex_unlock(&ring.lock);
}

void attempts_each(void (*see)(const struct attempts_view *view, void *arg), void *arg)
{
    pthread_mutex_lock(&ring.lock);
    for (size_t i = ring.count > KEPT ? ring.count - KEPT : 0; i < ring.count; i++) {
        const struct kept *item = &ring.items[i % KEPT];
        struct attempts_view view = {item->at_ms, str_from(item->request_id), str_from(item->model),
                                     str_from(item->record), str_from(item->outcome)};
        see(&view, arg);
    }
    pthread_mutex_unlock(&ring.lock);
}
