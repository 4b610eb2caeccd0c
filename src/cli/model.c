/* SPDX-License-Identifier: Apache-2.0 */
/* sluice model: the catalogue, and the files below data_dir/models. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "cli/command.h"
#include "cli/conf_option.h"
#include "fiber/fiber.h"
#include "model/catalogue.h"
#include "model/pull.h"

#define BAR_WIDTH 30

struct model_command {
    const char *verb, *name, *sha256, *conf_path;
    struct str data_dir;
    /* Progress. */
    bool on_terminal;
    unsigned shown; /* tenths on a log, per mille on a terminal */
    uint64_t shown_ms;
};

static double megabytes(uint64_t bytes)
{
    return (double)bytes / 1e6;
}

/* ---- list ---- */

static bool is_catalogue_file(const char *name)
{
    const struct catalogue_model *model;

    for (size_t at = 0; (model = catalogue_next(&at));)
        if (strcmp(model->file, name) == 0)
            return true;
    return false;
}

/* Files that were pulled by URL or put there by hand: their names work as `model:` too. */
static void list_others(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    struct stat info;

    while (dir && (entry = readdir(dir))) {
        if (!str_ends(str_from(entry->d_name), STR(".gguf")) || is_catalogue_file(entry->d_name))
            continue;
        if (fstatat(dirfd(dir), entry->d_name, &info, 0) == 0)
            printf("%-22s %6.0f MB  yes        %-11s %s\n", entry->d_name,
                   megabytes((uint64_t)info.st_size), "-", "-");
    }
    if (dir)
        closedir(dir);
}

static err_t list(const struct model_command *c)
{
    char *folder = arena_printf(fiber_arena(), "%.*s/models", STR_ARG(c->data_dir));
    const struct catalogue_model *model;

    if (!folder)
        return arena_err(fiber_arena());
    printf("%-22s %9s  %-9s  %-11s %s\n", "NAME", "SIZE", "INSTALLED", "LICENCE", "FIT FOR");
    for (size_t at = 0; (model = catalogue_next(&at));)
        printf("%-22s %6.0f MB  %-9s  %-11s %s\n", model->name, megabytes(model->bytes),
               catalogue_is_installed(c->data_dir, model) ? "yes" : "no", model->licence,
               model->note);
    list_others(folder);
    return NULL;
}

/* ---- pull ---- */

static void draw_bar(struct model_command *c, uint64_t done, uint64_t total)
{
    int filled = total ? (int)(done * BAR_WIDTH / total) : 0;

    fprintf(stderr, "\r%.*s%.*s %5.0f of %.0f MB \033[K", filled,
            "==============================", BAR_WIDTH - filled, "..............................",
            megabytes(done), megabytes(total));
    if (total && done == total)
        fputc('\n', stderr);
}

/* Ten lines in a log, ten pictures a second on a terminal. */
static void on_progress(uint64_t done, uint64_t total, void *arg)
{
    struct model_command *c = arg;
    uint64_t now_ms = sys_now_ms();
    unsigned tenth = total ? (unsigned)(done * 10 / total) : (unsigned)(done / 100000000);

    if (c->on_terminal) {
        if (now_ms - c->shown_ms >= 100 || (total && done == total))
            draw_bar(c, done, total ? total : done);
        else
            return;
        c->shown_ms = now_ms;
    } else if (tenth > c->shown) {
        fprintf(stderr, "%.0f of %.0f MB\n", megabytes(done), megabytes(total ? total : done));
        c->shown = tenth;
    }
}

static void on_note(const char *text, void *arg)
{
    const struct model_command *c = arg;

    fprintf(stderr, "%s%s\n", c->on_terminal ? "\r\033[K" : "", text);
}

