/* SPDX-License-Identifier: Apache-2.0 */
/* Counting tokens, case by case; tests/e2e/test_tokens.py compares a million texts with tiktoken.
 * What needs the ranks is skipped when .cache/tokens has none (script/get-token-ranks). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sys.h"
#include "model/tokens.h"
#include "model/tokens_build.h"
#include "model/tokens_file.h"
#include "model/tokens_split.h"

/* ---- pieces ---- */

/* The pieces of a text with | between them. */
static const char *cut(enum tokens_encoding encoding, struct str text)
{
    static char out[512];
    const char *at = text.ptr, *end = text.ptr + text.len;
    char *to = out;

    while (at < end) {
        size_t len = tokens_split_next(encoding, at, end);
        assert_true(len > 0 && len <= (size_t)(end - at));
        memcpy(to, at, len);
        to += len;
        at += len;
        *to++ = at < end ? '|' : 0;
    }
    return text.len ? out : "";
}

#define O200K(text)  cut(TOKENS_O200K_BASE, STR(text))
#define CL100K(text) cut(TOKENS_CL100K_BASE, STR(text))

static void words_take_one_sign_before_them(void **state)
{
    assert_string_equal(O200K("Hello, world (and) more"), "Hello|,| world| (|and|)| more");
    assert_string_equal(CL100K("Hello, world (and) more"), "Hello|,| world| (|and|)| more");
    assert_string_equal(O200K("\tx  y"), "\tx| | y");
    assert_string_equal(O200K("\nx\r\ny"), "\n|x|\r\n|y");
    assert_string_equal(O200K("1234567 1"), "123|456|7| |1");
}

static void case_cuts_words_of_o200k_only(void **state)
{
    assert_string_equal(O200K("HTTPServer getURLFor iPhone"), "HTTPServer| get|URLFor| i|Phone");
    assert_string_equal(CL100K("HTTPServer getURLFor iPhone"), "HTTPServer| getURLFor| iPhone");
    assert_string_equal(O200K("A中BC 中a A中B中c"), "A中|BC| 中a| A中B中c");
    assert_string_equal(CL100K("A中BC"), "A中BC");
}

static void contractions_in_any_case(void **state)
{
    assert_string_equal(O200K("don't DON'T he'll we'Re"), "don't| DON'T| he'll| we'Re");
    assert_string_equal(CL100K("don't DON'T he'll we'Re"), "don|'t| DON|'T| he|'ll| we|'Re");
    assert_string_equal(O200K("x'ſ x'k 's"), "x'ſ| x|'k| '|s");
    assert_string_equal(CL100K("x'ſ x'k 's"), "x|'ſ| x|'k| '|s");
    assert_string_equal(O200K("'stand"), "'stand");
    assert_string_equal(CL100K("'stand"), "'s|tand");
}

static void signs_take_line_ends_and_o200k_slashes(void **state)
{
    assert_string_equal(O200K("!!\n\n/x"), "!!\n\n/|x");
    assert_string_equal(CL100K("!!\n\n/x"), "!!\n\n|/x");
    assert_string_equal(O200K(" ...\nx"), " ...\n|x");
    assert_string_equal(O200K("<|endoftext|>"), "<||endoftext||>");
}

static void white_space_leaves_its_last_to_a_word(void **state)
{
    assert_string_equal(O200K("a   b"), "a|  | b");
    assert_string_equal(O200K("a \n  b"), "a| \n| | b");
    assert_string_equal(O200K("a  \n "), "a|  \n| ");
    assert_string_equal(CL100K("a  \n "), "a|  \n "); /* \s+$ comes first */
    assert_string_equal(O200K("a\xC2\xA0\xE3\x80\x80 1"), "a|\xC2\xA0\xE3\x80\x80| |1");
}

static void marks_are_part_of_words_or_signs(void **state)
{
    assert_string_equal(O200K("e\xCC\x81tude !\xCC\x81"), "e\xCC\x81tude| !\xCC\x81");
    assert_string_equal(CL100K("ae\xCC\x81t"), "ae|\xCC\x81t");
}

