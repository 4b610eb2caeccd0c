/* SPDX-License-Identifier: Apache-2.0 */
/* START HERE. The program: pick a command (cli/commands.def) and run it.
 *
 * `sluice serve` goes on in app.c; a request's path begins in gateway/request.c and is told by
 * gateway/chat.c. */
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "base/arena.h"
#include "base/mem.h"
#include "cli/command.h"

int command_serve(int argc, char **argv)
{
    struct app_options options = {.is_hinting = true};
    err_t err;

    for (int i = 1; i < argc; i++) {
        bool names_file = strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0;
        if (!names_file || i + 1 == argc)
            return command_misuse(
                "serve", names_file ? "a file name must follow" : "unknown option", argv[i]);
        options.conf_path = argv[++i];
    }
    err = app_serve(&options);
    return err ? command_fail("serve", err) : COMMAND_OK;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    const struct command *command;
    struct arena *arena;
    int exit_code;

    mem_adopt_libraries();
    arena = arena_new(MEM_PROCESS, 16 * 1024 * 1024);
    err_scope_set(arena);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    command = command_get(name);
    if (!command) {
        fprintf(stderr, "sluice: no command '%s'\nTry: sluice help\n", name);
        return COMMAND_MISUSED;
    }
    exit_code = argc > 1 ? command->run(argc - 1, argv + 1) : command->run(1, argv);
    err_scope_set(NULL);
    arena_free(arena);
    return exit_code;
}
