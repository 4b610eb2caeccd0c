/* SPDX-License-Identifier: Apache-2.0 */
/* Recorded exchanges through the translators, without a socket: a caller's request is put into a
 * provider's words, and the provider's answer into the caller's.
 *
 *     test_wire FILE|FOLDER…            check them
 *     test_wire --dump FOLDER FILE…     and leave what the caller gets in FOLDER/NAME.gives
 *
 * An answer that is a stream is read whole, cut at every byte, line by line and byte by byte, with
 * the same result each time; and once without deltas, as where bytes are passed through, with the
 * same verdict and token counts. README.md tells what a file looks like.
 *
 * The hard thing is that nothing may be used longer than it lives: each piece lies in a block of its
 * own, and scratch memory is given back between events, so that the sanitizer sees what lingers. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dialect/dialect.h"
#include "model/provider.h"
#include "wire_compare.h"
#include "wire_file.h"

/* An exchange under test. */
struct exchange {
    const struct wire_file *file;
    struct arena *arena;
    const char *why; /* what went wrong, or NULL */

    /* from "provider" */
    const struct conf *conf;
    const struct conf_provider *provider;
    const struct provider_ops *ops;
    struct encoding encoding;

    /* from "ask" */
    const struct dialect *dialect;
    struct chat_request ask;

    bool is_translated;
    enum protocol protocol; /* in which the provider answers */
};

/* What came of one way of reading the answer. */
struct outcome {
    struct arena *arena;
    struct arena *scratch;
    struct decoder decoder;
    struct answer_writer writer;
    struct buf given; /* to the caller */
    size_t error_at;  /* where its error event begins */
    bool is_ended;
    err_t err;
};

static const char *dump_folder;

/* ---- the exchange ---- */

static bool fail(struct exchange *x, const char *section, const char *why)
{
    x->why = arena_printf(x->arena, "%s: %s", section, why ? why : "out of memory");
    return false;
}

/* The provider, read from a configuration of its own in which the section's lines are its options;
 * those that are of the request are taken out. */
static bool load_provider(struct exchange *x, struct str kind, struct str options)
{
    struct buf problems = buf_make(MEM_TOOL, 64 * 1024);
    char path[] = "/tmp/sluice-wire-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    struct str line;
    struct conf *conf = NULL;

    if (!file)
        return fail(x, "provider", "no temporary file");
    fprintf(file, "providers:\n  p:\n    kind: %.*s\n", STR_ARG(kind));
    if (str_eq(kind, STR("local")))
        fprintf(file, "    model: /x.gguf\n");
    while (wire_line(&options, &line)) {
        struct str value = str_trim(
            str_after(line, str_index(line, ':') < line.len ? str_index(line, ':') + 1 : line.len));
        if (str_starts(line, STR("model:")))
            x->encoding.model = value;
        else if (str_starts(line, STR("prefill:")))
            x->encoding.prefill = value;
        else if (str_starts(line, STR("unsupported:")))
            x->encoding.unsupported = str_eq(value, STR("drop"))    ? CONF_UNSUPPORTED_DROP
                                      : str_eq(value, STR("error")) ? CONF_UNSUPPORTED_ERROR
                                                                    : CONF_UNSUPPORTED_AUTO;
        else
            fprintf(file, "    %.*s\n", STR_ARG(line));
    }
    fclose(file);
    err_t err = conf_load(str_from(path), &problems, &conf);
    unlink(path);
    if (err)
        fail(x, "provider", arena_printf(x->arena, "%s\n%.*s", err->text, STR_ARG(problems)));
    buf_fini(&problems);
    x->conf = conf;
    for (size_t i = 0; conf && i < conf->provider_count; i++)
        if (str_eq(conf->providers[i].name, STR("p")))
            x->provider = &conf->providers[i];
    return x->provider || (!x->why && fail(x, "provider", "is not in its configuration"));
}

static const struct dialect *find_dialect(struct str name)
{
    const struct dialect *const all[] = {
#define X(symbol) symbol,
#include "dialect/dialects.def"
#undef X
    };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (str_eq(str_from(protocol_name(all[i]->protocol)), name))
            return all[i];
    return NULL;
}