static void bytes_that_are_not_utf8_are_signs(void **state)
{
    assert_string_equal(O200K("a\xFFz\xC3"), "a|\xFFz|\xC3");
    assert_string_equal(O200K("a\xE4\xB8"), "a|\xE4\xB8");
    assert_string_equal(O200K("a\xED\xA0\x80\xC0\x80"), "a|\xED\xA0\x80\xC0\x80");
}

/* ---- families ---- */

static void a_family_follows_from_the_name(void **state)
{
    static const struct {
        const char *model;
        enum token_family family;
    } cases[] = {
        {"gpt-4o-mini", TOKENS_O200K},
        {"gpt-4.1", TOKENS_O200K},
        {"gpt-4-turbo", TOKENS_CL100K},
        {"gpt-3.5-turbo", TOKENS_CL100K},
        {"gpt-5.1-codex", TOKENS_O200K},
        {"o3-mini", TOKENS_O200K},
        {"ft:gpt-4o:me::x", TOKENS_O200K},
        {"openai/gpt-4", TOKENS_CL100K},
        {"Claude-Opus-4", TOKENS_CLAUDE},
        {"text-embedding-3-small", TOKENS_CL100K},
        {"models/gemini-3", TOKENS_GEMINI},
        {"Qwen/Qwen2.5-Coder", TOKENS_QWEN},
        {"meta-llama/Llama-3", TOKENS_LLAMA},
        {"my-own", TOKENS_OTHER},
        {"", TOKENS_OTHER},
        {"/", TOKENS_OTHER},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_int_equal(tokens_family(str_from(cases[i].model)), cases[i].family);
}

static void without_ranks_bytes_are_counted(void **state)
{
    struct tokens_tally tally = {.family = TOKENS_O200K};
    struct buf out = buf_make(MEM_TOOL, 100);
    uint32_t ids[8];
    size_t count;

    tokens_use(STR("/nonexistent"));
    assert_false(tokens_is_exact(TOKENS_O200K));
    assert_int_equal(tokens_count(TOKENS_O200K, STR("")), 0);
    assert_int_equal(tokens_count(TOKENS_O200K, STR("abcdefgh")), 2);
    assert_int_equal(tokens_count(TOKENS_O200K, STR("中文a")), 3);
    tokens_tally_add(&tally, STR("abcdefgh"));
    assert_int_equal(tokens_tally_count(&tally), 2);
    tokens_tally_fini(&tally);
    assert_true(err_is(tokens_encode(TOKENS_O200K, STR("abc"), ids, &count), ERR_NOT_FOUND));
    assert_true(err_is(tokens_decode(TOKENS_O200K, ids, 1, &out), ERR_NOT_FOUND));
}

/* ---- with ranks ---- */

static bool has_ranks(void)
{
    if (access(".cache/tokens/o200k_base.tiktoken", R_OK) != 0 ||
        access(".cache/tokens/cl100k_base.tiktoken", R_OK) != 0) {
        print_message("NOT TESTED: no ranks; run script/get-token-ranks .cache/tokens\n");
        return false;
    }
    tokens_use(STR(".cache"));
    return true;
}

static void counts_and_ids_are_tiktokens(void **state)
{
    static const uint32_t expected[] = {24912, 2375}; /* tiktoken: "hello world" in o200k_base */
    uint32_t ids[64];
    size_t count;

    if (!has_ranks())
        skip();
    assert_true(tokens_is_exact(TOKENS_O200K) && tokens_is_exact(TOKENS_CL100K));
    assert_false(tokens_is_exact(TOKENS_CLAUDE));
    assert_null(tokens_encode(TOKENS_O200K, STR("hello world"), ids, &count));
    assert_int_equal(count, 2);
    assert_memory_equal(ids, expected, sizeof(expected));
    assert_int_equal(tokens_count(TOKENS_CL100K, STR("<|endoftext|>")), 7);
    assert_int_equal(tokens_count(TOKENS_O200K, STR("antidisestablishmentarianism")), 6);
    assert_int_equal(tokens_count(TOKENS_CLAUDE, STR("hello world")), 3); /* 2.4 */
    assert_null(tokens_encode(TOKENS_O200K, STR(""), ids, &count));
    assert_int_equal(count, 0);
}

static void decoding_gives_back_any_bytes(void **state)
{
    static const uint32_t unknown = 199999;
    struct buf out = buf_make(MEM_TOOL, 4096);
    uint32_t ids[1024];
    char bytes[1024];
    size_t count;

    if (!has_ranks())
        skip();
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * i / 7 + i);
    struct str text = {bytes, sizeof(bytes)};
    assert_null(tokens_encode(TOKENS_CL100K, text, ids, &count));
    assert_int_equal(tokens_count(TOKENS_CL100K, text), count);
    assert_null(tokens_decode(TOKENS_CL100K, ids, count, &out));
    assert_true(str_eq(buf_str(&out), text));
    assert_true(err_is(tokens_decode(TOKENS_O200K, &unknown, 1, &out), ERR_BAD_REQUEST));
    buf_fini(&out);
}

