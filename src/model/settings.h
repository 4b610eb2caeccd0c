/* SPDX-License-Identifier: Apache-2.0 */
/* The protocols, and the settings of a request that go from one to another as a name and a value
 * (settings.def). What needs more than a name is translated by code: messages, tools, formats. */
#ifndef MODEL_SETTINGS_H
#define MODEL_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

/* What bytes are written in. The first four are spoken by callers, and the first two, MESSAGES and
 * GEMINI by providers; those from EMBEDDINGS on have no translation. */
enum protocol {
    PROTOCOL_CHAT,        /* OpenAI chat completions */
    PROTOCOL_RESPONSES,   /* OpenAI responses */
    PROTOCOL_MESSAGES,    /* Anthropic messages */
    PROTOCOL_COMPLETIONS, /* OpenAI legacy completions */
    PROTOCOL_GEMINI,      /* Gemini generateContent */
    PROTOCOL_EMBEDDINGS,
    PROTOCOL_RERANK,
    PROTOCOL_MODERATIONS,
    PROTOCOL_COMPACT, /* OpenAI: a conversation of responses, made shorter */
    PROTOCOL_OTHER,   /* bodies that are relayed without being read */
    PROTOCOL_COUNT
};

enum setting {
#define X(id, ...) SETTING_##id,
#include "model/settings.def"
#undef X
    SETTING_COUNT
};

/* What becomes of a setting in a protocol. */
enum setting_rule {
    SETTING_AS,      /* the same value under `name` */
    SETTING_EXTRA,   /* the same, but only for providers that take extensions; else dropped */
    SETTING_CLAMP_1, /* the same, numbers above 1 become 1 and are reported */
    SETTING_MADE,    /* translated by the protocol's own code; `name` is where it ends */
    SETTING_DROP,    /* left out and reported: it only tunes */
    SETTING_REFUSE,  /* an error: it would change what the answer contains */
    SETTING_LOCAL    /* not the provider's business, left out without a word */
};

struct setting_column {
    enum setting_rule rule;
    struct str name; /* empty for DROP, REFUSE and LOCAL in protocols that have no such member */
};

/* The name of a setting as OpenAI chat callers know it: for messages and x-sluice-dropped. */
struct str setting_name(enum setting setting);

/* A setting's place in a protocol that callers or providers speak. */
const struct setting_column *setting_in(enum setting setting, enum protocol protocol);

/* The setting that a caller's top-level member means, or SETTING_COUNT. */
enum setting setting_of(enum protocol protocol, struct str member);

/* Whether a value is what the API would assume anyway, so that leaving it out changes nothing. */
bool setting_is_default(enum setting setting, struct str value);

/* Who speaks it: refusals of one family are understood by all its callers. */
enum protocol_family { FAMILY_OPENAI, FAMILY_ANTHROPIC, FAMILY_GEMINI };
static inline enum protocol_family protocol_family(enum protocol protocol)
{
    return protocol == PROTOCOL_MESSAGES ? FAMILY_ANTHROPIC
           : protocol == PROTOCOL_GEMINI ? FAMILY_GEMINI
                                         : FAMILY_OPENAI;
}

/* "chat", "responses" … for messages and logs. */
const char *protocol_name(enum protocol protocol);

#endif
