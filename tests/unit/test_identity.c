/* SPDX-License-Identifier: Apache-2.0 */
/* Keys: how they are made, found, read from a store, changed there, and what each realm sees of it. */
#include "arena_scope.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json_members.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "govern/identity_field.h"
#include "govern/identity_page.h"
#include "govern/identity_store.h"
#include "govern/identity_table.h"
#include "govern/service.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "store/db.h"

static const struct identity_key *found(const struct identity *identity, struct str sent)
{
    const struct identity_key *key;

    assert_null(identity_find(identity, sent, &key));
    return key;
}

static const struct identity_key *found_admin(const struct identity *identity, struct str sent)
{
    const struct identity_key *key;

    assert_null(identity_find_admin(identity, sent, &key));
    return key;
}

static struct buf out;
static struct db *db;
static struct conf *conf;
static char folder[64];

static const struct identity_actor platform = {.org = {"", 0},
                                               .project = {"", 0},
                                               .key = {"admin", 5},
                                               .name = {"admin", 5},
                                               .ip = {"::1", 3}};

static int set_up(void **state)
{
    out = buf_make(MEM_TOOL, 64 * 1024 * 1024);
    return begin_arena(state);
}

static int tear_down(void **state)
{
    buf_fini(&out);
    return end_arena(state);
}

/* ---- a store ---- */

static void open_db(void)
{
    char url[128];
    struct db_options options;

    snprintf(url, sizeof(url), "sqlite:%s/sluice.db", folder);
    options = (struct db_options){.url = str_from(url)};
    assert_ok(db_open(&options, &db));
}

static int set_up_store(void **state)
{
    char path[96];
    FILE *file;

    if (set_up(state))
        return -1;
    snprintf(folder, sizeof(folder), "/tmp/identity.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/sluice.yaml", folder);
    file = fopen(path, "w");
    fputs("keys: {static: [{name: ci, key: sk-of-the-ci}]}\n", file);
    fclose(file);
    assert_ok(conf_load(str_from(path), NULL, &conf));
    open_db();
    assert_ok(identity_service.open(db, conf));
    return 0;
}

static int tear_down_store(void **state)
{
    char command[128];

    identity_service.close(db);
    conf_unref(conf);
    db_close(db);
    offload_stop_all();
    snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    metrics_close();
    return tear_down(state);
}

static struct identity_call call_of(const struct identity_actor *actor, enum identity_type type,
                                    const char *id, const char *body)
{
    out.len = 0;
    return (struct identity_call){.actor = actor,
                                  .type = type,
                                  .id = str_from(id ? id : ""),
                                  .body = str_from(body ? body : ""),
                                  .arena = arena,
                                  .out = &out};
}

/* A member of the last answer, as text in the arena; "" when it is null or missing. */
static const char *member(const char *name)
{
    struct str value = json_get(buf_str(&out), str_from(name)), text = {0};

    if (!json_text(value, arena, &text))
        text = json_kind(value) == JSON_NULL ? STR("") : value;
    return text.len ? arena_cstr(arena, text) : "";
}

static const char *create(const struct identity_actor *actor, enum identity_type type,
                          const char *body)
{
    struct identity_call call = call_of(actor, type, NULL, body);

    assert_ok(identity_create(&call));
    return member("id");
}

static err_t update(const struct identity_actor *actor, enum identity_type type, const char *id,
                    const char *body)
{
    struct identity_call call = call_of(actor, type, id, body);

    return identity_update(&call);
}

static err_t show(const struct identity_actor *actor, enum identity_type type, const char *id)
{
    struct identity_call call = call_of(actor, type, id, NULL);

    return identity_show(&call);
}

static err_t remove_one(const struct identity_actor *actor, enum identity_type type, const char *id)
{
    struct identity_call call = call_of(actor, type, id, NULL);

    return identity_remove(&call);
}

/* What a key that is sent is, in a word. */
static const char *state_of(const char *sent)
{
    const struct identity *identity = identity_current();
    const struct identity_key *key = found(identity, str_from(sent));
    const char *word = !key                                                  ? "unknown"
                       : key->is_disabled                                    ? "disabled"
                       : key->expires_ms && key->expires_ms <= sys_wall_ms() ? "expired"
                                                                             : "good";

    identity_unref(identity);
    return word;
}

#define assert_state(key, word) assert_string_equal(state_of(key), word)
#define assert_error(call, wanted_kind, wanted_code)                                               \
    do {                                                                                           \
        err_t error_ = (call);                                                                     \
        assert_non_null(error_);                                                                   \
        assert_int_equal(error_->kind, wanted_kind);                                               \
        assert_string_equal(error_->code, wanted_code);                                            \
    } while (0)

/* ---- secrets ---- */

