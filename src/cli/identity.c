/* SPDX-License-Identifier: Apache-2.0 */
/* sluice org, project, key, user: who may use what, through the admin API of a running server.
 *
 * The four commands are one: verbs, options and the columns of lists are tables. An option becomes a member of the body;
 * the server says what is wrong with it. A new key's text, or a new object's id, is all that goes to
 * standard output, so that a script can keep it. */
#include <stdio.h>
#include <string.h>

#include "base/json_members.h"
#include "base/json_writer.h"
#include "cli/client.h"
#include "cli/command.h"
#include "fiber/fiber.h"

#define BODY_MAX_BYTES ((size_t)1024 * 1024)
#define MAX_COLUMNS    8

/* ---- tables ---- */

/* Where an option's value goes. */
enum option_kind {
    OPTION_TEXT,   /* a member */
    OPTION_LIST,   /* a list, from a text with commas */
    OPTION_NUMBER, /* a number */
    OPTION_ON,     /* true, without a value */
    OPTION_OFF,    /* false, without a value */
    OPTION_QUERY,  /* of a list */
};

struct identity_option {
    const char *word;
    enum option_kind kind;
    const char *object, *member; /* `object`: the member is in this object */
};

static const struct identity_option options[] = {
    {"--name", OPTION_TEXT, NULL, "name"},
    {"--org", OPTION_TEXT, NULL, "org"},
    {"--project", OPTION_TEXT, NULL, "project"},
    {"--tier", OPTION_TEXT, NULL, "tier"},
    {"--scopes", OPTION_LIST, NULL, "scopes"},
    {"--models", OPTION_LIST, NULL, "models"},
    {"--ips", OPTION_LIST, NULL, "ips"},
    {"--expires", OPTION_TEXT, NULL, "expires"},
    {"--overlap", OPTION_TEXT, NULL, "overlap"},
    {"--disable", OPTION_ON, NULL, "disabled"},
    {"--enable", OPTION_OFF, NULL, "disabled"},
    {"--requests", OPTION_TEXT, "limits", "requests"},
    {"--tokens", OPTION_TEXT, "limits", "tokens"},
    {"--streams", OPTION_NUMBER, "limits", "streams"},
    {"--token-budget", OPTION_LIST, "budgets", "tokens"},
    {"--money-budget", OPTION_LIST, "budgets", "money"},
    {"--limit", OPTION_QUERY, NULL, "limit"},
    {"--cursor", OPTION_QUERY, NULL, "cursor"},
};
#define OPTION_COUNT (sizeof(options) / sizeof(*options))

struct identity_verb {
    const char *word, *method;
    bool takes_id;
    const char *suffix; /* of the path, or NULL */
};

static const struct identity_verb verbs[] = {
    {"create", "POST", false, NULL},   {"list", "GET", false, NULL},
    {"show", "GET", true, NULL},       {"update", "PATCH", true, NULL},
    {"revoke", "DELETE", true, NULL},  {"delete", "DELETE", true, NULL},
    {"rotate", "POST", true, "rotate"}};

struct identity_noun {
    const char *name, *path;
    const char *verbs; /* that it has */
    const char *columns[MAX_COLUMNS];
};

static const struct identity_noun nouns[] = {
    {"org", "/admin/orgs", "create list show update delete revoke", {"id", "name", "disabled"}},
    {"project",
     "/admin/projects",
     "create list show update delete revoke",
     {"id", "org", "name", "tier", "disabled"}},
    {"key",
     "/admin/keys",
     "create list show update rotate revoke",
     {"id", "project", "name", "hint", "scopes", "status", "expires"}},
    {"user", "/admin/users", "list show suspend resume", {"project", "user", "suspended"}}};

struct identity_command {
    const struct identity_noun *noun;
    const struct identity_verb *verb; /* NULL: suspend or resume */
    const char *id, *url;
    const char *values[OPTION_COUNT]; /* of options, as given; NULL: not */
    bool as_json, suspends;
    struct client client;
};

/* ---- the request ---- */

static void put_list(struct json_writer *w, const char *name, struct str text)
{
    struct str part;

    json_put_array(w, name);
    while (text.ptr && str_split(&text, ',', &part))
        if (str_trim(part).len > 0)
            json_add_text(w, str_trim(part));
    json_close_array(w);
}

/* Whether it shall not be set. A limit that is off is set: to none, while "default" is what is configured for all. */
static bool is_unset(const struct identity_option *option, struct str text)
{
    if (option->object && strcmp(option->object, "limits") == 0)
        return str_eq(text, STR("default"));
    return str_eq(text, STR("never")) || str_eq(text, STR("off"));
}

static void put_option(struct json_writer *w, const struct identity_option *option,
                       const char *value)
{
    struct str text = str_from(value);
    uint64_t number;

    if (option->kind == OPTION_LIST)
        put_list(w, option->member, text);
    else if (option->kind == OPTION_ON || option->kind == OPTION_OFF)
        json_put_bool(w, option->member, option->kind == OPTION_ON);
    else if (option->kind == OPTION_NUMBER && str_to_u64(text, &number))
        json_put_u64(w, option->member, number);
    else if (is_unset(option, text))
        json_put_null(w, option->member);
    else
        json_put_text(w, option->member, text);
}

