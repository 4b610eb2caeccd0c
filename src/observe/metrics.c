/* SPDX-License-Identifier: Apache-2.0 */
/* Counts, and shows what was counted.
 *
 * A series owns a run of cell numbers: one cell for a counter or gauge, buckets and a sum for a
 * histogram. Every thread has its own cells, in chunks made on first use, and is their only
 * writer, so adding is a load and a store. Reading sums the cells of all threads.
 *
 * The hard thing is that threads come and go: a thread that ends adds its cells to the series'
 * own `base` under the lock that readers hold, so nothing is lost or counted twice. `base` also
 * takes what is counted when a thread has no memory for cells. */
#include "observe/metrics.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/text.h"
#include "observe/metrics_process.h"

enum kind { COUNTER, GAUGE, HISTOGRAM, COUNTER_US, GAUGE_US };

static const struct {
    const char *name, *labels, *help;
    enum kind kind;
} metrics[METRIC_COUNT] = {
#define X(id, kind_, name_, labels_, help_) {name_, labels_, help_, kind_},
#include "observe/metrics.def"
#undef X
};

/* Upper bounds of the buckets; one more takes the rest. */
static const struct {
    uint64_t us;
    const char *label;
} bounds[] = {
    {100, "0.0001"},    {250, "0.00025"}, {500, "0.0005"},  {1000, "0.001"},    {2500, "0.0025"},
    {5000, "0.005"},    {10000, "0.01"},  {25000, "0.025"}, {50000, "0.05"},    {100000, "0.1"},
    {250000, "0.25"},   {500000, "0.5"},  {1000000, "1"},   {2500000, "2.5"},   {5000000, "5"},
    {10000000, "10"},   {30000000, "30"}, {60000000, "60"}, {120000000, "120"}, {300000000, "300"},
    {600000000, "600"},
};

#define BOUNDS          (sizeof bounds / sizeof *bounds)
#define HISTOGRAM_CELLS (BOUNDS + 2) /* buckets, the rest, the sum in µs */
#define HISTOGRAM_SUM   (BOUNDS + 1)

#define CHUNK_CELLS       256
#define MAX_CHUNKS        1024
#define LABELS_BYTES      512
#define LABEL_VALUE_BYTES 128
#define BUCKETS           512
#define NO_CELLS          SIZE_MAX /* a series that counts in `base` alone */

struct metric_series {
    enum metric metric;
    size_t first_cell;
    struct metric_series *next;      /* of the metric, in order of creation */
    struct metric_series *next_hash; /* of the bucket */
    char *labels;                    /* as printed: model="x",status="200" */
    size_t labels_len;
    _Atomic int64_t base[HISTOGRAM_CELLS]; /* only the first for counters and gauges */
};

/* The cells of one thread. */
struct cells {
    struct cells *next;
    _Atomic(_Atomic int64_t *) chunks[MAX_CHUNKS];
};

/* Everything below is under `lock`, except that a thread uses its own cells. */
static struct {
    pthread_mutex_t lock, scrape_lock;
    struct metric_series *first[METRIC_COUNT], **last[METRIC_COUNT];
    size_t series_count[METRIC_COUNT];
    struct metric_series *buckets[BUCKETS];
    size_t cell_count;
    struct cells *threads;
    pthread_key_t exit_key;
    bool has_exit_key;
    void (*hooks[8])(void);
    size_t hook_count;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER, .scrape_lock = PTHREAD_MUTEX_INITIALIZER};

static struct metric_series others[METRIC_COUNT];
static _Thread_local struct cells *own_cells;

/* ---- cells ---- */

static size_t cells_of(enum metric metric)
{
    return metrics[metric].kind == HISTOGRAM ? HISTOGRAM_CELLS : 1;
}

/* Add the cells of a thread that ends to the series, and free them. */
static void cells_fold(struct cells *cells)
{
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        for (struct metric_series *s = registry.first[m]; s; s = s->next) {
            for (size_t i = 0; s->first_cell != NO_CELLS && i < cells_of(s->metric); i++) {
                size_t cell = s->first_cell + i;
                _Atomic int64_t *chunk = atomic_load(&cells->chunks[cell / CHUNK_CELLS]);
                if (chunk)
                    atomic_fetch_add(&s->base[i], atomic_load(&chunk[cell % CHUNK_CELLS]));
            }
        }
    }
    for (size_t i = 0; i < MAX_CHUNKS; i++)
        mem_free(MEM_PROCESS, atomic_load(&cells->chunks[i]), CHUNK_CELLS * sizeof(int64_t));
    mem_free(MEM_PROCESS, cells, sizeof *cells);
}