static void test_keys_and_ids_have_their_form(void **state)
{
    char key[IDENTITY_KEY_BYTES], other[IDENTITY_KEY_BYTES], id[IDENTITY_ID_BYTES];

    identity_mint_key(key);
    identity_mint_key(other);
    assert_int_equal(strlen(key), 53);
    assert_memory_equal(key, "sk-sluice-", 10);
    assert_int_equal(strspn(key + 10, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                      "0123456789-_"),
                     43);
    assert_string_not_equal(key, other);
    identity_mint_id("proj_", id);
    assert_int_equal(strlen(id), 29);
    assert_int_equal(strspn(id + 5, "abcdefghijklmnopqrstuvwxyz234567"), 24);
}

static void test_a_key_is_known_by_its_sha256(void **state)
{
    /* FIPS 180-4's example "abc". */
    static const uint8_t abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                  0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                  0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    uint8_t hash[IDENTITY_HASH_BYTES];

    assert_ok(identity_hash(STR("abc"), hash));
    assert_memory_equal(hash, abc, sizeof(abc));
}

/* ---- tables ---- */

static void test_a_table_finds_each_of_many_keys_and_no_other(void **state)
{
    enum { COUNT = 20000 };
    struct identity_entry *entries = arena_alloc_array(arena, COUNT, sizeof(*entries));
    struct identity_table table;
    uint8_t hash[IDENTITY_HASH_BYTES];

    for (size_t i = 0; i < COUNT; i++) {
        char *id = arena_printf(arena, "key_%zu", i);
        entries[i].key.id = str_from(id);
        assert_ok(identity_hash(entries[i].key.id, entries[i].hash));
    }
    assert_ok(identity_table_make(entries, COUNT, arena, &table));
    assert_int_equal(table.count, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        assert_ptr_equal(identity_table_find(&table, entries[i].hash), &entries[i].key);
        assert_ptr_equal(identity_table_get(&table, entries[i].key.id), &entries[i].key);
        memcpy(hash, entries[i].hash, sizeof(hash));
        hash[31] ^= 1;
        assert_null(identity_table_find(&table, hash));
    }
    assert_null(identity_table_get(&table, STR("key_x")));
    assert_null(identity_table_get(&table, STR("")));
}

static void test_an_empty_table_finds_nothing(void **state)
{
    static const uint8_t zero[IDENTITY_HASH_BYTES];
    struct identity_table table;

    assert_ok(identity_table_make(NULL, 0, arena, &table));
    assert_null(identity_table_find(&table, zero));
    assert_null(identity_table_get(&table, STR("")));
}

static void test_patterns_of_models(void **state)
{
    struct str names[] = {STR("gpt-4o"), STR("openai/*")};
    struct conf_strings list = {names, 2}, none = {0};

    assert_true(identity_names_model(&list, STR("gpt-4o")));
    assert_false(identity_names_model(&list, STR("gpt-4o-mini")));
    assert_true(identity_names_model(&list, STR("openai/anything")));
    assert_false(identity_names_model(&list, STR("openai")));
    assert_false(identity_names_model(&list, STR("")));
    assert_true(identity_names_model(&none, STR("anything")));
}

static void test_printable_counts_characters(void **state)
{
    static const char *const good[] = {"a", "alice@example.com", "大名", "naïve name"};
    static const char *const bad[] = {"", "a\n", "a\x7f", "a\xc2\x85", "\xff", "a\xe5\xa4"};

    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        assert_true(identity_is_printable(str_from(good[i]), 128));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(identity_is_printable(str_from(bad[i]), 128));
    assert_true(identity_is_printable(STR("大大大"), 3));
    assert_false(identity_is_printable(STR("大大大"), 2));
}

/* ---- cursors ---- */

static void test_a_cursor_comes_back_as_it_was(void **state)
{
    struct identity_place place = {1700000000000, STR("proj_x/大 name")}, read;
    struct json_writer w = json_writer_make(&out);
    struct str cursor;

    json_open_object(&w);
    identity_place_write("key", &place, &w);
    json_close_object(&w);
    assert_ok(json_writer_err(&w));
    cursor = str_from(member("next_cursor"));
    assert_ok(identity_place_read("key", cursor, arena, &read));
    assert_int_equal(read.number, place.number);
    assert_true(str_eq(read.id, place.id));
    assert_error(identity_place_read("org", cursor, arena, &read), ERR_BAD_REQUEST,
                 "invalid_value");
    for (size_t i = 0; i < cursor.len; i++) {
        char *forged = arena_cstr(arena, cursor);
        forged[i] = forged[i] == '0' ? '1' : '0';
        assert_non_null(identity_place_read("key", str_from(forged), arena, &read));
        assert_non_null(
            identity_place_read("key", (struct str){cursor.ptr, i ? i : 1}, arena, &read));
    }
}

