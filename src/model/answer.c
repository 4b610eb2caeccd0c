/* SPDX-License-Identifier: Apache-2.0 */
/* Gathering the deltas of an answer into its parts.
 *
 * Text that comes in a row is one part; a call's arguments find their call by its index, however
 * they are interleaved. Texts grow in buffers that the arena frees at its end. */
#include "model/answer.h"

#include "base/buf.h"

struct answer answer_make(struct arena *arena)
{
    return (struct answer){.arena = arena};
}

static void free_text(void *text)
{
    buf_fini(text);
}

/* The choice of an index, added in its place if it is new. NULL without memory. */
static struct answer_choice *choice_at(struct answer *answer, unsigned index)
{
    struct answer_choice **at = &answer->choices, *choice;

    while (*at && (*at)->index < index)
        at = &(*at)->next;
    if (*at && (*at)->index == index)
        return *at;
    choice = arena_new_struct(answer->arena, struct answer_choice);
    if (!choice)
        return NULL;
    choice->index = index;
    choice->held_logprobs = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES);
    if (arena_defer(answer->arena, free_text, &choice->held_logprobs))
        return NULL;
    choice->next = *at;
    *at = choice;
    return choice;
}

/* A new part at the end. */
static err_t add_part(struct answer *answer, struct answer_choice *choice,
                      enum answer_part_kind kind, struct answer_part **out)
{
    struct answer_part *part = arena_new_struct(answer->arena, struct answer_part);

    if (!part)
        return arena_err(answer->arena);
    part->kind = kind;
    part->text = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES);
    TRY(arena_defer(answer->arena, free_text, &part->text));
    if (choice->last)
        choice->last->next = part;
    else
        choice->parts = part;
    choice->last = part;
    *out = part;
    return NULL;
}

/* The last part if it is of this kind, else a new one. */
static err_t part_of(struct answer *answer, struct answer_choice *choice,
                     enum answer_part_kind kind, struct answer_part **out)
{
    /* what was signed is complete: the next piece of reasoning has a signature of its own */
    if (choice->last && choice->last->kind == kind && choice->last->signature.len == 0) {
        *out = choice->last;
        return NULL;
    }
    return add_part(answer, choice, kind, out);
}

static struct answer_part *find_call(struct answer_choice *choice, unsigned index)
{
    for (struct answer_part *part = choice->parts; part; part = part->next)
        if (part->kind == ANSWER_CALL && part->index == index)
            return part;
    return NULL;
}

static err_t copy(struct answer *answer, struct str text, struct str *out)
{
    if (text.len == 0)
        return NULL;
    *out = arena_copy(answer->arena, text);
    return out->ptr ? NULL : arena_err(answer->arena);
}

static err_t add_text(struct answer *answer, struct answer_choice *choice,
                      enum answer_part_kind kind, struct str text)
{
    struct answer_part *part;

    /* what is redacted comes whole: each is a part */
    TRY(kind == ANSWER_REDACTED ? add_part(answer, choice, kind, &part)
                                : part_of(answer, choice, kind, &part));
    return buf_add(&part->text, text);
}

static err_t add_call(struct answer *answer, struct answer_choice *choice,
                      const struct delta *delta)
{
    struct answer_part *part = find_call(choice, delta->index);

    if (!part) {
        TRY(add_part(answer, choice, ANSWER_CALL, &part));
        part->index = delta->index;
    }
    TRY(copy(answer, delta->id, &part->id));
    TRY(copy(answer, delta->text, &part->signature));
    return copy(answer, delta->name, &part->name);
}

static err_t add_arguments(struct answer *answer, struct answer_choice *choice,
                           const struct delta *delta)
{
    struct answer_part *part = find_call(choice, delta->index);

    if (!part) {
        TRY(add_part(answer, choice, ANSWER_CALL, &part));
        part->index = delta->index;
    }
    return buf_add(&part->text, delta->text);
}

/* A signature belongs to the reasoning before it; a second one, or one without reasoning, to a
 * piece of its own that has no text. */
static err_t add_signature(struct answer *answer, struct answer_choice *choice, struct str text)
{
    struct answer_part *part;

    TRY(part_of(answer, choice, ANSWER_REASONING, &part));
    return copy(answer, text, &part->signature);
}

static err_t add_citation(struct answer *answer, struct answer_choice *choice, struct str text)
{
    struct answer_part *part;
    size_t count;

    TRY(part_of(answer, choice, ANSWER_TEXT, &part));
    count = part->citation_count;
    /* full at 4, 8, 16 …: the room doubles there */
    if (count == 0 || (count >= 4 && (count & (count - 1)) == 0)) {
        struct str *more = arena_alloc_array(answer->arena, count ? count * 2 : 4, sizeof(*more));
        if (!more)
            return arena_err(answer->arena);
        if (count > 0)
            memcpy(more, part->citations, count * sizeof(*more));
        part->citations = more;
    }
    TRY(copy(answer, text, &part->citations[count]));
    part->citation_count++;
    return NULL;
}

/* Lists of token entries, one after another, become one list. */
static err_t add_logprobs(struct answer_choice *choice, struct str list)
{
    struct buf *held = &choice->held_logprobs;

    if (list.len < 2 || json_is_empty(list))
        return NULL;
    if (held->len > 0) {
        held->ptr[held->len - 1] = ',';
        list = str_after(list, 1);
    }
    TRY(buf_add(held, list));
    choice->logprobs = buf_str(held);
    return NULL;
}

static err_t add_delta(struct answer *answer, const struct delta *delta)
{
    struct answer_choice *choice = choice_at(answer, delta->choice);

    if (!choice)
        return arena_err(answer->arena);
    switch (delta->kind) {
    case DELTA_TEXT:
        return add_text(answer, choice, ANSWER_TEXT, delta->text);
    case DELTA_REASONING:
        return add_text(answer, choice, ANSWER_REASONING, delta->text);
    case DELTA_REDACTED:
        return add_text(answer, choice, ANSWER_REDACTED, delta->text);
    case DELTA_REFUSAL:
        return add_text(answer, choice, ANSWER_REFUSAL, delta->text);
    case DELTA_SIGNATURE:
        return add_signature(answer, choice, delta->text);
    case DELTA_TOOL_CALL:
        return add_call(answer, choice, delta);
    case DELTA_ARGUMENTS:
        return add_arguments(answer, choice, delta);
    case DELTA_CITATION:
        return add_citation(answer, choice, delta->text);
    case DELTA_LOGPROBS:
        return add_logprobs(choice, delta->text);
    case DELTA_FINISH:
        choice->stop = delta->stop;
        return copy(answer, delta->text, &choice->stop_text);
    }
    return NULL;
}

err_t answer_add(struct answer *answer, const struct delta *deltas, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        answer->bytes += deltas[i].text.len + deltas[i].id.len + deltas[i].name.len;
        if (answer->bytes > ANSWER_MAX_BYTES)
            return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                                  "the provider's answer is longer than %zu bytes",
                                  ANSWER_MAX_BYTES);
        TRY(add_delta(answer, &deltas[i]));
    }
    return NULL;
}

const struct answer_choice *answer_first(const struct answer *answer)
{
    return answer->choices;
}

struct str answer_arguments(const struct answer_part *call)
{
    return call->text.len > 0 ? buf_str(&call->text) : STR("{}");
}
