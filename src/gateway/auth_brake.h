/* SPDX-License-Identifier: Apache-2.0 */
/* A brake for those who try keys, or ids, until one fits.
 *
 * Each address may be wrong BURST times at once and once a second from then on; every wrong try is answered
 * later than the one before. Who is over it is refused before anything is compared. */
#ifndef GATEWAY_AUTH_BRAKE_H
#define GATEWAY_AUTH_BRAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum brake { BRAKE_KEYS, BRAKE_IDS };

/* Whether an address may try. Errors: LIMITED (429); *wait_ms says when to come back. */
err_t auth_brake_check(enum brake brake, const char *ip, uint64_t *wait_ms) ERR_MUST_CHECK;

/* PARKS: a wrong try; returns when it may be answered. Errors: cancellation. */
err_t auth_brake_count(enum brake brake, const char *ip) ERR_MUST_CHECK;

#endif
