/* SPDX-License-Identifier: Apache-2.0 */
/* Does the time of looking up a key tell anything about the keys that there are?
 *
 *     key_timing [samples per class]      default: 1,000,000; exit 0 if every |t| < 4.5
 *
 * Two classes of wrong keys are looked up in turns, chosen by chance, among 100,000 right ones: those that differ from a right
 * key in the first character, and in the last; those that begin like a right one, and those that do not. Welch's t-test compares the mean times after the slowest hundredth
 * (interrupts) has been left out of both, by one common limit, as dudect does (Reparaz, Balasch and
 * Verbauwhede, "Dude, is my code constant time?", 2017).
 *
 * The hard thing is the machine: caches and clocks favour whatever ran last. So both classes' keys are made by the same steps,
 * just before they are used, and every one is new. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "base/sys.h"
#include "govern/identity_table.h"

#define KEYS        100000
#define MOST_T      4.5
#define WARM_UP     20000
#define RANDOM_POOL 4096

static struct identity_table table;
static char (*keys)[IDENTITY_KEY_BYTES];
static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void die(const char *what)
{
    fprintf(stderr, "key_timing: %s\n", what);
    exit(2);
}

static uint32_t random_u32(void)
{
    static uint32_t pool[RANDOM_POOL];
    static size_t left;

    if (left == 0) {
        sys_random(pool, sizeof(pool));
        left = RANDOM_POOL;
    }
    return pool[--left];
}

/* ---- the two classes of each question ---- */

/* Another letter at this place of a right key. */
static void change_at(char *key, size_t place)
{
    char before = key[place];

    do
        key[place] = alphabet[random_u32() & 63];
    while (key[place] == before);
}

static void early_or_late(char *key, bool is_second)
{
    change_at(key, is_second ? IDENTITY_KEY_BYTES - 2 : 10);
}

/* Half of a right key and half of chance, or all of chance. */
static void known_or_unknown_prefix(char *key, bool is_second)
{
    char by_chance[IDENTITY_KEY_BYTES];
    size_t from = is_second ? 10 : 32;

    identity_mint_key(by_chance);
    memcpy(key + from, by_chance + from, IDENTITY_KEY_BYTES - from);
}

/* The same twice: what the measurement itself makes of nothing. */
static void nothing(char *key, bool is_second)
{
    (void)is_second;
    change_at(key, 20);
}

static const struct {
    const char *name;
    void (*make)(char *key, bool is_second);
} questions[] = {{"the same class twice", nothing},
                 {"early against late mismatch", early_or_late},
                 {"known against unknown prefix", known_or_unknown_prefix}};

/* ---- measuring ---- */

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What gateway and store do with a key that was sent: hash it, look it up. */
static uint32_t look_up(const char *key)
{
    uint8_t hash[IDENTITY_HASH_BYTES];
    uint64_t began_ns = now_ns();
    const struct identity_key *found;

    if (identity_hash((struct str){key, IDENTITY_KEY_BYTES - 1}, hash))
        die("no memory");
    found = identity_table_find(&table, hash);
    began_ns = now_ns() - began_ns;
    if (found)
        die("a wrong key was found");
    return began_ns < UINT32_MAX ? (uint32_t)began_ns : UINT32_MAX;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The time that 99 of 100 samples of both classes together stay below. */
static uint32_t limit_of(const uint32_t *samples, size_t count)
{
    uint32_t *sorted = malloc(count * sizeof(*sorted)), limit;

    if (!sorted)
        die("no memory");
    memcpy(sorted, samples, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare);
    limit = sorted[count / 100 * 99];
    free(sorted);
    return limit;
}

struct sum {
    double count, mean, squares; /* Welford's running mean and sum of squared differences */
};

static void add(struct sum *sum, double value)
{
    double difference = value - sum->mean;

    sum->count++;
    sum->mean += difference / sum->count;
    sum->squares += difference * (value - sum->mean);
}

static double welch_t(const struct sum sums[2])
{
    double error = 0;

    for (int i = 0; i < 2; i++)
        error += sums[i].squares / (sums[i].count - 1) / sums[i].count;
    return error > 0 ? (sums[0].mean - sums[1].mean) / sqrt(error) : 0;
}

static bool ask(size_t question, size_t count)
{
    uint32_t *samples = calloc(2 * count, sizeof(*samples)), limit;
    uint8_t *classes = calloc(2 * count, 1);
    struct sum sums[2] = {{0}};
    char key[IDENTITY_KEY_BYTES];
    double t;

    if (!samples || !classes)
        die("no memory");
    for (size_t i = 0; i < 2 * count + WARM_UP; i++) {
        bool is_second = random_u32() & 1;
        memcpy(key, keys[random_u32() % KEYS], sizeof(key));
        questions[question].make(key, is_second);
        uint32_t took_ns = look_up(key);
        if (i >= WARM_UP) {
            samples[i - WARM_UP] = took_ns;
            classes[i - WARM_UP] = is_second;
        }
    }
    limit = limit_of(samples, 2 * count);
    for (size_t i = 0; i < 2 * count; i++)
        if (samples[i] <= limit)
            add(&sums[classes[i]], samples[i]);
    t = welch_t(sums);
    printf("%-30s %8.2f ns  %8.2f ns  |t| = %.2f\n", questions[question].name, sums[0].mean,
           sums[1].mean, fabs(t));
    free(samples);
    free(classes);
    return fabs(t) < MOST_T;
}

static void make_keys(struct arena *arena)
{
    struct identity_entry *entries = arena_alloc_array(arena, KEYS, sizeof(*entries));

    keys = arena_alloc_array(arena, KEYS, sizeof(*keys));
    if (!entries || !keys)
        die("no memory");
    for (size_t i = 0; i < KEYS; i++) {
        identity_mint_key(keys[i]);
        entries[i].key.id = (struct str){keys[i], IDENTITY_KEY_BYTES - 1};
        if (identity_hash(entries[i].key.id, entries[i].hash))
            die("no memory");
    }
    if (identity_table_make(entries, KEYS, arena, &table))
        die("no table");
}

int main(int argc, char **argv)
{
    struct arena *arena = arena_new(MEM_TOOL, (size_t)1024 * 1024 * 1024);
    uint64_t count = 1000000;
    bool is_good = true;

    if (!arena || (argc > 1 && !str_to_u64(str_from(argv[1]), &count)) || count < 1000)
        die("usage: key_timing [samples per class]");
    make_keys(arena);
    for (size_t i = 0; i < sizeof(questions) / sizeof(*questions); i++)
        is_good &= ask(i, count);
    arena_free(arena);
    return is_good ? 0 : 1;
}