static bool load(struct exchange *x)
{
    const struct wire_section *provider = wire_file_get(x->file, "provider");
    const struct wire_section *ask = wire_file_get(x->file, "ask");

    if (!wire_file_get(x->file, "source"))
        return fail(x, "source", "is missing");
    if (!provider || !ask)
        return fail(x, "provider, ask", "one of them is missing");
    if (!load_provider(x, provider->rest, provider->text))
        return false;
    x->ops = provider_ops_get(x->provider->kind);
    x->dialect = find_dialect(ask->rest);
    if (!x->dialect)
        return fail(x, "ask", "there is no such dialect");
    return true;
}

/* ---- the request ---- */

static err_t encode(struct exchange *x)
{
    const struct wire_section *ask = wire_file_get(x->file, "ask");
    const struct wire_section *history = wire_file_get(x->file, "history");
    struct encoding *encoding = &x->encoding;

    TRY(x->dialect->parse(ask->text, x->arena, &x->ask));
    x->ask.history = history ? history->text : (struct str){0};
    encoding->provider = x->provider;
    encoding->ask = &x->ask;
    encoding->arena = x->arena;
    encoding->model = encoding->model.len > 0 ? encoding->model : x->ask.model;
    x->protocol = x->ops->choose(x->provider, x->ask.protocol);
    if (x->protocol == PROTOCOL_COUNT)
        return err_new_detail(ERR_BAD_REQUEST, (.param = "model"),
                              "the provider has no such thing");
    TRY(x->ops->encode(encoding));
    x->is_translated = x->protocol != x->ask.protocol || encoding->must_translate;
    return NULL;
}

static bool check_refusal(struct exchange *x, const struct wire_section *refuses, err_t err)
{
    struct str text = refuses->text, line;

    if (!err)
        return fail(x, "refuses", "it was accepted");
    if (!err_is(err, ERR_BAD_REQUEST))
        return fail(x, "refuses", arena_printf(x->arena, "another kind of error: %s", err->text));
    if (!str_eq(str_from(err->param), refuses->rest))
        return fail(
            x, "refuses",
            arena_printf(x->arena, "it blames '%s': %s", err->param ? err->param : "", err->text));
    while (wire_line(&text, &line))
        if (str_find(str_from(err->text), line) >= strlen(err->text) && line.len > 0)
            return fail(x, "refuses", arena_printf(x->arena, "it says: %s", err->text));
    return true;
}

static bool check_sent(struct exchange *x)
{
    const struct wire_section *sends = wire_file_get(x->file, "sends");
    const struct wire_section *dropped = wire_file_get(x->file, "dropped");
    struct buf body = buf_make(MEM_TOOL, SIZE_MAX / 4);
    struct str line = {0}, text = dropped ? dropped->text : (struct str){0};
    const char *why = NULL;

    while (wire_line(&text, &line) && line.len == 0)
        continue;
    if (!str_eq(x->encoding.dropped, line))
        return fail(x, "dropped",
                    arena_printf(x->arena, "it was '%.*s'", STR_ARG(x->encoding.dropped)));
    if (!sends)
        return true;
    if (sends->rest.len > 0 && !str_eq(sends->rest, x->encoding.target))
        return fail(x, "sends",
                    arena_printf(x->arena, "it goes to %.*s", STR_ARG(x->encoding.target)));
    for (size_t i = 0; i < x->encoding.body_count && !why; i++)
        if (buf_add(&body, x->encoding.body[i]))
            why = "out of memory";
    if (!why)
        why = wire_compare_json(sends->text, buf_str(&body), x->arena);
    buf_fini(&body);
    return !why || fail(x, "sends", why);
}

/* ---- the answer ---- */

static struct outcome outcome_make(struct exchange *x, bool has_deltas)
{
    struct outcome o = {
        .arena = arena_new(MEM_TOOL, 256 * 1024 * 1024),
        .scratch = has_deltas ? arena_new(MEM_TOOL, 256 * 1024 * 1024) : NULL,
        .given = buf_make(MEM_TOOL, SIZE_MAX / 4),
    };

    err_scope_set(o.arena);
    o.decoder = (struct decoder){.protocol = x->protocol,
                                 .scratch = o.scratch,
                                 .arena = o.arena,
                                 .must_translate = x->encoding.must_translate,
                                 .from_encoder = x->encoding.for_decoder};
    o.writer = (struct answer_writer){.dialect = x->dialect,
                                      .ask = &x->ask,
                                      .arena = o.arena,
                                      .id = STR("ID"),
                                      .out = buf_make(MEM_TOOL, SIZE_MAX / 4)};
    return o;
}

