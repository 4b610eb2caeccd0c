/* SPDX-License-Identifier: Apache-2.0 */
/* On whose account a call goes: organisation → project → key → end user.
 *
 * Made by whoever authenticates a request (gateway/auth.c) and read by everyone who limits, reserves, books
 * or routes. All texts are borrowed from the request's arena or from the identity snapshot that it holds. */
#ifndef GOVERN_SUBJECT_H
#define GOVERN_SUBJECT_H

#include <stdint.h>

#include "base/str.h"
#include "conf/conf.h"

/* Of a rate, or streams: there is no limit, whatever holds for others. */
#define ALLOWANCE_OFF UINT64_MAX

/* What an owner may use; of rates and quotas that are not set, count is 0, and what is configured for all holds. */
struct allowance {
    struct conf_rate requests, tokens; /* per window */
    uint64_t streams;                  /* concurrent; 0: not set */
    struct conf_quotas token_budget, money_budget;
};

struct subject {
    struct str org, project, key; /* ids; "default" without keys or for keys of the configuration */
    struct str key_name;          /* for logs and conditions of routes */
    struct str user;              /* end user; empty: none named */
    bool user_is_limited; /* named by X-User-ID or a token, not the body: his own limits hold */
    struct str tier;      /* of the project; empty: none */
    /* Overrides of what the configuration says for all keys and all projects; NULL: none. */
    const struct allowance *key_allowance, *project_allowance;
};

#endif
