/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted of requests, and what is gathered from the threads when somebody scrapes. */
#ifndef GATEWAY_REQUEST_METRICS_H
#define GATEWAY_REQUEST_METRICS_H

#include <stdint.h>

#include "base/err.h"

struct gateway_service;
struct request;

/* Count a request by route and status, once, at its end (sys_now_ns). */
void request_metrics_count(const struct request *request, err_t err, uint64_t now_ns);

/* Count a model request that is turned away. `reason`: in_flight or memory. */
void request_metrics_shed(const char *reason);

/* PARKS (a fiber of the main thread): set the gauges of connections, fibers, loops and local models, before a scrape. */
void request_metrics_gather(struct gateway_service *service);

#endif
