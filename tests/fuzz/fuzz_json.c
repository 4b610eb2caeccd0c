/* SPDX-License-Identifier: Apache-2.0 */
/* The strict pass against yyjson: the same verdict on every input, and the same values behind it.
 *
 * The one difference allowed is depth: yyjson has no limit. Both builds of the scanner are run, over
 * what follows each quote, and must agree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/json_members.h"
#include "base/json_scan.h"

#define MEMBERS_MAX 64
#define QUOTES_MAX  256

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

/* Say what differs, and die as the fuzzer expects it. */
static void require(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "differs from yyjson: %s\n", what);
    abort();
}

/* `text` in a block of its own, so that reading over either end is seen. */
static char *copy_exactly(struct str text)
{
    char *copy = malloc(text.len + !text.len);

    require(copy != NULL, "memory");
    if (text.len > 0)
        memcpy(copy, text.ptr, text.len);
    return copy;
}

static bool same_tree(yyjson_val *tree, struct str text)
{
    yyjson_doc *doc = yyjson_read(text.ptr, text.len, 0);
    bool same = doc && yyjson_equals(yyjson_doc_get_root(doc), tree);

    yyjson_doc_free(doc);
    return same;
}

static void compare_value(struct str value, yyjson_val *tree, struct arena *arena, unsigned depth);

static void compare_string(struct str value, yyjson_val *tree, struct arena *arena)
{
    const char *end = value.ptr + value.len, *stuck;
    struct str text;

    require(json_scan_string_narrow(value.ptr, value.ptr + 1, end, &stuck) == end - 1,
            "a good string");
    require(json_scan_quote_narrow(value.ptr + 1, end) == end - 1, "a string's end");
    require(json_text(value, arena, &text), "a string's text");
    require(str_eq(text, (struct str){yyjson_get_str(tree), yyjson_get_len(tree)}), "a string");
}

static void compare_number(struct str value, yyjson_val *tree)
{
    uint64_t n;
    double d;
    bool negative_zero = value.len == 2 && memcmp(value.ptr, "-0", 2) == 0;

    require(json_u64(value, &n) == (yyjson_is_uint(tree) && !negative_zero),
            "whether it is an integer");
    if (yyjson_is_uint(tree) && !negative_zero)
        require(n == yyjson_get_uint(tree), "an integer");
    require(json_double(value, &d), "a number's range");
    if (yyjson_is_real(tree))
        require(memcmp(&d, &(double){yyjson_get_real(tree)}, sizeof(d)) == 0, "a double");
}

/* The last value with this key, as json_get promises. */
static yyjson_val *tree_get(yyjson_val *tree, struct str key)
{
    yyjson_obj_iter it = yyjson_obj_iter_with(tree);
    yyjson_val *k, *found = NULL;

    while ((k = yyjson_obj_iter_next(&it)))
        if (str_eq(key, (struct str){yyjson_get_str(k), yyjson_get_len(k)}))
            found = yyjson_obj_iter_get_val(k);
    return found;
}

static void compare_object(struct str value, yyjson_val *tree, struct arena *arena, unsigned depth)
{
    yyjson_obj_iter it = yyjson_obj_iter_with(tree);
    struct json_member member;
    yyjson_val *key;
    size_t at = 0;

    while ((key = yyjson_obj_iter_next(&it))) {
        struct str name = {yyjson_get_str(key), yyjson_get_len(key)};

        require(json_object_next(value, &at, &member), "a member is missing");
        require(json_key_is(&member, name), "a key");
        compare_value(member.value, yyjson_obj_iter_get_val(key), arena, depth + 1);
        if (depth < 2 && yyjson_obj_size(tree) <= MEMBERS_MAX)
            require(same_tree(tree_get(tree, name), json_get(value, name)), "json_get");
    }
    require(!json_object_next(value, &at, &member), "a member too many");
}

