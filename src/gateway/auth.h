/* SPDX-License-Identifier: Apache-2.0 */
/* Who is calling, and from where: keys, Host names, origins. */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include "base/err.h"

struct request;

/* Without keys the doors are open to this machine only: refuse Host names and browser origins that
 * are not local, so that a web page cannot reach in through DNS rebinding. Errors: DENIED (403). */
err_t auth_check_door(struct request *request) ERR_MUST_CHECK;

/* Find the caller by key and check that it may use the route; sets request->caller. Compares in a
 * time that does not depend on the key. Errors: DENIED (401 for no or a wrong key, 403 for a
 * missing scope), BAD_REQUEST (two Authorization headers). */
err_t auth_check_key(struct request *request) ERR_MUST_CHECK;

#endif
