/* SPDX-License-Identifier: Apache-2.0 */
/* Name lookup.
 *
 * The cache is a list of names, most recently used first; connections are dialled so much more
 * rarely than used that nothing faster pays. A name being looked up is in the list too, with a gate
 * at which others wait; when the gate opens they look again, since the one who asked may have given
 * up.
 *
 * The hard thing is that a lookup cannot be stopped: when nobody waits for it any more, the
 * record it writes to must still be there. It lies on the heap and is freed by whoever comes
 * last. */
#include "net/resolve.h"

#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "fiber/gate.h"
#include "fiber/offload.h"

#define NAME_MAX_BYTES 253 /* RFC 1035 §2.3.4, without the root's dot */
#define REASON_BYTES   64

typedef err_t lookup_fn(const char *host, struct address *out, size_t *count);

/* What a lookup found out. */
struct answer {
    struct address addresses[RESOLVE_MAX_ADDRESSES];
    size_t count;
    char failure[REASON_BYTES]; /* empty: success */
};

struct name {
    struct list link;
    struct gate gate; /* closed while is_pending */
    bool is_pending;
    uint64_t expires_ms;
    struct answer answer;
    char text[NAME_MAX_BYTES + 1];
};

/* A lookup on its way through the pool. */
struct job {
    char text[NAME_MAX_BYTES + 1];
    struct answer answer;
};

/* A loop's, from its first question on. */
struct names {
    struct list list; /* the most recently used first */
    size_t count;
};

/* ---- in the pool's thread ---- */

static err_t lookup_by_getaddrinfo(const char *host, struct address *out, size_t *count)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found;
    int code = getaddrinfo(host, NULL, &hints, &found);

    *count = 0;
    if (code == EAI_NONAME || code == EAI_NODATA)
        return err_new(ERR_UPSTREAM, "no such name");
    if (code != 0)
        return err_new(ERR_UPSTREAM, "%s", gai_strerror(code));
    for (struct addrinfo *at = found; at && *count < RESOLVE_MAX_ADDRESSES; at = at->ai_next) {
        if (at->ai_family != AF_INET && at->ai_family != AF_INET6)
            continue;
        out[*count].len = at->ai_addrlen;
        memcpy(&out[*count].u, at->ai_addr, at->ai_addrlen);
        ++*count;
    }
    freeaddrinfo(found);
    return NULL;
}

static _Atomic(lookup_fn *) lookup = lookup_by_getaddrinfo;

void resolve_set_lookup(err_t (*replacement)(const char *host, struct address *out, size_t *count))
{
    atomic_store(&lookup, replacement ? replacement : lookup_by_getaddrinfo);
}

/* Let the families take turns, beginning with that of the first address (RFC 8305 §4). */
static void interleave(struct address *addresses, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        size_t next = i;

        while (next < count && addresses[next].u.any.sa_family == addresses[i - 1].u.any.sa_family)
            next++;
        if (next == count)
            return;
        struct address moved = addresses[next];
        memmove(addresses + i + 1, addresses + i, (next - i) * sizeof(*addresses));
        addresses[i] = moved;
    }
}

static err_t run_lookup(void *arg)
{
    struct job *job = arg;
    struct answer *answer = &job->answer;
    err_t err = atomic_load(&lookup)(job->text, answer->addresses, &answer->count);

    answer->failure[0] = '\0';
    if (!err && answer->count == 0)
        err = err_new(ERR_UPSTREAM, "the name has no address");
    if (err)
        snprintf(answer->failure, sizeof(answer->failure), "%s", err->text);
    else
        interleave(answer->addresses, answer->count);
    return NULL;
}

static void free_job(void *arg)
{
    mem_free(MEM_UPSTREAM, arg, sizeof(struct job));
}

/* ---- in the loop's thread ---- */

/* This loop's; NULL without memory. */
static struct names *get_names(void)
{
    struct names *names = *loop_slot(LOOP_SLOT_NAMES);

    if (names)
        return names;
    names = mem_alloc_zero(MEM_UPSTREAM, sizeof(*names));
    if (names)
        list_init(&names->list);
    return *loop_slot(LOOP_SLOT_NAMES) = names;
}

static void forget(struct names *names, struct name *name)
{
    list_remove(&name->link);
    names->count--;
    mem_free(MEM_UPSTREAM, name, sizeof(*name));
}