static void thread_ends(void *arg)
{
    struct cells *cells = arg;
    struct cells **link = &registry.threads;

    pthread_mutex_lock(&registry.lock);
    while (*link != cells)
        link = &(*link)->next;
    *link = cells->next;
    cells_fold(cells);
    pthread_mutex_unlock(&registry.lock);
    own_cells = NULL;
}

static struct cells *cells_new(void)
{
    struct cells *cells = mem_alloc_zero(MEM_PROCESS, sizeof *cells);

    if (!cells)
        return NULL;
    pthread_mutex_lock(&registry.lock);
    cells->next = registry.threads;
    registry.threads = cells;
    pthread_mutex_unlock(&registry.lock);
    pthread_setspecific(registry.exit_key, cells);
    return cells;
}

/* The calling thread's cell, or NULL if it has not been made yet. */
static _Atomic int64_t *cell_find(size_t cell)
{
    _Atomic int64_t *chunk;

    if (!own_cells)
        return NULL;
    chunk = atomic_load_explicit(&own_cells->chunks[cell / CHUNK_CELLS], memory_order_relaxed);
    return chunk ? &chunk[cell % CHUNK_CELLS] : NULL;
}

/* Make it; NULL without memory. */
static _Atomic int64_t *cell_make(size_t cell)
{
    _Atomic int64_t *chunk;

    if (!own_cells)
        own_cells = cells_new();
    if (!own_cells)
        return NULL;
    chunk = mem_alloc_zero(MEM_PROCESS, CHUNK_CELLS * sizeof *chunk);
    if (!chunk)
        return NULL;
    atomic_store_explicit(&own_cells->chunks[cell / CHUNK_CELLS], chunk, memory_order_release);
    return &chunk[cell % CHUNK_CELLS];
}

/* No other thread writes there. */
static void cell_add(_Atomic int64_t *cell, int64_t delta)
{
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + delta,
                          memory_order_relaxed);
}

/* The first time in a thread, or for want of cells. Not inlined: other times would pay for its
 * registers. */
static __attribute__((noinline)) void series_add_first(struct metric_series *series, size_t i,
                                                       int64_t delta)
{
    _Atomic int64_t *cell =
        series->first_cell == NO_CELLS ? NULL : cell_make(series->first_cell + i);

    if (cell)
        cell_add(cell, delta);
    else
        atomic_fetch_add_explicit(&series->base[i], delta, memory_order_relaxed);
}

static void series_add(struct metric_series *series, size_t i, int64_t delta)
{
    _Atomic int64_t *cell =
        series->first_cell == NO_CELLS ? NULL : cell_find(series->first_cell + i);

    if (cell)
        cell_add(cell, delta);
    else
        series_add_first(series, i, delta);
}

/* Sum over all threads. Under the lock. */
static int64_t series_sum(const struct metric_series *series, size_t i)
{
    int64_t sum = atomic_load_explicit(&series->base[i], memory_order_relaxed);
    size_t cell = series->first_cell + i;

    if (series->first_cell == NO_CELLS)
        return sum;
    for (struct cells *t = registry.threads; t; t = t->next) {
        _Atomic int64_t *chunk =
            atomic_load_explicit(&t->chunks[cell / CHUNK_CELLS], memory_order_acquire);
        if (chunk)
            sum += atomic_load_explicit(&chunk[cell % CHUNK_CELLS], memory_order_relaxed);
    }
    return sum;
}

/* ---- series ---- */

/* Add `value` to the label text at `len`, escaped as the format wants; returns the new length. */
static size_t labels_add_value(char *text, size_t len, struct str value)
{
    size_t valid_len;

    if (value.len > LABEL_VALUE_BYTES)
        value.len = LABEL_VALUE_BYTES;
    text_utf8_prefix(value, &valid_len);
    for (size_t i = 0; i < valid_len && len + 4 < LABELS_BYTES; i++) {
        char c = value.ptr[i];
        if (c == '"' || c == '\\' || c == '\n')
            text[len++] = '\\';
        text[len++] = c == '\n' ? 'n' : c;
    }
    return len;
}

/* Write name="value",… for the metric. `values` NULL: "other" for every label. */
static size_t labels_print(enum metric metric, va_list *values, char text[LABELS_BYTES])
{
    struct str rest = str_from(metrics[metric].labels), name;
    size_t len = 0;

    while (rest.len && str_split(&rest, ',', &name)) {
        const char *value = values ? va_arg(*values, const char *) : "other";
        check(value);
        if (len + name.len + 8 > LABELS_BYTES)
            break;
        if (len)
            text[len++] = ',';
        memcpy(text + len, name.ptr, name.len);
        len += name.len;
        memcpy(text + len, "=\"", 2);
        len = labels_add_value(text, len + 2, str_from(value));
        text[len++] = '"';
    }
    return len;
}