/* ---- keys in a store ---- */

static void test_a_new_key_is_good_at_once_and_shown_once(void **state)
{
    const char *id = create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}");
    const char *key = member("key");

    assert_int_equal(strlen(key), 53);
    assert_string_equal(member("project"), "default");
    assert_string_equal(member("status"), "active");
    assert_state(key, "good");
    assert_ok(show(&platform, IDENTITY_KEYS, id));
    assert_string_equal(member("key"), "");
    assert_string_equal(member("hint"), key + 49);
    assert_null(memmem(out.ptr, out.len, key, 53));
}

static void test_the_store_holds_no_key(void **state)
{
    create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}");
    const char *key = member("key");
    struct db_rows rows;

    assert_ok(db_run(db, DB_READ, DB_ASK_PLAIN("SELECT hash, hint, name FROM keys"), arena, &rows));
    assert_int_equal(rows.count, 1);
    assert_int_equal(db_text(&rows, 0, 0).len, 32);
    assert_null(memmem(db_text(&rows, 0, 0).ptr, 32, key + 10, 8));
}

static void test_revoking_is_for_good(void **state)
{
    const char *id = create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}"), *key = member("key");

    assert_ok(remove_one(&platform, IDENTITY_KEYS, id));
    assert_state(key, "disabled");
    assert_ok(show(&platform, IDENTITY_KEYS, id));
    assert_string_equal(member("status"), "revoked");
    assert_error(update(&platform, IDENTITY_KEYS, id, "{\"disabled\":false}"), ERR_BAD_REQUEST,
                 "key_revoked");
    assert_state(key, "disabled");
}

static void test_disabling_can_be_undone(void **state)
{
    const char *id = create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}"), *key = member("key");

    assert_ok(update(&platform, IDENTITY_KEYS, id, "{\"disabled\":true}"));
    assert_state(key, "disabled");
    assert_ok(update(&platform, IDENTITY_KEYS, id, "{\"disabled\":false}"));
    assert_state(key, "good");
    assert_ok(update(&platform, IDENTITY_PROJECTS, "default", "{\"disabled\":true}"));
    assert_state(key, "disabled");
    assert_ok(update(&platform, IDENTITY_PROJECTS, "default", "{\"disabled\":false}"));
    assert_state(key, "good");
    assert_ok(update(&platform, IDENTITY_ORGS, "default", "{\"disabled\":true}"));
    assert_state(key, "disabled");
    assert_state("sk-of-the-ci", "disabled");
    assert_ok(update(&platform, IDENTITY_ORGS, "default", "{\"disabled\":false}"));
    assert_state("sk-of-the-ci", "good");
}

static void test_expiry(void **state)
{
    create(&platform, IDENTITY_KEYS, "{\"name\":\"a\",\"expires\":\"2020-01-01T00:00:00Z\"}");
    assert_string_equal(member("expires"), "2020-01-01T00:00:00.000Z");
    assert_string_equal(member("status"), "expired");
    assert_state(member("key"), "expired");
    create(&platform, IDENTITY_KEYS, "{\"name\":\"a\",\"expires\":\"30d\"}");
    assert_state(member("key"), "good");
}

static void test_rotation_overlaps(void **state)
{
    const char *id = create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}"), *first = member("key");
    struct identity_call call = call_of(&platform, IDENTITY_KEYS, id, "{\"overlap\":\"1h\"}");
    const char *second, *third;

    assert_ok(identity_rotate(&call));
    second = member("key");
    assert_string_equal(member("id"), id);
    assert_state(first, "good");
    assert_state(second, "good");
    call = call_of(&platform, IDENTITY_KEYS, id, NULL);
    assert_ok(identity_rotate(&call));
    third = member("key");
    assert_state(first, "unknown"); /* only one secret back */
    assert_state(second, "expired");
    assert_state(third, "good");
    assert_ok(remove_one(&platform, IDENTITY_KEYS, id));
    assert_state(third, "disabled");
    assert_state(second, "disabled");
    call = call_of(&platform, IDENTITY_KEYS, id, NULL);
    assert_error(identity_rotate(&call), ERR_BAD_REQUEST, "key_revoked");
}