static err_t pull(struct model_command *c)
{
    const struct catalogue_model *model = catalogue_get(str_from(c->name));
    struct pull pull = {
        .data_dir = c->data_dir, .arg = c, .on_progress = on_progress, .on_note = on_note};
    const char *file;

    c->on_terminal = isatty(STDERR_FILENO);
    if (!model && str_find(str_from(c->name), STR("://")) < strlen(c->name)) {
        if (!c->sha256)
            return err_new(ERR_BAD_REQUEST,
                           "a URL needs --sha256 HEX: the publisher's page shows it");
        TRY(pull_url(&pull, str_from(c->name), str_from(c->sha256), &file));
    } else if (!model) {
        return err_new(ERR_NOT_FOUND,
                       "no model is named %s; `sluice model list` shows those there are", c->name);
    } else if (catalogue_is_installed(c->data_dir, model)) {
        printf("%s is installed\n", model->name);
        return NULL;
    } else {
        fprintf(stderr, "pulling %s (%.0f MB)\n", model->name, megabytes(model->bytes));
        TRY(pull_model(&pull, model));
        file = model->file;
    }
    printf("%.*s/models/%s\n", STR_ARG(c->data_dir), file);
    return NULL;
}

/* ---- rm ---- */

static err_t remove_file(const struct model_command *c)
{
    const struct catalogue_model *model = catalogue_get(str_from(c->name));
    const char *file = model ? model->file : c->name;
    char *path = arena_printf(fiber_arena(), "%.*s/models/%s", STR_ARG(c->data_dir), file);
    char *part = arena_printf(fiber_arena(), "%.*s/models/%s.part", STR_ARG(c->data_dir), file);
    bool had_part;

    if (!path || !part)
        return arena_err(fiber_arena());
    if (strchr(file, '/') || !str_ends(str_from(file), STR(".gguf")))
        return err_new(ERR_NOT_FOUND, "no model is named %s", c->name);
    had_part = unlink(part) == 0;
    if (unlink(path) == 0 || had_part)
        return NULL;
    return errno == ENOENT ? err_new(ERR_NOT_FOUND, "%s is not installed", c->name)
                           : err_system(errno, path);
}

/* ---- the command ---- */

static err_t act(struct model_command *c)
{
    struct conf *conf;
    err_t err;

    TRY(conf_option_need(c->conf_path, fiber_arena(), &conf));
    c->data_dir = conf->data_dir;
    if (strcmp(c->verb, "list") == 0)
        err = list(c);
    else if (strcmp(c->verb, "pull") == 0)
        err = pull(c);
    else
        err = remove_file(c);
    conf_unref(conf);
    return err;
}

static int run(void *arg)
{
    err_t err = act(arg);

    return err ? command_fail("model", err) : COMMAND_OK;
}

static int read_words(struct model_command *c, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (conf_option_take(argc, argv, &i, &c->conf_path)) {
            if (!c->conf_path)
                return command_misuse("model", "a file name must follow", argv[i]);
        } else if (strcmp(argv[i], "--sha256") == 0) {
            if (++i == argc)
                return command_misuse("model", "a hash must follow", "--sha256");
            c->sha256 = argv[i];
        } else if (argv[i][0] == '-') {
            return command_misuse("model", "unknown option", argv[i]);
        } else if (!c->verb) {
            c->verb = argv[i];
        } else if (!c->name) {
            c->name = argv[i];
        } else {
            return command_misuse("model", "one name at a time", argv[i]);
        }
    }
    return COMMAND_OK;
}

int command_model(int argc, char **argv)
{
    struct model_command c = {0};
    int exit_code = read_words(&c, argc, argv);
    bool is_list;

    if (exit_code != COMMAND_OK)
        return exit_code;
    is_list = c.verb && strcmp(c.verb, "list") == 0;
    if (!c.verb || (!is_list && strcmp(c.verb, "pull") != 0 && strcmp(c.verb, "rm") != 0))
        return command_misuse("model", "list, pull or rm is needed", c.verb);
    if (is_list ? c.name != NULL : c.name == NULL)
        return command_misuse(
            "model", is_list ? "list takes no name" : "the name of a model is needed", c.name);
    return command_run_in_fiber(run, &c);
}
