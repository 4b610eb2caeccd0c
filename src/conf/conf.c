/* SPDX-License-Identifier: Apache-2.0 */
/* Loads configurations, and counts their users.
 *
 * A snapshot is one arena: struct conf at its head, everything that it points to behind. Who
 * uses it holds a count, so a reload never pulls it away from a request. */
#include "conf/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "conf/check.h"
#include "conf/reader.h"
#include "conf/value.h"

#define SNAPSHOT_MAX_BYTES ((size_t)32 * 1024 * 1024)
#define SCRATCH_MAX_BYTES  ((size_t)64 * 1024 * 1024)

struct snapshot {
    struct conf conf; /* first: callers hold a pointer to it */
    atomic_size_t users;
};

static _Atomic uint64_t last_version;

/* ---- finding and reading the file ---- */

err_t conf_find(struct arena *arena, const char *given, struct str *path)
{
    static const char *const places[] = {"./sluice.yaml", "/etc/sluice/sluice.yaml"};
    const char *named = getenv("SLUICE_CONFIG");

    *path = (struct str){0};
    if (!given && named && *named) {
        if (access(named, F_OK) != 0)
            return err_new(ERR_CONFIG, "$SLUICE_CONFIG names %s: %s", named, strerror(errno));
        given = named;
    }
    for (size_t i = 0; !given && i < sizeof places / sizeof *places; i++)
        if (access(places[i], F_OK) == 0)
            given = places[i];
    if (!given)
        return NULL;
    *path = arena_copy(arena, str_from(given));
    return path->ptr ? NULL : arena_err(arena);
}

/* Read the file into the scratch arena. One byte more than allowed is asked for, to notice more. */
static err_t read_file(struct reader *r, const char *path, struct str *text, bool *is_exposed)
{
    char *bytes = arena_alloc(r->scratch, TREE_MAX_BYTES + 1);
    struct stat info = {0};
    size_t len = 0;
    ssize_t n;

    if (!bytes)
        return arena_err(r->scratch);
    int fd = sys_open(path, O_RDONLY, 0);
    if (fd < 0) {
        reader_problem(r, 0, "%s", strerror(errno));
        return r->failed;
    }
    *is_exposed = fstat(fd, &info) == 0 && (info.st_mode & S_IROTH);
    while ((n = sys_read(fd, bytes + len, TREE_MAX_BYTES + 1 - len)) > 0)
        len += (size_t)n;
    if (n < 0)
        reader_problem(r, 0, "%s", strerror(errno));
    else if (len > TREE_MAX_BYTES)
        reader_problem(r, 0, "the file is larger than 1 MiB");
    sys_close(fd);
    *text = (struct str){bytes, len};
    return r->failed;
}

/* The folder of the file with its slash, for paths that are relative to it. */
static struct str folder_of(struct str path)
{
    while (path.len && path.ptr[path.len - 1] != '/')
        path.len--;
    return path;
}

static err_t read_tree(struct reader *r)
{
    struct tree_problem problem;
    struct tree_node *root;
    struct str text;
    bool is_exposed = false;

    TRY(read_file(r, r->conf->path.ptr, &text, &is_exposed));
    if (r->problems)
        return NULL;
    TRY(tree_parse(r->scratch, text, &root, &problem));
    if (problem.text)
        reader_problem(r, problem.line, "%s", problem.text);
    r->root = root;
    if (r->problems || r->failed)
        return r->failed;
    r->folder = folder_of(r->conf->path);
    reader_read(r);
    if (!r->failed)
        check_conf(r);
    if (is_exposed && r->has_literal_secret)
        reader_warn(r, 0, "everybody may read this file, and it holds a secret");
    return r->failed;
}

/* ---- problems ---- */

/* "path:line: message", or without the line or path that there is none of. */
static err_t print_problem(const struct reader *r, const struct problem *p, struct buf *out)
{
    struct str path = r->conf->path;

    if (p->line)
        return buf_printf(out, "%.*s:%zu: %s", STR_ARG(path), p->line, p->text);
    return buf_printf(out, "%.*s%s%s", STR_ARG(path), path.len ? ": " : "", p->text);
}

