/* SPDX-License-Identifier: Apache-2.0 */
/* sluice backup and sluice restore: copies of an SQLite store.
 *
 * A backup is made by the running server, which this asks through the admin API. A restore is done here, with no
 * server running. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/conf_option.h"
#include "fiber/fiber.h"
#include "store/db.h"

#define PATH_MAX_BYTES 1024
#define LIMIT_MS       ((uint64_t)60 * 60 * 1000)

struct store_command {
    const char *url, *conf_path, *file;
};

/* ---- backup ---- */

/* The server has a working directory of its own. */
static err_t absolute(const char *file, struct str *out)
{
    char folder[PATH_MAX_BYTES];
    const char *path = file;

    if (file[0] != '/') {
        if (!getcwd(folder, sizeof(folder)))
            return err_new(ERR_SYSTEM, "the working directory has no path");
        path = arena_printf(fiber_arena(), "%s/%s", folder, file);
    }
    *out = str_from(path);
    return path ? NULL : arena_err(fiber_arena());
}

static err_t make_body(struct str path, struct buf *body)
{
    TRY(buf_add(body, STR("{\"path\":")));
    TRY(buf_add_json(body, path));
    return buf_add_byte(body, '}');
}

static err_t ask_backup(struct client *client, struct str path)
{
    struct buf body = buf_make(MEM_TOOL, PATH_MAX_BYTES * 8);
    struct str said = {0};
    int status = 0;
    err_t err = make_body(path, &body);

    if (!err)
        err = client_send(client, "POST", "/admin/backup", buf_str(&body), loop_now_ms() + LIMIT_MS,
                          &status, &said);
    buf_fini(&body);
    if (!err && status != 200)
        err = client_refusal(status, said);
    return err;
}

static int run_backup(void *arg)
{
    const struct store_command *c = arg;
    struct client client;
    struct str path;
    err_t err = client_open_admin(c->url, &client);

    if (!err)
        err = absolute(c->file, &path);
    if (!err)
        err = ask_backup(&client, path);
    client_close(&client);
    if (err)
        return command_fail("backup", err);
    printf("%.*s\n", STR_ARG(path));
    return COMMAND_OK;
}

int command_backup(int argc, char **argv)
{
    struct store_command c = {0};

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--url") == 0) {
            if (++i == argc)
                return command_misuse("backup", "a URL must follow", "--url");
            c.url = argv[i];
        } else if (argv[i][0] == '-' || c.file) {
            return command_misuse("backup", "unknown option", argv[i]);
        } else {
            c.file = argv[i];
        }
    }
    if (!c.file || !c.file[0])
        return command_misuse("backup", "the name of the backup is missing", NULL);
    return command_run_in_fiber(run_backup, &c);
}

/* ---- restore ---- */

static err_t restore(const struct store_command *c, struct arena *arena)
{
    struct conf *conf;
    struct str kept;
    err_t err;

    TRY(conf_option_need(c->conf_path, arena, &conf));
    err = db_restore(conf->store.url, str_from(c->file), arena, &kept);
    if (!err)
        printf("restored %s from %s\n", conf->store.url.ptr, c->file);
    if (!err && kept.len)
        printf("the database that was there is kept as %.*s\n", STR_ARG(kept));
    conf_unref(conf);
    return err;
}

int command_restore(int argc, char **argv)
{
    struct store_command c = {0};
    struct arena *arena;
    int exit_code;
    err_t err;

    for (int i = 1; i < argc; i++) {
        if (conf_option_take(argc, argv, &i, &c.conf_path)) {
            if (!c.conf_path)
                return command_misuse("restore", "a file name must follow", argv[i]);
        } else if (argv[i][0] == '-' || c.file) {
            return command_misuse("restore", "unknown option", argv[i]);
        } else {
            c.file = argv[i];
        }
    }
    if (!c.file || !c.file[0])
        return command_misuse("restore", "the backup's name is missing", NULL);
    arena = arena_new(MEM_TOOL, (size_t)16 * 1024 * 1024);
    err = arena ? restore(&c, arena) : err_no_memory();
    exit_code = err ? command_fail("restore", err) : COMMAND_OK;
    arena_free(arena);
    return exit_code;
}
