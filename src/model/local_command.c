/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a model's server, and the checks before it is used.
 *
 * llama-server reports most mistakes only in its log, after having read the file, so what we can
 * know beforehand we say beforehand: program, name, file, size, memory.
 *
 * The hard thing is that llama-server's options change between versions and that any version may
 * be on PATH. Only options that all of them know stand in argv; the others are environment
 * variables, which a version that does not know them ignores. */
#include "model/local_command.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "model/catalogue.h"
#include "model/child.h"

/* Two people can talk at once; more share the processor so thinly that nobody is pleased. */
#define DEFAULT_SLOTS   2
#define DEFAULT_CONTEXT 4096

/* A model file shorter than this holds nothing but a header. */
#define MODEL_MIN_BYTES 1024

/* What a server takes beside its model: program, buffers, a small context. With half of the
 * file's size, for weights that are laid out anew, this is a little above what was measured from
 * 0.1 to 1.5 billion parameters. */
#define SERVER_BYTES ((uint64_t)128 * 1024 * 1024)

#define unavailable(...)                                                                           \
    err_new_detail(ERR_UPSTREAM, (.code = "local_model_unavailable"), __VA_ARGS__)

/* ---- the program ---- */

struct str local_command_find(struct str configured, struct str data_dir, struct arena *arena)
{
    char *path;

    if (configured.len)
        return str_from(arena_cstr(arena, configured));
    path = child_find_program("llama-server", arena);
    if (path)
        return str_from(path);
    path = arena_printf(arena, "%.*s/llama-server/llama-server", STR_ARG(data_dir));
    return path && child_is_program(path) ? str_from(path) : STR("");
}

static err_t need_program(const struct local_settings *s, struct arena *arena, struct str *out)
{
    *out = local_command_find(s->server, s->data_dir, arena);
    if (out->len == 0)
        return unavailable(
            "there is no llama-server, which runs local models: run script/get-llama-server "
            "%.*s/llama-server, put one on PATH, or set providers.%.*s.server",
            STR_ARG(s->data_dir), STR_ARG(s->provider));
    if (!child_is_program(out->ptr))
        return unavailable("providers.%.*s.server names %s, which is not a program",
                           STR_ARG(s->provider), out->ptr);
    return NULL;
}

/* ---- the model ---- */

static bool is_path(struct str model)
{
    return str_index(model, '/') < model.len || str_ends(model, STR(".gguf"));
}

/* A file name alone is one that was pulled, if there is such a one. */
static char *path_of(const struct local_settings *s, struct arena *arena)
{
    const char *home = getenv("HOME");
    char *pulled;

    if (home && str_starts(s->model, STR("~/")))
        return arena_printf(arena, "%s/%.*s", home, STR_ARG(str_after(s->model, 2)));
    pulled = arena_printf(arena, "%.*s/models/%.*s", STR_ARG(s->data_dir), STR_ARG(s->model));
    if (pulled && str_index(s->model, '/') == s->model.len && access(pulled, F_OK) == 0)
        return pulled;
    return arena_cstr(arena, s->model);
}

static err_t need_known_name(const struct local_settings *s, struct arena *arena, char **path)
{
    const struct catalogue_model *model = catalogue_get(s->model);

    if (!model)
        return unavailable(
            "there is no model named %.*s: `sluice model list` shows those that can be pulled, and "
            "providers.%.*s.model may be the path of a .gguf file",
            STR_ARG(s->model), STR_ARG(s->provider));
    *path = (char *)(uintptr_t)catalogue_path(arena, s->data_dir, model).ptr;
    if (!*path)
        return arena_err(arena);
    if (access(*path, F_OK) != 0)
        return unavailable("the model %s is not installed: run `sluice model pull %s`", model->name,
                           model->name);
    if (!catalogue_is_installed(s->data_dir, model))
        return unavailable(
            "%s has not the size of %s: run `sluice model rm %s` and `sluice model pull %s`", *path,
            model->name, model->name, model->name);
    return NULL;
}

/* Magic number at the start of every GGUF file. */
static err_t need_gguf(const char *path, uint64_t *bytes)
{
    char magic[4] = "";
    struct stat info;
    ssize_t n;
    int fd = sys_open(path, O_RDONLY, 0);

    if (fd < 0)
        return unavailable("the model file %s cannot be read: %s", path, strerror(errno));
    n = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) ? sys_read(fd, magic, sizeof(magic)) : -1;
    sys_close(fd);
    if (n != sizeof(magic) || memcmp(magic, "GGUF", sizeof(magic)) != 0)
        return unavailable("%s is not a GGUF file", path);
    if (info.st_size < MODEL_MIN_BYTES)
        return unavailable("%s is too small to be a model (%lld bytes)", path,
                           (long long)info.st_size);
    *bytes = (uint64_t)info.st_size;
    return NULL;
}

/* ---- memory ---- */

