/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics that any process has. Used by metrics.c alone. */
#ifndef OBSERVE_METRICS_PROCESS_H
#define OBSERVE_METRICS_PROCESS_H

/* Set them to what they are now: at each scrape. Reads /proc. */
void metrics_process_set(void);

#endif
