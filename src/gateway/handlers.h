/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers that routes.def names. Each answers its request or returns the error to answer with;
 * all PARK. */
#ifndef GATEWAY_HANDLERS_H
#define GATEWAY_HANDLERS_H

#include "base/err.h"
#include "base/str.h"

struct request;

err_t chat_handle(struct request *request);         /* chat.c */
err_t completions_handle(struct request *request);  /* chat.c */
err_t responses_handle(struct request *request);    /* chat.c */
err_t compact_handle(struct request *request);      /* chat.c */
err_t messages_handle(struct request *request);     /* chat.c */
err_t messages_count(struct request *request);      /* count.c */
err_t responses_count(struct request *request);     /* count.c */
err_t responses_get(struct request *request);       /* responses.c */
err_t responses_delete(struct request *request);    /* responses.c */
err_t responses_cancel(struct request *request);    /* responses.c */
err_t embeddings_handle(struct request *request);   /* chat.c */
err_t rerank_handle(struct request *request);       /* chat.c */
err_t moderations_handle(struct request *request);  /* chat.c */
err_t passthrough_handle(struct request *request);  /* passthrough.c */
err_t admin_attempts(struct request *request);      /* admin.c */
err_t models_list(struct request *request);         /* models.c */
err_t models_get(struct request *request);          /* models.c */
err_t root_show(struct request *request);           /* health.c */
err_t health_live(struct request *request);         /* health.c */
err_t health_ready(struct request *request);        /* health.c */
err_t metrics_show(struct request *request);        /* admin.c */
err_t admin_requests(struct request *request);      /* admin.c */
err_t admin_fibers(struct request *request);        /* admin.c */
err_t admin_upstreams(struct request *request);     /* admin.c */
err_t admin_memory(struct request *request);        /* admin.c */
err_t admin_config(struct request *request);        /* admin.c */
err_t admin_orgs(struct request *request);          /* admin_identity.c */
err_t admin_projects(struct request *request);      /* admin_identity.c */
err_t admin_keys(struct request *request);          /* admin_identity.c */
err_t admin_users(struct request *request);         /* admin_identity.c */
err_t admin_audit(struct request *request);         /* admin_identity.c */
err_t admin_usage(struct request *request);         /* admin_usage.c */
err_t admin_ledger(struct request *request);        /* admin_usage.c */
err_t admin_budgets(struct request *request);       /* admin_usage.c */
err_t admin_prices(struct request *request);        /* admin_usage.c */
err_t admin_backup(struct request *request);        /* admin_store.c */
err_t admin_route_explain(struct request *request); /* admin_route.c */
err_t debug_handle(struct request *request);        /* debug.c */

/* Send the request as it is to the provider of "provider/model" and relay its answer: for what only
 * that provider has. */
err_t passthrough_to(struct request *request, struct str home); /* passthrough.c */

#endif