static void outcome_fini(struct outcome *o)
{
    err_scope_set(NULL);
    buf_fini(&o->given);
    buf_fini(&o->writer.out);
    arena_free(o->arena);
    arena_free(o->scratch);
}

/* What the writer has written goes to the caller. */
static err_t collect(struct outcome *o)
{
    TRY(buf_add(&o->given, buf_str(&o->writer.out)));
    o->writer.out.len = 0;
    return NULL;
}

static err_t pass_on(struct exchange *x, struct outcome *o, const struct event *event)
{
    bool is_unwanted =
        event->kind == EVENT_USAGE && x->ask.protocol == PROTOCOL_CHAT && !x->ask.wants_usage;

    o->is_ended = event->kind == EVENT_END;
    if (!x->is_translated) {
        if (o->is_ended && event->raw.len == 0)
            return buf_add(&o->given, x->dialect->end_marker);
        return is_unwanted ? NULL : buf_add(&o->given, event->raw);
    }
    if (!o->scratch || (event->kind != EVENT_CONTENT && !o->is_ended))
        return NULL;
    o->writer.model = o->decoder.model.len > 0 ? o->decoder.model : x->encoding.model;
    o->writer.usage = &o->decoder.usage;
    TRY(x->dialect->write_event(&o->writer, event));
    return collect(o);
}

/* The events within a piece of the stream. */
static err_t read_piece(struct exchange *x, struct outcome *o, struct sse_reader *reader,
                        struct str bytes)
{
    struct sse_event in;
    bool found;

    while (!o->is_ended) {
        if (o->scratch)
            arena_reset(o->scratch);
        TRY(sse_next(reader, &bytes, &in, &found));
        if (!found)
            return NULL;
        if (!in.has_data || in.data.len == 0)
            continue;
        struct event event = {.raw = in.raw, .has_id = in.has_id};
        TRY(x->ops->decode(&o->decoder, &in, &event));
        TRY(pass_on(x, o, &event));
    }
    return NULL;
}

/* How long the next piece is, in one of the ways to cut: in two at `cut`, by lines or bytes. */
enum cutting { CUT_IN_TWO, CUT_LINES, CUT_BYTES };

static size_t piece_length(enum cutting cutting, size_t cut, struct str rest, size_t done)
{
    if (cutting == CUT_BYTES)
        return 1;
    if (cutting == CUT_LINES) {
        size_t end = str_index(rest, '\n');
        return end < rest.len ? end + 1 : rest.len;
    }
    return done < cut ? cut - done : rest.len;
}

static err_t read_stream(struct exchange *x, struct outcome *o, enum cutting cutting, size_t cut)
{
    struct str rest = wire_file_get(x->file, "answers")->text;
    struct sse_reader reader;
    struct event end = {.kind = EVENT_END};
    err_t err = NULL;

    sse_init(&reader);
    for (size_t done = 0; rest.len > 0 && !err;) {
        size_t len = piece_length(cutting, cut, rest, done);
        char *piece = malloc(len);
        memcpy(piece, rest.ptr, len);
        err = read_piece(x, o, &reader, (struct str){piece, len});
        free(piece);
        rest = str_after(rest, len);
        done += len;
    }
    sse_fini(&reader);
    if (err || o->is_ended)
        return err;
    if (wire_file_get(x->file, "end"))
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_truncated"), "the body broke off");
    if (o->scratch)
        arena_reset(o->scratch);
    TRY(x->ops->decode_end(&o->decoder, &end));
    return pass_on(x, o, &end);
}

static err_t read_whole(struct exchange *x, struct outcome *o)
{
    struct str body = wire_file_get(x->file, "answers")->text;
    struct event event = {.kind = EVENT_CONTENT, .raw = body};
    struct answer answer = answer_make(o->arena);

    TRY(x->ops->decode_whole(&o->decoder, body, &event));
    if (!x->is_translated)
        return buf_add(&o->given, event.raw.ptr ? event.raw : body);
    if (!o->scratch)
        return NULL;
    TRY(answer_add(&answer, event.deltas, event.delta_count));
    o->writer.model = o->decoder.model.len > 0 ? o->decoder.model : x->encoding.model;
    o->writer.usage = &o->decoder.usage;
    TRY(x->dialect->write_answer(&o->writer, &answer));
    return collect(o);
}