/* Make room for one more name: the least recently used goes that nobody is looking up. */
static void make_room(struct names *names)
{
    for (struct list *at = names->list.prev;
         at != &names->list && names->count >= RESOLVE_MAX_NAMES;) {
        struct name *name = container_of(at, struct name, link);

        at = at->prev;
        if (!name->is_pending)
            forget(names, name);
    }
}

/* The name's record, made if there is none; NULL without memory. */
static struct name *find_name(struct str host)
{
    struct names *names = get_names();
    struct name *name;

    if (!names)
        return NULL;
    list_each (at, &names->list) {
        name = container_of(at, struct name, link);
        if (!str_eq(host, str_from(name->text)))
            continue;
        list_remove(at);
        list_push_front(&names->list, at);
        return name;
    }
    make_room(names);
    name = mem_alloc_zero(MEM_UPSTREAM, sizeof(*name));
    if (!name)
        return NULL;
    memcpy(name->text, host.ptr, host.len);
    gate_init(&name->gate);
    list_push_front(&names->list, &name->link);
    names->count++;
    return name;
}

/* PARKS: look the name up in the pool. On success name->answer is filled. */
static err_t run_job(struct name *name, uint64_t at_ms)
{
    struct job *job = mem_alloc(MEM_UPSTREAM, sizeof(*job));
    err_t err;

    if (!job)
        return err_no_memory();
    memcpy(job->text, name->text, sizeof(job->text));
    err = offload_run_until(OFFLOAD_DNS, run_lookup, job, free_job, at_ms);
    if (!err)
        name->answer = job->answer;
    /* BUSY: it was never queued. Other errors end the wait, and the pool frees the job. */
    if (!err || (err->kind == ERR_BUSY && err != fiber_cancelled(fiber_self())))
        free_job(job);
    return err;
}

/* PARKS: look the name up, while others who want it wait at its gate. */
static err_t refresh(struct name *name, uint64_t at_ms)
{
    err_t err;

    name->is_pending = true;
    gate_close(&name->gate);
    err = run_job(name, at_ms);
    name->is_pending = false;
    name->expires_ms = 0;
    if (!err)
        name->expires_ms =
            loop_now_ms() + (name->answer.failure[0] ? RESOLVE_KEEP_FAILURE_MS : RESOLVE_KEEP_MS);
    gate_open(&name->gate);
    return err;
}

static void set_port(struct address *address, uint16_t port)
{
    if (address->u.any.sa_family == AF_INET6)
        address->u.v6.sin6_port = htons(port);
    else
        address->u.v4.sin_port = htons(port);
}

/* Hand out an answer. */
static err_t give(const struct name *name, uint16_t port, struct address *out, size_t *count)
{
    if (name->answer.failure[0])
        return err_new(ERR_UPSTREAM, "cannot resolve %s: %s", name->text, name->answer.failure);
    *count = name->answer.count;
    memcpy(out, name->answer.addresses, *count * sizeof(*out));
    for (size_t i = 0; i < *count; i++)
        set_port(&out[i], port);
    return NULL;
}

err_t resolve_name(struct str host, uint16_t port, uint64_t at_ms,
                   struct address out[RESOLVE_MAX_ADDRESSES], size_t *count)
{
    struct name *name;

    *count = 1;
    if (address_set_ip(&out[0], host, port))
        return NULL;
    if (host.len == 0 || host.len > NAME_MAX_BYTES || memchr(host.ptr, '\0', host.len))
        return err_new(ERR_UPSTREAM, "no such name");
    for (;;) {
        name = find_name(host);
        if (!name)
            return err_no_memory();
        if (name->is_pending) {
            TRY(gate_wait(&name->gate, at_ms));
            continue; /* the record may be gone */
        }
        if (name->expires_ms <= loop_now_ms())
            TRY(refresh(name, at_ms));
        return give(name, port, out, count);
    }
}

void resolve_close(void)
{
    struct names *names = loop_self() ? *loop_slot(LOOP_SLOT_NAMES) : NULL;

    if (!names)
        return;
    for (struct list *at; (at = list_first(&names->list));) {
        struct name *name = container_of(at, struct name, link);

        check(!name->is_pending);
        forget(names, name);
    }
    mem_free(MEM_UPSTREAM, names, sizeof(*names));
    *loop_slot(LOOP_SLOT_NAMES) = NULL;
}
