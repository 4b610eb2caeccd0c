/* SPDX-License-Identifier: Apache-2.0 */
/* What this is, whether it works, and whether requests are welcome. */
#include "gateway/handlers.h"
#include "gateway/request.h"

err_t root_show(struct request *r)
{
    return reply_text(r, 200, STR("text/plain; charset=utf-8"),
                      STR("Sluice: an AI backend. The API is under /v1.\n"));
}

err_t health_live(struct request *r)
{
    return reply_json(r, 200, STR("{\"status\":\"ok\"}"));
}

err_t health_ready(struct request *r)
{
    const struct gateway_service *service = r->gateway->service;

    if (atomic_load(&service->is_draining))
        return reply_json(r, 503, STR("{\"status\":\"draining\"}"));
    if (!atomic_load(&service->is_ready))
        return reply_json(r, 503, STR("{\"status\":\"starting\"}"));
    return reply_json(r, 200, STR("{\"status\":\"ready\"}"));
}
