/* SPDX-License-Identifier: Apache-2.0 */
/* The header is as strict as it can be, because it is read before anything is known of who wrote it: a key or an
 * address of a key in it ("jwk", "jku", "x5u"; RFC 7515 §4.1) is never looked at, and what must be understood ("crit") is
 * refused, since none of it is. */
#include "govern/jwt_token.h"

#include "base/json_members.h"

static bool is_base64url(struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '-' || c == '_'))
            return false;
    }
    return text.len > 0;
}

static bool split(struct str text, struct str *header, struct str *payload, struct str *signature)
{
    struct str rest = text;

    return text.len > 0 && str_split(&rest, '.', header) && rest.ptr &&
           str_split(&rest, '.', payload) && rest.ptr && str_split(&rest, '.', signature) &&
           !rest.ptr;
}

bool jwt_token_is_one(struct str text)
{
    struct str header, payload, signature;

    /* '{' and what may follow it give "ew" to "ey". */
    return split(text, &header, &payload, &signature) && str_starts(header, STR("e")) &&
           is_base64url(header) && is_base64url(payload) &&
           (signature.len == 0 || is_base64url(signature));
}

/* RFC 8725 §3.11: tokens of another purpose by the same issuer (logout tokens and the like) say so. */
static bool is_known_type(struct str type)
{
    if (type.len > 12 && str_eq_nocase((struct str){type.ptr, 12}, STR("application/")))
        type = str_after(type, 12);
    return str_eq_nocase(type, STR("JWT")) || str_eq_nocase(type, STR("at+jwt"));
}

static err_t read_header(struct str json, struct arena *arena, struct jwt_token *out)
{
    struct jwt_object header;
    struct str type;

    TRY(jwt_object_read(json, arena, &header));
    for (size_t i = 0; i < header.count; i++) {
        enum json_kind kind = json_kind(header.members[i].value);
        if (kind == JSON_OBJECT || kind == JSON_ARRAY)
            return jwt_refuse("its header has more than plain values");
    }
    if (jwt_object_get(&header, STR("crit")).ptr || jwt_object_get(&header, STR("b64")).ptr)
        return jwt_refuse("its header asks for an extension");
    TRY(jwt_object_text(&header, STR("alg"), arena, &out->alg));
    TRY(jwt_object_text(&header, STR("kid"), arena, &out->kid));
    TRY(jwt_object_text(&header, STR("typ"), arena, &type));
    if (type.ptr && !is_known_type(type))
        return jwt_refuse("it is of another type than JWT");
    return NULL;
}

err_t jwt_token_read(struct str text, struct arena *arena, struct jwt_token *out)
{
    struct str header, payload, signature, json;

    *out = (struct jwt_token){.whole = text};
    if (text.len > JWT_MAX_BYTES)
        return jwt_refuse("it is longer than %zu bytes", JWT_MAX_BYTES);
    if (!split(text, &header, &payload, &signature))
        return jwt_refuse("it has not three parts");
    out->signed_by = (struct str){text.ptr, header.len + 1 + payload.len};
    TRY(jwt_decode(header, arena, &json));
    TRY(jwt_decode(payload, arena, &out->payload));
    TRY(jwt_decode(signature, arena, &out->signature));
    return read_header(json, arena, out);
}
