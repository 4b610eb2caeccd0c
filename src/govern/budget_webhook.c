/* SPDX-License-Identifier: Apache-2.0 */
/* Telling an address of the administrator's that a budget reached 50, 80 or 100 %.
 *
 * Alerts are rows that were committed with the spend that caused them. A process claims some for a while, sends each as a
 * signed POST, and notes which arrived. What fails is tried again later, by whichever process comes first. What nobody
 * was to be told of while its period lasted is of no use later: it is not sent, and goes.
 *
 * The hard thing is once: a receiver that answers too late is told again. So every alert has an id that
 * stays the same. */
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>

#include "base/json_writer.h"
#include "base/sys.h"
#include "base/text.h"
#include "conf/quota.h"
#include "fiber/fiber.h"
#include "govern/service.h"
#include "net/http_client.h"
#include "net/tls.h"
#include "observe/log.h"

#define LOOK_EVERY_MS   1000
#define LATE_S          3600                  /* after its period an alert is still sent */
#define SWEEP_EVERY_MS  UINT64_C(3600000)     /* how often those that are over are deleted, */
#define KEEP_S          (UINT64_C(2) * 86400) /* when no call of their period is open any more */
#define CLAIM_MS        30000 /* longer than one try of all that are claimed at a time */
#define CLAIM_MAX       "2"
#define CONNECT_MS      5000
#define ANSWER_MS       10000
#define MAX_TRIES       10
#define FIRST_RETRY_MS  1000 /* doubled from try to try */
#define MAX_BODY_BYTES  ((size_t)16 * 1024)
#define SIGNATURE_BYTES 32

static struct {
    struct db *db;
    const struct conf *conf; /* in force */
    /* What was made for a configuration. */
    const struct conf *made_for;
    struct arena *arena;
    struct http_origin origin;
    struct http_pool *pool;
    uint64_t sweep_at_ms;
} hook;

/* One alert, with what its budget is. */
struct alert {
    struct str account;
    uint64_t percent, at_ms, spent, cap, tries;
    struct str scope, owner, project, unit, period;
    uint64_t begins_s;
};

/* ---- claiming ---- */

static const char claim_some[] =
    "UPDATE budget_alerts SET tries = tries + 1, next_ms = {{now_ms}} + $1 "
    "WHERE (account, percent) IN (SELECT account, percent FROM budget_alerts "
    "WHERE sent_ms IS NULL AND tries < $2 AND next_ms <= {{now_ms}} AND NOT EXISTS (SELECT 1 "
    "FROM budget_periods p WHERE p.account = budget_alerts.account AND p.ends_s < $3) "
    "ORDER BY at_ms LIMIT " CLAIM_MAX " {{for_update}} {{skip_locked}}) "
    "RETURNING account, percent, at_ms, spent, cap, tries";

static err_t read_budget(struct db *db, struct arena *arena, struct alert *a, bool *is_there)
{
    struct db_rows rows;

    TRY(db_run(db, DB_READ,
               DB_ASK("SELECT scope, owner, project_id, unit, period, begins_s FROM budget_periods "
                      "WHERE account = $1",
                      DB_OF_TEXT(a->account)),
               arena, &rows));
    *is_there = rows.count > 0;
    if (!*is_there)
        return NULL;
    a->scope = db_text(&rows, 0, 0);
    a->owner = db_text(&rows, 0, 1);
    a->project = db_text(&rows, 0, 2);
    a->unit = db_text(&rows, 0, 3);
    a->period = db_text(&rows, 0, 4);
    a->begins_s = (uint64_t)db_int(&rows, 0, 5);
    return NULL;
}

/* ---- the message ---- */

static void put_amount(struct json_writer *w, const char *name, const struct alert *a,
                       uint64_t amount)
{
    struct buf text = buf_make(MEM_GOVERN, 64);

    if (!str_eq(a->unit, STR("money"))) {
        json_put_u64(w, name, amount);
        return;
    }
    if (!w->err)
        w->err = quota_print_money(amount, &text);
    if (!w->err)
        json_put_raw(w, name, buf_str(&text));
    buf_fini(&text);
}

static void put_moment(struct json_writer *w, const char *name, uint64_t ms)
{
    char text[25];

    text_iso_date(ms, text);
    json_put_text(w, name, str_from(text));
}

/* The user's own name, without its project. */
static struct str owner_of(const struct alert *a)
{
    bool is_user = str_eq(a->scope, STR("user")) && a->owner.len > a->project.len;

    return is_user ? str_after(a->owner, a->project.len + 1) : a->owner;
}

