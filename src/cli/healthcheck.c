/* SPDX-License-Identifier: Apache-2.0 */
/* sluice healthcheck: for containers and scripts, silent when all is well. */
#include <string.h>

#include "cli/client.h"
#include "cli/command.h"
#include "fiber/loop.h"

#define LIMIT_MS 2000

static err_t ask_ready(struct client *client)
{
    struct str body = {0};
    int status;

    TRY(client_get(client, "/ready", loop_now_ms() + LIMIT_MS, &status, &body));
    return status == 200 ? NULL : client_refusal(status, body);
}

static int run(void *url)
{
    struct client client;
    err_t err = client_open(url, &client);

    if (!err)
        err = ask_ready(&client);
    client_close(&client);
    return err ? command_fail("healthcheck", err) : COMMAND_OK;
}

int command_healthcheck(int argc, char **argv)
{
    char *url = NULL;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--url") != 0)
            return command_misuse("healthcheck", "unknown option", argv[i]);
        if (++i == argc)
            return command_misuse("healthcheck", "a URL must follow", "--url");
        url = argv[i];
    }
    return command_run_in_fiber(run, url);
}
