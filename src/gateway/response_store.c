/* SPDX-License-Identifier: Apache-2.0 */
/* Responses in memory: a table by id, and a list by last use.
 *
 * One lock is held for as long as it takes to copy some text. Times come from the caller's loop; no
 * timer is needed, because everybody who comes first throws out what is too old. */
#include "gateway/response_store.h"

#include <pthread.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "dialect/openai_responses.h"

#define BUCKETS     4096
#define MAX_HISTORY ((size_t)64 * 1024 * 1024)

struct turn {
    struct turn *past; /* counted */
    unsigned references;
    struct str items;         /* "[…]": what was asked and answered, in `held` */
    struct str input, output; /* the items in it, without brackets */
    size_t size;              /* of this block */
    char held[];
};

struct entry {
    struct list link;   /* in store.used, the longest unused first */
    struct entry *next; /* in its bucket */
    struct response response;
    struct turn *turn; /* counted; NULL while running, and for one that lives elsewhere */
    uint64_t used_ms;
    void *request; /* while running */
    void (*cancel)(void *request);
    struct loop *loop;
    size_t size; /* of this block */
    char held[];
};

static struct {
    pthread_mutex_t lock;
    struct entry *buckets[BUCKETS];
    struct list used;
    size_t bytes;
    size_t max_bytes;
    uint64_t ttl_ms;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .used = {&store.used, &store.used},
           .max_bytes = (size_t)64 * 1024 * 1024,
           .ttl_ms = 3600 * 1000};

/* ---- turns; under the lock ---- */

static void unref_locked(struct turn *turn)
{
    while (turn && --turn->references == 0) {
        struct turn *past = turn->past;
        store.bytes -= turn->size;
        mem_free(MEM_PROCESS, turn, turn->size);
        turn = past;
    }
}

static struct str hold(char **at, struct str text)
{
    struct str copy = {*at, text.len};

    if (text.len > 0)
        memcpy(*at, text.ptr, text.len);
    *at += text.len;
    return copy;
}

/* A turn with one reference. NULL without memory. */
static struct turn *make_turn(struct turn *past, struct str input, struct str output)
{
    size_t size = sizeof(struct turn) + input.len + output.len + 3; /* brackets and a comma */
    struct turn *turn = mem_alloc_zero(MEM_PROCESS, size);
    char *at;

    if (!turn)
        return NULL;
    at = turn->held;
    hold(&at, STR("["));
    turn->input = hold(&at, input);
    hold(&at, input.len && output.len ? STR(",") : STR(""));
    turn->output = hold(&at, output);
    hold(&at, STR("]"));
    turn->items = (struct str){turn->held, (size_t)(at - turn->held)};
    turn->references = 1;
    turn->size = size;
    turn->past = past;
    if (past)
        past->references++;
    store.bytes += size;
    return turn;
}

/* ---- entries; under the lock ---- */

static struct entry **bucket_of(struct str id)
{
    return &store.buckets[text_hash(id, 0) % BUCKETS];
}

static struct entry *make_entry(const struct response *r)
{
    size_t size = sizeof(struct entry) + r->id.len + r->caller.len + r->object.len + r->home.len +
                  r->model.len;
    struct entry *entry = mem_alloc_zero(MEM_PROCESS, size), **bucket;
    char *at;

    if (!entry)
        return NULL;
    at = entry->held;
    entry->response = *r;
    entry->response.id = hold(&at, r->id);
    entry->response.caller = hold(&at, r->caller);
    entry->response.object = hold(&at, r->object);
    entry->response.home = hold(&at, r->home);
    entry->response.model = hold(&at, r->model);
    entry->response.input = (struct str){0};
    entry->size = size;
    entry->used_ms = sys_now_ms();
    store.bytes += size;
    bucket = bucket_of(entry->response.id);
    entry->next = *bucket;
    *bucket = entry;
    list_push(&store.used, &entry->link);
    return entry;
}

static void drop_entry(struct entry *entry)
{
    struct entry **at = bucket_of(entry->response.id);

    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    list_remove(&entry->link);
    unref_locked(entry->turn);
    store.bytes -= entry->size;
    mem_free(MEM_PROCESS, entry, entry->size);
}

/* Throw out what is too old or too much. What is being worked on stays. */
static void clean(void)
{
    uint64_t now_ms = sys_now_ms();

    list_each (it, &store.used) {
        struct entry *entry = container_of(it, struct entry, link);
        if (now_ms - entry->used_ms < store.ttl_ms && store.bytes <= store.max_bytes)
            return;
        if (!entry->response.is_running)
            drop_entry(entry);
    }
}

static struct entry *find(struct str caller, struct str id)
{
    clean();
    for (struct entry *e = *bucket_of(id); e; e = e->next)
        if (str_eq(e->response.id, id) && str_eq(e->response.caller, caller))
            return e;
    return NULL;
}

static void touch(struct entry *entry)
{
    entry->used_ms = sys_now_ms();
    list_remove(&entry->link);
    list_push(&store.used, &entry->link);
}

