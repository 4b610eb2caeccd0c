/* SPDX-License-Identifier: Apache-2.0 */
/* The strict pass and the looking into what it accepts.
 *
 * Verdicts are compared with yyjson's over three sources: strings with each kind of trouble at each
 * offset from the blocks' borders, at random, documents cut and changed at every byte, and the
 * JSONTestSuite, whose archive is searched for in $TEST_DATA/data (default ../shared/data). */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/json_members.h"
#include "base/json_scan.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct arena *arena;

static int setup_scope(void **state)
{
    arena = arena_new(MEM_TOOL, (size_t)64 << 20);
    err_scope_set(arena);
    return arena ? 0 : -1;
}

static int leave_scope(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    return mem_in_use(MEM_TOOL) == 0 ? 0 : -1;
}

/* Both verdicts on `doc`, from a block of exactly its size, so that reading beyond it is found. */
static bool same_verdict(struct str doc, bool *valid)
{
    char *copy = malloc(doc.len + !doc.len);
    yyjson_doc *tree;
    struct json_member members[4];
    bool is_object, also_valid, yyjson_valid;
    size_t count;

    memcpy(copy, doc.ptr, doc.len);
    doc.ptr = copy;
    *valid = !json_check(doc);
    also_valid = !json_members_read(doc, members, COUNT(members), &count, &is_object);
    tree = yyjson_read(copy, doc.len, 0);
    yyjson_valid = tree != NULL;
    yyjson_doc_free(tree);
    free(copy);
    return *valid == yyjson_valid && also_valid == yyjson_valid;
}

static void assert_same_verdict(struct str doc)
{
    bool valid;

    if (!same_verdict(doc, &valid))
        fail_msg("differs from yyjson (%s): %.*s", valid ? "accepted" : "refused", STR_ARG(doc));
}

static void members_are_spans_of_the_document(void **state)
{
    const struct str doc =
        STR(" {\"model\" : \"gpt\\n4\", \"n\":-1.5e3 ,\"a\\u0062\":[1,{\"x\":2}],"
            "\"stream\":true,\"\":null,\"model\":{}} \n");
    static const char *const expected[][2] = {
        {"model", "\"gpt\\n4\""}, {"n", "-1.5e3"}, {"a\\u0062", "[1,{\"x\":2}]"},
        {"stream", "true"},       {"", "null"},    {"model", "{}"}};
    struct json_member members[8];
    struct str object;
    bool is_object;
    size_t count;

    assert_null(json_members_read(doc, members, COUNT(members), &count, &is_object));
    assert_true(is_object);
    assert_int_equal(count, COUNT(expected));
    for (size_t i = 0; i < count; i++) {
        assert_true(str_eq(members[i].key, str_from(expected[i][0])));
        assert_true(str_eq(members[i].value, str_from(expected[i][1])));
        assert_true(members[i].value.ptr > doc.ptr && members[i].value.ptr < doc.ptr + doc.len);
        assert_int_equal(members[i].key_has_escapes, i == 2);
    }
    object = str_after(doc, 1);
    assert_true(json_key_is(&members[2], STR("ab")));
    assert_true(str_eq(json_get(object, STR("model")), STR("{}"))); /* the last one */
    assert_true(str_eq(json_get(object, STR("ab")), STR("[1,{\"x\":2}]")));
    assert_null(json_get(object, STR("none")).ptr);
}

static void too_many_members_are_counted(void **state)
{
    struct json_member members[2];
    bool is_object;
    size_t count;

    assert_null(
        json_members_read(STR("{\"a\":1,\"b\":2,\"c\":3}"), members, 2, &count, &is_object));
    assert_int_equal(count, 3);
    assert_true(str_eq(members[1].key, STR("b")));
    assert_null(json_members_read(STR("{}"), members, 2, &count, &is_object));
    assert_true(is_object && count == 0);
    assert_null(json_members_read(STR("[{\"a\":1}]"), members, 2, &count, &is_object));
    assert_true(!is_object && count == 0);
    assert_null(json_members_read(STR(" \"a\" "), NULL, 0, &count, &is_object));
    assert_true(!is_object && count == 0);
}

