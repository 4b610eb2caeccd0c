/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands, and what they share. */
#include "cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "fiber/offload.h"
#include "net/resolve.h"

static const struct command commands[] = {
#define X(name, function, summary, help) {name, function, summary, help},
#include "cli/commands.def"
#undef X
};

#define COMMAND_COUNT (int)(sizeof(commands) / sizeof(*commands))

const struct command *command_next(int *at)
{
    return *at < COMMAND_COUNT ? &commands[(*at)++] : NULL;
}

const struct command *command_get(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

bool command_has_colour(int fd)
{
    const char *no_colour = getenv("NO_COLOR");

    return isatty(fd) && !(no_colour && *no_colour);
}

int command_fail(const char *command, err_t err)
{
    bool colour = command_has_colour(STDERR_FILENO);

    fprintf(stderr, "%ssluice %s:%s %s\n", colour ? "\033[1;31m" : "", command,
            colour ? "\033[0m" : "", err->text);
    return err->kind == ERR_CONFIG ? COMMAND_CONFIG : COMMAND_FAILED;
}

int command_misuse(const char *command, const char *text, const char *word)
{
    fprintf(stderr, "sluice %s: %s%s%s\nTry: sluice help %s\n", command, text, word ? ": " : "",
            word ? word : "", command);
    return COMMAND_MISUSED;
}

/* What a command's fiber is given. */
struct fiber_run {
    int (*fn)(void *arg);
    void *arg;
    struct arena *arena;
    int exit_code;
};

static void run_fiber(void *arg)
{
    struct fiber_run *run = arg;

    fiber_set_arena(run->arena);
    run->exit_code = run->fn(run->arg);
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

int command_run_in_fiber(int (*fn)(void *arg), void *arg)
{
    struct fiber_run run = {.fn = fn, .arg = arg, .arena = arena_new(MEM_TOOL, 64 * 1024 * 1024)};
    struct loop *loop;
    struct fiber *fiber;
    err_t err = run.arena ? loop_open(&loop) : err_no_memory();

    if (!err) {
        err = fiber_start_later("command", run_fiber, &run, &fiber);
        if (!err)
            loop_run(loop);
        resolve_close();
        offload_stop_all();
        loop_close(loop);
    }
    if (err)
        run.exit_code = command_fail("command", err);
    arena_free(run.arena);
    return run.exit_code;
}

err_t command_read_input(struct buf *out)
{
    ssize_t n;

    do {
        TRY(buf_reserve(out, 64 * 1024));
        n = sys_read(STDIN_FILENO, out->ptr + out->len, 64 * 1024);
        if (n < 0)
            return err_system(errno, "reading standard input");
        out->len += (size_t)n;
    } while (n > 0);
    return NULL;
}