/* The error for what was found: its text is the first problem, `problems` gets all. */
static err_t report(const struct reader *r, struct buf *problems)
{
    struct buf first = buf_make(MEM_CONF, 4096);
    err_t err;

    for (const struct problem *p = r->problems; problems && p; p = p->next) {
        TRY(print_problem(r, p, problems));
        TRY(buf_add_byte(problems, '\n'));
    }
    err = print_problem(r, r->problems, &first);
    if (!err && r->problem_count > 1)
        err = buf_printf(&first, " (and %zu more)", r->problem_count - 1);
    if (!err)
        err = err_new(ERR_CONFIG, "%.*s", STR_ARG(buf_str(&first)));
    buf_fini(&first);
    return err;
}

/* ---- loading ---- */

static err_t fill(struct reader *r, struct str path, struct buf *problems)
{
    r->conf->path = reader_keep(r, path);
    if (r->failed)
        return r->failed;
    if (path.len) {
        TRY(read_tree(r));
    } else {
        reader_read(r);
        if (!r->failed)
            check_conf(r);
    }
    if (r->failed)
        return r->failed;
    return r->problems ? report(r, problems) : NULL;
}

err_t conf_load(struct str path, struct buf *problems, struct conf **out)
{
    struct arena *arena = arena_new(MEM_CONF, SNAPSHOT_MAX_BYTES);
    struct arena *scratch = arena_new(MEM_CONF, SCRATCH_MAX_BYTES);
    struct snapshot *snapshot = arena ? arena_new_struct(arena, struct snapshot) : NULL;
    err_t err = err_no_memory();

    *out = NULL;
    if (snapshot && scratch) {
        struct reader r = {.conf = &snapshot->conf, .arena = arena, .scratch = scratch};
        snapshot->conf.arena = arena;
        err = fill(&r, path, problems);
    }
    arena_free(scratch);
    if (err) {
        arena_free(arena);
        return err;
    }
    atomic_init(&snapshot->users, 1);
    snapshot->conf.version = atomic_fetch_add(&last_version, 1) + 1;
    *out = &snapshot->conf;
    return NULL;
}

/* ---- in use ---- */

const struct conf *conf_ref(const struct conf *conf)
{
    atomic_fetch_add_explicit(&((struct snapshot *)conf)->users, 1, memory_order_relaxed);
    return conf;
}

void conf_unref(const struct conf *conf)
{
    struct snapshot *snapshot = (struct snapshot *)conf;

    if (conf && atomic_fetch_sub_explicit(&snapshot->users, 1, memory_order_acq_rel) == 1)
        arena_free(conf->arena);
}

static err_t check_reload(struct str prefix, const struct conf *now, const struct conf *next)
{
    struct option_child child;

    for (size_t at = 0; options_next_child(prefix, &at, &child);) {
        if (child.kind == CHILD_GROUP)
            TRY(check_reload(child.prefix, now, next));
        else if (child.kind == CHILD_OPTION && (child.option->flags & RESTART) &&
                 !value_equal(child.option, now, next))
            return err_new(ERR_CONFIG, "%.*s cannot change while the program runs: restart it",
                           STR_ARG(child.option->path));
    }
    return NULL;
}

err_t conf_check_reload(const struct conf *now, const struct conf *next)
{
    return check_reload(STR(""), now, next);
}

const struct conf_provider *conf_provider_get(const struct conf *conf, struct str name)
{
    for (size_t i = 0; i < conf->provider_count; i++)
        if (str_eq(conf->providers[i].name, name))
            return &conf->providers[i];
    return NULL;
}

const struct conf_model *conf_model_get(const struct conf *conf, struct str name)
{
    for (size_t i = 0; i < conf->model_count; i++)
        if (str_eq(conf->models[i].name, name))
            return &conf->models[i];
    return NULL;
}