static void errors_say_what_and_where(void **state)
{
    static const struct {
        const char *doc, *text;
    } cases[] = {
        {"", "the end where a value should be at byte 0"},
        {"{\"a\":}", "no value at byte 5"},
        {"{\"a\":1", "no comma or } after a member at byte 6"},
        {"{\"a\" 1}", "no colon after a key at byte 5"},
        {"{a:1}", "no string at byte 1"},
        {"{\"a\":1,}", "no string at byte 7"},
        {"[1 2]", "no comma or ] after a value at byte 3"},
        {"[1}", "no comma or ] after a value at byte 2"},
        {"\"abc", "the end inside a string at byte 4"},
        {"\"a\nb\"", "a control character in a string at byte 2"},
        {"\"a\xFF\"", "bytes that are not UTF-8 at byte 2"},
        {"\"\\x\"", "an unknown escape at byte 2"},
        {"\"\\ud800\"", "half a surrogate pair at byte 2"},
        {"\"\\u12g4\"", "\\u without four hexadecimal digits at byte 2"},
        {"tru", "an unknown word at byte 0"},
        {"01", "something after the value at byte 1"},
        {"1.", "no digit in a number at byte 2"},
        {"{} x", "something after the value at byte 3"},
        {"1e999", "a number beyond a double's range at byte 5"},
        {"\xEF\xBB\xBF{}", "a byte order mark at byte 0"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        err_t err = json_check(str_from(cases[i].doc));
        char expected[100];

        assert_non_null(err);
        assert_int_equal(err_status(err), 400);
        assert_string_equal(err->code, "invalid_json");
        snprintf(expected, sizeof(expected), "invalid JSON: %s", cases[i].text);
        assert_string_equal(err->text, expected);
        assert_same_verdict(str_from(cases[i].doc));
    }
}

static void depth_ends_at_128(void **state)
{
    static char text[2000];

    for (size_t depth = 126; depth <= 131; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(!json_check((struct str){text, 2 * depth}), depth <= JSON_MAX_DEPTH);
        for (size_t i = 0; i < depth; i++)
            memcpy(text + 4 * i, "{\"\":", 4);
        text[4 * depth] = '0';
        memset(text + 4 * depth + 1, '}', depth);
        assert_int_equal(!json_check((struct str){text, 5 * depth + 1}), depth <= JSON_MAX_DEPTH);
    }
}

/* Arrays and objects in turns: each level remembers which it is. */
static void mixed_levels_must_match(void **state)
{
    char text[1000], closing[200];
    size_t len = 0, levels = JSON_MAX_DEPTH;

    for (size_t i = 0; i < levels; i++) {
        bool object = i % 3 == 0;
        struct str open = object ? STR("{\"\":") : STR("[");

        memcpy(text + len, open.ptr, open.len);
        len += open.len;
        closing[levels - 1 - i] = object ? '}' : ']';
    }
    text[len++] = '0';
    memcpy(text + len, closing, levels);
    assert_null(json_check((struct str){text, len + levels}));
    for (size_t i = 0; i < levels; i++) {
        char right = text[len + i];

        text[len + i] = right == '}' ? ']' : '}';
        assert_non_null(json_check((struct str){text, len + levels}));
        text[len + i] = right;
    }
}

static void stepping_through_containers(void **state)
{
    struct str array = STR("[ 1 ,\"a]\\\"\" , [] , {\"k\" : [2,3]} , null ]"), element;
    static const char *const elements[] = {"1", "\"a]\\\"\"", "[]", "{\"k\" : [2,3]}", "null"};
    struct json_member member;
    size_t at = 0;

    for (size_t i = 0; i < COUNT(elements); i++) {
        assert_true(json_array_next(array, &at, &element));
        assert_true(str_eq(element, str_from(elements[i])));
    }
    assert_false(json_array_next(array, &at, &element));
    assert_false(json_array_next(array, &at, &element));

    at = 0;
    assert_true(json_object_next(STR("{ \"a\\\\\" : 1 , \"b\":\"\\\\\"}"), &at, &member));
    assert_true(str_eq(member.key, STR("a\\\\")) && member.key_has_escapes);
    assert_true(str_eq(member.value, STR("1")));
    assert_true(json_object_next(STR("{ \"a\\\\\" : 1 , \"b\":\"\\\\\"}"), &at, &member));
    assert_true(str_eq(member.value, STR("\"\\\\\"")));
    assert_false(json_object_next(STR("{ \"a\\\\\" : 1 , \"b\":\"\\\\\"}"), &at, &member));

    at = 0;
    assert_false(json_array_next(STR("[ ]"), &at, &element));
    assert_false(json_object_next(STR("{}"), &at, &member));
    assert_false(json_object_next(array, &at, &member));
    assert_false(json_array_next(STR("{}"), &at, &element));
    assert_false(json_array_next((struct str){0}, &at, &element));
    assert_null(json_get(array, STR("k")).ptr);
    assert_null(json_get((struct str){0}, STR("k")).ptr);
}

static void kinds_by_first_byte(void **state)
{
    assert_int_equal(json_kind(STR("{}")), JSON_OBJECT);
    assert_int_equal(json_kind(STR("[]")), JSON_ARRAY);
    assert_int_equal(json_kind(STR("\"\"")), JSON_STRING);
    assert_int_equal(json_kind(STR("-1")), JSON_NUMBER);
    assert_int_equal(json_kind(STR("true")), JSON_TRUE);
    assert_int_equal(json_kind(STR("false")), JSON_FALSE);
    assert_int_equal(json_kind(STR("null")), JSON_NULL);
    assert_int_equal(json_kind((struct str){0}), JSON_NONE);
}

static void texts_are_decoded(void **state)
{
    static const struct {
        struct str value, text;
    } cases[] = {
        {{"\"\"", 2}, {"", 0}},
        {{"\"plain\"", 7}, {"plain", 5}},
        {{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", 18}, {"\"\\/\b\f\n\r\t", 8}},
        {{"\"a\\u0000b\"", 10}, {"a\0b", 3}},
        {{"\"\\u00e4\\u20AC\"", 14}, {"\xC3\xA4\xE2\x82\xAC", 5}},
        {{"\"\\uD83D\\ude00!\"", 15}, {"\xF0\x9F\x98\x80!", 5}},
    };
    struct str doc = STR("\"plain\""), text;

    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_true(json_text(cases[i].value, arena, &text));
        assert_true(str_eq(text, cases[i].text));
    }
    assert_true(json_text(doc, arena, &text));
    assert_ptr_equal(text.ptr, doc.ptr + 1); /* borrowed */
    assert_false(json_text(STR("1"), arena, &text));
    assert_false(json_text((struct str){0}, arena, &text));
}

