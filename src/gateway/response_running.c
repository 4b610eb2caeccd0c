/* SPDX-License-Identifier: Apache-2.0 */
/* A list under a lock; it is searched only when somebody cancels. */
#include "gateway/response_running.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list all = {&all, &all};
static atomic_size_t count;

void response_running_enter(struct response_running *running)
{
    running->loop = loop_self();
    pthread_mutex_lock(&lock);
    list_push(&all, &running->link);
    pthread_mutex_unlock(&lock);
    atomic_fetch_add(&count, 1);
}

void response_running_leave(struct response_running *running)
{
    if (!running->loop)
        return;
    pthread_mutex_lock(&lock);
    list_remove(&running->link);
    pthread_mutex_unlock(&lock);
    running->loop = NULL;
    atomic_fetch_sub(&count, 1);
}

size_t response_running_count(void)
{
    return atomic_load(&count);
}

static struct response_running *find(struct str owner, struct str id)
{
    list_each (it, &all) {
        struct response_running *running = container_of(it, struct response_running, link);
        if (str_eq(running->id, id) && str_eq(running->owner, owner))
            return running;
    }
    return NULL;
}

bool response_running_has(struct str owner, struct str id)
{
    bool found;

    pthread_mutex_lock(&lock);
    found = find(owner, id) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

struct response_feed *response_running_feed(struct str owner, struct str id)
{
    const struct response_running *running;
    struct response_feed *feed = NULL;

    pthread_mutex_lock(&lock);
    running = find(owner, id);
    if (running && running->feed) /* it is there as long as it is entered */
        feed = response_feed_ref(running->feed);
    pthread_mutex_unlock(&lock);
    return feed;
}

/* ---- telling its thread ---- */

struct message {
    struct loop_message message;
    struct str owner, id; /* in `held` */
    char held[];
};

static struct message *make_message(struct str owner, struct str id)
{
    struct message *m = mem_alloc_zero(MEM_PROCESS, sizeof(*m) + owner.len + id.len);

    if (!m)
        return NULL;
    memcpy(m->held, owner.ptr, owner.len);
    memcpy(m->held + owner.len, id.ptr, id.len);
    m->owner = (struct str){m->held, owner.len};
    m->id = (struct str){m->held + owner.len, id.len};
    return m;
}

static void free_message(struct message *m)
{
    mem_free(MEM_PROCESS, m, sizeof(*m) + m->owner.len + m->id.len);
}

/* In the thread that works on it: if it still does, it stays until this returns. */
static void deliver(struct loop_message *message)
{
    struct message *m = container_of(message, struct message, message);
    const struct response_running *running;

    pthread_mutex_lock(&lock);
    running = find(m->owner, m->id);
    pthread_mutex_unlock(&lock);
    if (running && running->loop == loop_self())
        running->cancel(running->request);
    free_message(m);
}

bool response_running_cancel(struct str owner, struct str id)
{
    struct message *m = make_message(owner, id);
    const struct response_running *running;

    if (!m)
        return false;
    m->message.fn = deliver;
    pthread_mutex_lock(&lock);
    running = find(owner, id);
    if (running) /* its loop lives as long as it is entered */
        loop_post(running->loop, &m->message);
    pthread_mutex_unlock(&lock);
    if (!running)
        free_message(m);
    return running != NULL;
}
