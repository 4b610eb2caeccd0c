/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be done from time to time for what is kept of past requests: responses and answers under an
 * Idempotency-Key. */
#ifndef GATEWAY_KEEPER_H
#define GATEWAY_KEEPER_H

#include "govern/service.h"

/* To be given to govern_add before govern_open. */
extern const struct govern_service keeper_service;

#endif