static void series_link(struct metric_series *series, struct metric_series **bucket)
{
    enum metric m = series->metric;

    if (!registry.last[m])
        registry.last[m] = &registry.first[m];
    *registry.last[m] = series;
    registry.last[m] = &series->next;
    series->next_hash = *bucket;
    *bucket = series;
    registry.series_count[m]++;
}

/* The series that stands for all that have no place of their own. Under the lock. */
static struct metric_series *series_other(enum metric metric)
{
    struct metric_series *series = &others[metric];
    static char labels[METRIC_COUNT][96];
    char text[LABELS_BYTES];

    if (series->labels)
        return series;
    series->metric = metric;
    series->first_cell = NO_CELLS;
    series->labels_len = labels_print(metric, NULL, text);
    check(series->labels_len <= sizeof labels[metric]);
    series->labels = memcpy(labels[metric], text, series->labels_len);
    if (!registry.last[metric])
        registry.last[metric] = &registry.first[metric];
    *registry.last[metric] = series;
    registry.last[metric] = &series->next;
    return series;
}

static struct metric_series *series_new(enum metric metric, struct str labels,
                                        struct metric_series **bucket)
{
    size_t cell_count = cells_of(metric);
    struct metric_series *series;

    if (registry.series_count[metric] >= METRIC_MAX_SERIES ||
        registry.cell_count + cell_count > (size_t)CHUNK_CELLS * MAX_CHUNKS ||
        !(series = mem_alloc_zero(MEM_PROCESS, sizeof *series + labels.len)))
        return series_other(metric);
    series->metric = metric;
    series->first_cell = registry.cell_count;
    series->labels = memcpy(series + 1, labels.ptr, labels.len);
    series->labels_len = labels.len;
    registry.cell_count += cell_count;
    series_link(series, bucket);
    return series;
}

static struct metric_series *series_find_or_new(enum metric metric, struct str labels)
{
    struct metric_series **bucket = &registry.buckets[text_hash(labels, metric) % BUCKETS];

    if (!registry.has_exit_key)
        registry.has_exit_key = pthread_key_create(&registry.exit_key, thread_ends) == 0;
    if (!registry.has_exit_key)
        return series_other(metric);
    for (struct metric_series *s = *bucket; s; s = s->next_hash)
        if (s->metric == metric && str_eq((struct str){s->labels, s->labels_len}, labels))
            return s;
    return series_new(metric, labels, bucket);
}

struct metric_series *metric_series_get(enum metric metric, ...)
{
    char text[LABELS_BYTES];
    va_list values;

    va_start(values, metric);
    size_t len = labels_print(metric, &values, text);
    va_end(values);
    pthread_mutex_lock(&registry.lock);
    struct metric_series *series = series_find_or_new(metric, (struct str){text, len});
    pthread_mutex_unlock(&registry.lock);
    return series;
}

/* ---- counting ---- */

void metric_add(struct metric_series *series, int64_t delta)
{
    series_add(series, 0, delta);
}

void metric_observe_us(struct metric_series *series, uint64_t us)
{
    size_t i = 0;

    check(metrics[series->metric].kind == HISTOGRAM);
    while (i < BOUNDS && us > bounds[i].us)
        i++;
    series_add(series, i, 1);
    series_add(series, HISTOGRAM_SUM, us > INT64_MAX / 2 ? 0 : (int64_t)us);
}

int64_t metric_value(struct metric_series *series)
{
    int64_t sum = 0;
    size_t count = metrics[series->metric].kind == HISTOGRAM ? BOUNDS + 1 : 1;

    pthread_mutex_lock(&registry.lock);
    for (size_t i = 0; i < count; i++)
        sum += series_sum(series, i);
    pthread_mutex_unlock(&registry.lock);
    return sum;
}

void metric_set(struct metric_series *series, int64_t value)
{
    atomic_store_explicit(&series->base[0], value, memory_order_relaxed);
}

void metric_clear(enum metric metric)
{
    pthread_mutex_lock(&registry.lock);
    for (struct metric_series *s = registry.first[metric]; s; s = s->next)
        metric_set(s, 0);
    pthread_mutex_unlock(&registry.lock);
}