/* Read the answer in one way; a failure after the first bytes is told the caller in the stream. */
static struct outcome read_answer(struct exchange *x, bool has_deltas, enum cutting cutting,
                                  size_t cut)
{
    struct outcome o = outcome_make(x, has_deltas);
    bool is_stream = str_eq(wire_file_get(x->file, "answers")->rest, STR("stream"));

    o.err = is_stream ? read_stream(x, &o, cutting, cut) : read_whole(x, &o);
    o.error_at = o.given.len;
    if (o.err && is_stream && o.given.len > 0) {
        err_t err =
            x->dialect->write_error(x->is_translated ? &o.writer : NULL, o.err, o.arena, &o.given);
        o.err = err ? err : o.err;
    }
    return o;
}

/* ---- what is expected ---- */

static bool check_given(struct exchange *x, const struct outcome *o)
{
    const struct wire_section *gives = wire_file_get(x->file, "gives");
    bool is_stream = str_eq(wire_file_get(x->file, "answers")->rest, STR("stream"));
    struct str given = buf_str(&o->given);
    const char *why;

    if (!gives)
        return true;
    if (!is_stream) {
        why = wire_compare_json(gives->text, given, x->arena);
        return !why || fail(x, "gives", why);
    }
    why = wire_compare_stream(gives->text, given, x->arena);
    if (why && o->err) {
        /* the words of an error event need not be written down */
        given.len = o->error_at;
        if (!wire_compare_stream(gives->text, given, x->arena))
            return true;
    }
    return !why || fail(x, "gives", why);
}

static bool check_failure(struct exchange *x, const struct outcome *o)
{
    const struct wire_section *fails = wire_file_get(x->file, "fails");
    const char *code = o->err && o->err->code ? o->err->code : "";
    struct str text, line;

    if (!o->err)
        return !fails || fail(x, "fails", "it did not fail");
    if (!fails || !str_eq(str_from(code), fails->rest))
        return fail(x, "fails", arena_printf(x->arena, "%s: %s", code, o->err->text));
    text = fails->text;
    while (wire_line(&text, &line))
        if (str_find(str_from(o->err->text), line) >= strlen(o->err->text) && line.len > 0)
            return fail(x, "fails", arena_printf(x->arena, "it says: %s", o->err->text));
    return true;
}

static void print_usage(const struct usage *u, char out[200])
{
    snprintf(out, 200, "unknown");
    if (u->is_known)
        snprintf(out, 200, "%llu %llu %llu %llu %llu", (unsigned long long)u->input,
                 (unsigned long long)u->output, (unsigned long long)u->cached,
                 (unsigned long long)u->cache_written, (unsigned long long)u->reasoning);
}

static bool check_usage(struct exchange *x, const struct outcome *o)
{
    const struct wire_section *section = wire_file_get(x->file, "usage");
    char expected[200], came[200];
    unsigned long long n[5];

    if (!section)
        return true;
    snprintf(expected, sizeof expected, "%.*s", STR_ARG(section->text));
    if (sscanf(expected, "%llu %llu %llu %llu %llu", &n[0], &n[1], &n[2], &n[3], &n[4]) == 5)
        snprintf(expected, sizeof expected, "%llu %llu %llu %llu %llu", n[0], n[1], n[2], n[3],
                 n[4]);
    else
        snprintf(expected, sizeof expected, "unknown");
    print_usage(&o->decoder.usage, came);
    if (strcmp(expected, came) != 0)
        return fail(x, "usage", arena_printf(x->arena, "expected %s, came %s", expected, came));
    return true;
}

/* Read once more in another way, and compare with the first time. */
static bool check_again(struct exchange *x, const struct outcome *first, bool has_deltas,
                        enum cutting cutting, size_t cut)
{
    struct outcome o = read_answer(x, has_deltas, cutting, cut);
    const char *code = o.err && o.err->code ? o.err->code : "";
    const char *first_code = first->err && first->err->code ? first->err->code : "";
    char usage[200], first_usage[200];
    bool is_same = !has_deltas || str_eq(buf_str(&first->given), buf_str(&o.given));

    print_usage(&o.decoder.usage, usage);
    print_usage(&first->decoder.usage, first_usage);
    is_same = is_same && strcmp(code, first_code) == 0 && !o.err == !first->err &&
              strcmp(usage, first_usage) == 0;
    if (!is_same)
        fail(x, "answers",
             arena_printf(x->arena, "something else comes of it when it is read %s (%zu)%s%s: %.*s",
                          !has_deltas             ? "without deltas"
                          : cutting == CUT_IN_TWO ? "in two pieces"
                          : cutting == CUT_LINES  ? "line by line"
                                                  : "byte by byte",
                          cut, o.err ? ": " : "", o.err ? o.err->text : "",
                          (int)(o.given.len < 2000 ? o.given.len : 2000), o.given.ptr));
    outcome_fini(&o);
    return is_same;
}

