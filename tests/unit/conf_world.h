/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the configuration: a file that is read, the problems that are told, and an environment that is known. */
#ifndef TESTS_UNIT_CONF_WORLD_H
#define TESTS_UNIT_CONF_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "conf/conf.h"

static char folder[] = "/tmp/test_conf_XXXXXX"; /* made and removed by main */
static char path[64];                           /* of the configuration, within it */
static struct buf problems, printed;
static struct arena *errors;

static inline void write_file(const char *name, const char *text, size_t len)
{
    FILE *file = fopen(name, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    fclose(file);
    assert_int_equal(chmod(name, 0600), 0);
}

/* Load `text` as a file; the problems are left in `problems`, NUL-terminated. */
static inline err_t load(const char *text, struct conf **conf)
{
    write_file(path, text, strlen(text));
    problems.len = 0;
    err_t err = conf_load(str_from(path), &problems, conf);
    assert_null(buf_add_byte(&problems, '\0'));
    return err;
}

static inline struct conf *load_ok(const char *text)
{
    struct conf *conf;
    err_t err = load(text, &conf);

    if (err)
        fail_msg("%s\n%s", err->text, problems.ptr);
    return conf;
}

/* Loading must fail with exactly these problems; each line begins with its number, as in "3:
 * message". */
static inline void assert_problems(const char *text, const char *expected)
{
    struct conf *conf;
    err_t err = load(text, &conf);
    struct str rest = str_from(expected), line;
    static char all[8192];
    size_t len = 0;

    assert_non_null(err);
    assert_null(conf);
    assert_int_equal(err->kind, ERR_CONFIG);
    while (rest.ptr && str_split(&rest, '\n', &line))
        len += (size_t)snprintf(all + len, sizeof all - len, "%s:%.*s\n", path, STR_ARG(line));
    assert_string_equal(problems.ptr, all);
    assert_non_null(strstr(err->text, path));
}

static inline void assert_str(struct str s, const char *expected)
{
    if (!str_eq(s, str_from(expected)))
        fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(s), expected);
}

/* Before and after each test: nothing of the developer's environment, and no memory left. */
static inline int set_up(void **state)
{
    static const char *const unset[] = {
        "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL",
        "GEMINI_API_KEY", "XDG_DATA_HOME",   "SLUICE_CONFIG"};

    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++)
        unsetenv(unset[i]);
    setenv("HOME", "/home/somebody", 1);
    problems = buf_make(MEM_TOOL, 1024 * 1024);
    printed = buf_make(MEM_TOOL, 1024 * 1024);
    errors = arena_new(MEM_TOOL, 1024 * 1024);
    err_scope_set(errors);
    return 0;
}

static inline int tear_down(void **state)
{
    buf_fini(&problems);
    buf_fini(&printed);
    err_scope_set(NULL);
    arena_free(errors);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

#endif
