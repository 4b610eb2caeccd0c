/* SPDX-License-Identifier: Apache-2.0 */
/* One request through the gateway: who asks, what for, how far it is, how it ends.
 *
 * request_run is the life of every request: route, authorise, admit, handle, finish. What must
 * happen however a request ends (answer an error, settle, count, log) is in request_finish and
 * nowhere else. */
#ifndef GATEWAY_REQUEST_H
#define GATEWAY_REQUEST_H

#include "dialect/dialect.h"
#include "gateway/gateway.h"
#include "gateway/reply.h"
#include "gateway/response_hold.h"
#include "gateway/route.h"
#include "govern/identity.h"
#include "model/call.h"

struct request {
    struct list link; /* in gateway->requests */
    struct exchange *exchange;
    struct fiber *fiber; /* that runs it */
    struct arena *arena;
    struct gateway *gateway;
    struct providers *providers; /* with the configuration snapshot it began with */
    const struct conf *conf;
    const struct dialect *dialect;   /* in which the caller is answered */
    const struct route *route;       /* NULL: none found */
    struct str path_rest;            /* what "*" stood for, decoded */
    const struct identity *identity; /* keys as they were when it began */
    const struct identity_key *key;  /* that was shown; NULL: none was needed */
    struct subject subject;          /* on whose account it goes; set before the handler */
    struct str caller;               /* name of the key; empty: no keys in force */
    const char *allowed_methods;     /* for a 405 */
    const char *step;
    struct chat_request ask; /* of a model */
    struct call call;
    struct response_hold *hold;      /* responses; else NULL */
    struct idempotency *idempotency; /* NULL: it came without Idempotency-Key */
    struct reply reply;
    bool is_admitted;       /* counted in service->in_flight */
    bool may_choose_target; /* by x-sluice-target */
};

/* How long the end of a request waits for the store at each step, whatever else happens: the process cannot end before. */
#define REQUEST_STORE_MS 5000

/* Run an exchange: the handler that gateway_server_options installs. PARKS. */
void request_run(struct exchange *exchange, void *gateway);

/* Name the step a request is at, static text: for views, crash reports and the access log. */
void request_step(struct request *request, const char *step);

/* Whose the things are that a request leaves behind, as a text in the arena: what another key left means nothing to
 * this caller. Errors: BUSY. */
err_t request_owner(const struct request *request, struct str *owner) ERR_MUST_CHECK;

/* The body must be JSON by its Content-Type. Errors: BAD_REQUEST (415). */
err_t request_check_json(const struct request *request) ERR_MUST_CHECK;

/* Take the target that an authorised caller wishes for (x-sluice-target) into call.caller. Errors:
 * DENIED (403). */
err_t request_read_wish(struct request *request) ERR_MUST_CHECK;

/* Count a model request in, unless the service is overloaded. Errors: BUSY (503). */
err_t request_admit(struct request *request) ERR_MUST_CHECK;

#endif