static err_t write_body(const struct alert *a, struct str currency, struct buf *body)
{
    struct json_writer w = json_writer_make(body);
    char id[32];

    snprintf(id, sizeof(id), "alert_%016" PRIx64, text_hash(a->account, a->cap * 128 + a->percent));
    json_open_object(&w);
    json_put_text(&w, "event", STR("budget.reached"));
    json_put_text(&w, "id", str_from(id));
    json_put_object(&w, "budget");
    json_put_text(&w, "scope", a->scope);
    json_put_text(&w, "owner", owner_of(a));
    json_put_text(&w, "project", a->project);
    json_put_text(&w, "unit", a->unit);
    json_put_text(&w, "period", a->period);
    put_moment(&w, "begins", a->begins_s * 1000);
    json_close_object(&w);
    json_put_u64(&w, "percent", a->percent);
    put_amount(&w, "spent", a, a->spent);
    put_amount(&w, "cap", a, a->cap);
    if (str_eq(a->unit, STR("money")))
        json_put_text(&w, "currency", currency);
    put_moment(&w, "at", a->at_ms);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* "sha256=" and the HMAC-SHA256 of "timestamp.body" (RFC 2104) in hexadecimal. */
static err_t sign(struct str secret, const char *timestamp, struct str body, struct arena *arena,
                  struct str *out)
{
    const char *text = arena_printf(arena, "%s.%.*s", timestamp, STR_ARG(body));
    char *signature = arena_alloc(arena, sizeof("sha256=") + (size_t)2 * SIGNATURE_BYTES);
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (!text || !signature)
        return arena_err(arena);
    if (!HMAC(EVP_sha256(), secret.ptr, (int)secret.len, (const unsigned char *)text, strlen(text),
              mac, &len) ||
        len != SIGNATURE_BYTES)
        return err_new(ERR_SYSTEM, "an alert cannot be signed");
    memcpy(signature, "sha256=", 7);
    for (size_t i = 0; i < SIGNATURE_BYTES; i++)
        snprintf(signature + 7 + 2 * i, 3, "%02x", mac[i]);
    *out = (struct str){signature, 7 + 2 * SIGNATURE_BYTES};
    return NULL;
}

/* ---- sending ---- */

static err_t post(struct str timestamp, struct str signature, struct str body, struct arena *arena)
{
    const struct http_header headers[] = {{STR("Content-Type"), STR("application/json")},
                                          {STR("x-sluice-timestamp"), timestamp},
                                          {STR("x-sluice-signature"), signature}};
    struct http_ask ask = {.origin = &hook.origin,
                           .method = HTTP_POST_,
                           .method_text = "POST",
                           .target = hook.origin.base_path.len ? STR("") : STR("/"),
                           .headers = headers,
                           .header_count = sizeof(headers) / sizeof(*headers),
                           .body = &body,
                           .body_count = 1,
                           .connect_ms = CONNECT_MS,
                           .head_at_ms = loop_now_ms() + ANSWER_MS};
    struct http_call *call = arena_new_struct(arena, struct http_call);
    int status;

    if (!call)
        return arena_err(arena);
    TRY(http_call_open(hook.pool, &ask, arena, call));
    status = call->status;
    http_call_close(call);
    return status >= 200 && status < 300 ? NULL : err_new(ERR_UPSTREAM, "it answered %d", status);
}

static err_t send_alert(const struct conf *conf, const struct alert *a, struct arena *arena)
{
    struct buf body = buf_make(MEM_GOVERN, MAX_BODY_BYTES);
    const char *timestamp = arena_printf(arena, "%" PRIu64, sys_wall_ms() / 1000);
    struct str signature;
    err_t err = timestamp ? write_body(a, conf->budgets.currency, &body) : arena_err(arena);

    if (!err)
        err = sign(conf->budgets.webhook_secret, timestamp, buf_str(&body), arena, &signature);
    if (!err)
        err = post(str_from(timestamp), signature, buf_str(&body), arena);
    buf_fini(&body);
    return err;
}

static err_t note(struct db *db, const struct alert *a, err_t failure)
{
    if (!failure)
        return db_run(db, DB_WRITE,
                      DB_ASK("UPDATE budget_alerts SET sent_ms = {{now_ms}} "
                             "WHERE account = $1 AND percent = $2 AND cap = $3",
                             DB_OF_TEXT(a->account), DB_OF_INT(a->percent), DB_OF_INT(a->cap)),
                      NULL, NULL);
    log_begin(a->tries < MAX_TRIES ? LOG_WARN : LOG_ERROR,
              a->tries < MAX_TRIES ? "an alert about a budget could not be sent yet"
                                   : "an alert about a budget could not be sent: given up");
    log_str("account", a->account);
    log_u64("percent", a->percent);
    log_u64("tries", a->tries);
    log_err(failure);
    log_end();
    return db_run(db, DB_WRITE,
                  DB_ASK("UPDATE budget_alerts SET next_ms = {{now_ms}} + $1 "
                         "WHERE account = $2 AND percent = $3 AND cap = $4",
                         DB_OF_INT(FIRST_RETRY_MS << (a->tries - 1)), DB_OF_TEXT(a->account),
                         DB_OF_INT(a->percent), DB_OF_INT(a->cap)),
                  NULL, NULL);
}

static err_t deliver(struct db *db, const struct conf *conf, const struct db_rows *rows, size_t i,
                     struct arena *arena)
{
    struct alert a = {.account = db_text(rows, i, 0),
                      .percent = (uint64_t)db_int(rows, i, 1),
                      .at_ms = (uint64_t)db_int(rows, i, 2),
                      .spent = (uint64_t)db_int(rows, i, 3),
                      .cap = (uint64_t)db_int(rows, i, 4),
                      .tries = (uint64_t)db_int(rows, i, 5)};
    bool is_there;
    err_t err;

    TRY(read_budget(db, arena, &a, &is_there));
    if (!is_there)
        return NULL;
    err = send_alert(conf, &a, arena);
    if (err && err->kind == ERR_KILLED)
        return err;
    return note(db, &a, err);
}

/* ---- the address ---- */

static bool keep_none(uint64_t origin_id, void *arg)
{
    return false;
}

static void forget_origin(void)
{
    if (hook.pool)
        http_pool_sweep(hook.pool, keep_none, NULL);
    tls_context_unref(hook.origin.tls);
    hook.origin = (struct http_origin){0};
    arena_free(hook.arena);
    hook.arena = NULL;
    conf_unref(hook.made_for);
    hook.made_for = NULL;
}

static err_t make_origin(const struct conf *conf)
{
    if (hook.made_for == conf)
        return NULL;
    forget_origin();
    hook.arena = arena_new(MEM_GOVERN, 64 * 1024);
    if (!hook.arena)
        return err_no_memory();
    TRY(http_origin_make(conf->budgets.webhook_url, STR(""), hook.arena, &hook.origin));
    if (hook.origin.is_tls)
        TRY(tls_client_context(STR(""), STR(""), STR(""), &hook.origin.tls));
    hook.made_for = conf_ref(conf);
    return NULL;
}

/* ---- the service ---- */

/* Delete alerts of periods that are long over, some at a time. */
static err_t sweep(struct db *db)
{
    struct db_rows rows = {0};

    if (loop_now_ms() < hook.sweep_at_ms)
        return NULL;
    TRY(db_run(db, DB_WRITE,
               DB_ASK("DELETE FROM budget_alerts WHERE account IN (SELECT a.account FROM "
                      "budget_alerts a JOIN budget_periods p ON p.account = a.account "
                      "WHERE p.ends_s < $1 LIMIT 1000)",
                      DB_OF_INT(sys_wall_ms() / 1000 - KEEP_S)),
               NULL, &rows));
    if (rows.changed == 0)
        hook.sweep_at_ms = loop_now_ms() + SWEEP_EVERY_MS;
    return NULL;
}

/* Send what is due. *count is how many there were. */
static err_t look(struct db *db, struct arena *arena, size_t *count)
{
    const struct conf *conf = hook.conf;
    struct db_rows rows = {0};
    err_t err;

    *count = 0;
    if (conf->budgets.webhook_url.len == 0)
        return NULL;
    TRY(make_origin(conf)); /* which holds conf from here on */
    TRY(db_run(db, DB_WRITE,
               DB_ASK(claim_some, DB_OF_INT(CLAIM_MS), DB_OF_INT(MAX_TRIES),
                      DB_OF_INT(sys_wall_ms() / 1000 - LATE_S)),
               arena, &rows));
    *count = rows.count;
    for (size_t i = 0; i < rows.count; i++) {
        err = deliver(db, conf, &rows, i, arena);
        if (err)
            return err;
    }
    return NULL;
}

static err_t open_webhook(struct db *db, const struct conf *conf)
{
    hook.db = db;
    hook.conf = conf_ref(conf);
    return NULL;
}

static void adopt_webhook(const struct conf *conf)
{
    const struct conf *old = hook.conf;

    hook.conf = conf_ref(conf);
    conf_unref(old);
}

static void run_webhook(void *db)
{
    struct arena *arena = fiber_arena();
    err_t err = NULL, failed;
    size_t count;

    while (!err) {
        count = 0;
        failed = hook.pool ? NULL : http_pool_open(&hook.pool);
        if (!failed)
            failed = look(db, arena, &count);
        if (!failed)
            failed = sweep(db);
        if (failed && failed->kind != ERR_KILLED)
            log_error("alerts about budgets wait", failed);
        arena_reset(arena);
        err = failed || count == 0 ? fiber_sleep(LOOK_EVERY_MS) : fiber_yield();
    }
    http_pool_close(hook.pool);
    hook.pool = NULL;
}

static void close_webhook(struct db *db)
{
    (void)db;
    forget_origin();
    conf_unref(hook.conf);
    hook.conf = NULL;
}

const struct govern_service webhook_service = {.name = "budget alerts",
                                               .open = open_webhook,
                                               .adopt = adopt_webhook,
                                               .run = run_webhook,
                                               .close = close_webhook};
