/* SPDX-License-Identifier: Apache-2.0 */
/* A text under a lock that only grows, and those who wait for more of it. */
#include "gateway/response_feed.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "fiber/fiber.h"

#define FEED_MAX_BYTES ((size_t)32 * 1024 * 1024)

struct response_feed {
    atomic_uint references;
    pthread_mutex_t lock;
    struct buf text;
    size_t told; /* bytes of it that may be read */
    bool is_over, is_lost;
    struct list listeners;
};

/* On the stack of a fiber that waits. */
struct listener {
    struct list link;
    struct loop_message message;
    struct loop *loop;
    struct fiber *fiber;
    bool is_posted;    /* under the lock */
    bool is_delivered; /* in its thread */
};

struct response_feed *response_feed_new(void)
{
    struct response_feed *feed = mem_alloc_zero(MEM_BODY, sizeof(*feed));

    if (!feed)
        return NULL;
    atomic_init(&feed->references, 1);
    pthread_mutex_init(&feed->lock, NULL);
    feed->text = buf_make(MEM_BODY, FEED_MAX_BYTES);
    list_init(&feed->listeners);
    return feed;
}

struct response_feed *response_feed_ref(struct response_feed *feed)
{
    atomic_fetch_add_explicit(&feed->references, 1, memory_order_relaxed);
    return feed;
}

void response_feed_unref(struct response_feed *feed)
{
    if (!feed || atomic_fetch_sub_explicit(&feed->references, 1, memory_order_acq_rel) > 1)
        return;
    buf_fini(&feed->text);
    pthread_mutex_destroy(&feed->lock);
    mem_free(MEM_BODY, feed, sizeof(*feed));
}

/* ---- for the maker ---- */

void response_feed_add(struct response_feed *feed, struct str events)
{
    pthread_mutex_lock(&feed->lock);
    if (!feed->is_lost && buf_add(&feed->text, events)) {
        feed->is_lost = true;
        buf_fini(&feed->text);
    }
    pthread_mutex_unlock(&feed->lock);
}

void response_feed_tell(struct response_feed *feed, bool is_over)
{
    pthread_mutex_lock(&feed->lock);
    feed->told = feed->text.len;
    feed->is_over |= is_over;
    list_each (it, &feed->listeners) {
        struct listener *listener = container_of(it, struct listener, link);
        if (!listener->is_posted)
            loop_post(listener->loop, &listener->message);
        listener->is_posted = true;
    }
    pthread_mutex_unlock(&feed->lock);
}

struct str response_feed_text(const struct response_feed *feed)
{
    return buf_str(&feed->text);
}

/* ---- for readers ---- */

err_t response_feed_read(struct response_feed *feed, size_t *at, struct buf *out, bool *is_over)
{
    static const struct err lost = {.kind = ERR_BUSY,
                                    .where = ERR_HERE,
                                    .text = "the events of this response are too many to be kept"};
    err_t err = NULL;

    pthread_mutex_lock(&feed->lock);
    *is_over = feed->is_over;
    if (feed->is_lost)
        err = &lost;
    else if (feed->told > *at)
        err = buf_add(out, (struct str){feed->text.ptr + *at, feed->told - *at});
    if (!err)
        *at = feed->told;
    pthread_mutex_unlock(&feed->lock);
    return err;
}

static void deliver(struct loop_message *message)
{
    struct listener *listener = container_of(message, struct listener, message);

    listener->is_delivered = true;
    fiber_wake(listener->fiber);
}

/* False if there is no need to wait. */
static bool enter(struct response_feed *feed, size_t at, struct listener *listener)
{
    bool must_wait;

    pthread_mutex_lock(&feed->lock);
    must_wait = feed->told <= at && !feed->is_over && !feed->is_lost;
    if (must_wait)
        list_push(&feed->listeners, &listener->link);
    pthread_mutex_unlock(&feed->lock);
    return must_wait;
}

/* PARKS as long as a message is on its way. */
static void leave(struct response_feed *feed, struct listener *listener)
{
    bool is_posted;

    pthread_mutex_lock(&feed->lock);
    list_remove(&listener->link);
    is_posted = listener->is_posted;
    pthread_mutex_unlock(&feed->lock);
    while (is_posted && !listener->is_delivered)
        fiber_park_until_woken();
}

err_t response_feed_wait(struct response_feed *feed, size_t at, uint64_t until_ms)
{
    struct listener listener = {.message.fn = deliver, .loop = loop_self(), .fiber = fiber_self()};
    err_t err;

    list_init(&listener.link);
    if (!enter(feed, at, &listener))
        return NULL;
    err = fiber_park(until_ms);
    leave(feed, &listener);
    return err;
}
