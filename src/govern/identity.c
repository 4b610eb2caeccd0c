/* SPDX-License-Identifier: Apache-2.0 */
/* The snapshot in force, and the fiber that keeps it true.
 *
 * A request takes a reference and keeps what it saw to its end; a change puts a new snapshot in its place. The fiber
 * looks at the topic's number, which costs nothing, many times a second, and asks the store itself twice a
 * second, because a notice may be lost: so a revocation holds everywhere within a second. */
#include "govern/identity.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "govern/identity_part.h"
#include "govern/service.h"
#include "observe/log.h"

#define LOOK_MS 50
#define ASK_MS  500

struct identity {
    atomic_uint references;
    struct identity_parts parts;
};

/* The lock guards `snapshot` alone; all else is the main thread's. */
static struct {
    pthread_mutex_t lock;
    struct identity *snapshot;
    struct db *db; /* NULL: there is none */
    const struct conf *conf;
    bool is_behind; /* what `conf` says is not in force yet */
} current = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const struct identity_key root = {.id = {"admin", 5},
                                         .name = {"admin", 5},
                                         .project = {"", 0},
                                         .org = {"", 0},
                                         .scopes = IDENTITY_ADMIN,
                                         .realm = REALM_ALL};

/* ---- counting ---- */

const struct identity *identity_current(void)
{
    struct identity *snapshot;

    pthread_mutex_lock(&current.lock);
    snapshot = current.snapshot;
    if (snapshot)
        atomic_fetch_add_explicit(&snapshot->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&current.lock);
    return snapshot;
}

void identity_unref(const struct identity *identity)
{
    struct identity *own =
        (struct identity *)(uintptr_t)identity; /* the count is not its content */

    if (!own || atomic_fetch_sub(&own->references, 1) != 1)
        return;
    identity_parts_unref(&own->parts);
    mem_free(MEM_PROCESS, own, sizeof(*own));
}

/* Put a snapshot of these parts in force, of which the references are taken over. */
static err_t install(struct identity_parts *parts)
{
    struct identity *snapshot = mem_alloc_zero(MEM_PROCESS, sizeof(*snapshot)), *old;

    if (!snapshot) {
        identity_parts_unref(parts);
        return err_no_memory();
    }
    atomic_init(&snapshot->references, 1);
    snapshot->parts = *parts;
    pthread_mutex_lock(&current.lock);
    old = current.snapshot;
    current.snapshot = snapshot;
    pthread_mutex_unlock(&current.lock);
    identity_unref(old);
    return NULL;
}

struct db *identity_db(void)
{
    return current.db;
}

/* ---- looking up ---- */

static const struct identity_key *find(const struct identity_parts *parts,
                                       const uint8_t hash[IDENTITY_HASH_BYTES])
{
    const struct identity_key *fixed = NULL, *recent = NULL, *key = NULL;

    if (parts->fixed)
        fixed = identity_table_find(&parts->fixed->keys, hash);
    if (parts->recent)
        recent = identity_table_find(&parts->recent->keys, hash);
    if (parts->keys)
        key = identity_table_find(&parts->keys->keys, hash);
    /* What was read later about the same key counts, even if it knows this secret no more. */
    if (key && parts->recent && identity_table_get(&parts->recent->keys, key->id))
        key = NULL;
    return fixed ? fixed : recent ? recent : key;
}

static bool has_no_keys(const struct identity_parts *parts)
{
    return (!parts->fixed || parts->fixed->keys.count == 0) &&
           (!parts->keys || parts->keys->keys.count == 0) &&
           (!parts->recent || parts->recent->keys.count == 0);
}

err_t identity_find(const struct identity *identity, struct str sent,
                    const struct identity_key **out)
{
    uint8_t hash[IDENTITY_HASH_BYTES];

    *out = NULL;
    if (has_no_keys(&identity->parts)) /* on a laptop, where SDKs send a key all the same */
        return NULL;
    TRY(identity_hash(sent, hash));
    *out = find(&identity->parts, hash);
    return NULL;
}

err_t identity_find_admin(const struct identity *identity, struct str sent,
                          const struct identity_key **out)
{
    const struct identity_part *fixed = identity->parts.fixed;
    uint8_t hash[IDENTITY_HASH_BYTES];

    *out = NULL;
    TRY(identity_hash(sent, hash));
    *out = find(&identity->parts, hash);
    if (fixed && fixed->has_root && CRYPTO_memcmp(fixed->root, hash, sizeof(hash)) == 0)
        *out = &root;
    return NULL;
}

const struct identity_key *identity_get(const struct identity *identity, struct str id)
{
    const struct identity_part *const parts[] = {identity->parts.recent, identity->parts.keys,
                                                 identity->parts.fixed};
    const struct identity_key *key = NULL;

    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts) && !key; i++)
        if (parts[i])
            key = identity_table_get(&parts[i]->keys, id);
    return key;
}

const struct identity_project *identity_project_get(const struct identity *identity, struct str id)
{
    return identity_part_project(identity->parts.tenants, id);
}

static int compare_owner(const void *wanted, const void *element)
{
    const struct str *parts = wanted, *owner = element; /* project, user */
    struct str project = parts[0], user = parts[1];
    size_t len = owner->len < project.len ? owner->len : project.len;
    int order = len ? memcmp(project.ptr, owner->ptr, len) : 0;

    if (order || owner->len <= project.len)
        return order ? order : 1;
    if (owner->ptr[project.len] != '/')
        return '/' - (unsigned char)owner->ptr[project.len];
    struct str rest = str_after(*owner, project.len + 1);
    len = rest.len < user.len ? rest.len : user.len;
    order = len ? memcmp(user.ptr, rest.ptr, len) : 0;
    return order ? order : (user.len > rest.len) - (user.len < rest.len);
}

