/* SPDX-License-Identifier: Apache-2.0 */
/* Counters, gauges and histograms, listed in metrics.def; Prometheus text on demand.
 *
 * Each thread has its own cells, written without locks and summed when read. Labels come from
 * small sets that are fixed by code or configuration (models, providers, statuses): a value that
 * a caller sent never makes a new series, and beyond METRIC_MAX_SERIES series of one metric
 * "other" is used. */
#ifndef OBSERVE_METRICS_H
#define OBSERVE_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum metric {
#define X(id, kind, name, labels, help) METRIC_##id,
#include "observe/metrics.def"
#undef X
    METRIC_COUNT
};

#define METRIC_MAX_SERIES 1000

/* A series is a metric with label values: look it up once and keep the handle, which is good until
 * metrics_close and usable from every thread. */
struct metric_series;

/* The series for these label values: C strings in the metric's order, then NULL, as in
 * metric_series_get(METRIC_LLM_REQUESTS, "gpt-4", "200", NULL). Takes a lock. Values over 128
 * bytes are cut. Never NULL: the metric's series "other" stands in when memory is short or there
 * are too many. */
struct metric_series *metric_series_get(enum metric metric, ...) __attribute__((sentinel));

/* Add to a counter or gauge (negative deltas for gauges only). */
void metric_add(struct metric_series *series, int64_t delta);

/* Note one observation of a histogram, in microseconds; buckets run from 100 µs to 10 min. */
void metric_observe_us(struct metric_series *series, uint64_t us);

/* Current value of a counter or gauge, or a histogram's count: for tests and views. */
int64_t metric_value(struct metric_series *series);

/* Call `hook` at every scrape, to set what is cheaper to compute then (memory, descriptors). At
 * most 8. */
void metric_on_scrape(void (*hook)(void));

/* Set a gauge, or a counter that is kept elsewhere, to a value. For series that are only ever
 * set, not added to. */
void metric_set(struct metric_series *series, int64_t value);

/* Set every series of a gauge to 0, before a scrape sets those that still exist. */
void metric_clear(enum metric metric);

/* Append all metrics in the Prometheus text format 0.0.4. Any thread. Errors: as buf_reserve. */
err_t metrics_print(struct buf *out) ERR_MUST_CHECK;

/* Free everything at exit, when no other thread uses metrics any more. */
void metrics_close(void);

#endif