static void decoding_may_run_out_of_memory(void **state)
{
    struct str text;

#ifndef SLUICE_FAULTS
    skip();
#endif
    while (arena_bytes(arena) < 2000) /* so that the next allocation needs a chunk */
        assert_non_null(arena_alloc(arena, 16));
    while (json_text(STR("\"0123456789abcdef\\n\""), arena, &text))
        mem_fail_nth(1);
    mem_fail_nth(0);
    assert_int_equal(arena_err(arena)->kind, ERR_BUSY);
    assert_true(json_text(STR("\"0123456789abcdef\\n\""), arena, &text));
}

static void integers(void **state)
{
    static const char *const bad[] = {"-0",    "-1",  "1.0", "1e2", "18446744073709551616",
                                      "\"1\"", "true"};
    uint64_t n;

    assert_true(json_u64(STR("0"), &n) && n == 0);
    assert_true(json_u64(STR("18446744073709551615"), &n) && n == UINT64_MAX);
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(json_u64(str_from(bad[i]), &n));
}

/* 2^1024 - 2^970: the smallest integer that rounds to infinity. */
#define OVERFLOWS                                                                                  \
    "17976931348623158079372897140530341507993413271003782693617377898044496829276475094664901797" \
    "75872070963302864166928879109465555478519404026306574886715058206819089020007083836762738548" \
    "45817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711" \
    "559699508093042880177904174497792"

