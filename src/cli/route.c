/* SPDX-License-Identifier: Apache-2.0 */
/* sluice route explain: where a prompt would go, how hard it is taken to be and why, through the admin API
 * of a running server. Nothing is sent to a model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_members.h"
#include "base/json_writer.h"
#include "cli/client.h"
#include "cli/command.h"
#include "fiber/fiber.h"

#define MAX_PROMPT_BYTES ((size_t)16 * 1024 * 1024)
#define MAX_TOOLS        1000

struct explain {
    const char *url, *model, *tier, *key;
    uint64_t tools;
    bool as_json;
    struct buf prompt;
};

/* ---- what is sent ---- */

static void put_tools(struct json_writer *w, uint64_t count)
{
    json_put_array(w, "tools");
    for (uint64_t i = 0; i < count; i++)
        json_add_raw(w, STR("{\"type\":\"function\",\"function\":{\"name\":\"tool\",\"parameters\":"
                            "{\"type\":\"object\",\"properties\":{}}}}"));
    json_close_array(w);
}

static err_t compose(const struct explain *explain, struct buf *body)
{
    struct json_writer w = json_writer_make(body);

    json_open_object(&w);
    json_put_text_if(&w, "model", str_from(explain->model));
    json_put_text_if(&w, "tier", str_from(explain->tier));
    json_put_text_if(&w, "key", str_from(explain->key));
    json_put_text(&w, "prompt", buf_str(&explain->prompt));
    if (explain->tools)
        put_tools(&w, explain->tools);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* ---- what is shown ---- */

/* A member as a text: what is no text as it is written, null as "-". */
static struct str text_of(struct str object, struct str name)
{
    struct str value = json_get(object, name), text;

    if (json_text(value, fiber_arena(), &text))
        return text;
    return json_kind(value) == JSON_NULL || !value.ptr ? STR("-") : value;
}

static void show_features(struct str complexity)
{
    struct str features = json_get(complexity, STR("features")), feature;

    printf("score %.*s\n", STR_ARG(text_of(complexity, STR("score"))));
    printf("  %-24s %5s %8.*s\n", "base", "", STR_ARG(text_of(complexity, STR("base"))));
    for (size_t at = 0; json_array_next(features, &at, &feature);) {
        struct str name = text_of(feature, STR("name")), count = text_of(feature, STR("count"));
        if (str_eq(count, STR("0")))
            continue;
        printf("  %-24.*s %5.*s %8.*s\n", STR_ARG(name), STR_ARG(count),
               STR_ARG(text_of(feature, STR("points"))));
    }
}

static void show_targets(struct str answer)
{
    struct str targets = json_get(answer, STR("targets")), target;

    printf("targets for %.*s tokens in, %.*s out, in %.*s\n",
           STR_ARG(text_of(answer, STR("input_tokens"))),
           STR_ARG(text_of(answer, STR("output_tokens"))),
           STR_ARG(text_of(answer, STR("currency"))));
    for (size_t at = 0; json_array_next(targets, &at, &target);)
        printf("  %-2.*s %-32.*s up to %3.*s  %12.*s  %.*s\n",
               STR_ARG(text_of(target, STR("place"))), STR_ARG(text_of(target, STR("target"))),
               STR_ARG(text_of(target, STR("max_complexity"))),
               STR_ARG(text_of(target, STR("cost"))), STR_ARG(text_of(target, STR("verdict"))));
}

static void show(struct str answer)
{
    printf("%.*s\n", STR_ARG(text_of(answer, STR("decision"))));
    show_features(json_get(answer, STR("complexity")));
    show_targets(answer);
}

static err_t ask_server(struct explain *explain, struct client *client)
{
    struct buf body = buf_make(MEM_TOOL, 8 * MAX_PROMPT_BYTES);
    struct str answer = {0};
    int status = 0;
    err_t err = compose(explain, &body);

    if (!err)
        err = client_send(client, "POST", "/admin/route/explain", buf_str(&body), FIBER_FOREVER,
                          &status, &answer);
    if (!err && (status != 200 || json_check(answer)))
        err = client_refusal(status, answer);
    if (!err && explain->as_json)
        printf("%.*s\n", STR_ARG(answer));
    else if (!err)
        show(answer);
    buf_fini(&body);
    return err;
}

static int run(void *arg)
{
    struct explain *explain = arg;
    struct client client;
    err_t err = client_open_admin(explain->url, &client);

    if (!err)
        err = ask_server(explain, &client);
    client_close(&client);
    return err ? command_fail("route", err) : COMMAND_OK;
}

/* ---- the command line ---- */

static err_t add_word(struct explain *explain, const char *word)
{
    if (strcmp(word, "-") == 0)
        return command_read_input(&explain->prompt);
    if (explain->prompt.len > 0)
        TRY(buf_add(&explain->prompt, STR(" ")));
    return buf_add(&explain->prompt, str_from(word));
}

/* Where the value of an option goes, or NULL if it is none. */
static const char **option_of(struct explain *explain, const char **tools, const char *word)
{
    if (strcmp(word, "-m") == 0 || strcmp(word, "--model") == 0)
        return &explain->model;
    if (strcmp(word, "--tier") == 0)
        return &explain->tier;
    if (strcmp(word, "--key") == 0)
        return &explain->key;
    if (strcmp(word, "--tools") == 0)
        return tools;
    return strcmp(word, "--url") == 0 ? &explain->url : NULL;
}

/* Words after "--" are the prompt's even if they look like options. */
static int read_words(struct explain *explain, int argc, char **argv)
{
    bool takes_options = true;
    const char *tools = NULL;
    err_t err;

    for (int i = 2; i < argc; i++) {
        const char *word = argv[i],
                   **value = takes_options ? option_of(explain, &tools, word) : NULL;
        if (value) {
            if (++i == argc)
                return command_misuse("route", "a value must follow", word);
            *value = argv[i];
        } else if (takes_options && strcmp(word, "--") == 0) {
            takes_options = false;
        } else if (takes_options && strcmp(word, "--json") == 0) {
            explain->as_json = true;
        } else if (takes_options && word[0] == '-' && word[1]) {
            return command_misuse("route", "unknown option", word);
        } else if ((err = add_word(explain, word))) {
            return command_fail("route", err);
        }
    }
    if (tools && (!str_to_u64(str_from(tools), &explain->tools) || explain->tools > MAX_TOOLS))
        return command_misuse("route", "--tools takes a number up to 1000", tools);
    return explain->prompt.len ? COMMAND_OK : command_misuse("route", "a prompt is needed", NULL);
}

int command_route(int argc, char **argv)
{
    struct explain explain = {.prompt = buf_make(MEM_TOOL, MAX_PROMPT_BYTES)};
    int exit_code;

    if (argc < 2 || strcmp(argv[1], "explain") != 0)
        return command_misuse("route", "explain is needed", argc > 1 ? argv[1] : NULL);
    exit_code = read_words(&explain, argc, argv);
    if (exit_code == COMMAND_OK)
        exit_code = command_run_in_fiber(run, &explain);
    buf_fini(&explain.prompt);
    return exit_code;
}
