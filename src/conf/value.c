/* SPDX-License-Identifier: Apache-2.0 */
/* Reads one option's value.
 *
 * What a value may look like depends on the option's type alone, and the table of options says
 * where it goes. The hard thing is secrets: a message must never repeat one, so messages show
 * what stands in the file (never what a variable held), and nothing at all of a SECRET. */
#include "conf/value.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>

#include "base/check.h"
#include "base/sys.h"
#include "base/text.h"
#include "conf/expand.h"
#include "conf/nearest.h"
#include "conf/quota.h"
#include "conf/value_json.h"
#include "conf/value_quota.h"

#define SECRET_MAX_BYTES ((size_t)64 * 1024)
#define SHOWN_MAX        60 /* bytes of a wrong value that a message repeats */

static void *field_of(const struct option *option, void *base)
{
    return (char *)base + option->offset;
}

static struct str shown(struct str text)
{
    return (struct str){text.ptr, text.len < SHOWN_MAX ? text.len : SHOWN_MAX};
}

/* ---- numbers and words ---- */

static bool parse_bool(struct str text, bool *out)
{
    static const char *const yes[] = {"true", "on", "yes"}, *const no[] = {"false", "off", "no"};

    for (size_t i = 0; i < 3; i++) {
        if (str_eq_nocase(text, str_from(yes[i])) || str_eq_nocase(text, str_from(no[i]))) {
            *out = str_eq_nocase(text, str_from(yes[i]));
            return true;
        }
    }
    return false;
}

/* "80%", or the same as a fraction: "0.8", "0.75". */
static bool parse_percent(struct str text, uint64_t *out)
{
    if (str_starts(text, STR("0.")) && (text.len == 3 || text.len == 4)) {
        bool ok = str_to_u64(str_after(text, 2), out);
        *out *= text.len == 3 ? 10 : 1;
        return ok;
    }
    return str_ends(text, STR("%")) && str_to_u64((struct str){text.ptr, text.len - 1}, out);
}

static bool parse_unit(enum option_type type, struct str text, uint64_t *out)
{
    switch (type) {
    case OPTION_DURATION:
        return text_duration_ms(text, out);
    case OPTION_SIZE:
        return text_size_bytes(text, out);
    case OPTION_PERCENT:
        return parse_percent(text, out);
    default:
        return str_to_u64(text, out);
    }
}

/* A number with its unit, within the option's range; "off" is 0 where it is allowed. */
static bool parse_number(const struct option *option, struct str text, uint64_t *out)
{
    struct str low_text, high_text;
    uint64_t low, high;
    bool can_be_off;

    check(option_range(option, &low_text, &high_text, &can_be_off));
    check(parse_unit(option->type, low_text, &low) && parse_unit(option->type, high_text, &high));
    if (can_be_off && str_eq(text, STR("off"))) {
        *out = 0;
        return true;
    }
    return parse_unit(option->type, text, out) && *out >= low && *out <= high;
}

/* Position of `text` among the option's words, or their number. */
static size_t word_index(const struct option *option, struct str text, struct nearest *near)
{
    struct str rest = option->allowed, word;
    size_t i = 0;

    for (; option_next_word(&rest, &word); i++) {
        if (str_eq(word, text))
            break;
        if (near)
            nearest_offer(near, word);
    }
    return i;
}

static size_t word_count(const struct option *option)
{
    return word_index(option, STR(""), NULL);
}

static bool parse_word(const struct option *option, struct str text, void *field)
{
    size_t i = word_index(option, text, NULL);

    if (i == word_count(option))
        return false;
    if (option->size == sizeof(bool))
        *(bool *)field = i;
    else
        *(int *)field = (int)i;
    return true;
}

static const char *example_of(enum option_type type)
{
    switch (type) {
    case OPTION_BOOL:
        return "true or false";
    case OPTION_DURATION:
        return "a duration like 250ms, 10s or 15m";
    case OPTION_SIZE:
        return "a size like 512, 64KiB or 32MiB";
    case OPTION_PERCENT:
        return "a share like 80% or 0.8";
    case OPTION_RATE:
        return "so many per time like 100/60s, or off";
    case OPTION_ENUM:
        return "one of";
    default:
        return "a whole number";
    }
}

