/* SPDX-License-Identifier: Apache-2.0 */
/* Counts that leak one a second, in a table of fixed size: two addresses in one place share it, so that memory is bounded
 * whoever comes. Of IPv6 addresses the network (64 bits) counts, because one caller has all of it. */
#include "gateway/auth_brake.h"

#include <pthread.h>

#include "base/sys.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "net/sock.h"

#define PLACES           4096
#define BURST            100
#define DELAY_MS_PER_TRY 2
#define MOST_DELAY_MS    200
#define LEAK_MS          1000

struct place {
    uint64_t tries, since_ms; /* as of since_ms */
};

static struct {
    pthread_mutex_t lock;
    uint64_t seed; /* so that nobody can choose to share a place */
    struct place places[2][PLACES];
} brakes = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t hash_of(const char *ip)
{
    struct address address;

    if (address_set_ip(&address, str_from(ip), 0) && address.u.any.sa_family == AF_INET6)
        return text_hash((struct str){(const char *)&address.u.v6.sin6_addr, 8}, brakes.seed);
    return text_hash(str_from(ip), brakes.seed);
}

/* The place of an address, with what has leaked since it was looked at last; under the lock. */
static struct place *place_of(enum brake brake, const char *ip)
{
    uint64_t now_ms = sys_now_ms(), leaked;
    struct place *place;

    while (brakes.seed == 0)
        sys_random(&brakes.seed, sizeof(brakes.seed));
    place = &brakes.places[brake][hash_of(ip) % PLACES];
    leaked = (now_ms - place->since_ms) / LEAK_MS;
    if (leaked >= place->tries)
        *place = (struct place){0, now_ms};
    else
        *place = (struct place){place->tries - leaked, place->since_ms + leaked * LEAK_MS};
    return place;
}

err_t auth_brake_check(enum brake brake, const char *ip, uint64_t *wait_ms)
{
    uint64_t tries;

    pthread_mutex_lock(&brakes.lock);
    tries = place_of(brake, ip)->tries;
    pthread_mutex_unlock(&brakes.lock);
    *wait_ms = tries < BURST ? 0 : (tries - BURST + 1) * LEAK_MS;
    if (tries < BURST)
        return NULL;
    return err_new_detail(ERR_LIMITED, (.code = "too_many_failures"),
                          "too many wrong %s from this address: wait %llu s",
                          brake == BRAKE_KEYS ? "keys" : "ids",
                          (unsigned long long)(*wait_ms / 1000));
}

err_t auth_brake_count(enum brake brake, const char *ip)
{
    uint64_t delay_ms;

    pthread_mutex_lock(&brakes.lock);
    delay_ms = ++place_of(brake, ip)->tries * DELAY_MS_PER_TRY;
    pthread_mutex_unlock(&brakes.lock);
    return fiber_sleep(delay_ms < MOST_DELAY_MS ? delay_ms : MOST_DELAY_MS);
}