void metric_on_scrape(void (*hook)(void))
{
    pthread_mutex_lock(&registry.scrape_lock);
    check(registry.hook_count < sizeof registry.hooks / sizeof *registry.hooks);
    registry.hooks[registry.hook_count++] = hook;
    pthread_mutex_unlock(&registry.scrape_lock);
}

/* ---- printing ---- */

static const char *kind_name(enum kind kind)
{
    return kind == HISTOGRAM                       ? "histogram"
           : kind == COUNTER || kind == COUNTER_US ? "counter"
                                                   : "gauge";
}

static err_t print_seconds(struct buf *out, int64_t us)
{
    return buf_printf(out, "%s%lld.%06lld\n", us < 0 ? "-" : "", llabs((long long)us) / 1000000,
                      llabs((long long)us) % 1000000);
}

static err_t print_histogram(struct buf *out, const struct metric_series *s)
{
    const char *name = metrics[s->metric].name, *comma = s->labels_len ? "," : "";
    struct str labels = {s->labels, s->labels_len};
    int64_t count = 0;

    for (size_t i = 0; i <= BOUNDS; i++) {
        count += series_sum(s, i);
        TRY(buf_printf(out, "%s_bucket{%.*s%sle=\"%s\"} %lld\n", name, STR_ARG(labels), comma,
                       i < BOUNDS ? bounds[i].label : "+Inf", (long long)count));
    }
    TRY(buf_printf(out, labels.len ? "%s_sum{%.*s} " : "%s_sum%.*s ", name, STR_ARG(labels)));
    TRY(print_seconds(out, series_sum(s, HISTOGRAM_SUM)));
    return buf_printf(out, labels.len ? "%s_count{%.*s} %lld\n" : "%s_count%.*s %lld\n", name,
                      STR_ARG(labels), (long long)count);
}

static err_t print_series(struct buf *out, const struct metric_series *s)
{
    struct str labels = {s->labels, s->labels_len};
    enum kind kind = metrics[s->metric].kind;

    if (kind == HISTOGRAM)
        return print_histogram(out, s);
    TRY(buf_add(out, str_from(metrics[s->metric].name)));
    if (labels.len)
        TRY(buf_printf(out, "{%.*s}", STR_ARG(labels)));
    TRY(buf_add_byte(out, ' '));
    if (kind == COUNTER_US || kind == GAUGE_US)
        return print_seconds(out, series_sum(s, 0));
    return buf_printf(out, "%lld\n", (long long)series_sum(s, 0));
}

/* A metric without labels exists from the start: a missing zero would look like a missing
 * program. */
static err_t print_metric(struct buf *out, enum metric m)
{
    TRY(buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", metrics[m].name, metrics[m].help,
                   metrics[m].name, kind_name(metrics[m].kind)));
    if (!registry.first[m] && !*metrics[m].labels)
        series_find_or_new(m, STR(""));
    for (const struct metric_series *s = registry.first[m]; s; s = s->next)
        TRY(print_series(out, s));
    return NULL;
}

static err_t print_all(struct buf *out)
{
    for (size_t m = 0; m < METRIC_COUNT; m++)
        TRY(print_metric(out, m));
    return NULL;
}

err_t metrics_print(struct buf *out)
{
    pthread_mutex_lock(&registry.scrape_lock);
    metrics_process_set();
    for (size_t i = 0; i < registry.hook_count; i++)
        registry.hooks[i]();
    pthread_mutex_lock(&registry.lock);
    err_t err = print_all(out);
    pthread_mutex_unlock(&registry.lock);
    pthread_mutex_unlock(&registry.scrape_lock);
    return err;
}

/* ---- the end ---- */

static void registry_forget(enum metric m)
{
    struct metric_series *next;

    for (struct metric_series *s = registry.first[m]; s; s = next) {
        next = s->next;
        if (s != &others[m])
            mem_free(MEM_PROCESS, s, sizeof *s + s->labels_len);
    }
    registry.first[m] = NULL;
    registry.last[m] = NULL;
    registry.series_count[m] = 0;
    memset(&others[m], 0, sizeof others[m]);
}

void metrics_close(void)
{
    pthread_mutex_lock(&registry.lock);
    while (registry.threads) {
        struct cells *cells = registry.threads;
        registry.threads = cells->next;
        cells_fold(cells);
    }
    for (size_t m = 0; m < METRIC_COUNT; m++)
        registry_forget(m);
    memset(registry.buckets, 0, sizeof registry.buckets);
    registry.cell_count = 0;
    registry.hook_count = 0;
    if (registry.has_exit_key)
        pthread_setspecific(registry.exit_key, NULL);
    own_cells = NULL;
    pthread_mutex_unlock(&registry.lock);
}