static uint64_t tally_of(enum token_family family, struct str text, size_t piece)
{
    struct tokens_tally tally = {.family = family};
    uint64_t count;

    while (text.len > 0) {
        size_t len = piece < text.len ? piece : text.len;
        tokens_tally_add(&tally, (struct str){text.ptr, len});
        text = str_after(text, len);
    }
    count = tokens_tally_count(&tally);
    tokens_tally_fini(&tally);
    return count;
}

static void a_stream_counts_as_its_text(void **state)
{
    static const char *const bits[] = {"The quick ", "brown", "fox's ",    "1234567", "\n\n  ",
                                       "中文,",      "字",    "e\xCC\x81", "don't ",  "...\r\n",
                                       "  if (x) {", "/",     "🙂",        "\xFF"};
    struct buf text = buf_make(MEM_TOOL, 1 << 20);
    uint32_t seed = 1;

    if (!has_ranks())
        skip();
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1103515245 + 12345;
        assert_null(buf_add(&text, str_from(bits[(seed >> 16) % (sizeof(bits) / sizeof(*bits))])));
    }
    for (int family = TOKENS_O200K; family <= TOKENS_CL100K; family++) {
        uint64_t whole = tokens_count((enum token_family)family, buf_str(&text));
        for (size_t piece = 1; piece < 3000; piece = piece * 2 + 1)
            assert_int_equal(tally_of((enum token_family)family, buf_str(&text), piece), whole);
    }
    buf_fini(&text);
}

static void a_stream_without_borders_is_nearly_right(void **state)
{
    char digits[10000], letters[10000], hans[9999];

    if (!has_ranks())
        skip();
    for (size_t i = 0; i < sizeof(digits); i++) {
        digits[i] = '7';
        letters[i] = (char)('a' + i * i % 26);
    }
    for (size_t i = 0; i < sizeof(hans); i++)
        hans[i] = "\xE4\xB8\xAD"[i % 3];
    const struct str texts[] = {
        {digits, sizeof(digits)}, {letters, sizeof(letters)}, {hans, sizeof(hans)}};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        uint64_t whole = tokens_count(TOKENS_O200K, texts[i]);
        uint64_t tally = tally_of(TOKENS_O200K, texts[i], 77);
        assert_in_range(tally, whole - 10, whole + 10);
    }
}

static void a_long_piece_without_memory_is_estimated(void **state)
{
    char letters[4000];
    uint32_t ids[4000];
    size_t count;

    if (!has_ranks())
        skip();
    memset(letters, 'x', sizeof(letters));
    struct str text = {letters, sizeof(letters)};
    uint64_t right = tokens_count(TOKENS_O200K, text);
    mem_fail_nth(1);
    uint64_t estimated = tokens_count(TOKENS_O200K, text);
    assert_true(estimated == 1000 || estimated == right); /* a build without faults: right */
    mem_fail_nth(1);
    err_t err = tokens_encode(TOKENS_O200K, text, ids, &count);
    assert_true(!err || err_is(err, ERR_BUSY));
    mem_fail_nth(0);
    assert_int_equal(tokens_count(TOKENS_O200K, text), right);
}

/* ---- files ---- */

