/* SPDX-License-Identifier: Apache-2.0 */
/* The catalogue: every row is complete, and parts make up the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/catalogue.h"

static void test_rows_are_complete(void **state)
{
    const struct catalogue_model *model;
    size_t count = 0;

    for (size_t at = 0; (model = catalogue_next(&at)); count++) {
        assert_int_equal(strlen(model->sha256), 64);
        assert_int_equal(strspn(model->sha256, "0123456789abcdef"), 64);
        assert_true(str_ends(str_from(model->file), STR(".gguf")));
        assert_null(strchr(model->file, '/'));
        assert_true(model->bytes > 0 && model->context_tokens >= 4096);
        assert_true(model->licence[0] && model->note[0]);
    }
    assert_true(count >= 3);
}

static void test_packages_add_up(void **state)
{
    const struct catalogue_model *model;

    for (size_t at = 0; (model = catalogue_next(&at));) {
        const struct catalogue_source *source;
        uint64_t bytes = 0;
        size_t urls = 0;
        for (size_t i = 0; (source = catalogue_next_source(model, &i));) {
            if (source->url)
                urls++;
            else
                assert_true(source->package && source->version && source->member);
            bytes += source->bytes;
            assert_true(!source->url || str_starts(str_from(source->url), STR("https://")));
        }
        assert_int_equal(bytes, model->bytes);
        assert_int_equal(urls, 1);
    }
}

static void test_names(void **state)
{
    size_t at = 0;

    assert_ptr_equal(catalogue_get(STR("qwen2.5-coder-0.5b")), catalogue_next(&at));
    assert_string_equal(catalogue_get(STR("smollm2-135m"))->name, "smollm2-135m");
    assert_null(catalogue_get(STR("smollm2-135")));
    assert_null(catalogue_get(STR("smollm2-135m ")));
    assert_null(catalogue_get(STR("")));
}

static void test_installed_means_the_right_size(void **state)
{
    const struct catalogue_model *model = catalogue_get(STR("smollm2-135m"));
    struct arena *arena = arena_new(MEM_TOOL, 64 * 1024);
    char folder[] = "/tmp/sluice-test-XXXXXX", models[64];
    struct str data_dir, path;

    assert_non_null(mkdtemp(folder));
    data_dir = str_from(folder);
    snprintf(models, sizeof models, "%s/models", folder);
    assert_int_equal(mkdir(models, 0700), 0);
    path = catalogue_path(arena, data_dir, model);
    assert_true(str_starts(path, str_from(models)));
    assert_true(str_ends(path, str_from(model->file)));
    assert_false(catalogue_is_installed(data_dir, model));
    FILE *file = fopen(path.ptr, "w");
    assert_non_null(file);
    assert_false(catalogue_is_installed(data_dir, model));
    assert_int_equal(ftruncate(fileno(file), (off_t)model->bytes), 0); /* a hole: takes no room */
    assert_true(catalogue_is_installed(data_dir, model));
    fclose(file);
    unlink(path.ptr);
    rmdir(models);
    rmdir(folder);
    arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_complete),
        cmocka_unit_test(test_packages_add_up),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_installed_means_the_right_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