static err_t not_found(struct str id, bool is_past)
{
    size_t len = id.len < 100 ? id.len : 100;

    if (is_past)
        return err_new_detail(
            ERR_NOT_FOUND, (.code = "previous_response_not_found", .param = "previous_response_id"),
            "Previous response with id '%.*s' not found.", (int)len, id.ptr);
    return err_new_detail(ERR_NOT_FOUND, (.param = "id"), "Response with id '%.*s' not found.",
                          (int)len, id.ptr);
}

/* ---- what the outside calls ---- */

void response_store_limit(uint64_t max_bytes, uint64_t ttl_ms)
{
    pthread_mutex_lock(&store.lock);
    store.max_bytes = max_bytes;
    store.ttl_ms = ttl_ms;
    pthread_mutex_unlock(&store.lock);
}

err_t response_store_begin(const struct response *response, void *request,
                           void (*cancel)(void *request))
{
    struct entry *entry;

    pthread_mutex_lock(&store.lock);
    clean();
    entry = make_entry(response);
    if (entry) {
        entry->response.is_running = true;
        entry->request = request;
        entry->cancel = cancel;
        entry->loop = loop_self();
    }
    pthread_mutex_unlock(&store.lock);
    return entry ? NULL : err_no_memory();
}

/* Put an entry in the place of the one that was running, if that is still there: it may have been
 * deleted meanwhile. */
static void replace(struct entry *old, const struct response *response, struct turn *past,
                    struct str output)
{
    struct entry *entry;

    drop_entry(old);
    entry = make_entry(response);
    if (!entry)
        return;
    entry->response.is_running = false;
    entry->turn = make_turn(past, response->input, output);
    if (!entry->turn)
        drop_entry(entry);
}

void response_store_finish(const struct response *response, struct turn *past, struct str output)
{
    struct entry *entry;

    pthread_mutex_lock(&store.lock);
    entry = find(response->caller, response->id);
    if (entry && output.ptr)
        replace(entry, response, past, output);
    else if (entry)
        drop_entry(entry);
    clean();
    pthread_mutex_unlock(&store.lock);
}

void response_store_note(const struct response *response)
{
    struct entry *entry;

    pthread_mutex_lock(&store.lock);
    entry = find(response->caller, response->id);
    if (entry)
        drop_entry(entry);
    make_entry(response); /* without memory its provider still has it, but nobody finds it */
    clean();
    pthread_mutex_unlock(&store.lock);
}

static err_t copy(struct arena *arena, struct str text, struct str *out)
{
    *out = arena_copy(arena, text);
    return out->ptr ? NULL : arena_err(arena);
}

static err_t copy_input(const struct turn *turn, struct arena *arena, struct str *out)
{
    struct str input = turn ? turn->input : STR("");
    char *text = arena_alloc(arena, input.len + 2), *at = text;

    if (!text)
        return arena_err(arena);
    hold(&at, STR("["));
    hold(&at, input);
    hold(&at, STR("]"));
    *out = (struct str){text, input.len + 2};
    return NULL;
}

static err_t copy_out(const struct entry *entry, struct arena *arena, struct response *out)
{
    const struct response *r = &entry->response;

    *out = *r;
    TRY(copy(arena, r->id, &out->id));
    TRY(copy(arena, r->caller, &out->caller));
    TRY(copy(arena, r->object, &out->object));
    TRY(copy(arena, r->home, &out->home));
    TRY(copy(arena, r->model, &out->model));
    return copy_input(entry->turn, arena, &out->input);
}

err_t response_store_get(struct str caller, struct str id, struct arena *arena,
                         struct response *out)
{
    const struct entry *entry;
    err_t err;

    pthread_mutex_lock(&store.lock);
    entry = find(caller, id);
    err = entry ? copy_out(entry, arena, out) : not_found(id, false);
    pthread_mutex_unlock(&store.lock);
    return err;
}

/* All turns up to this one, the oldest first: the chain is turned round while it is written. */
static err_t copy_history(const struct turn *turn, struct arena *arena, struct str *out)
{
    size_t size = 2, end;
    char *text;

    for (const struct turn *t = turn; t; t = t->past)
        size += t->input.len + t->output.len + 2;
    if (size > MAX_HISTORY)
        return err_new(ERR_TOO_BIG, "the conversation is longer than %zu bytes", MAX_HISTORY);
    text = arena_alloc(arena, size);
    if (!text)
        return arena_err(arena);
    end = size;
    text[--end] = ']';
    for (const struct turn *t = turn; t; t = t->past) {
        const struct str pieces[] = {t->output, t->input};
        for (size_t i = 0; i < 2; i++) {
            if (pieces[i].len == 0)
                continue;
            if (end != size - 1)
                text[--end] = ',';
            end -= pieces[i].len;
            memcpy(text + end, pieces[i].ptr, pieces[i].len);
        }
    }
    text[--end] = '[';
    *out = (struct str){text + end, size - end};
    return NULL;
}

