/* SPDX-License-Identifier: Apache-2.0 */
/* What two readers could understand in two ways is refused: padding that one of them drops, bits that none of them
 * uses, a member of which one reads the first and another the last value. */
#include "govern/jwt_text.h"

#include "base/json_members.h"

/* ---- base64url ---- */

/* The six bits of a character, or -1. */
static int bits_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

err_t jwt_decode(struct str text, struct arena *arena, struct str *out)
{
    char *bytes = arena_alloc(arena, text.len / 4 * 3 + 3);
    unsigned held = 0, held_bits = 0;
    size_t len = 0;

    if (!bytes)
        return arena_err(arena);
    for (size_t i = 0; i < text.len; i++) {
        int bits = bits_of(text.ptr[i]);
        if (bits < 0)
            return jwt_refuse("it is not base64url");
        held = (held << 6 | (unsigned)bits) & 0xffff;
        held_bits += 6;
        if (held_bits < 8)
            continue;
        held_bits -= 8;
        bytes[len++] = (char)(held >> held_bits & 0xff);
    }
    if (text.len % 4 == 1 || (held & ((1u << held_bits) - 1)) != 0)
        return jwt_refuse("its base64url is cut, or has stray bits");
    *out = (struct str){bytes, len};
    return NULL;
}

/* ---- objects ---- */

static bool has_name(const struct jwt_object *object, struct str name)
{
    for (size_t i = 0; i < object->count; i++)
        if (str_eq(object->members[i].name, name))
            return true;
    return false;
}

static err_t read_name(const struct json_member *member, struct arena *arena, struct str *out)
{
    struct str quoted = {member->key.ptr - 1, member->key.len + 2};

    *out = member->key;
    if (member->key_has_escapes && !json_text(quoted, arena, out))
        return arena_err(arena);
    return NULL;
}

err_t jwt_object_read(struct str json, struct arena *arena, struct jwt_object *out)
{
    struct json_member *found = arena_alloc_array(arena, JWT_MAX_MEMBERS, sizeof(*found));
    size_t count;
    bool is_object;

    *out = (struct jwt_object){0};
    if (!found)
        return arena_err(arena);
    if (json_members_read(json, found, JWT_MAX_MEMBERS, &count, &is_object) || !is_object)
        return jwt_refuse("it is no JSON object");
    if (count > JWT_MAX_MEMBERS)
        return jwt_refuse("it has more than %d members", JWT_MAX_MEMBERS);
    out->members = arena_alloc_array(arena, count, sizeof(*out->members));
    if (!out->members)
        return arena_err(arena);
    for (size_t i = 0; i < count; i++) {
        struct jwt_member member = {.value = found[i].value};
        TRY(read_name(&found[i], arena, &member.name));
        if (has_name(out, member.name))
            return jwt_refuse("it has a member twice");
        out->members[out->count++] = member;
    }
    return NULL;
}

struct str jwt_object_get(const struct jwt_object *object, struct str name)
{
    for (size_t i = 0; i < object->count; i++)
        if (str_eq(object->members[i].name, name))
            return object->members[i].value;
    return (struct str){0};
}

err_t jwt_object_text(const struct jwt_object *object, struct str name, struct arena *arena,
                      struct str *out)
{
    struct str value = jwt_object_get(object, name);

    *out = (struct str){0};
    if (!value.ptr)
        return NULL;
    if (json_kind(value) != JSON_STRING)
        return jwt_refuse("its \"%.*s\" is no text", STR_ARG(name));
    return json_text(value, arena, out) ? NULL : arena_err(arena);
}