static void doubles(void **state)
{
    static const char *const texts[] = {
        "0",
        "-0",
        "0.1",
        "1e10",
        "-2.5E-3",
        "1e-400",
        "-1e-400",
        "5e-324",
        "2e-324",
        "1e308",
        "1.7976931348623157e308",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827021181583404541015625",
        "9007199254740993",
        "9007199254740992.9999999999999999999999999999999",
        "0e99999999999999999999",
        "1e0000000000000000000000000000000001",
        "1e-99999999999999999999999",
    };
    static const char *const beyond[] = {"1e309",   "-1e309",  "1e99999999999999999999999",
                                         "1.8e308", OVERFLOWS, "0.00000001e317"};
    static char text[3000];
    double d;

    for (size_t i = 0; i < COUNT(texts); i++) {
        yyjson_doc *doc = yyjson_read(texts[i], strlen(texts[i]), 0);
        double expected = yyjson_get_num(yyjson_doc_get_root(doc));

        yyjson_doc_free(doc);
        assert_true(json_double(str_from(texts[i]), &d));
        assert_true(d == expected);
        assert_same_verdict(str_from(texts[i]));
    }
    for (size_t i = 0; i < COUNT(beyond); i++) {
        assert_false(json_double(str_from(beyond[i]), &d));
        assert_same_verdict(str_from(beyond[i]));
    }
    assert_false(json_double(STR("\"1\""), &d));

    /* The decision may lie beyond any number of digits. */
    for (size_t zeros = 0; zeros < 1200; zeros += 199) {
        int len = snprintf(text, sizeof(text), "%.307s91.%01200d1", OVERFLOWS, 0);

        assert_same_verdict((struct str){text, (size_t)len - zeros});
        len = snprintf(text, sizeof(text), "%s.%0*d1", OVERFLOWS, (int)zeros + 1, 0);
        assert_same_verdict((struct str){text, (size_t)len});
        len = snprintf(text, sizeof(text), "0.%0*d1e%d", (int)zeros + 1, 0, (int)zeros + 310);
        assert_same_verdict((struct str){text, (size_t)len});
        len = snprintf(text, sizeof(text), "-1%0*de-%d", (int)zeros + 400, 0, (int)zeros + 91);
        assert_same_verdict((struct str){text, (size_t)len});
    }
}

/* ---- Strings ---- */

static const char *const fillings[] = {
    "a",   "\xC3\xA4",         "\xE6\xBC\xA2", "\xE0\xA4\x85", "\xED\x95\x9C", "\xF0\x9F\x98\x80",
    "\\n", "\xF4\x8F\xBF\xBF", "\\u00e4"};

static const char *const troubles[] = {
    "\\n",
    "\\\"",
    "\\\\",
    "\\u0041",
    "\\ud83d\\ude00",
    "\x7F",
    "\xC2\x80",
    "\xDF\xBF",
    "\xE0\xA0\x80",
    "\xED\x9F\xBF",
    "\xEE\x80\x80",
    "\xEF\xBF\xBF",
    "\xF0\x90\x80\x80",
    "\xF1\x80\x80\x80",
    "\xF4\x8F\xBF\xBF",
    /* from here on all are refused */
    "\\",
    "\\x",
    "\\u",
    "\\u00g0",
    "\\u00`0",
    "\\u0/00",
    "\\u:000",
    "\\ud800",
    "\\udc00",
    "\\ud83d\\u0041",
    "\x01",
    "\x1F",
    "\n",
    "\"",
    "\x80",
    "\xBF",
    "\xC0\x80",
    "\xC1\xBF",
    "\xC3",
    "\xC3\xC3\xA4",
    "\xC3\xA4\xA4",
    "\xE0\x9F\xBF",
    "\xE6\xBC",
    "\xE6\xBC\xA2\xA2",
    "\xED\xA0\x80",
    "\xF0\x8F\xBF\xBF",
    "\xF0\x9F\x98",
    "\xF0\x9F",
    "\xF4\x90\x80\x80",
    "\xF5\x80\x80\x80",
    "\xF5\xA0\x80\x80",
    "\xFF\xBF\xBF\xBF",
    "\xF8\x88\x80\x80\x80",
    "\xFF",
};

/* What each build makes of a string that is all there is between `open` and `end`: the same, and the
 * place of its last quote exactly if it is valid. */
