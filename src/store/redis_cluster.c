/* SPDX-License-Identifier: Apache-2.0 */
/* Redis Cluster: whose a key is.
 *
 * Nobody is asked for a map of the cluster. A command goes to whom its slot was found with last, or to any server, and who
 * is not its owner answers MOVED with the address of who is (Redis Cluster specification, "Redirection and resharding"). That is
 * remembered, and the command sent on. While a slot is carried over, ASK names the new owner for one command alone.
 *
 * The hard thing is a server that is gone: the others name it until its replica has taken over. Its slots are forgotten each
 * time that it could not be reached, and only if somebody has named it again since then is it worth another try. */
#include "store/redis_private.h"

#include <stdio.h>
#include <string.h>

#define MAX_LINKS     128 /* of one loop */
#define MAX_REDIRECTS 5

/* ---- slots ---- */

/* CRC-16/XMODEM, four bits at a time. */
static unsigned crc16(struct str bytes)
{
    static const uint16_t steps[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5,
                                       0x60c6, 0x70e7, 0x8108, 0x9129, 0xa14a, 0xb16b,
                                       0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    uint16_t crc = 0;

    for (size_t i = 0; i < bytes.len; i++) {
        uint8_t byte = (uint8_t)bytes.ptr[i];
        crc = (uint16_t)(crc << 4) ^ steps[(crc >> 12) ^ (byte >> 4)];
        crc = (uint16_t)(crc << 4) ^ steps[(crc >> 12) ^ (byte & 15)];
    }
    return crc;
}

unsigned redis_cluster_slot(struct str key)
{
    size_t open = str_index(key, '{');
    struct str tag = str_after(key, open + (open < key.len));
    size_t end = str_index(tag, '}');

    if (end > 0 && end < tag.len)
        key = (struct str){tag.ptr, end};
    return crc16(key) % REDIS_SLOTS;
}

/* ---- links ---- */

static struct redis_link *find(const struct redis *r, const struct redis_host *host)
{
    list_each (it, &r->links) {
        struct redis_link *link = container_of(it, struct redis_link, at);
        if (link->host.port == host->port && str_eq(link->host.name, host->name))
            return link;
    }
    return NULL;
}

static err_t find_or_open(struct redis *r, const struct redis_host *host, struct redis_link **out)
{
    size_t count = 0;

    *out = find(r, host);
    if (*out)
        return NULL;
    list_each (it, &r->links)
        count++;
    if (count >= MAX_LINKS)
        return err_new(ERR_STORE, "redis: the cluster has more than %d nodes", MAX_LINKS);
    return redis_link_open(r, host, out);
}

/* Anybody, connected if possible. The error says of one why there is nobody. */
static err_t find_any(struct redis *r, struct redis_link **out)
{
    const char *reason = "no node of the cluster can be reached";

    *out = NULL;
    list_each (it, &r->links) {
        struct redis_link *link = container_of(it, struct redis_link, at);
        if (link->is_out)
            reason = link->reason;
        else if (!*out || (link->is_ready && !(*out)->is_ready))
            *out = link;
    }
    for (size_t i = 0; !*out && i < r->target->host_count; i++)
        if (!find(r, &r->target->hosts[i]))
            TRY(redis_link_open(r, &r->target->hosts[i], out));
    return *out ? NULL : err_new(ERR_STORE, "redis: %s", reason);
}

err_t redis_cluster_choose(struct redis *r, struct str key, struct redis_link **out)
{
    struct redis_link *owner = r->slots[redis_cluster_slot(key)];

    if (owner && !owner->is_out) {
        *out = owner;
        return NULL;
    }
    return find_any(r, out);
}

void redis_cluster_forget(struct redis_link *link)
{
    struct redis_link **slots = link->owner->slots;

    for (size_t i = 0; slots && i < REDIS_SLOTS; i++)
        if (slots[i] == link)
            slots[i] = NULL;
}

bool redis_cluster_needs(struct redis_link *link)
{
    const struct redis *r = link->owner;
    bool is_named = !r->slots, has_others = false;

    for (size_t i = 0; r->slots && i < REDIS_SLOTS && !is_named; i++)
        is_named = r->slots[i] == link;
    list_each (it, &r->links)
        has_others |= !container_of(it, struct redis_link, at)->is_out;
    redis_cluster_forget(link);
    return is_named || !has_others;
}

/* ---- answers that name others ---- */

bool redis_cluster_is_redirect(const struct redis_reply *reply)
{
    return redis_reply_is_error(reply, STR("MOVED")) || redis_reply_is_error(reply, STR("ASK")) ||
           redis_reply_is_error(reply, STR("TRYAGAIN"));
}

/* "MOVED 3999 127.0.0.1:6381": a host that is not said is the one that answered. */
static bool parse(const struct redis_link *link, struct str text, uint64_t *slot,
                  struct redis_host *host)
{
    struct str word;
    uint64_t port;
    size_t colon;

    if (!str_split(&text, ' ', &word) || !str_split(&text, ' ', &word) || !str_to_u64(word, slot) ||
        *slot >= REDIS_SLOTS)
        return false;
    for (colon = text.len; colon > 0 && text.ptr[colon - 1] != ':';)
        colon--;
    if (colon == 0 || !str_to_u64(str_after(text, colon), &port) || port == 0 || port > UINT16_MAX)
        return false;
    *host = (struct redis_host){{text.ptr, colon - 1}, (uint16_t)port};
    if (host->name.len == 0 || str_eq(host->name, STR("?")))
        host->name = link->host.name;
    return true;
}

/* Whoever waits, waits for that one now. */
static void hand_over(struct redis_waiter *waiter, struct redis_link *to)
{
    if (!waiter)
        return;
    redis_link_hold(to);
    redis_link_release(waiter->link);
    waiter->link = to;
}

static bool send_on(struct redis_link *to, struct redis_pending *pending, bool is_asking)
{
    const struct str asking = STR("ASKING");

    hand_over(pending->waiter, to);
    if (to->is_out)
        redis_link_finish(pending, NULL);
    return to->is_out || ((!is_asking || !redis_link_send(to, &asking, 1, NULL)) &&
                          !redis_link_take_over(to, pending));
}

bool redis_cluster_redirect(struct redis_link *link, struct redis_pending *pending,
                            const struct redis_reply *reply)
{
    bool has_moved = redis_reply_is_error(reply, STR("MOVED"));
    bool is_asking = redis_reply_is_error(reply, STR("ASK"));
    struct redis *r = link->owner;
    struct redis_link *to;
    struct redis_host host;
    uint64_t slot;

    if (!r->slots || !(has_moved || is_asking) || pending->len == 0 ||
        ++pending->redirects > MAX_REDIRECTS || !parse(link, reply->text, &slot, &host) ||
        find_or_open(r, &host, &to))
        return false;
    if (has_moved)
        r->slots[slot] = to;
    return send_on(to, pending, is_asking);
}
