/* SPDX-License-Identifier: Apache-2.0 */
/* How a model's server is started: the command line, and everything that would keep it from
 * working, found before it is tried and said with the way to mend it. */
#ifndef MODEL_LOCAL_COMMAND_H
#define MODEL_LOCAL_COMMAND_H

#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

/* What the configuration says about one server. Two with equal settings are the same server. */
struct local_settings {
    struct str provider; /* who asked for it first: for messages only */
    struct str data_dir;
    struct str model;                        /* catalogue name or path of a .gguf */
    struct str server;                       /* path of llama-server; empty: found */
    uint64_t threads, slots, context_tokens; /* 0: chosen here */
};

struct local_command {
    char **argv, **envp; /* for execve */
};

/* Compose the command that serves settings->model on the unix socket `socket`, all in the arena.
 * Reads files and the machine's memory. Errors: UPSTREAM with what is missing and how to supply
 * it. */
err_t local_command_make(const struct local_settings *settings, const char *socket,
                         struct arena *arena, struct local_command *out) ERR_MUST_CHECK;

/* Path of llama-server: `configured` as it is, else from $PATH, else
 * data_dir/llama-server/llama-server. In the arena, NUL-terminated; empty if there is none. */
struct str local_command_find(struct str configured, struct str data_dir, struct arena *arena);

/* Memory that this process' children may still take: what the machine has available (`meminfo`,
 * as /proc/meminfo), or less where `cgroup`, the folder of a control group (version 2), allows
 * less. UINT64_MAX when nothing is known. */
uint64_t local_command_free_bytes(const char *meminfo, const char *cgroup);

#endif
