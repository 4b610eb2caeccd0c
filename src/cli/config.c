/* SPDX-License-Identifier: Apache-2.0 */
/* sluice config: what is in force, and what could be. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/conf_option.h"

#define MAX_TEXT_BYTES ((size_t)4 * 1024 * 1024)

static err_t show(const char *path, struct buf *out)
{
    struct arena *arena = arena_new(MEM_TOOL, 1024 * 1024);
    struct conf *conf = NULL;
    err_t err = arena ? conf_option_need(path, arena, &conf) : err_no_memory();

    if (!err)
        err = conf_print(conf, out);
    if (conf)
        conf_unref(conf);
    arena_free(arena);
    return err;
}

int command_config(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : NULL, *path = NULL;
    struct buf out = buf_make(MEM_TOOL, MAX_TEXT_BYTES);
    bool is_show = what && strcmp(what, "show") == 0;
    err_t err = NULL;

    for (int i = 2; i < argc; i++) {
        if (!is_show || !conf_option_take(argc, argv, &i, &path))
            return command_misuse("config", "unknown word", argv[i]);
        if (!path)
            return command_misuse("config", "a file name must follow", argv[i]);
    }
    if (is_show)
        err = show(path, &out);
    else if (what && strcmp(what, "schema") == 0)
        err = conf_print_schema(&out);
    else if (what && strcmp(what, "reference") == 0)
        err = conf_print_reference(&out);
    else
        return command_misuse("config", "show, schema or reference is needed", what);
    if (!err)
        fwrite(out.ptr, 1, out.len, stdout);
    buf_fini(&out);
    return err ? command_fail("config", err) : COMMAND_OK;
}
