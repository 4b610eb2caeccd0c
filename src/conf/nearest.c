/* SPDX-License-Identifier: Apache-2.0 */
/* Suggests a word: one typing slip in three letters at most, three in all, or the word's
 * beginning. */
#include "conf/nearest.h"

#define MOST_SLIPS 3

struct nearest nearest_begin(struct str text)
{
    size_t slips = text.len / 3 + 1;

    return (struct nearest){.text = text,
                            .distance = (slips < MOST_SLIPS ? slips : MOST_SLIPS) + 1};
}

void nearest_offer(struct nearest *n, struct str word)
{
    size_t distance = str_distance(n->text, word, MOST_SLIPS);

    /* "timeout" means "timeouts", and "cert" means "certificate". */
    if (n->text.len >= 3 && str_starts(word, n->text))
        distance = 1;
    if (distance < n->distance && distance < word.len) {
        n->distance = distance;
        n->word = word;
    }
}

const char *nearest_hint(const struct nearest *n, struct arena *arena)
{
    const char *hint = NULL;

    if (n->word.len)
        hint = arena_printf(arena, " (did you mean \"%.*s\"?)", STR_ARG(n->word));
    return hint ? hint : "";
}