static err_t take_up(struct entry *entry, struct arena *arena, struct turn **past,
                     struct str *items, struct str *home)
{
    if (entry->response.is_running || entry->response.is_broken)
        return err_new_detail(
            ERR_BAD_REQUEST, (.code = "invalid_value", .param = "previous_response_id"),
            entry->response.is_running ? "The previous response is still in progress."
                                       : "The previous response did not come to its end.");
    touch(entry);
    if (entry->response.home.len)
        return copy(arena, entry->response.home, home);
    TRY(copy_history(entry->turn, arena, items));
    entry->turn->references++;
    *past = entry->turn;
    return NULL;
}

err_t response_store_continue(struct str caller, struct str id, struct arena *arena,
                              struct turn **past, struct str *items, struct str *home)
{
    struct entry *entry;
    err_t err;

    *past = NULL;
    *items = *home = (struct str){0};
    pthread_mutex_lock(&store.lock);
    entry = find(caller, id);
    err = entry ? take_up(entry, arena, past, items, home) : not_found(id, true);
    pthread_mutex_unlock(&store.lock);
    return err;
}

void turn_unref(struct turn *turn)
{
    pthread_mutex_lock(&store.lock);
    unref_locked(turn);
    pthread_mutex_unlock(&store.lock);
}

/* "resp_…" of "msg_…0" */
static bool response_of(struct str item_id, char id[5 + RESPONSES_ID_LENGTH])
{
    size_t prefix = str_index(item_id, '_') + 1;

    if (item_id.len < prefix + RESPONSES_ID_LENGTH)
        return false;
    memcpy(id, "resp_", 5);
    memcpy(id + 5, item_id.ptr + prefix, RESPONSES_ID_LENGTH);
    return true;
}

err_t response_store_find_item(struct str caller, struct str item_id, struct arena *arena,
                               struct str *item)
{
    char id[5 + RESPONSES_ID_LENGTH];
    const struct entry *entry;
    err_t err = NULL;

    *item = (struct str){0};
    if (!response_of(item_id, id))
        return NULL;
    pthread_mutex_lock(&store.lock);
    entry = find(caller, (struct str){id, sizeof(id)});
    if (entry && entry->turn)
        *item = responses_find_item(entry->turn->items, item_id);
    if (item->len > 0)
        err = copy(arena, *item, item);
    pthread_mutex_unlock(&store.lock);
    return err;
}

bool response_store_delete(struct str caller, struct str id)
{
    struct entry *entry;

    pthread_mutex_lock(&store.lock);
    entry = find(caller, id);
    if (entry)
        drop_entry(entry);
    pthread_mutex_unlock(&store.lock);
    return entry != NULL;
}

/* ---- cancelling across threads ---- */

struct cancel_message {
    struct loop_message message;
    struct response response; /* id and caller, in `held` */
    char held[];
};

static size_t message_size(const struct cancel_message *m)
{
    return sizeof(*m) + m->response.id.len + m->response.caller.len;
}

/* In the thread that works on it: if it still does, it can be told. */
static void deliver_cancel(struct loop_message *message)
{
    struct cancel_message *m = container_of(message, struct cancel_message, message);
    const struct entry *entry;
    void (*cancel)(void *request) = NULL;
    void *request = NULL;

    pthread_mutex_lock(&store.lock);
    entry = find(m->response.caller, m->response.id);
    if (entry && entry->response.is_running && entry->loop == loop_self()) {
        cancel = entry->cancel;
        request = entry->request;
    }
    pthread_mutex_unlock(&store.lock);
    if (cancel)
        cancel(request);
    mem_free(MEM_PROCESS, m, message_size(m));
}

bool response_store_cancel(struct str caller, struct str id)
{
    struct cancel_message *m = mem_alloc_zero(MEM_PROCESS, sizeof(*m) + id.len + caller.len);
    const struct entry *entry;
    bool is_posted = false;
    char *at;

    if (!m)
        return false;
    at = m->held;
    m->message.fn = deliver_cancel;
    m->response.id = hold(&at, id);
    m->response.caller = hold(&at, caller);
    pthread_mutex_lock(&store.lock);
    entry = find(caller, id);
    if (entry && entry->response.is_running) { /* its loop lives as long as it is entered */
        loop_post(entry->loop, &m->message);
        is_posted = true;
    }
    pthread_mutex_unlock(&store.lock);
    if (!is_posted)
        mem_free(MEM_PROCESS, m, message_size(m));
    return is_posted;
}

/* ---- seeing inside, and the end ---- */

size_t response_store_bytes(void)
{
    size_t bytes;

    pthread_mutex_lock(&store.lock);
    bytes = store.bytes;
    pthread_mutex_unlock(&store.lock);
    return bytes;
}

void response_store_clear(void)
{
    pthread_mutex_lock(&store.lock);
    list_each (it, &store.used) {
        drop_entry(container_of(it, struct entry, link));
    }
    pthread_mutex_unlock(&store.lock);
}