static void test_what_a_key_carries(void **state)
{
    create(&platform, IDENTITY_KEYS,
           "{\"name\":\"a\",\"scopes\":[\"models\",\"route\"],\"models\":[\"gpt*\"],"
           "\"ips\":[\"10.0.0.0/8\",\"::1\"],\"limits\":{\"requests\":\"10/60s\",\"streams\":5},"
           "\"budgets\":{\"tokens\":\"1000/day\",\"money\":[\"2.50/day\",\"5/month\"]}}");
    const char *text = member("key");
    const struct identity *identity = identity_current();
    const struct identity_key *key = found(identity, str_from(text));
    struct subject subject;

    assert_int_equal(key->scopes, IDENTITY_MODELS | IDENTITY_ROUTE);
    assert_int_equal(key->realm, REALM_NONE);
    assert_true(str_eq(key->models.items[0], STR("gpt*")));
    assert_int_equal(key->ips.count, 2);
    assert_int_equal(key->allowance->requests.count, 10);
    assert_int_equal(key->allowance->requests.window_ms, 60000);
    assert_int_equal(key->allowance->streams, 5);
    assert_int_equal(key->allowance->tokens.count, 0);
    assert_int_equal(key->allowance->token_budget.items[0].amount, 1000);
    assert_int_equal(key->allowance->money_budget.count, 2);
    assert_int_equal(key->allowance->money_budget.items[0].amount, 2500000000);
    assert_ptr_equal(identity_get(identity, key->id), key);
    identity_subject(key, STR("u"), true, &subject);
    assert_true(str_eq(subject.org, STR("default")) && str_eq(subject.project, STR("default")));
    assert_true(str_eq(subject.key, key->id) && str_eq(subject.user, STR("u")));
    assert_true(subject.user_is_limited);
    identity_unref(identity);
}

static void test_keys_of_the_configuration(void **state)
{
    const struct identity *identity = identity_current();
    const struct identity_key *key = found(identity, STR("sk-of-the-ci"));

    assert_true(str_eq(key->id, STR("static:ci")) && str_eq(key->project, STR("default")));
    assert_int_equal(key->scopes, IDENTITY_MODELS);
    assert_ptr_equal(identity_get(identity, STR("static:ci")), key);
    assert_null(found(identity, STR("sk-of-the-c")));
    assert_null(found(identity, STR("")));
    assert_true(identity_is_empty(identity));
    assert_false(identity_has_admin(identity));
    identity_unref(identity);
}

static void test_admin_key_counts_where_admins_are(void **state)
{
    const struct identity *identity;

    conf->admin_key = STR("sk-of-the-admin");
    identity_service.adopt(conf);
    identity = identity_current();
    assert_null(found(identity, conf->admin_key));
    assert_int_equal(found_admin(identity, conf->admin_key)->realm, REALM_ALL);
    assert_non_null(found_admin(identity, STR("sk-of-the-ci")));
    assert_null(found_admin(identity, STR("sk-of-the-admi")));
    identity_unref(identity);
}

/* ---- reloads ---- */

static struct fiber *service_fiber;
static const struct err over = {.kind = ERR_KILLED, .where = ERR_HERE, .text = "over"};

static void run_service(void *unused)
{
    struct arena *own = arena_new(MEM_PROCESS, 1024 * 1024);

    fiber_set_arena(own);
    identity_service.run(db);
    fiber_set_arena(NULL);
    arena_free(own);
    service_fiber = NULL;
}

static bool is_found(struct str sent)
{
    const struct identity *identity = identity_current();
    bool is_found = found(identity, sent) != NULL;

    identity_unref(identity);
    return is_found;
}

static void adopt_keys(size_t count)
{
    conf->keys.fixed_count = count;
    identity_service.adopt(conf);
}

static void reload_without_memory(void *unused)
{
    uint64_t nth = 0, count;

    fiber_set_arena(arena);
    do {
        adopt_keys(1);
        assert_true(is_found(STR("sk-of-the-ci")));
        mem_fail_nth(++nth);
        adopt_keys(0);
        count = mem_fail_count();
        mem_fail_nth(0);
        for (int i = 0; is_found(STR("sk-of-the-ci")); i++) {
            assert_true(i < 10000);
            assert_ok(fiber_sleep(1));
        }
    } while (count >= nth);
    assert_true(nth > 2);
    fiber_cancel(service_fiber, &over);
    while (service_fiber)
        assert_ok(fiber_sleep(1));
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

/* A key that was taken out of the configuration does not stay good because there was no memory. */
static void test_a_reload_without_memory(void **state)
{
    struct loop *loop;

    assert_ok(loop_open(&loop));
    assert_ok(fiber_start_later("identity", run_service, NULL, &service_fiber));
    assert_ok(fiber_start_later("test", reload_without_memory, NULL, NULL));
    loop_run(loop);
    loop_close(loop);
}

static void test_the_first_key_is_made_once(void **state)
{
    struct str key;

    assert_ok(identity_first_key(conf, arena, &key));
    assert_int_equal(key.len, 0); /* the configuration names keys */
    conf->keys.required = true;
    conf->keys.fixed_count = 0;
    identity_service.adopt(conf);
    assert_ok(identity_first_key(conf, arena, &key));
    assert_int_equal(key.len, 53);
    assert_state(key.ptr, "good");
    assert_ok(identity_first_key(conf, arena, &key));
    assert_int_equal(key.len, 0);
}

/* Another process's changes come by its own snapshot: here, by a second connection that no topic tells of. */
static void test_a_change_made_elsewhere_is_read(void **state)
{
    const char *id = create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}"), *key = member("key");

    assert_ok(db_run(db, DB_WRITE,
                     DB_ASK("UPDATE keys SET revoked_ms = 1, changed = (SELECT version + 1 FROM "
                            "identity_version) WHERE id = $1",
                            DB_OF_TEXT(str_from(id))),
                     NULL, NULL));
    assert_ok(db_run(db, DB_WRITE,
                     DB_ASK_PLAIN("UPDATE identity_version SET version = version + 1"), NULL,
                     NULL));
    assert_state(key, "good");
    assert_ok(identity_refresh());
    assert_state(key, "disabled");
}

