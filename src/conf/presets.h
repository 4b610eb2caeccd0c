/* SPDX-License-Identifier: Apache-2.0 */
/* Defaults of providers that depend on their kind, or on a preset (presets.def). */
#ifndef CONF_PRESETS_H
#define CONF_PRESETS_H

#include "conf/reader.h"

/* Set them in a provider whose other defaults are set, before its options are read. `node` is what
 * the file says of it, or NULL: its kind and preset are looked up there. Words that do not exist
 * change nothing here; they are problems when the options are read. */
void presets_apply(struct reader *r, const struct tree_node *node, struct conf_provider *provider);

/* The defaults of a kind. */
void presets_apply_kind(struct conf_provider *provider, enum conf_provider_kind kind);

/* Whether this base address is OpenAI's own. */
bool presets_is_openai(struct str url);

#endif
