/* SPDX-License-Identifier: Apache-2.0 */
/* Who is calling, and from where: keys, realms, users, Host names, origins. */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include <stdbool.h>

#include "govern/identity_store.h"

struct request;

/* Without keys the doors are open to this machine only: refuse Host names and browser origins that
 * are not local, so that a web page cannot reach in through DNS rebinding. Errors: DENIED (403). */
err_t auth_check_door(struct request *request) ERR_MUST_CHECK;

/* PARKS after a wrong key on the admin listener, and for a token by keys that must be fetched. Find the caller by key, or by a
 * token of an issuer, and check that it may use the route; sets
 * request->key, subject and caller. Compares in a time that does not depend on the key. Errors: DENIED (401 for no key, a
 * wrong one, or one that is not good any more; 403 for a missing scope or an address that it may not come
 * from), BAD_REQUEST (two Authorization headers, an X-User-ID that is none), LIMITED (429),
 * BUSY (503 while an issuer's keys are not at hand). */
err_t auth_check_key(struct request *request) ERR_MUST_CHECK;

/* The body is read: when neither a header nor a token named an end user, it may. He is told apart and can be suspended, but has no
 * limits and budgets of users, of which programs that send him to the provider know nothing. Errors: DENIED (401), BUSY. */
err_t auth_name_user(struct request *request) ERR_MUST_CHECK;

/* Whether the caller's key names the model that is asked, and the target that is wished for. Errors: DENIED (403). */
err_t auth_check_model(const struct request *request) ERR_MUST_CHECK;

/* The same as an answer: for lists of models. */
bool auth_names_model(const struct request *request, struct str model);

/* The realm of the caller, on routes of scope TENANT: ids of the organisation and project that it rules over; both are empty
 * for everything. */
void auth_realm(const struct request *request, struct str *org, struct str *project);

/* The same caller for the audit log. Without keys in force whoever sits at this machine rules. */
struct identity_actor auth_actor(const struct request *request);

#endif