static void test_keys_outlive_the_process(void **state)
{
    create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}");
    const char *key = member("key");

    identity_service.close(db);
    db_close(db);
    open_db();
    assert_ok(identity_service.open(db, conf));
    assert_state(key, "good");
    assert_state("sk-of-the-ci", "good");
}

static void test_many_changes_make_one_part_again(void **state)
{
    static char keys[1200][IDENTITY_KEY_BYTES];

    for (size_t i = 0; i < 1200; i++) {
        create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}");
        snprintf(keys[i], sizeof(keys[i]), "%s", member("key"));
    }
    for (size_t i = 0; i < 1200; i++)
        assert_state(keys[i], "good");
}

/* It is not shut out with the project on whose account it asks. */
static void test_a_key_that_rules_over_all_may_ask_models(void **state)
{
    create(&platform, IDENTITY_KEYS, "{\"name\":\"a\",\"scopes\":[\"models\",\"admin\"]}");
    const char *text = member("key");
    const struct identity *identity;
    struct subject subject;

    assert_ok(
        update(&platform, IDENTITY_PROJECTS, "default", "{\"disabled\":true,\"tier\":\"gold\"}"));
    assert_state(text, "good");
    identity = identity_current();
    identity_subject(found(identity, str_from(text)), STR(""), false, &subject);
    assert_true(str_eq(subject.project, STR("default")) && str_eq(subject.tier, STR("gold")));
    assert_int_equal(found(identity, str_from(text))->realm, REALM_ALL);
    identity_unref(identity);
}

/* ---- users ---- */

static void test_users_are_suspended_and_resumed(void **state)
{
    static const char *const others[] = {"ali", "alicf", "bob/x", "z"};
    const struct identity *identity;

    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        char *body = arena_printf(arena, "{\"user\":\"%s\",\"suspended\":true}", others[i]);
        create(&platform, IDENTITY_USERS, body);
    }
    assert_string_equal(
        create(&platform, IDENTITY_USERS, "{\"user\":\"alice\",\"suspended\":true}"),
        "default/alice");
    identity = identity_current();
    assert_true(identity_is_suspended(identity, STR("default"), STR("alice")));
    assert_true(identity_is_suspended(identity, STR("default"), STR("bob/x")));
    assert_false(identity_is_suspended(identity, STR("default"), STR("alic")));
    assert_false(identity_is_suspended(identity, STR("other"), STR("alice")));
    assert_false(identity_is_suspended(identity, STR("default"), STR("")));
    identity_unref(identity);
    assert_ok(update(&platform, IDENTITY_USERS, "default/alice", "{\"suspended\":false}"));
    identity = identity_current();
    assert_false(identity_is_suspended(identity, STR("default"), STR("alice")));
    identity_unref(identity);
    assert_ok(remove_one(&platform, IDENTITY_USERS, "default/bob/x"));
    identity = identity_current();
    assert_false(identity_is_suspended(identity, STR("default"), STR("bob/x")));
    identity_unref(identity);
}

/* ---- what is refused ---- */

