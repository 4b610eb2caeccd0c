/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a request meets a route's conditions, and whether a target can do what it asks for. */
#ifndef MODEL_ROUTE_MATCH_H
#define MODEL_ROUTE_MATCH_H

#include "model/router.h"

/* What a target is passed by for. */
enum route_lack { ROUTE_FITS, ROUTE_WHEN, ROUTE_CONTEXT, ROUTE_TOOLS, ROUTE_IMAGES, ROUTE_SCHEMA };

/* A request being matched. Its meaning is worked out at the first condition that needs it. */
struct route_match {
    struct providers *providers;
    struct chat_request *ask;
    const struct route_caller *caller;
    struct arena *arena;

    bool has_looked; /* what follows is known */
    bool has_tools, has_images, has_schema;
    uint64_t answer_tokens; /* at most, as asked; 0: not said */
    bool has_counted;
    uint64_t prompt_tokens;
};

/* Whether chat_prompt's error is no reason to refuse: whoever is asked may understand what could not be read here. */
bool route_match_is_unread(const struct chat_request *ask, err_t err);

/* Whether the conditions hold. Errors: chat_prompt's. */
err_t route_match_when(struct route_match *match, const struct conf_when *when,
                       bool *holds) ERR_MUST_CHECK;

/* What the target lacks. Errors: chat_prompt's. */
err_t route_match_target(struct route_match *match, const struct conf_target *target,
                         enum route_lack *lack) ERR_MUST_CHECK;

#endif