static void problem_of_scalar(struct reader *r, const struct option *option,
                              const struct tree_node *node, struct str text)
{
    struct nearest near = nearest_begin(text);

    if (option->type == OPTION_ENUM)
        word_index(option, text, &near);
    reader_problem(r, node->line, "%.*s must be %s%s%.*s, not \"%.*s\"%s", STR_ARG(node->key),
                   example_of(option->type),
                   option->type == OPTION_ENUM ? " "
                   : option->allowed.len       ? " within "
                                               : "",
                   STR_ARG(option->allowed), STR_ARG(shown(node->text)),
                   nearest_hint(&near, r->scratch));
}

static bool parse_scalar(const struct option *option, struct str text, void *field)
{
    switch (option->type) {
    case OPTION_BOOL:
        return parse_bool(text, field);
    case OPTION_ENUM:
        return parse_word(option, text, field);
    case OPTION_RATE:
        return quota_parse_rate(text, field);
    default:
        return parse_number(option, text, field);
    }
}

/* ---- texts ---- */

struct str value_resolve_path(struct reader *r, struct str path)
{
    const char *home = getenv("HOME"), *full;

    if (str_starts(path, STR("~/")) && home)
        full = arena_printf(r->arena, "%s%.*s", home, STR_ARG(str_after(path, 1)));
    else if (path.len && path.ptr[0] != '/' && !str_eq(path, STR("-")))
        full = arena_printf(r->arena, "%.*s%.*s", STR_ARG(r->folder), STR_ARG(path));
    else
        return reader_keep(r, path);
    if (!full)
        reader_fail(r, r->arena);
    return str_from(full);
}

/* Read what `path` holds into the arena, without the newline at its end. */
static void read_secret_file(struct reader *r, size_t line, struct str path, struct str *out)
{
    struct str full = value_resolve_path(r, path);
    char *text = arena_alloc(r->scratch, SECRET_MAX_BYTES);
    size_t len = 0;
    ssize_t n = 0;

    if (!text)
        reader_fail(r, r->scratch);
    if (r->failed)
        return;
    int fd = sys_open(full.ptr, O_RDONLY, 0);
    while (fd >= 0 && len < SECRET_MAX_BYTES &&
           (n = sys_read(fd, text + len, SECRET_MAX_BYTES - len)) > 0)
        len += (size_t)n;
    int error = errno;
    if (fd >= 0)
        sys_close(fd);
    if (fd < 0 || n < 0)
        reader_problem(r, line, "%.*s: %s", STR_ARG(full), strerror(error));
    else if (len == SECRET_MAX_BYTES)
        reader_problem(r, line, "%.*s: too large for a secret", STR_ARG(full));
    if (len && text[len - 1] == '\n')
        len--;
    if (len && text[len - 1] == '\r')
        len--;
    *out = reader_keep(r, (struct str){text, len});
}

/* Secrets go into header lines. */
bool value_is_token(struct str text)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.ptr[i] <= ' ' || text.ptr[i] > '~')
            return false;
    return true;
}

static void read_secret(struct reader *r, const struct tree_node *node, struct str text,
                        bool has_variables, struct str *field)
{
    if (str_starts(text, STR("file:"))) {
        read_secret_file(r, node->line, str_after(text, 5), field);
    } else {
        r->has_literal_secret |= !has_variables && text.len;
        *field = reader_keep(r, text);
    }
    if (!value_is_token(*field))
        reader_problem(r, node->line, "%.*s must be ASCII without spaces or line breaks",
                       STR_ARG(node->key));
}

/* The address of a service may have a password before its "@" or behind its "?". */
static bool has_password(struct str url)
{
    size_t start = str_find(url, STR("://"));
    struct str rest = str_after(url, start < url.len ? start + 3 : start);
    struct str user = {rest.ptr, str_index(rest, '@')};

    return (user.len < rest.len && memchr(user.ptr, ':', user.len)) ||
           str_find(rest, STR("password=")) < rest.len;
}

static void read_service(struct reader *r, const struct tree_node *node, struct str text,
                         bool has_variables, struct str *field)
{
    if (str_starts(text, STR("file:"))) {
        read_secret_file(r, node->line, str_after(text, 5), field);
        return;
    }
    r->has_literal_secret |= !has_variables && has_password(text);
    *field = reader_keep(r, text);
}

/* Length of "scheme://" at the start of a URL of ours, or 0. */
static size_t scheme_len(struct str url)
{
    return str_starts(url, STR("https://")) ? 8 : str_starts(url, STR("http://")) ? 7 : 0;
}

/* RFC 3986, as far as a base address needs it: a host, perhaps a port and a path, and nothing
 * that could end a request line. */