static void test_bodies_that_are_refused(void **state)
{
    static const struct {
        enum identity_type type;
        const char *body, *code;
    } cases[] = {
        {IDENTITY_KEYS, "{}", "missing_parameter"},
        {IDENTITY_KEYS, "[]", "invalid_json"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"role\":\"admin\"}", "unknown_parameter"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"name\":\"b\"}", "duplicate_parameter"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"hash\":\"x\"}", "unknown_parameter"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"id\":\"key_x\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"created\":\"1d\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\\u0000\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":1}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"scopes\":[]}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"scopes\":[\"root\"]}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"scopes\":\"models\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"models\":[\"a*b\"]}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"ips\":[\"10.0.0.0/33\"]}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"ips\":[\"localhost\"]}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"expires\":\"soon\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"expires\":\"2027-13-01T00:00:00Z\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"limits\":{\"requests\":\"many\"}}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"limits\":{\"speed\":1}}", "unknown_parameter"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"limits\":[]}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"budgets\":{\"money\":\"5\"}}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"budgets\":{\"money\":[\"5/day\",\"6/day\"]}}",
         "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"project\":\"proj_none\"}", "not_found"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"org\":\"default\"}", "invalid_value"},
        {IDENTITY_KEYS, "{\"name\":\"a\",\"org\":\"default\",\"scopes\":[\"models\",\"admin\"]}",
         "invalid_value"},
        {IDENTITY_PROJECTS, "{\"name\":\"a\",\"org\":\"org_none\"}", "not_found"},
        {IDENTITY_PROJECTS, "{\"name\":\"a\",\"disabled\":1}", "invalid_value"},
        {IDENTITY_USERS, "{\"suspended\":true}", "missing_parameter"},
        {IDENTITY_USERS, "{\"user\":\"a\",\"spent\":0}", "unknown_parameter"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct identity_call call = call_of(&platform, cases[i].type, NULL, cases[i].body);
        err_t err = identity_create(&call);
        if (!err || strcmp(err->code, cases[i].code) != 0)
            fail_msg("%s: %s", cases[i].body, err ? err->code : "accepted");
    }
}

static void test_the_defaults_stay(void **state)
{
    assert_error(remove_one(&platform, IDENTITY_PROJECTS, "default"), ERR_BAD_REQUEST,
                 "is_default");
    assert_error(remove_one(&platform, IDENTITY_ORGS, "default"), ERR_BAD_REQUEST, "is_default");
}

/* ---- realms ---- */

struct tenant {
    struct identity_actor org, project; /* whoever rules over them */
    const char *org_id, *project_id, *key_id, *key, *user_id;
};

static struct tenant make_tenant(void)
{
    struct tenant t = {.org_id = create(&platform, IDENTITY_ORGS, "{\"name\":\"o\"}")};
    char *body = arena_printf(arena, "{\"name\":\"p\",\"org\":\"%s\"}", t.org_id);

    t.project_id = create(&platform, IDENTITY_PROJECTS, body);
    body = arena_printf(arena, "{\"name\":\"k\",\"project\":\"%s\"}", t.project_id);
    t.key_id = create(&platform, IDENTITY_KEYS, body);
    t.key = member("key");
    body = arena_printf(arena, "{\"user\":\"u\",\"project\":\"%s\"}", t.project_id);
    t.user_id = create(&platform, IDENTITY_USERS, body);
    t.org = platform;
    t.org.org = str_from(t.org_id);
    t.project = t.org;
    t.project.project = str_from(t.project_id);
    return t;
}

/* Everything about an object that is not there, and about one that is another's, is the same. */
static void assert_hidden(const struct identity_actor *actor, enum identity_type type,
                          const char *id, const char *missing, const char *body)
{
    const char *ids[] = {id, missing};
    err_t errors[2][4];

    for (size_t i = 0; i < 2; i++) {
        struct identity_call call = call_of(actor, type, ids[i], NULL);
        errors[i][0] = show(actor, type, ids[i]);
        errors[i][1] = update(actor, type, ids[i], body);
        errors[i][2] = remove_one(actor, type, ids[i]);
        errors[i][3] = type == IDENTITY_KEYS ? identity_rotate(&call) : errors[i][0];
    }
    for (size_t k = 0; k < 4; k++) {
        assert_non_null(errors[0][k]);
        assert_int_equal(errors[0][k]->kind, ERR_NOT_FOUND);
        assert_string_equal(errors[0][k]->text, errors[1][k]->text);
        assert_string_equal(errors[0][k]->code, errors[1][k]->code);
    }
}

static void test_other_tenants_are_not_there(void **state)
{
    struct tenant a = make_tenant(), b = make_tenant();
    const struct identity_actor *actors[] = {&a.org, &a.project};

    for (size_t i = 0; i < 2; i++) {
        assert_hidden(actors[i], IDENTITY_ORGS, b.org_id, "org_none", "{\"name\":\"x\"}");
        assert_hidden(actors[i], IDENTITY_PROJECTS, b.project_id, "proj_none", "{\"name\":\"x\"}");
        assert_hidden(actors[i], IDENTITY_KEYS, b.key_id, "key_none", "{\"name\":\"x\"}");
        assert_hidden(actors[i], IDENTITY_USERS, b.user_id, "proj_none/u", "{\"suspended\":true}");
        assert_hidden(actors[i], IDENTITY_PROJECTS, "default", "proj_none", "{\"name\":\"x\"}");
    }
    assert_state(b.key, "good");
    for (size_t i = 0; i < 2; i++) {
        char *named = arena_printf(arena, "{\"name\":\"x\",\"project\":\"%s\"}", b.project_id);
        struct identity_call call = call_of(actors[i], IDENTITY_KEYS, NULL, named);
        assert_error(identity_create(&call), ERR_NOT_FOUND, "not_found");
    }
}

