/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing what is expected with what came. */
#include "wire_compare.h"

#include <stdlib.h>
#include <yyjson.h>

#include "net/sse.h"

/* How much of a value is shown. */
#define SHOWN 300

#define MAX_EVENTS 500

struct event_text {
    struct str type, data;
};

static bool is_id(const char *text)
{
    if (!*text)
        return false;
    for (; *text; text++)
        if (!strchr("_-.", *text) && !(*text >= '0' && *text <= '9') &&
            !((*text | 32) >= 'a' && (*text | 32) <= 'z'))
            return false;
    return true;
}

static bool is_same_text(const char *expected, const char *actual)
{
    size_t len = strlen(expected);

    if (strcmp(expected, actual) == 0)
        return true;
    return len >= 2 && strcmp(expected + len - 2, "ID") == 0 &&
           strncmp(expected, actual, len - 2) == 0 && is_id(actual + len - 2);
}

static const char *show(yyjson_val *value, struct arena *arena)
{
    char *text = value ? yyjson_val_write(value, 0, NULL) : NULL;
    const char *shown = arena_printf(arena, "%.*s", SHOWN, text ? text : "(nothing)");

    free(text);
    return shown;
}

static const char *differ(const char *path, yyjson_val *expected, yyjson_val *actual,
                          struct arena *arena)
{
    return arena_printf(arena, "at %s\n      expected %s\n      came     %s",
                        *path ? path : "the top", show(expected, arena), show(actual, arena));
}

static const char *compare(const char *path, yyjson_val *expected, yyjson_val *actual,
                           struct arena *arena);

static const char *compare_objects(const char *path, yyjson_val *expected, yyjson_val *actual,
                                   struct arena *arena)
{
    yyjson_obj_iter iter = yyjson_obj_iter_with(expected);
    yyjson_val *key;

    while ((key = yyjson_obj_iter_next(&iter))) {
        const char *name = yyjson_get_str(key);
        const char *why =
            compare(arena_printf(arena, "%s.%s", path, name), yyjson_obj_iter_get_val(key),
                    yyjson_obj_get(actual, name), arena);
        if (why)
            return why;
    }
    iter = yyjson_obj_iter_with(actual);
    while ((key = yyjson_obj_iter_next(&iter))) {
        const char *name = yyjson_get_str(key);
        if (!yyjson_obj_get(expected, name))
            return differ(arena_printf(arena, "%s.%s", path, name), NULL,
                          yyjson_obj_iter_get_val(key), arena);
    }
    return NULL;
}

static const char *compare_arrays(const char *path, yyjson_val *expected, yyjson_val *actual,
                                  struct arena *arena)
{
    size_t count = yyjson_arr_size(expected), came = yyjson_arr_size(actual);

    for (size_t i = 0; i < (count > came ? count : came); i++) {
        const char *why = compare(arena_printf(arena, "%s[%zu]", path, i),
                                  yyjson_arr_get(expected, i), yyjson_arr_get(actual, i), arena);
        if (why)
            return why;
    }
    return NULL;
}

static const char *compare(const char *path, yyjson_val *expected, yyjson_val *actual,
                           struct arena *arena)
{
    bool is_same;

    if (yyjson_is_obj(expected) && yyjson_is_obj(actual))
        return compare_objects(path, expected, actual, arena);
    if (yyjson_is_arr(expected) && yyjson_is_arr(actual))
        return compare_arrays(path, expected, actual, arena);
    if (yyjson_is_num(expected) && yyjson_is_num(actual))
        is_same = yyjson_get_num(expected) == yyjson_get_num(actual);
    else if (yyjson_is_str(expected) && yyjson_is_str(actual))
        is_same = is_same_text(yyjson_get_str(expected), yyjson_get_str(actual));
    else
        is_same = expected && actual && yyjson_equals(expected, actual);
    return is_same ? NULL : differ(path, expected, actual, arena);
}

/* Both as they are, where one of them is not JSON. */
static const char *compare_plain(struct str expected, struct str actual, struct arena *arena)
{
    if (str_eq(expected, actual))
        return NULL;
    return arena_printf(arena, "\n      expected %.*s\n      came     %.*s",
                        (int)(expected.len < SHOWN ? expected.len : SHOWN), expected.ptr,
                        (int)(actual.len < SHOWN ? actual.len : SHOWN), actual.ptr);
}

const char *wire_compare_json(struct str expected, struct str actual, struct arena *arena)
{
    yyjson_doc *left = yyjson_read(expected.ptr ? expected.ptr : "", expected.len, 0);
    yyjson_doc *right = yyjson_read(actual.ptr ? actual.ptr : "", actual.len, 0);
    const char *why;

    if (left && right)
        why = compare("", yyjson_doc_get_root(left), yyjson_doc_get_root(right), arena);
    else
        why = compare_plain(str_trim(expected), str_trim(actual), arena);
    yyjson_doc_free(left);
    yyjson_doc_free(right);
    return why;
}

static struct str keep(struct str text, struct arena *arena)
{
    return text.len > 0 ? arena_copy(arena, text) : (struct str){0};
}

/* The events with data of a stream; one more blank line does no harm. */
static size_t read_events(struct str stream, struct event_text *events, struct arena *arena)
{
    const char *copy = arena_printf(arena, "%.*s\n\n", STR_ARG(stream));
    struct str bytes = {copy, stream.len + 2};
    struct sse_reader reader;
    struct sse_event event;
    size_t count = 0;
    bool found = true;

    sse_init(&reader);
    while (count < MAX_EVENTS && !sse_next(&reader, &bytes, &event, &found) && found)
        if (event.has_data)
            events[count++] = (struct event_text){keep(event.type, arena), keep(event.data, arena)};
    sse_fini(&reader);
    return count;
}

const char *wire_compare_stream(struct str expected, struct str actual, struct arena *arena)
{
    struct event_text *left = arena_alloc_array(arena, MAX_EVENTS, sizeof(*left));
    struct event_text *right = arena_alloc_array(arena, MAX_EVENTS, sizeof(*right));
    size_t count = read_events(expected, left, arena), came = read_events(actual, right, arena);
    const struct event_text nothing = {0};

    for (size_t i = 0; i < (count > came ? count : came); i++) {
        const struct event_text *l = i < count ? &left[i] : &nothing;
        const struct event_text *r = i < came ? &right[i] : &nothing;
        const char *why = wire_compare_json(l->data, r->data, arena);
        if (!why)
            why = compare_plain(l->type, r->type, arena);
        if (why)
            return arena_printf(arena, "event %zu (of %zu expected, %zu came) %s", i + 1, count,
                                came, why);
    }
    return NULL;
}