static bool builds_agree(struct str string, bool valid)
{
    const char *open = string.ptr, *end = open + string.len, *last = end - 1, *stuck;
    const char *narrow = json_scan_string_narrow(open, open + 1, end, &stuck), *quote, *near;

    quote = json_scan_quote_narrow(open + 1, end);
    if (valid ? narrow != last || quote != last : narrow == last || (narrow && narrow != quote))
        return false;
    near = json_scan_near_quote(open + 1, end);
    if (near && (near != narrow || near != quote))
        return false;
    if (json_scan_string(open, open + 1, end, &stuck) != narrow ||
        json_scan_quote(open + 1, end) != quote)
        return false;
    return !json_scan_has_wide() || (json_scan_string_wide(open, open + 1, end, &stuck) == narrow &&
                                     json_scan_quote_wide(open + 1, end) == quote);
}

/* Text of few kinds of bytes, at all lengths up to some blocks, against looking at each byte. */
static void letters_behind_quotes_are_found(void **state)
{
    static const char letters[JSON_SCAN_LETTERS] = {'i', 'd', 'f', 'v', 'a', '\\'};
    static const char kinds[] = "\"\"idfva\\";
    uint64_t random = 1;

    for (size_t len = 0; len < 300; len++) {
        char *text = malloc(len ? len : 1), *end = text + len, *at = text, *found;
        for (size_t i = 0; i < len; i++) {
            random = random * UINT64_C(6364136223846793005) + 1;
            text[i] = random >> 60 < 3 ? kinds[random >> 40 & 7] : 'x';
        }
        do {
            for (found = at; end - found > 1; found++)
                if (found[0] == '"' && memchr(letters, found[1], sizeof(letters)))
                    break;
            found = end - found > 1 ? found + 1 : end;
            assert_ptr_equal(json_scan_letter(at, end, letters), found);
            assert_ptr_equal(json_scan_letter_narrow(at, end, letters), found);
            if (json_scan_has_wide())
                assert_ptr_equal(json_scan_letter_wide(at, end, letters), found);
        } while ((at = found) < end);
        free(text);
    }
}

/* A string alone, and as the last of some in an array. */
static void assert_string_judged_alike(const char *text, size_t len)
{
    static char array[1024];
    char *copy = malloc(len);
    bool valid, agree;

    memcpy(copy, text, len);
    assert_true(same_verdict((struct str){copy, len}, &valid));
    agree = builds_agree((struct str){copy, len}, valid);
    free(copy);
    if (!agree)
        fail_msg("builds differ on a %s string: %.*s", valid ? "good" : "bad", (int)len, text);
    memcpy(array, "[\"\", ", 5);
    memcpy(array + 5, text, len);
    array[5 + len] = ']';
    assert_same_verdict((struct str){array, len + 6});
}

/* Append `piece` until `len` has grown by `bytes` at least. */
static size_t fill(char *text, size_t len, const char *piece, size_t bytes)
{
    size_t n = strlen(piece);

    for (size_t end = len + bytes; len < end; len += n)
        memcpy(text + len, piece, n);
    return len;
}

/* Each trouble at each place of a string of each kind of filling: all the edges of two blocks. */
static void strings_are_judged_alike_at_every_offset(void **state)
{
    static char text[512];

    for (size_t f = 0; f < COUNT(fillings); f++) {
        for (size_t t = 0; t < COUNT(troubles); t++) {
            for (size_t before = 0; before <= 130; before++) {
                size_t n = strlen(fillings[f]), len = 1;

                text[0] = '"';
                len = fill(text, len, "x", before % n);
                len = fill(text, len, fillings[f], before / n * n);
                len = fill(text, len, troubles[t], 1);
                assert_string_judged_alike(text, len); /* never closed */
                text[len] = '"';
                assert_string_judged_alike(text, len + 1);
                len = fill(text, len, fillings[f], before % 3 * 40 + 1);
                text[len] = '"';
                assert_string_judged_alike(text, len + 1);
            }
        }
    }
}