static void compare_value(struct str value, yyjson_val *tree, struct arena *arena, unsigned depth)
{
    static const unsigned char kinds[8] = {
        [YYJSON_TYPE_STR] = JSON_STRING, [YYJSON_TYPE_NUM] = JSON_NUMBER,
        [YYJSON_TYPE_OBJ] = JSON_OBJECT, [YYJSON_TYPE_ARR] = JSON_ARRAY,
        [YYJSON_TYPE_NULL] = JSON_NULL,
    };
    enum json_kind kind = json_kind(value);
    struct str element;
    yyjson_arr_iter it;
    size_t at = 0;

    if (yyjson_is_bool(tree)) {
        require(kind == (yyjson_get_bool(tree) ? JSON_TRUE : JSON_FALSE), "a boolean");
        return;
    }
    require(kind == kinds[yyjson_get_type(tree)], "a kind");
    if (kind == JSON_STRING)
        compare_string(value, tree, arena);
    if (kind == JSON_NUMBER)
        compare_number(value, tree);
    if (kind == JSON_OBJECT)
        compare_object(value, tree, arena, depth);
    if (kind != JSON_ARRAY)
        return;
    it = yyjson_arr_iter_with(tree);
    while (yyjson_arr_iter_has_next(&it)) {
        require(json_array_next(value, &at, &element), "an element is missing");
        compare_value(element, yyjson_arr_iter_next(&it), arena, depth + 1);
    }
    require(!json_array_next(value, &at, &element), "an element too many");
}

/* The listed members are the tree's, and each span parses to its subtree. */
static void compare_members(const struct json_member *members, size_t count, yyjson_val *root)
{
    yyjson_obj_iter it = yyjson_obj_iter_with(root);

    require(count == yyjson_obj_size(root), "how many members there are");
    for (size_t i = 0; i < count && i < MEMBERS_MAX; i++) {
        yyjson_val *key = yyjson_obj_iter_next(&it);

        require(json_key_is(&members[i], (struct str){yyjson_get_str(key), yyjson_get_len(key)}),
                "a listed key");
        require(same_tree(yyjson_obj_iter_get_val(key), members[i].value), "a listed value");
    }
}

/* Each string alone: what stands before it need not be good. */
static void compare_builds(struct str doc)
{
    const char *end = doc.ptr + doc.len, *open = doc.ptr, *stuck;

    for (size_t i = 0; i < QUOTES_MAX; i++, open++) {
        if (open == end || !(open = memchr(open, '"', (size_t)(end - open))))
            return;
        const char *quote = json_scan_string_narrow(open, open + 1, end, &stuck);
        const char *trusted = json_scan_quote_narrow(open + 1, end);
        const char *near = json_scan_near_quote(open + 1, end);

        require(!near || (near == quote && near == trusted), "the quick look");
        require(quote == json_scan_string(open, open + 1, end, &stuck), "the chosen build");
        require(trusted == json_scan_quote(open + 1, end), "the chosen build, trusting");
        require(!quote || quote == trusted, "where a string ends");
        if (!json_scan_has_wide())
            continue;
        require(quote == json_scan_string_wide(open, open + 1, end, &stuck), "the wide build");
        require(trusted == json_scan_quote_wide(open + 1, end), "the wide build, trusting");
    }
}

static bool is_deep(err_t err)
{
    return err && strstr(err->text, "nesting") != NULL;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static struct json_member members[MEMBERS_MAX];
    struct arena *arena = arena_new(MEM_TOOL, (size_t)64 << 20);
    struct str text = {(const char *)data, size};
    char *copy = copy_exactly(text);
    struct str doc = {copy, size};
    yyjson_doc *tree = yyjson_read(copy, size, 0);
    size_t count;
    bool is_object;

    require(arena != NULL, "memory");
    err_scope_set(arena);
    compare_builds(doc);
    err_t err = json_members_read(doc, members, MEMBERS_MAX, &count, &is_object);
    require(!err == !json_check(doc), "json_check and json_members_read");
    if (!is_deep(err))
        require(!err == (tree != NULL), err ? err->text : "accepted what yyjson refuses");
    if (!err) {
        yyjson_val *root = yyjson_doc_get_root(tree);
        struct str value = doc;

        while (strchr(" \n\r\t", value.ptr[0]))
            value = str_after(value, 1);
        while (strchr(" \n\r\t", value.ptr[value.len - 1]))
            value.len--;
        require(is_object == yyjson_is_obj(root), "whether it is an object");
        if (is_object)
            compare_members(members, count, root);
        compare_value(value, root, arena, 0);
    }
    err_scope_set(NULL);
    yyjson_doc_free(tree);
    free(copy);
    arena_free(arena);
    require(mem_in_use(MEM_TOOL) == 0, "memory was not given back");
    return 0;
}