/* The members of one object of the body; `object` NULL: of the body itself. */
static void put_options(const struct identity_command *c, struct json_writer *w, const char *object)
{
    bool is_open = object == NULL;

    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct identity_option *option = &options[i];
        bool is_here =
            object ? option->object && strcmp(option->object, object) == 0 : option->object == NULL;
        if (!c->values[i] || !is_here || option->kind == OPTION_QUERY)
            continue;
        if (!is_open)
            json_put_object(w, object);
        is_open = true;
        put_option(w, option, c->values[i]);
    }
    if (object && is_open)
        json_close_object(w);
}

static err_t compose_body(const struct identity_command *c, struct buf *body)
{
    struct json_writer w = json_writer_make(body);

    if (c->verb && strcmp(c->verb->method, "POST") != 0 && strcmp(c->verb->method, "PATCH") != 0)
        return NULL;
    json_open_object(&w);
    put_options(c, &w, NULL);
    put_options(c, &w, "limits");
    put_options(c, &w, "budgets");
    if (!c->verb) {
        json_put_text(&w, "user", str_from(c->id));
        json_put_bool(&w, "suspended", c->suspends);
    }
    json_close_object(&w);
    return json_writer_err(&w);
}

/* Percent-encode what is not unreserved (RFC 3986 §2.3); a user's id may hold anything. */
static err_t add_encoded(struct buf *out, const char *text, bool keeps_slash)
{
    for (const char *p = text; *p; p++) {
        bool is_plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                        (*p >= '0' && *p <= '9') || strchr("-._~", *p) ||
                        (keeps_slash && *p == '/');
        TRY(is_plain ? buf_add_byte(out, *p) : buf_printf(out, "%%%02X", (unsigned char)*p));
    }
    return NULL;
}

static err_t compose_target(const struct identity_command *c, struct buf *target)
{
    const char *separator = "?";

    TRY(buf_add(target, str_from(c->noun->path)));
    if (c->verb && c->verb->takes_id) {
        TRY(buf_add(target, STR("/")));
        TRY(add_encoded(target, c->id, true));
    }
    if (c->verb && c->verb->suffix)
        TRY(buf_printf(target, "/%s", c->verb->suffix));
    for (size_t i = 0; i < OPTION_COUNT && c->verb && strcmp(c->verb->word, "list") == 0; i++) {
        if (!c->values[i])
            continue;
        TRY(buf_printf(target, "%s%s=", separator, options[i].member));
        TRY(add_encoded(target, c->values[i], false));
        separator = "&";
    }
    return buf_add_byte(target, '\0');
}

/* ---- the answer ---- */

/* A value for people: texts without quotes, nothing as "-", and nothing that a terminal would obey. */
static void print_value(struct str value, int width)
{
    struct str text = value;

    if (json_kind(value) == JSON_NULL || json_is_empty(value) || value.len == 0)
        text = STR("-");
    else if (json_kind(value) == JSON_STRING)
        (void)json_text(value, fiber_arena(), &text);
    for (size_t i = 0; i < text.len; i++) {
        char byte = text.ptr[i];
        putchar((unsigned char)byte < 0x20 || byte == 0x7f ? '?' : byte);
    }
    printf("%*s", width > (int)text.len ? width - (int)text.len : 0, "");
}

static int width_of(struct str value)
{
    return json_kind(value) == JSON_STRING ? (int)value.len - 2 : (int)value.len;
}

static void measure(const struct identity_noun *noun, struct str data, int widths[MAX_COLUMNS])
{
    struct str row;

    for (size_t i = 0; i < MAX_COLUMNS && noun->columns[i]; i++)
        widths[i] = (int)strlen(noun->columns[i]);
    for (size_t at = 0; json_array_next(data, &at, &row);)
        for (size_t i = 0; i < MAX_COLUMNS && noun->columns[i]; i++) {
            int width = width_of(json_get(row, str_from(noun->columns[i])));
            widths[i] = width > widths[i] ? width : widths[i];
        }
}

static void print_list(const struct identity_noun *noun, struct str body)
{
    struct str data = json_get(body, STR("data")), next = {0}, row;
    int widths[MAX_COLUMNS] = {0};

    measure(noun, data, widths);
    for (size_t i = 0; i < MAX_COLUMNS && noun->columns[i]; i++)
        printf("%-*s", widths[i] + 2, noun->columns[i]);
    putchar('\n');
    for (size_t at = 0; json_array_next(data, &at, &row); putchar('\n'))
        for (size_t i = 0; i < MAX_COLUMNS && noun->columns[i]; i++)
            print_value(json_get(row, str_from(noun->columns[i])), widths[i] + 2);
    if (json_text(json_get(body, STR("next_cursor")), fiber_arena(), &next))
        fprintf(stderr, "There are more: --cursor %.*s\n", STR_ARG(next));
}

