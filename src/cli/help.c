/* SPDX-License-Identifier: Apache-2.0 */
/* sluice help, sluice version. */
#include <stdio.h>

#include "cli/command.h"
#include "version.h"

int command_version(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return command_misuse("version", "takes no words", NULL);
    printf("sluice %s\n", SLUICE_VERSION);
    return COMMAND_OK;
}

int command_help(int argc, char **argv)
{
    const struct command *command;

    if (argc > 1) {
        command = command_get(argv[1]);
        if (!command)
            return command_misuse("help", "no such command", argv[1]);
        printf("%s.\n\n%s", command->summary, command->help);
        return COMMAND_OK;
    }
    printf("Sluice: the AI backend in one program.\n\nUsage: sluice COMMAND …\n\n");
    for (int at = 0; (command = command_next(&at));)
        printf("  %-12s %s\n", command->name, command->summary);
    printf("\nsluice help COMMAND explains one, with examples.\n");
    return COMMAND_OK;
}