static void copy_ranks(const char *folder, const char *name)
{
    char from[256], to[256];

    snprintf(from, sizeof(from), "%s/.cache/tokens/%s", getenv("PWD") ? getenv("PWD") : ".", name);
    snprintf(to, sizeof(to), "%s/%s", folder, name);
    assert_int_equal(symlink(from, to), 0);
}

static void an_image_is_made_once_and_checked(void **state)
{
    char folder[] = "/tmp/sluice-tokens-XXXXXX", image[64], ranks[64];
    const struct tokens_head *head;
    struct stat info;

    if (!has_ranks())
        skip();
    assert_non_null(mkdtemp(folder));
    snprintf(image, sizeof(image), "%s/cl100k_base.image", folder);
    snprintf(ranks, sizeof(ranks), "%s/cl100k_base.tiktoken", folder);
    assert_true(err_is(tokens_file_open(folder, TOKENS_CL100K_BASE, &head), ERR_NOT_FOUND));
    copy_ranks(folder, "cl100k_base.tiktoken");
    assert_null(tokens_file_open(folder, TOKENS_CL100K_BASE, &head));
    assert_int_equal(head->token_count, 100256);
    assert_int_equal(stat(image, &info), 0);
    assert_int_equal((uint64_t)info.st_size, head->bytes);
    assert_int_equal(unlink(ranks), 0); /* the image alone is enough … */
    assert_null(tokens_file_open(folder, TOKENS_CL100K_BASE, &head));
    int fd = open(image, O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, info.st_size / 2), 1); /* … unless a byte has changed */
    close(fd);
    assert_true(err_is(tokens_file_open(folder, TOKENS_CL100K_BASE, &head), ERR_NOT_FOUND));
    assert_int_equal(truncate(image, 1000), 0);
    assert_true(err_is(tokens_file_open(folder, TOKENS_CL100K_BASE, &head), ERR_NOT_FOUND));
    fd = open(ranks, O_WRONLY | O_CREAT, 0600);
    for (int i = 0; i < 100; i++)
        assert_int_equal(write(fd, "IQ== 0\n", 7), 7);
    close(fd);
    assert_true(err_is(tokens_file_open(folder, TOKENS_CL100K_BASE, &head), ERR_CONFIG));
    unlink(ranks);
    unlink(image);
    rmdir(folder);
}

static void lines_that_are_no_ranks_are_refused(void **state)
{
    static const char *const bad[] = {"",         "\n",       "IQ== 0\n", "IQ== 0",
                                      "!!!! 0\n", "IQ== x\n", "IQ== 1\n", "IQ==\n"};
    struct tokens_head *image;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct buf lines = buf_make(MEM_TOOL, 1 << 20);
        for (int k = 0; k < 300 && bad[i][0]; k++) /* enough of them to be looked at */
            assert_null(buf_add(&lines, str_from(bad[i])));
        assert_true(err_is(tokens_build(buf_str(&lines), &image), ERR_CONFIG));
        buf_fini(&lines);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_take_one_sign_before_them),
        cmocka_unit_test(case_cuts_words_of_o200k_only),
        cmocka_unit_test(contractions_in_any_case),
        cmocka_unit_test(signs_take_line_ends_and_o200k_slashes),
        cmocka_unit_test(white_space_leaves_its_last_to_a_word),
        cmocka_unit_test(marks_are_part_of_words_or_signs),
        cmocka_unit_test(bytes_that_are_not_utf8_are_signs),
        cmocka_unit_test(a_family_follows_from_the_name),
        cmocka_unit_test(without_ranks_bytes_are_counted), /* before those with ranks: they stay */
        cmocka_unit_test(counts_and_ids_are_tiktokens),
        cmocka_unit_test(decoding_gives_back_any_bytes),
        cmocka_unit_test(a_stream_counts_as_its_text),
        cmocka_unit_test(a_stream_without_borders_is_nearly_right),
        cmocka_unit_test(a_long_piece_without_memory_is_estimated),
        cmocka_unit_test(an_image_is_made_once_and_checked),
        cmocka_unit_test(lines_that_are_no_ranks_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