static void print_object(struct str body)
{
    struct json_member member;

    for (size_t at = 0; json_object_next(body, &at, &member); putchar('\n')) {
        printf("%-12.*s ", STR_ARG(member.key));
        print_value(member.value, 0);
    }
}

/* What was made: its secret, or its id. */
static void print_made(struct str body)
{
    struct str id = {0}, key = {0};

    (void)json_text(json_get(body, STR("id")), fiber_arena(), &id);
    if (!json_text(json_get(body, STR("key")), fiber_arena(), &key)) {
        printf("%.*s\n", STR_ARG(id));
        return;
    }
    fprintf(stderr, "%.*s: this key is shown only now\n", STR_ARG(id));
    printf("%.*s\n", STR_ARG(key));
}

static void print_answer(const struct identity_command *c, struct str body)
{
    const char *word = c->verb ? c->verb->word : "";

    if (c->as_json)
        printf("%.*s\n", STR_ARG(body));
    else if (strcmp(word, "list") == 0)
        print_list(c->noun, body);
    else if (strcmp(word, "create") == 0 || strcmp(word, "rotate") == 0)
        print_made(body);
    else if (strcmp(word, "show") == 0 || strcmp(word, "update") == 0)
        print_object(body);
}

static err_t ask_server(struct identity_command *c)
{
    struct buf target = buf_make(MEM_TOOL, BODY_MAX_BYTES),
               body = buf_make(MEM_TOOL, BODY_MAX_BYTES);
    err_t err = compose_target(c, &target);
    struct str answer = {0};
    int status = 0;

    if (!err)
        err = compose_body(c, &body);
    if (!err)
        err = client_send(&c->client, c->verb ? c->verb->method : "POST", target.ptr,
                          buf_str(&body), FIBER_FOREVER, &status, &answer);
    if (!err && (status >= 300 || json_check(answer)))
        err = client_refusal(status, answer);
    if (!err)
        print_answer(c, answer);
    buf_fini(&target);
    buf_fini(&body);
    return err;
}

static int run(void *arg)
{
    struct identity_command *c = arg;
    err_t err = client_open_admin(c->url, &c->client);

    if (!err)
        err = ask_server(c);
    client_close(&c->client);
    return err ? command_fail(c->noun->name, err) : COMMAND_OK;
}

/* ---- the command line ---- */

static bool has_word(const char *list, const char *word)
{
    struct str rest = str_from(list), part;

    while (rest.ptr && str_split(&rest, ' ', &part))
        if (str_eq(part, str_from(word)))
            return true;
    return false;
}

static int read_verb(struct identity_command *c, const char *word)
{
    if (!word || !has_word(c->noun->verbs, word))
        return command_misuse(c->noun->name, "one of these is needed", c->noun->verbs);
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (strcmp(verbs[i].word, word) == 0)
            c->verb = &verbs[i];
    c->suspends = strcmp(word, "suspend") == 0;
    return COMMAND_OK;
}

static const char **place_of(struct identity_command *c, const char *word, bool *takes_value)
{
    *takes_value = true;
    if (strcmp(word, "--url") == 0)
        return &c->url;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(options[i].word, word) != 0)
            continue;
        *takes_value = options[i].kind != OPTION_ON && options[i].kind != OPTION_OFF;
        return &c->values[i];
    }
    return NULL;
}

static int read_words(struct identity_command *c, int argc, char **argv)
{
    bool takes_value;

    for (int i = 2; i < argc; i++) {
        const char **place = place_of(c, argv[i], &takes_value);
        if (strcmp(argv[i], "--json") == 0) {
            c->as_json = true;
        } else if (place && takes_value && i + 1 == argc) {
            return command_misuse(argv[0], "a value must follow", argv[i]);
        } else if (place) {
            *place = takes_value ? argv[++i] : "";
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return command_misuse(argv[0], "unknown option", argv[i]);
        } else if (c->id) {
            return command_misuse(argv[0], "one id at a time", argv[i]);
        } else {
            c->id = argv[i];
        }
    }
    return COMMAND_OK;
}

static int command_of(const struct identity_noun *noun, int argc, char **argv)
{
    struct identity_command c = {.noun = noun};
    int exit_code = read_verb(&c, argc > 1 ? argv[1] : NULL);
    bool takes_id;

    if (exit_code == COMMAND_OK)
        exit_code = read_words(&c, argc, argv);
    if (exit_code != COMMAND_OK)
        return exit_code;
    takes_id = !c.verb || c.verb->takes_id;
    if (takes_id != (c.id != NULL))
        return command_misuse(noun->name, takes_id ? "an id is needed" : "this takes no id", c.id);
    return command_run_in_fiber(run, &c);
}

int command_org(int argc, char **argv)
{
    return command_of(&nouns[0], argc, argv);
}

int command_project(int argc, char **argv)
{
    return command_of(&nouns[1], argc, argv);
}

int command_key(int argc, char **argv)
{
    return command_of(&nouns[2], argc, argv);
}

int command_user(int argc, char **argv)
{
    return command_of(&nouns[3], argc, argv);
}