bool identity_is_suspended(const struct identity *identity, struct str project, struct str user)
{
    const struct identity_part *users = identity->parts.users;
    struct str wanted[2] = {project, user};

    return users && users->suspended_count > 0 && user.len > 0 &&
           bsearch(wanted, users->suspended, users->suspended_count, sizeof(struct str),
                   compare_owner);
}

bool identity_names_model(const struct conf_strings *models, struct str model)
{
    for (size_t i = 0; i < models->count; i++) {
        struct str name = models->items[i];
        if (str_ends(name, STR("*")) ? str_starts(model, (struct str){name.ptr, name.len - 1})
                                     : str_eq(model, name))
            return true;
    }
    return models->count == 0;
}

bool identity_is_empty(const struct identity *identity)
{
    const struct identity_parts *parts = &identity->parts;

    return (!parts->keys || parts->keys->keys.count == 0) &&
           (!parts->recent || parts->recent->keys.count == 0);
}

bool identity_has_admin(const struct identity *identity)
{
    const struct identity_parts *parts = &identity->parts;

    return (parts->fixed && parts->fixed->has_admin) || (parts->keys && parts->keys->has_admin) ||
           (parts->recent && parts->recent->has_admin);
}

void identity_subject(const struct identity_key *key, struct str user, bool user_is_limited,
                      struct subject *out)
{
    *out = (struct subject){.org = key->org,
                            .project = key->project,
                            .key = key->id,
                            .key_name = key->name,
                            .user = user,
                            .user_is_limited = user_is_limited && user.len > 0,
                            .tier = key->tier,
                            .key_allowance = key->allowance,
                            .project_allowance = key->project_allowance};
}

/* ---- keeping it true ---- */

/* References on the parts in force. */
static struct identity_parts take_parts(void)
{
    struct identity_parts parts = {0};

    if (current.snapshot) /* only the main thread replaces it */
        parts = current.snapshot->parts;
    identity_parts_ref(&parts);
    return parts;
}

/* The configuration's keys anew, over the projects in `parts`, and all of it in force. */
static err_t install_with_conf(struct identity_parts *parts)
{
    struct identity_part *fixed;
    err_t err = identity_part_of_conf(current.conf, parts->tenants, &fixed);

    current.is_behind = true; /* until it has worked */
    if (err) {
        identity_parts_unref(parts);
        return err;
    }
    identity_part_unref(parts->fixed);
    parts->fixed = fixed;
    TRY(install(parts));
    current.is_behind = false;
    return NULL;
}

err_t identity_refresh(void)
{
    struct identity_parts parts;
    bool changed = false;
    int64_t before, now;
    err_t err;

    if (!current.db || !current.snapshot)
        return NULL;
    parts = take_parts();
    before = parts.version;
    err = identity_parts_read(current.db, &parts, &changed);
    now = current.snapshot ? current.snapshot->parts.version : INT64_MAX;
    /* While this fiber waited another one may have read more. */
    if (err || !changed || (now != before && now > parts.version)) {
        identity_parts_unref(&parts);
        return err;
    }
    return install_with_conf(&parts);
}

static err_t open_identity(struct db *db, const struct conf *conf)
{
    struct identity_parts parts = take_parts();

    current.db = db;
    conf_unref(current.conf);
    current.conf = conf_ref(conf);
    TRY(install_with_conf(&parts));
    return identity_refresh();
}

static void adopt(const struct conf *conf)
{
    struct identity_parts parts = take_parts();
    err_t err;

    conf_unref(current.conf);
    current.conf = conf_ref(conf);
    err = install_with_conf(&parts);
    if (err)
        log_error("the keys of the new configuration are not in force yet", err);
}

/* There was no memory for a reload: a key that it took away must not stay good. */
static void catch_up(void)
{
    struct identity_parts parts = take_parts();
    err_t err = install_with_conf(&parts);

    if (!err)
        log_info("the keys of the new configuration are in force");
}

static void run(void *db)
{
    uint64_t seen = db_topic_version(db, "identity"), asked_ms = loop_now_ms();
    bool was_well = true;

    while (!fiber_sleep(LOOK_MS)) {
        uint64_t version = db_topic_version(db, "identity");
        if (current.is_behind)
            catch_up();
        if (version == seen && loop_now_ms() - asked_ms < ASK_MS)
            continue;
        arena_reset(fiber_arena());
        err_t err = identity_refresh();
        if (err && was_well)
            log_error("keys cannot be read; those known stay in force", err);
        was_well = !err;
        if (!err)
            seen = version;
        asked_ms = loop_now_ms();
    }
}

static void close_identity(struct db *db)
{
    struct identity *old;

    (void)db;
    pthread_mutex_lock(&current.lock);
    old = current.snapshot;
    current.snapshot = NULL;
    pthread_mutex_unlock(&current.lock);
    identity_unref(old);
    conf_unref(current.conf);
    current.conf = NULL;
    current.db = NULL;
}

const struct govern_service identity_service = {
    .name = "identity", .open = open_identity, .adopt = adopt, .run = run, .close = close_identity};