static size_t count_listed(const struct identity_actor *actor, enum identity_type type,
                           const char *project)
{
    struct identity_call call = call_of(actor, type, NULL, NULL);
    struct identity_page page = {
        .org = STR(""), .project = str_from(project), .cursor = STR(""), .limit = 1000};
    struct str element;
    size_t count = 0;

    assert_ok(identity_list(&call, &page));
    for (size_t at = 0; json_array_next(json_get(buf_str(&out), STR("data")), &at, &element);)
        count++;
    return count;
}

static void test_lists_end_at_the_realm(void **state)
{
    struct tenant a = make_tenant(), b = make_tenant();

    assert_int_equal(count_listed(&platform, IDENTITY_KEYS, ""), 2);
    assert_int_equal(count_listed(&platform, IDENTITY_KEYS, a.project_id), 1);
    assert_int_equal(count_listed(&platform, IDENTITY_ORGS, ""), 3);
    assert_int_equal(count_listed(&a.org, IDENTITY_ORGS, ""), 1);
    assert_int_equal(count_listed(&a.project, IDENTITY_ORGS, ""), 0);
    assert_int_equal(count_listed(&a.org, IDENTITY_PROJECTS, ""), 1);
    assert_int_equal(count_listed(&a.project, IDENTITY_KEYS, ""), 1);
    assert_int_equal(count_listed(&a.project, IDENTITY_USERS, ""), 1);
    assert_int_equal(count_listed(&a.project, IDENTITY_KEYS, b.project_id), 0);
    assert_int_equal(count_listed(&a.org, IDENTITY_USERS, b.project_id), 0);
}

static void test_nobody_lifts_its_own_limits(void **state)
{
    struct tenant t = make_tenant();
    struct identity_call call;

    assert_error(update(&t.project, IDENTITY_PROJECTS, t.project_id, "{\"budgets\":{}}"),
                 ERR_DENIED, "insufficient_permissions");
    assert_error(update(&t.project, IDENTITY_PROJECTS, t.project_id, "{\"disabled\":false}"),
                 ERR_DENIED, "insufficient_permissions");
    assert_error(remove_one(&t.project, IDENTITY_PROJECTS, t.project_id), ERR_DENIED,
                 "insufficient_permissions");
    assert_error(remove_one(&t.org, IDENTITY_ORGS, t.org_id), ERR_DENIED,
                 "insufficient_permissions");
    assert_ok(update(&t.project, IDENTITY_PROJECTS, t.project_id, "{\"name\":\"mine\"}"));
    assert_ok(update(&t.org, IDENTITY_PROJECTS, t.project_id, "{\"tier\":\"gold\"}"));
    call = call_of(&t.org, IDENTITY_ORGS, NULL, "{\"name\":\"x\"}");
    assert_error(identity_create(&call), ERR_DENIED, "insufficient_permissions");
    call = call_of(&t.project, IDENTITY_PROJECTS, NULL, "{\"name\":\"x\"}");
    assert_error(identity_create(&call), ERR_DENIED, "insufficient_permissions");
}

/* A key's realm follows from who makes it, and never goes beyond. */
static void test_realms_of_new_keys(void **state)
{
    static const char body[] = "{\"name\":\"x\",\"scopes\":[\"admin\"]}";
    struct tenant t = make_tenant();
    const struct identity *identity;

    create(&t.project, IDENTITY_KEYS, body);
    assert_string_equal(member("project"), t.project_id);
    create(&t.org, IDENTITY_KEYS, body);
    assert_string_equal(member("project"), "");
    assert_string_equal(member("org"), t.org_id);
    identity = identity_current();
    assert_int_equal(found(identity, str_from(member("key")))->realm, REALM_ORG);
    assert_false(identity_has_admin(identity));
    identity_unref(identity);
    create(&platform, IDENTITY_KEYS, body);
    assert_string_equal(member("org"), "");
    identity = identity_current();
    assert_int_equal(found(identity, str_from(member("key")))->realm, REALM_ALL);
    assert_true(identity_has_admin(identity));
    identity_unref(identity);
}

static void test_a_deleted_tenant_takes_its_keys_with_it(void **state)
{
    struct tenant a = make_tenant(), b = make_tenant();

    assert_ok(remove_one(&platform, IDENTITY_PROJECTS, a.project_id));
    assert_state(a.key, "disabled");
    assert_state(b.key, "good");
    assert_error(show(&platform, IDENTITY_PROJECTS, a.project_id), ERR_NOT_FOUND, "not_found");
    assert_ok(remove_one(&platform, IDENTITY_ORGS, b.org_id));
    assert_state(b.key, "disabled");
    assert_error(show(&platform, IDENTITY_PROJECTS, b.project_id), ERR_NOT_FOUND, "not_found");
}

