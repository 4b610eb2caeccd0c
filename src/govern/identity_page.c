/* SPDX-License-Identifier: Apache-2.0 */
/* A cursor is 16 digits of checksum, 16 of the number, and the id, all in hexadecimal. */
#include "govern/identity_page.h"

#include <stdio.h>

#include "base/text.h"

#define MAX_ID_BYTES 2048

static uint64_t sum_of(const char *name, int64_t number, struct str id)
{
    return text_hash(id, text_hash(str_from(name), (uint64_t)number));
}

static int digit_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool take_number(struct str *rest, uint64_t *out)
{
    *out = 0;
    if (rest->len < 16)
        return false;
    for (size_t i = 0; i < 16; i++) {
        int digit = digit_of(rest->ptr[i]);
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint64_t)digit;
    }
    *rest = str_after(*rest, 16);
    return true;
}

static bool take_text(struct str rest, char *out)
{
    for (size_t i = 0; i < rest.len; i += 2) {
        int high = digit_of(rest.ptr[i]), low = digit_of(rest.ptr[i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i / 2] = (char)(high << 4 | low);
    }
    return true;
}

err_t identity_place_read(const char *name, struct str cursor, struct arena *arena,
                          struct identity_place *out)
{
    struct str rest = cursor;
    uint64_t sum, number;
    bool is_good;
    char *id;

    *out = (struct identity_place){.number = -1, .id = STR("")};
    if (cursor.len == 0)
        return NULL;
    is_good = take_number(&rest, &sum) && take_number(&rest, &number) && rest.len % 2 == 0 &&
              rest.len / 2 <= MAX_ID_BYTES;
    id = arena_alloc(arena, is_good ? rest.len / 2 : 0);
    if (!id)
        return arena_err(arena);
    if (is_good && take_text(rest, id)) {
        *out = (struct identity_place){(int64_t)number, {id, rest.len / 2}};
        if (sum_of(name, out->number, out->id) == sum)
            return NULL;
    }
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "cursor"),
                          "cursor is not one that this list has given");
}

static void put_hex(struct json_writer *w, struct str bytes)
{
    char pair[3];

    for (size_t i = 0; i < bytes.len; i++) {
        snprintf(pair, sizeof(pair), "%02x", (unsigned char)bytes.ptr[i]);
        json_more_text(w, (struct str){pair, 2});
    }
}

void identity_place_write(const char *name, const struct identity_place *place,
                          struct json_writer *w)
{
    char head[33];

    json_put_bool(w, "has_more", place != NULL);
    if (!place) {
        json_put_null(w, "next_cursor");
        return;
    }
    snprintf(head, sizeof(head), "%016llx%016llx",
             (unsigned long long)sum_of(name, place->number, place->id),
             (unsigned long long)place->number);
    json_name(w, "next_cursor");
    json_open_text(w);
    json_more_text(w, (struct str){head, 32});
    put_hex(w, place->id);
    json_close_text(w);
}