static void dump(const struct exchange *x, struct str given)
{
    const char *name = strrchr(x->file->path, '/');
    FILE *file = fopen(
        arena_printf(x->arena, "%s/%s.gives", dump_folder, name ? name + 1 : x->file->path), "w");

    if (!file)
        return;
    if (given.len > 0)
        fwrite(given.ptr, 1, given.len, file);
    fclose(file);
}

static bool check_answer(struct exchange *x)
{
    const struct wire_section *answers = wire_file_get(x->file, "answers");
    bool is_stream = str_eq(answers->rest, STR("stream"));
    struct outcome first = read_answer(x, x->is_translated, CUT_IN_TWO, answers->text.len);
    bool is_good;

    if (dump_folder)
        dump(x, buf_str(&first.given));
    is_good = check_failure(x, &first) && check_given(x, &first) && check_usage(x, &first) &&
              check_again(x, &first, false, CUT_IN_TWO, answers->text.len);
    if (is_good && is_stream) {
        is_good = check_again(x, &first, x->is_translated, CUT_LINES, 0) &&
                  check_again(x, &first, x->is_translated, CUT_BYTES, 0);
        for (size_t cut = 1; is_good && cut < answers->text.len; cut++)
            is_good = check_again(x, &first, x->is_translated, CUT_IN_TWO, cut);
    }
    outcome_fini(&first);
    err_scope_set(x->arena);
    return is_good;
}

static bool check_exchange(struct exchange *x)
{
    const struct wire_section *refuses = wire_file_get(x->file, "refuses");
    err_t err;

    if (!load(x))
        return false;
    err = encode(x);
    if (refuses)
        return check_refusal(x, refuses, err);
    if (err)
        return fail(x, "ask",
                    arena_printf(x->arena, "%s (%s)", err->text, err->param ? err->param : ""));
    return check_sent(x) && (!wire_file_get(x->file, "answers") || check_answer(x));
}

/* ---- files ---- */

/* The name by which a test is listed: the file's, with what is no letter or digit replaced. */
static const char *test_name(const char *path, struct arena *arena)
{
    const char *base = strrchr(path, '/');
    char *name = arena_cstr(arena, str_from(base ? base + 1 : path));

    name[strlen(name) - (str_ends(str_from(name), STR(".txt")) ? 4 : 0)] = '\0';
    for (char *c = name; *c; c++)
        if (!(*c >= '0' && *c <= '9') && !((*c | 32) >= 'a' && (*c | 32) <= 'z'))
            *c = '_';
    return name;
}

static bool check_file(const char *path)
{
    struct exchange x = {.arena = arena_new(MEM_TOOL, 256 * 1024 * 1024)};
    struct wire_file file;
    const char *name = test_name(path, x.arena), *why;
    bool is_good;

    printf("[ RUN      ] %s\n", name);
    fflush(stdout);
    err_scope_set(x.arena);
    x.file = &file;
    if (wire_file_read(path, x.arena, &file, &why))
        is_good = check_exchange(&x);
    else
        is_good = fail(&x, "file", why);
    if (!is_good)
        printf("%s: %s\n", path, x.why);
    printf("[ %s ] %s\n", is_good ? "      OK" : " FAILED ", name);
    err_scope_set(NULL);
    if (x.conf)
        conf_unref(x.conf);
    arena_free(x.arena);
    return is_good;
}

static int is_exchange(const struct dirent *entry)
{
    return str_ends(str_from(entry->d_name), STR(".txt"));
}

/* Check a file, or all of a folder by name. Returns how many failed; counts them in *total. */
static int check_path(const char *path, int *total)
{
    struct dirent **entries;
    int failed = 0, count = scandir(path, &entries, is_exchange, alphasort);

    if (count < 0) {
        ++*total;
        return !check_file(path);
    }
    for (int i = 0; i < count; i++) {
        char name[1024];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        failed += !check_file(name);
        free(entries[i]);
    }
    free(entries);
    *total += count;
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0, total = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--dump") == 0 && i + 1 < argc)
            dump_folder = argv[++i];
        else
            failed += check_path(argv[i], &total);
    }
    printf("%d exchanges, %d failed\n", total, failed);
    return failed > 0 || total == 0;
}
