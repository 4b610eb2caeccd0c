/* SPDX-License-Identifier: Apache-2.0 */
/* sluice prices: make, check and look into price files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/sys.h"
#include "cli/command.h"
#include "cli/conf_option.h"
#include "govern/price.h"
#include "govern/price_decimal.h"

#define INPUT_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define ARENA_MAX_BYTES ((size_t)256 * 1024 * 1024)

/* ---- import ---- */

static err_t read_input(const char *name, struct buf *out)
{
    bool is_standard = strcmp(name, "-") == 0;
    int fd = is_standard ? STDIN_FILENO : sys_open(name, O_RDONLY, 0);
    ssize_t n = -1;
    err_t err = NULL;

    while (fd >= 0 && !err && (err = buf_reserve(out, 64 * 1024)) == NULL &&
           (n = sys_read(fd, out->ptr + out->len, 64 * 1024)) > 0)
        out->len += (size_t)n;
    if (!err && n < 0)
        err = err_new(ERR_SYSTEM, "%s: %s", name, strerror(errno));
    if (fd >= 0 && !is_standard)
        sys_close(fd);
    return err;
}

static err_t import(const char *name, struct arena *arena)
{
    struct buf json = buf_make(MEM_TOOL, INPUT_MAX_BYTES);
    struct str yaml;
    err_t err = read_input(name, &json);

    if (!err)
        err = price_import_litellm(buf_str(&json), arena, &yaml);
    if (!err)
        fwrite(yaml.ptr, 1, yaml.len, stdout);
    buf_fini(&json);
    return err;
}

/* ---- check ---- */

static err_t check_file(const char *name)
{
    struct prices *prices;

    TRY(prices_load(str_from(name), &prices));
    printf("%s: ok, %zu models, in %.*s\n", name, prices_count(prices),
           STR_ARG(prices_currency(prices)));
    prices_unref(prices);
    return NULL;
}

/* ---- show ---- */

static err_t show_amount(const char *name, uint64_t pico, int power, struct buf *out)
{
    TRY(buf_printf(out, "  %-14s ", name));
    TRY(price_decimal_print(pico, power, out));
    return buf_add_byte(out, '\n');
}

static err_t show_price(const struct prices *prices, struct str provider, struct str model,
                        struct buf *out)
{
    const struct price *price = price_find(prices, provider, model, sys_wall_ms());

    TRY(buf_printf(out, "%.*s/%.*s: ", STR_ARG(provider), STR_ARG(model)));
    if (!price)
        return buf_add(out, STR("no price\n"));
    TRY(buf_printf(out, "%.*s per million tokens\n", STR_ARG(prices_currency(prices))));
    TRY(show_amount("input", price->input_pico, 6, out));
    TRY(show_amount("output", price->output_pico, 6, out));
    TRY(show_amount("cached", price->cached_pico, 6, out));
    TRY(show_amount("cache_written", price->cache_written_pico, 6, out));
    TRY(show_amount("reasoning", price->reasoning_pico, 6, out));
    if (price->image_pico)
        TRY(show_amount("each image", price->image_pico, 12, out));
    if (price->request_pico)
        TRY(show_amount("each request", price->request_pico, 12, out));
    return NULL;
}

/* The prices of an alias's targets, or of provider/model. */
static err_t show_all(const struct conf *conf, const struct prices *prices, struct str name,
                      struct buf *out)
{
    const struct conf_model *alias = conf_model_get(conf, name);
    size_t slash = str_index(name, '/');

    for (size_t i = 0; alias && i < alias->target_count; i++)
        TRY(show_price(prices, alias->targets[i].provider->name, alias->targets[i].model, out));
    if (alias)
        return NULL;
    if (slash == name.len)
        return show_price(prices, conf->default_provider, name, out);
    return show_price(prices, (struct str){name.ptr, slash}, str_after(name, slash + 1), out);
}

static err_t show(const char *path, const char *name, struct arena *arena)
{
    struct buf out = buf_make(MEM_TOOL, INPUT_MAX_BYTES);
    struct prices *prices = NULL;
    struct conf *conf;

    TRY(conf_option_need(path, arena, &conf));
    err_t err = conf->prices.len ? prices_load(conf->prices, &prices)
                                 : err_new(ERR_CONFIG, "the configuration names no price file: set "
                                                       "`prices`");
    if (!err)
        err = show_all(conf, prices, str_from(name), &out);
    if (!err)
        fwrite(out.ptr, 1, out.len, stdout);
    buf_fini(&out);
    prices_unref(prices);
    conf_unref(conf);
    return err;
}

/* ---- the command ---- */

static err_t run(const char *verb, const char *name, const char *path)
{
    struct arena *arena = arena_new(MEM_TOOL, ARENA_MAX_BYTES);
    err_t err = arena ? NULL : err_no_memory();

    if (!err && strcmp(verb, "import") == 0)
        err = import(name, arena);
    else if (!err && strcmp(verb, "check") == 0)
        err = check_file(name);
    else if (!err)
        err = show(path, name, arena);
    arena_free(arena);
    return err;
}

int command_prices(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : NULL, *name = NULL, *path = NULL;
    bool is_show = verb && strcmp(verb, "show") == 0;

    if (!verb || (!is_show && strcmp(verb, "import") != 0 && strcmp(verb, "check") != 0))
        return command_misuse("prices", "import, check or show is needed", verb);
    for (int i = 2; i < argc; i++) {
        if (is_show && conf_option_take(argc, argv, &i, &path)) {
            if (!path)
                return command_misuse("prices", "a file name must follow", argv[i]);
        } else if (name || (argv[i][0] == '-' && argv[i][1])) {
            return command_misuse("prices", "unknown word", argv[i]);
        } else {
            name = argv[i];
        }
    }
    if (!name)
        return command_misuse("prices", is_show ? "a model is needed" : "a file is needed", NULL);
    err_t err = run(verb, name, path);
    return err ? command_fail("prices", err) : COMMAND_OK;
}
