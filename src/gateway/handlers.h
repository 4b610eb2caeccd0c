/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers that routes.def names. Each answers its request or returns the error to answer with;
 * all PARK. */
#ifndef GATEWAY_HANDLERS_H
#define GATEWAY_HANDLERS_H

#include "base/err.h"

struct request;

err_t chat_handle(struct request *request);     /* chat.c */
err_t models_list(struct request *request);     /* models.c */
err_t models_get(struct request *request);      /* models.c */
err_t health_live(struct request *request);     /* health.c */
err_t health_ready(struct request *request);    /* health.c */
err_t metrics_show(struct request *request);    /* admin.c */
err_t admin_requests(struct request *request);  /* admin.c */
err_t admin_fibers(struct request *request);    /* admin.c */
err_t admin_upstreams(struct request *request); /* admin.c */
err_t admin_memory(struct request *request);    /* admin.c */
err_t admin_config(struct request *request);    /* admin.c */
err_t debug_handle(struct request *request);    /* debug.c */

#endif