bool value_is_url(struct str url)
{
    size_t start = scheme_len(url);
    struct str rest = str_after(url, start);

    for (size_t i = 0; i < rest.len; i++)
        if (rest.ptr[i] <= ' ' || rest.ptr[i] > '~' || strchr("?#\\\"<>", rest.ptr[i]))
            return false;
    return start && rest.len && rest.ptr[0] != '/' && rest.ptr[0] != ':';
}

static void read_url(struct reader *r, const struct tree_node *node, struct str text,
                     struct str *field)
{
    while (str_ends(text, STR("/")) && text.len > scheme_len(text))
        text.len--;
    if (!value_is_url(text) && !str_starts(text, STR("unix:/")))
        reader_problem(r, node->line, "%.*s must be like https://host/v1, not \"%.*s\"",
                       STR_ARG(node->key), STR_ARG(shown(node->text)));
    else if (memchr(text.ptr, '@', text.len))
        reader_problem(r, node->line, "%.*s must not hold a password: use key or headers",
                       STR_ARG(node->key));
    *field = reader_keep(r, text);
}

/* A proxy may need a password in its address, so messages do not repeat it. */
static void read_proxy(struct reader *r, const struct tree_node *node, struct str text,
                       struct str *field)
{
    while (str_ends(text, STR("/")) && text.len > scheme_len(text))
        text.len--;
    if (!str_eq(text, STR("off")) && (!value_is_url(text) || !str_starts(text, STR("http://"))))
        reader_problem(r, node->line, "%.*s must be like http://host:port, or off",
                       STR_ARG(node->key));
    *field = reader_keep(r, text);
}

/* Some texts are words of a list. */
static void check_word(struct reader *r, const struct option *option, const struct tree_node *node,
                       struct str text)
{
    struct nearest near = nearest_begin(text);

    if (option->allowed.len && word_index(option, text, &near) == word_count(option))
        reader_problem(r, node->line, "%.*s must be one of %.*s, not \"%.*s\"%s",
                       STR_ARG(node->key), STR_ARG(option->allowed), STR_ARG(shown(node->text)),
                       nearest_hint(&near, r->scratch));
}

static void read_text(struct reader *r, const struct option *option, const struct tree_node *node,
                      void *base)
{
    struct str *field = field_of(option, base), text;
    bool has_variables;

    if (!expand_scalar(r, node, &text, &has_variables))
        return;
    switch (option->type) {
    case OPTION_SECRET:
        read_secret(r, node, text, has_variables, field);
        break;
    case OPTION_SERVICE:
        read_service(r, node, text, has_variables, field);
        break;
    case OPTION_URL:
        read_url(r, node, text, field);
        break;
    case OPTION_PROXY:
        read_proxy(r, node, text, field);
        break;
    case OPTION_PATH:
        *field = value_resolve_path(r, text);
        break;
    default:
        check_word(r, option, node, text);
        *field = reader_keep(r, text);
    }
}

/* ---- lists and maps ---- */

static bool read_element(struct reader *r, const struct option *option,
                         const struct tree_node *node, struct str *out)
{
    struct nearest near;
    struct str text;
    bool has_variables;

    if (node->kind != TREE_SCALAR || tree_is_null(node)) {
        reader_problem(r, node->line, "an element of %.*s must be a text", STR_ARG(option->path));
        return false;
    }
    if (!expand_scalar(r, node, &text, &has_variables))
        return false;
    near = nearest_begin(text);
    if (option->allowed.len && word_index(option, text, &near) == word_count(option))
        reader_problem(r, node->line, "%.*s can hold %.*s, not \"%.*s\"%s", STR_ARG(option->path),
                       STR_ARG(option->allowed), STR_ARG(shown(node->text)),
                       nearest_hint(&near, r->scratch));
    *out = reader_keep(r, text);
    return true;
}

static void read_list(struct reader *r, const struct option *option, const struct tree_node *node,
                      void *base)
{
    struct conf_strings *field = field_of(option, base);
    const struct tree_node *first = node->kind == TREE_LIST ? node->first : node;
    size_t count = node->kind == TREE_LIST ? node->count : 1;

    if (node->kind == TREE_MAP) {
        reader_problem(r, node->line, "%.*s must be a list", STR_ARG(node->key));
        return;
    }
    field->count = 0;
    field->items = arena_alloc_array(r->arena, count, sizeof *field->items);
    if (!field->items) {
        reader_fail(r, r->arena);
        return;
    }
    for (const struct tree_node *n = first; n && count--; n = n->next)
        if (read_element(r, option, n, &field->items[field->count]))
            field->count++;
}

