/* SPDX-License-Identifier: Apache-2.0 */
/* -c FILE. */
#include "cli/conf_option.h"

#include <string.h>

#define MAX_PROBLEM_BYTES ((size_t)1024 * 1024)

bool conf_option_take(int argc, char **argv, int *i, const char **path)
{
    if (strcmp(argv[*i], "-c") != 0 && strcmp(argv[*i], "--config") != 0)
        return false;
    *path = *i + 1 < argc ? argv[++*i] : NULL;
    return true;
}

err_t conf_option_load(const char *path, struct arena *arena, struct buf *problems,
                       struct str *file, struct conf **out)
{
    TRY(conf_find(arena, path, file));
    return conf_load(*file, problems, out);
}

err_t conf_option_need(const char *path, struct arena *arena, struct conf **out)
{
    struct buf problems = buf_make(MEM_TOOL, MAX_PROBLEM_BYTES);
    struct str file;
    err_t err = conf_option_load(path, arena, &problems, &file, out);

    if (err && problems.len)
        err = err_new(ERR_CONFIG, "%.*s", STR_ARG(str_trim(buf_str(&problems))));
    buf_fini(&problems);
    return err;
}
