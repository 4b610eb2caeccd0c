/* SPDX-License-Identifier: Apache-2.0 */
/* Counting parts, and making the one of the configuration. */
#include "govern/identity_part.h"

#include <stdlib.h>

#include "base/mem.h"
#include "observe/log.h"

#define PART_MAX_BYTES ((size_t)8 * 1024 * 1024 * 1024)

struct identity_part *identity_part_new(void)
{
    struct arena *arena = arena_new(MEM_PROCESS, PART_MAX_BYTES);
    struct identity_part *part = arena ? arena_new_struct(arena, struct identity_part) : NULL;

    if (!part) {
        arena_free(arena);
        return NULL;
    }
    part->arena = arena;
    atomic_init(&part->references, 1);
    return part;
}

struct identity_part *identity_part_ref(struct identity_part *part)
{
    if (part)
        atomic_fetch_add_explicit(&part->references, 1, memory_order_relaxed);
    return part;
}

void identity_part_unref(struct identity_part *part)
{
    if (part && atomic_fetch_sub(&part->references, 1) == 1)
        arena_free(part->arena);
}

void identity_parts_ref(struct identity_parts *parts)
{
    identity_part_ref(parts->fixed);
    identity_part_ref(parts->tenants);
    identity_part_ref(parts->keys);
    identity_part_ref(parts->recent);
    identity_part_ref(parts->users);
}

void identity_parts_unref(struct identity_parts *parts)
{
    identity_part_unref(parts->fixed);
    identity_part_unref(parts->tenants);
    identity_part_unref(parts->keys);
    identity_part_unref(parts->recent);
    identity_part_unref(parts->users);
    *parts = (struct identity_parts){0};
}

static int compare_projects(const void *a, const void *b)
{
    const struct str x = ((const struct identity_project *)a)->id;
    const struct str y = ((const struct identity_project *)b)->id;
    size_t len = x.len < y.len ? x.len : y.len;
    int order = len ? memcmp(x.ptr, y.ptr, len) : 0;

    return order ? order : (x.len > y.len) - (x.len < y.len);
}

static const struct identity_project *find(const struct identity_project *list, size_t count,
                                           struct str id)
{
    struct identity_project wanted = {.id = id};

    return count ? bsearch(&wanted, list, count, sizeof(*list), compare_projects) : NULL;
}

const struct identity_project *identity_part_project(const struct identity_part *tenants,
                                                     struct str id)
{
    return tenants ? find(tenants->projects, tenants->project_count, id) : NULL;
}

bool identity_part_has_org(const struct identity_part *tenants, struct str id)
{
    const struct identity_project *org = find(tenants->orgs, tenants->org_count, id);

    return org && !org->is_disabled;
}

void identity_part_sort(struct identity_project *list, size_t count)
{
    if (count > 0)
        qsort(list, count, sizeof(*list), compare_projects);
}

/* ---- keys of the configuration ---- */

static unsigned scopes_of(const struct conf_key *key)
{
    static const struct {
        struct str name;
        unsigned scope;
    } words[] = {{{"models", 6}, IDENTITY_MODELS},
                 {{"route", 5}, IDENTITY_ROUTE},
                 {{"admin", 5}, IDENTITY_ADMIN}};
    unsigned scopes = 0;

    for (size_t i = 0; i < key->scopes.count; i++)
        for (size_t k = 0; k < sizeof(words) / sizeof(*words); k++)
            if (str_eq(key->scopes.items[i], words[k].name))
                scopes |= words[k].scope;
    return scopes;
}

/* Without a store there is one project, and all that the configuration names are it. */
static void set_project(struct identity_key *key, struct str id,
                        const struct identity_part *tenants)
{
    const struct identity_project *project = identity_part_project(tenants, id);

    if (project) {
        key->project = project->id;
        key->org = project->org;
        key->tier = project->tier;
        key->is_disabled = project->is_disabled;
        key->project_allowance = project->allowance;
        return;
    }
    key->project = key->org = STR("default");
    key->is_disabled = tenants != NULL;
    if (!tenants)
        return;
    log_begin(LOG_WARN, "key without project");
    log_str("key", key->name);
    log_str("project", id);
    log_end();
}

static err_t read_key(const struct conf_key *from, const struct identity_part *tenants,
                      struct arena *arena, struct identity_entry *entry)
{
    char *id = arena_printf(arena, "static:%.*s", STR_ARG(from->name));
    struct identity_key *key = &entry->key;

    key->id = str_from(id);
    key->name = arena_copy(arena, from->name);
    if (!id || !key->name.ptr)
        return arena_err(arena);
    key->scopes = scopes_of(from);
    key->realm = key->scopes & IDENTITY_ADMIN ? REALM_ALL : REALM_NONE;
    set_project(key, from->project.len ? from->project : STR("default"), tenants);
    return identity_hash(from->key, entry->hash);
}

static err_t fill(struct identity_part *part, const struct conf *conf,
                  const struct identity_part *tenants)
{
    size_t count = conf->keys.fixed_count;
    struct identity_entry *entries = arena_alloc_array(part->arena, count, sizeof(*entries));

    if (!entries)
        return arena_err(part->arena);
    for (size_t i = 0; i < count; i++) {
        TRY(read_key(&conf->keys.fixed[i], tenants, part->arena, &entries[i]));
        part->has_admin |= entries[i].key.realm == REALM_ALL;
    }
    part->has_root = conf->admin_key.len > 0;
    if (part->has_root)
        TRY(identity_hash(conf->admin_key, part->root));
    return identity_table_make(entries, count, part->arena, &part->keys);
}

err_t identity_part_of_conf(const struct conf *conf, const struct identity_part *tenants,
                            struct identity_part **out)
{
    struct identity_part *part = identity_part_new();
    err_t err;

    *out = NULL;
    if (!part)
        return err_no_memory();
    err = fill(part, conf, tenants);
    if (err) {
        err = err_is(err, ERR_BUSY) ? err_no_memory() : err;
        identity_part_unref(part);
        return err;
    }
    *out = part;
    return NULL;
}