static void read_map(struct reader *r, const struct option *option, const struct tree_node *node,
                     void *base)
{
    struct conf_pairs *field = field_of(option, base);
    struct str value;
    bool has_variables;

    if (node->kind != TREE_MAP) {
        reader_problem(r, node->line, "%.*s must be a map of names and texts", STR_ARG(node->key));
        return;
    }
    field->items = arena_alloc_array(r->arena, node->count, sizeof *field->items);
    if (!field->items) {
        reader_fail(r, r->arena);
        return;
    }
    for (const struct tree_node *n = node->first; n; n = n->next) {
        if (n->kind != TREE_SCALAR || tree_is_null(n))
            reader_problem(r, n->line, "%.*s must be a text", STR_ARG(n->key));
        else if (expand_scalar(r, n, &value, &has_variables))
            field->items[field->count++] =
                (struct conf_pair){reader_keep(r, n->key), reader_keep(r, value)};
    }
}

/* ---- targets ---- */

/* "provider/model": the provider's name ends at the first slash. */
static void read_target(struct reader *r, const struct tree_node *node, struct conf_target *target)
{
    bool has_variables;
    struct nearest near;
    struct str text;

    if (!expand_scalar(r, node, &text, &has_variables))
        return;
    size_t slash = str_index(text, '/');
    struct str name = {text.ptr, slash};
    if (slash + 1 >= text.len || slash == 0) {
        reader_problem(r, node->line, "a target must be provider/model, not \"%.*s\"",
                       STR_ARG(shown(node->text)));
        return;
    }
    target->provider = conf_provider_get(r->conf, name);
    target->model = reader_keep(r, str_after(text, slash + 1));
    if (target->provider)
        return;
    near = nearest_begin(name);
    for (size_t i = 0; i < r->conf->provider_count; i++)
        nearest_offer(&near, r->conf->providers[i].name);
    reader_problem(r, node->line, "there is no provider \"%.*s\"%s", STR_ARG(name),
                   nearest_hint(&near, r->scratch));
}

/* ---- any ---- */

static void read_scalar(struct reader *r, const struct option *option, const struct tree_node *node,
                        void *base)
{
    struct str text;
    bool has_variables;

    if (expand_scalar(r, node, &text, &has_variables) &&
        !parse_scalar(option, text, field_of(option, base)))
        problem_of_scalar(r, option, node, text);
}

void value_read(struct reader *r, const struct option *option, const struct tree_node *node,
                void *base)
{
    if (tree_is_null(node)) {
        reader_problem(r, node->line, "%.*s has no value", STR_ARG(node->key));
        return;
    }
    switch (option->type) {
    case OPTION_LIST:
        read_list(r, option, node, base);
        return;
    case OPTION_QUOTA:
    case OPTION_MONEY:
        value_quota_read(r, option, node, field_of(option, base));
        return;
    case OPTION_MAP:
        read_map(r, option, node, base);
        return;
    case OPTION_JSON:
        value_json_read(r, node, field_of(option, base));
        return;
    default:
        break;
    }
    if (node->kind != TREE_SCALAR && option->type == OPTION_TARGET)
        reader_problem(r, node->line, "a target must be provider/model");
    else if (node->kind != TREE_SCALAR)
        reader_problem(r, node->line, "%.*s must be a single value (%s)", STR_ARG(node->key),
                       option_type_name(option->type));
    else if (option->type == OPTION_TARGET)
        read_target(r, node, base);
    else if (option->type >= OPTION_TEXT && option->type <= OPTION_SERVICE)
        read_text(r, option, node, base);
    else
        read_scalar(r, option, node, base);
}

/* Defaults are literals of ours: they need no copy and no expansion. */
void value_set_default(struct reader *r, const struct option *option, void *base)
{
    void *field = field_of(option, base);
    struct conf_strings *list = field;

    if (option_is_computed(option) || option->by_default.len == 0)
        return;
    switch (option->type) {
    case OPTION_LIST:
        list->items = arena_alloc_array(r->arena, 1, sizeof *list->items);
        if (!list->items) {
            reader_fail(r, r->arena);
            return;
        }
        list->items[0] = option->by_default;
        list->count = 1;
        return;
    case OPTION_TEXT:
    case OPTION_PATH:
    case OPTION_URL:
        *(struct str *)field = option->by_default;
        return;
    default:
        check(parse_scalar(option, option->by_default, field));
    }
}