/* Runs of backslashes of every length over every border, before a quote and before an n. */
static void runs_of_backslashes_at_every_offset(void **state)
{
    static char text[512];

    for (size_t before = 0; before <= 130; before++) {
        for (size_t run = 0; run <= 140; run += run < 8 || run > 60 ? 1 : 7) {
            size_t len = fill(text, 1, "x", before);

            text[0] = '"';
            len = fill(text, len, "\\", run);
            text[len] = '"';
            assert_string_judged_alike(text, len + 1);
            len = fill(text, len, "nx", 20);
            text[len] = '"';
            assert_string_judged_alike(text, len + 1);
        }
    }
}

/* The byte that the message for `text` names, and what it says before; SIZE_MAX for good text. */
static size_t error_place(const char *text, size_t len, char what[64])
{
    err_t err = json_check((struct str){text, len});
    const char *place;

    if (!err)
        return SIZE_MAX;
    place = strrchr(err->text, ' ');
    snprintf(what, 64, "%.*s", (int)(place - err->text), err->text);
    return strtoul(place, NULL, 10);
}

/* However much good text stands before, the same is wrong, and that much further on. */
static void errors_are_found_after_any_text(void **state)
{
    static char text[1024];

    for (size_t t = 0; t < COUNT(troubles); t++) {
        char expected[64], what[64];
        size_t trouble = strlen(troubles[t]), place;

        snprintf(text, sizeof(text), "\"%s\"", troubles[t]);
        place = error_place(text, trouble + 2, expected);
        for (size_t f = 0; place != SIZE_MAX && f < COUNT(fillings); f++) {
            for (size_t bytes = 0; bytes <= 300; bytes += bytes < 140 ? 1 : 17) {
                size_t len = fill(text, 1, fillings[f], bytes), before;

                before = len = fill(text, len, "x", bytes % 16);
                len = fill(text, len, troubles[t], 1);
                text[len] = '"';
                assert_int_equal(error_place(text, len + 1, what), place + before - 1);
                assert_string_equal(what, expected);
            }
        }
    }
}

static void any_byte_after_a_backslash(void **state)
{
    static char text[512];

    for (size_t before = 0; before <= 66; before++) {
        for (unsigned c = 0; c < 256; c++) {
            size_t len = fill(text, 1, "x", before);

            text[0] = '"';
            text[len++] = '\\';
            text[len++] = (char)c;
            len = fill(text, len, "0", 70);
            text[len] = '"';
            assert_string_judged_alike(text, len + 1);
        }
    }
}

/* Any pieces in any order, most of them good. */
static void random_strings_are_judged_alike(void **state)
{
    static char text[1024];
    uint64_t random = 88172645463325252;

    for (size_t round = 0; round < 30000; round++) {
        size_t len = 1, pieces, good = COUNT(fillings);

        text[0] = '"';
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        pieces = random % 120;
        for (size_t i = 0; i < pieces; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            if (random % 256 == 0)
                len = fill(text, len, troubles[random / 256 % COUNT(troubles)], 1);
            else if (random % 4 == 0)
                len = fill(text, len, "plain", random / 256 % 30 % 3);
            else
                len = fill(text, len, fillings[(round + random / 256 % 3) % good], 1);
        }
        text[len] = '"';
        assert_string_judged_alike(text, len + 1);
    }
}

/* A document between two pages that cannot be read, touching the one or the other. */
static void nothing_outside_a_document_is_read(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_READ | PROT_WRITE), 0);
    for (size_t f = 0; f < COUNT(fillings); f++) {
        for (size_t bytes = 0; bytes <= 200; bytes++) {
            char text[300] = "\"";
            size_t len = fill(text, 1, fillings[f], bytes);

            text[len++] = '"';
            for (size_t cut = 0; cut < 3; cut++) {
                struct str front = {pages + page, len - cut};
                struct str back = {pages + 2 * page - front.len, front.len};

                if (len - cut < 2)
                    continue;
                memcpy(pages + page, text, front.len);
                assert_int_equal(!json_check(front), cut == 0);
                assert_true(builds_agree(front, cut == 0));
                memmove(pages + 2 * page - front.len, text, front.len);
                assert_int_equal(!json_check(back), cut == 0);
                assert_true(builds_agree(back, cut == 0));
            }
        }
    }
    munmap(pages, 3 * page);
}

