/* SPDX-License-Identifier: Apache-2.0 */
/* The list of provider kinds, indexed. */
#include "model/provider.h"

#include "base/check.h"

const struct provider_ops *provider_ops_get(enum conf_provider_kind kind)
{
    switch (kind) {
#define X(name, symbol)                                                                            \
    case CONF_PROVIDER_##name:                                                                     \
        return symbol;
#include "model/providers.def"
#undef X
    }
    check(!"a provider kind without operations");
    return NULL;
}
