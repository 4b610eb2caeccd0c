/* SPDX-License-Identifier: Apache-2.0 */
/* What makes two requests belong together, for routes that stick. */
#ifndef MODEL_ROUTE_STICKY_H
#define MODEL_ROUTE_STICKY_H

#include "model/router.h"

/* A number that is the same for all requests of a conversation, or of a user. Work is done in the
 * arena; a request without any sign gets the number of how it begins. */
uint64_t route_sticky_key(struct chat_request *ask, const struct route_caller *caller, bool by_user,
                          struct arena *arena);

#endif
