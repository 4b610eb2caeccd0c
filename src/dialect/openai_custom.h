/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's custom tools, whose input is a text, for providers that know functions only.
 *
 * Such a tool is offered as a function with one argument, `input`, and a call's arguments are told
 * to the caller as the text in there. Shared by chat completions and responses. Pure.
 *
 * Source: OpenAI's OpenAPI description 2.3.0, schemas CustomToolParam, CustomToolChatCompletions
 * and CustomToolCall. */
#ifndef DIALECT_OPENAI_CUSTOM_H
#define DIALECT_OPENAI_CUSTOM_H

#include "base/buf.h"
#include "model/message.h"

/* Make a tool, whose name and description are known, such a function. `format` is the one that the
 * caller wants the input to have, an object or nothing: a grammar is told to the model in words.
 * Errors: BUSY. */
err_t openai_custom_make(struct str format, struct arena *arena, struct tool *tool) ERR_MUST_CHECK;

/* The arguments {"input":…} of an earlier call, in the arena. Errors: BUSY. */
err_t openai_custom_arguments(struct str input, struct arena *arena,
                              struct str *out) ERR_MUST_CHECK;

/* Whether `name` is a custom tool of a request whose prompt was worked out. */
bool openai_custom_is(const struct chat_request *ask, struct str name);

/* A call's arguments being read piece by piece. Begin with openai_custom_begin. */
struct openai_custom_input {
    struct buf held; /* what cannot be read yet */
    /* seen from the text */
    enum { CUSTOM_BEFORE, CUSTOM_WITHIN, CUSTOM_BEHIND } where;
};

/* `input` must live as long as the arena, which gives its memory back. Errors: BUSY. */
err_t openai_custom_begin(struct openai_custom_input *input, struct arena *arena) ERR_MUST_CHECK;

/* The next fragment of the arguments: *more becomes what it adds to the text, in the arena.
 * Errors: BUSY, TOO_BIG. */
err_t openai_custom_add(struct openai_custom_input *input, struct str fragment, struct arena *arena,
                        struct str *more) ERR_MUST_CHECK;

/* The arguments are complete, or as complete as they will be: what is still missing of the text.
 * A model that did not keep to the function's form is taken at its word: all that it wrote is the
 * input. Errors: BUSY. */
err_t openai_custom_end(struct openai_custom_input *input, struct arena *arena,
                        struct str *more) ERR_MUST_CHECK;

/* The text of whole arguments, the same as piece by piece. Errors: BUSY. */
err_t openai_custom_whole(struct str arguments, struct arena *arena,
                          struct str *out) ERR_MUST_CHECK;

#endif
