/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's chat completions as a provider speaks them; shared with the kinds that speak the same
 * protocol. */
#ifndef MODEL_PROVIDER_OPENAI_H
#define MODEL_PROVIDER_OPENAI_H

#include "model/provider.h"

/* As provider_ops.encode, relaying only the members for which keep(key) holds (NULL: all). */
err_t provider_openai_encode_kept(const struct conf_provider *provider,
                                  const struct chat_request *ask, struct str model,
                                  bool (*keep)(struct str key), struct arena *arena,
                                  struct provider_request *out) ERR_MUST_CHECK;

/* As provider_ops.decode, decode_end and decode_whole. */
err_t provider_openai_decode(struct decoder *decoder, const struct sse_event *in,
                             struct event *out) ERR_MUST_CHECK;
err_t provider_openai_decode_end(const struct decoder *decoder) ERR_MUST_CHECK;
err_t provider_openai_decode_whole(struct str body, struct usage *usage) ERR_MUST_CHECK;

#endif
