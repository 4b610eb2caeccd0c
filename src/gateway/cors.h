/* SPDX-License-Identifier: Apache-2.0 */
/* OPTIONS requests and CORS preflights (Fetch standard). */
#ifndef GATEWAY_CORS_H
#define GATEWAY_CORS_H

#include "base/err.h"
#include "conf/conf.h"

struct request;

/* Whether web pages of this origin may read answers. */
bool cors_lists(const struct conf *conf, struct str origin);

/* PARKS: answer an OPTIONS request: 204, with permission for origins that the configuration lists. */
err_t cors_answer(struct request *request) ERR_MUST_CHECK;

#endif