/* A document with everything in it, cut and changed at every byte. */
static void changed_documents_are_judged_alike(void **state)
{
    static const char doc[] =
        "{\"model\": \"gpt-4o \xE6\xBC\xA2\xE5\xAD\x97 \\ud83d\\ude00\",\n\t\"n\": [1, -0.5e+10, "
        "true, false, null, "
        "[], {}, {\"a\": [{}]}],\r\n \"content\": \"\\\"quoted\\\" \\u00e4 \\/ text\"} ";
    static const char replacements[] =
        "\0\x01\x1F \"\\,:[]{}01-+.eEtfnu/\x7F\x80\xC3\xE6\xED\xF4\xFF";
    char text[sizeof(doc) + 1];
    size_t len = sizeof(doc) - 1;

    assert_null(json_check((struct str){doc, len}));
    for (size_t i = 0; i < len; i++) {
        assert_same_verdict((struct str){doc, i});
        for (size_t k = 0; k < sizeof(replacements); k++) {
            memcpy(text, doc, len);
            text[i] = replacements[k];
            assert_same_verdict((struct str){text, len});
            memcpy(text + i + 1, doc + i, len - i);
            assert_same_verdict((struct str){text, len + 1});
        }
    }
}

/* ---- JSONTestSuite ---- */

#define SUITE_MAX_BYTES (1 << 20)

/* The verdict its name demands: y_ accepted, n_ refused, i_ up to us. */
static void judge_suite_file(const char *folder, const char *name, size_t *seen)
{
    static char text[SUITE_MAX_BYTES];
    char path[512];
    size_t len;
    bool valid, same;
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "rb");
    assert_non_null(file);
    len = fread(text, 1, sizeof(text), file);
    fclose(file);
    unlink(path);

    same = same_verdict((struct str){text, len}, &valid);
    ++*seen;
    if (name[0] == 'i')
        print_message("%s %s\n", valid ? "accepts" : "refuses", name);
    if ((name[0] == 'y' && !valid) || (name[0] == 'n' && valid))
        fail_msg("%s is %s", name, valid ? "accepted" : "refused");
    if (!same && !strstr(name, "500_nested")) /* beyond our depth; yyjson has no limit */
        fail_msg("%s: differs from yyjson", name);
}

static void the_json_test_suite(void **state)
{
    const char *data = getenv("TEST_DATA");
    char folder[] = "/tmp/sluice-test-XXXXXX", parsing[64], archive[512], command[700];
    struct dirent *entry;
    size_t seen = 0;
    DIR *dir;

    snprintf(archive, sizeof(archive), "%s/data/json-test-suite.tar.gz", data ? data : "../shared");
    if (access(archive, R_OK) != 0) {
        print_error("SKIPPED: no %s (set TEST_DATA)\n", archive);
        skip();
    }
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof(command), "tar -xzf '%s' -C '%s'", archive, folder);
    assert_int_equal(system(command), 0);
    snprintf(parsing, sizeof(parsing), "%s/test_parsing", folder);
    dir = opendir(parsing);
    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (strstr(entry->d_name, ".json"))
            judge_suite_file(parsing, entry->d_name, &seen);
    closedir(dir);
    rmdir(parsing);
    rmdir(folder);
    print_message("%zu files\n", seen);
    assert_true(seen > 300);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_scope, leave_scope)
    const struct CMUnitTest tests[] = {
        TEST(members_are_spans_of_the_document),
        TEST(too_many_members_are_counted),
        TEST(errors_say_what_and_where),
        TEST(depth_ends_at_128),
        TEST(mixed_levels_must_match),
        TEST(stepping_through_containers),
        TEST(kinds_by_first_byte),
        TEST(texts_are_decoded),
        TEST(decoding_may_run_out_of_memory),
        TEST(integers),
        TEST(doubles),
        TEST(strings_are_judged_alike_at_every_offset),
        TEST(letters_behind_quotes_are_found),
        TEST(runs_of_backslashes_at_every_offset),
        TEST(errors_are_found_after_any_text),
        TEST(any_byte_after_a_backslash),
        TEST(random_strings_are_judged_alike),
        TEST(nothing_outside_a_document_is_read),
        TEST(changed_documents_are_judged_alike),
        TEST(the_json_test_suite),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