static bool read_file(const char *path, char *text, size_t size)
{
    int fd = sys_open(path, O_RDONLY, 0);
    ssize_t n;

    if (fd < 0)
        return false;
    n = sys_read(fd, text, size - 1);
    sys_close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* The number after `name` in a small file; false if there is none ("max", too). */
static bool read_number(const char *path, const char *name, uint64_t *out)
{
    char text[1536];
    const char *at, *digits;

    if (!read_file(path, text, sizeof(text)) || !(at = strstr(text, name)))
        return false;
    digits = at + strlen(name);
    digits += strspn(digits, " \t");
    *out = strtoull(digits, NULL, 10);
    return *digits >= '0' && *digits <= '9';
}

static bool read_group(struct arena *arena, const char *cgroup, const char *file, const char *name,
                       uint64_t *out)
{
    char *path = arena_printf(arena, "%s/%s", cgroup, file);

    return path && read_number(path, name, out);
}

uint64_t local_command_free_bytes(const char *meminfo, const char *cgroup)
{
    struct arena *arena = arena_new(MEM_PROCESS, 16 * 1024);
    uint64_t machine = UINT64_MAX, group = UINT64_MAX, most, used, cached = 0;

    if (read_number(meminfo, "MemAvailable:", &machine))
        machine *= 1024;
    if (arena && read_group(arena, cgroup, "memory.max", "", &most) &&
        read_group(arena, cgroup, "memory.current", "", &used)) {
        /* Cached files count as used, but they give way. */
        (void)read_group(arena, cgroup, "memory.stat", "inactive_file ", &cached);
        used = cached < used ? used - cached : 0;
        group = most > used ? most - used : 0;
    }
    arena_free(arena);
    return group < machine ? group : machine;
}

static err_t need_memory(const char *path, uint64_t file_bytes)
{
    uint64_t needed = file_bytes + file_bytes / 2 + SERVER_BYTES;
    uint64_t there = local_command_free_bytes("/proc/meminfo", "/sys/fs/cgroup");

    if (needed <= there)
        return NULL;
    return unavailable("too little memory for %s: it needs about %llu MiB, %llu MiB are free; "
                       "choose a smaller model",
                       path, (unsigned long long)(needed >> 20), (unsigned long long)(there >> 20));
}

/* ---- the command ---- */

static err_t make_arguments(const struct local_settings *s, const char *program, const char *model,
                            const char *socket, struct arena *arena, struct local_command *out)
{
    unsigned long long slots = s->slots ? s->slots : DEFAULT_SLOTS;
    unsigned long long context = s->context_tokens ? s->context_tokens : DEFAULT_CONTEXT;
    unsigned long long threads = s->threads ? s->threads : sys_processors();
    const char *last_slash = strrchr(model, '/');
    const char *alias = last_slash ? last_slash + 1 : model;
    const struct {
        const char *name, *value;
    } options[] = {
        {"-m", model},
        {"-a", alias}, /* what answers call it: callers need not know our files */
        {"--host", socket},
        {"-np", arena_printf(arena, "%llu", slots)},
        {"-c", arena_printf(arena, "%llu", context * slots)}, /* shared out between the slots */
        {"-t", arena_printf(arena, "%llu", threads)},
        /* Threads that wait do not spin: others need the processor, we among them. */
        {"--poll", "0"},
    };
    const size_t count = sizeof(options) / sizeof(*options);
    size_t n = 0;

    out->argv = arena_alloc_array(arena, 2 * count + 3, sizeof(*out->argv));
    if (!out->argv)
        return arena_err(arena);
    out->argv[n++] = (char *)(uintptr_t)program; /* execve promises not to change them */
    for (size_t i = 0; i < count; i++) {
        if (!options[i].value)
            return arena_err(arena);
        out->argv[n++] = (char *)(uintptr_t)options[i].name;
        out->argv[n++] = (char *)(uintptr_t)options[i].value;
    }
    out->argv[n] = (char *)(uintptr_t)"--jinja"; /* the model's own chat template */
    return NULL;
}

/* What the child sees of our environment: it needs none of our keys. */
static bool is_passed_on(const char *variable)
{
    static const char *const passed[] = {
        "PATH=",      "HOME=", "LANG=", "LC_",   "TZ=",     "TMPDIR=", "LD_LIBRARY_PATH=",
        "LLAMA_ARG_", "GGML_", "OMP_",  "CUDA_", "NVIDIA_", "HIP_",    "ROCR_",
        "HSA_",       "VK_",
    };

    for (size_t i = 0; i < sizeof(passed) / sizeof(*passed); i++)
        if (strncmp(variable, passed[i], strlen(passed[i])) == 0)
            return true;
    return false;
}

/* Options of some versions only: no page, no going online, and a prompt cache that is not 8 GiB. */
static const char *const extra_environment[] = {
    "LLAMA_ARG_UI=0",
    "LLAMA_ARG_OFFLINE=1",
    "LLAMA_ARG_CACHE_RAM=256",
};

static err_t make_environment(struct arena *arena, struct local_command *out)
{
    const size_t extra = sizeof(extra_environment) / sizeof(*extra_environment);
    size_t count = 0, n = 0;

    while (environ[count])
        count++;
    out->envp = arena_alloc_array(arena, count + extra + 1, sizeof(*out->envp));
    if (!out->envp)
        return arena_err(arena);
    for (size_t i = 0; i < count; i++)
        if (is_passed_on(environ[i]))
            out->envp[n++] = environ[i];
    for (size_t i = 0; i < extra; i++) {
        struct str name = {extra_environment[i], str_index(str_from(extra_environment[i]), '=')};
        const char *zero_ended = arena_cstr(arena, name);
        if (zero_ended && !getenv(zero_ended))
            out->envp[n++] = (char *)(uintptr_t)extra_environment[i];
    }
    return NULL;
}

err_t local_command_make(const struct local_settings *settings, const char *socket,
                         struct arena *arena, struct local_command *out)
{
    struct str program;
    uint64_t file_bytes = 0;
    char *path = NULL;

    TRY(need_program(settings, arena, &program));
    if (is_path(settings->model)) {
        path = path_of(settings, arena);
        if (!path)
            return arena_err(arena);
    } else {
        TRY(need_known_name(settings, arena, &path));
    }
    TRY(need_gguf(path, &file_bytes));
    TRY(need_memory(path, file_bytes));
    TRY(make_arguments(settings, program.ptr, path, socket, arena, out));
    return make_environment(arena, out);
}
