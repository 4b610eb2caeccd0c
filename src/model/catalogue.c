/* SPDX-License-Identifier: Apache-2.0 */
/* The catalogue (catalogue.def) as two tables: models, and sources that name their model. */
#include "model/catalogue.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

enum model_id {
#define MODEL(id, ...) MODEL_##id,
#define HUB(...)
#define PYPI(...)
#include "model/catalogue.def"
#undef MODEL
#undef HUB
#undef PYPI
    MODEL_COUNT
};

static const struct catalogue_model models[] = {
#define MODEL(id, name_, file_, bytes_, sha256_, licence_, context, note_)                         \
    [MODEL_##id] = {.name = name_,                                                                 \
                    .file = file_,                                                                 \
                    .bytes = bytes_,                                                               \
                    .sha256 = sha256_,                                                             \
                    .licence = licence_,                                                           \
                    .context_tokens = context,                                                     \
                    .note = note_},
#define HUB(...)
#define PYPI(...)
#include "model/catalogue.def"
#undef MODEL
#undef HUB
#undef PYPI
};

static const struct {
    enum model_id model;
    struct catalogue_source source;
} sources[] = {
#define MODEL(...)
#define HUB(id, url_) {MODEL_##id, {.url = url_}},
#define PYPI(id, package_, version_, member_, bytes_)                                              \
    {MODEL_##id, {.package = package_, .version = version_, .member = member_, .bytes = bytes_}},
#include "model/catalogue.def"
#undef MODEL
#undef HUB
#undef PYPI
};

#define SOURCE_COUNT (sizeof(sources) / sizeof(*sources))

const struct catalogue_model *catalogue_next(size_t *at)
{
    return *at < MODEL_COUNT ? &models[(*at)++] : NULL;
}

const struct catalogue_source *catalogue_next_source(const struct catalogue_model *model,
                                                     size_t *at)
{
    while (*at < SOURCE_COUNT) {
        size_t i = (*at)++;
        if (&models[sources[i].model] == model)
            return &sources[i].source;
    }
    return NULL;
}

const struct catalogue_model *catalogue_get(struct str name)
{
    for (size_t i = 0; i < MODEL_COUNT; i++)
        if (str_eq(str_from(models[i].name), name))
            return &models[i];
    return NULL;
}

struct str catalogue_path(struct arena *arena, struct str data_dir,
                          const struct catalogue_model *model)
{
    return str_from(arena_printf(arena, "%.*s/models/%s", STR_ARG(data_dir), model->file));
}

bool catalogue_is_installed(struct str data_dir, const struct catalogue_model *model)
{
    char path[1024];
    struct stat info;
    int n = snprintf(path, sizeof(path), "%.*s/models/%s", STR_ARG(data_dir), model->file);

    return n > 0 && (size_t)n < sizeof(path) && stat(path, &info) == 0 && S_ISREG(info.st_mode) &&
           (uint64_t)info.st_size == model->bytes;
}
