/* SPDX-License-Identifier: Apache-2.0 */
/* A request's meaning, worked out once and only if somebody asks. */
#include "model/message.h"

err_t chat_prompt(struct chat_request *ask, struct arena *arena, const struct prompt **out)
{
    if (!ask->prompt) {
        if (!ask->expand)
            return err_new_detail(ERR_BAD_REQUEST, (.code = "unsupported_parameter"),
                                  "%s requests cannot be translated for another kind of provider",
                                  protocol_name(ask->protocol));
        struct prompt *prompt = arena_new_struct(arena, struct prompt);
        if (!prompt)
            return arena_err(arena);
        TRY(ask->expand(ask, arena, prompt));
        ask->prompt = prompt;
    }
    *out = ask->prompt;
    return NULL;
}