/* ---- pages and the audit log ---- */

static void test_pages_hold_each_row_once(void **state)
{
    struct identity_page page = {.org = STR(""), .project = STR(""), .cursor = STR(""), .limit = 3};
    char *seen = arena_printf(arena, " ");
    size_t pages = 0, rows = 0;

    for (size_t i = 0; i < 10; i++)
        create(&platform, IDENTITY_KEYS, "{\"name\":\"a\"}");
    do {
        struct identity_call call = call_of(&platform, IDENTITY_KEYS, NULL, NULL);
        struct str element, id;
        assert_ok(identity_list(&call, &page));
        for (size_t at = 0; json_array_next(json_get(buf_str(&out), STR("data")), &at, &element);
             rows++) {
            assert_true(json_text(json_get(element, STR("id")), arena, &id));
            assert_null(memmem(seen, strlen(seen), id.ptr, id.len));
            seen = arena_printf(arena, "%s%.*s ", seen, STR_ARG(id));
        }
        page.cursor = str_from(member("next_cursor"));
        pages++;
    } while (page.cursor.len > 0);
    assert_int_equal(rows, 10);
    assert_int_equal(pages, 4);
}

static void test_every_change_is_in_the_audit_log(void **state)
{
    static const char *const expected[] = {"key.revoke", "key.rotate", "key.update", "key.create",
                                           "user.create"};
    struct identity_page page = {
        .org = STR(""), .project = STR(""), .cursor = STR(""), .limit = 1000};
    struct tenant t = make_tenant();
    struct identity_call call = call_of(&t.project, IDENTITY_KEYS, t.key_id, NULL);
    struct str element;
    size_t i = 0;
    const char *ours;

    ours = create(&t.project, IDENTITY_KEYS, "{\"name\":\"x\"}");
    assert_ok(update(&t.project, IDENTITY_KEYS, ours, "{\"name\":\"y\"}"));
    call = call_of(&t.project, IDENTITY_KEYS, ours, NULL);
    assert_ok(identity_rotate(&call));
    assert_non_null(update(&t.project, IDENTITY_KEYS, ours, "{\"name\":1}")); /* no line */
    assert_ok(remove_one(&t.project, IDENTITY_KEYS, ours));
    call = call_of(&t.project, IDENTITY_KEYS, NULL, NULL);
    assert_ok(identity_audit(&call, &page));
    for (size_t at = 0; json_array_next(json_get(buf_str(&out), STR("data")), &at, &element); i++)
        if (i < 5) {
            struct str action;
            assert_true(json_text(json_get(element, STR("action")), arena, &action));
            assert_true(str_eq(action, str_from(expected[i])));
        }
    assert_true(i >= 5);
    assert_null(memmem(out.ptr, out.len, "sk-sluice-", 10));
}

#define STORE(test) cmocka_unit_test_setup_teardown(test, set_up_store, tear_down_store)
#define PLAIN(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLAIN(test_keys_and_ids_have_their_form),
        PLAIN(test_a_key_is_known_by_its_sha256),
        PLAIN(test_a_table_finds_each_of_many_keys_and_no_other),
        PLAIN(test_an_empty_table_finds_nothing),
        PLAIN(test_patterns_of_models),
        PLAIN(test_printable_counts_characters),
        PLAIN(test_a_cursor_comes_back_as_it_was),
        STORE(test_a_new_key_is_good_at_once_and_shown_once),
        STORE(test_the_store_holds_no_key),
        STORE(test_revoking_is_for_good),
        STORE(test_disabling_can_be_undone),
        STORE(test_expiry),
        STORE(test_rotation_overlaps),
        STORE(test_what_a_key_carries),
        STORE(test_keys_of_the_configuration),
        STORE(test_admin_key_counts_where_admins_are),
        STORE(test_a_reload_without_memory),
        STORE(test_the_first_key_is_made_once),
        STORE(test_a_change_made_elsewhere_is_read),
        STORE(test_keys_outlive_the_process),
        STORE(test_many_changes_make_one_part_again),
        STORE(test_a_key_that_rules_over_all_may_ask_models),
        STORE(test_users_are_suspended_and_resumed),
        STORE(test_bodies_that_are_refused),
        STORE(test_the_defaults_stay),
        STORE(test_other_tenants_are_not_there),
        STORE(test_lists_end_at_the_realm),
        STORE(test_nobody_lifts_its_own_limits),
        STORE(test_realms_of_new_keys),
        STORE(test_a_deleted_tenant_takes_its_keys_with_it),
        STORE(test_pages_hold_each_row_once),
        STORE(test_every_change_is_in_the_audit_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
