/* SPDX-License-Identifier: Apache-2.0 */
/* Loading libpq. It stays loaded until the process ends. */
#include "store/db_postgres_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#define LIBRARY "libpq.so.5"

struct db_postgres_library pq;

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define X(name, function) {#function, offsetof(struct db_postgres_library, name)},
    DB_POSTGRES_FUNCTIONS(X)
#undef X
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *library;

static err_t look_up(void *handle)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
        void *function = dlsym(handle, functions[i].name);
        if (!function)
            return err_new(ERR_CONFIG,
                           "store: " LIBRARY " is older than version 14, it has no %s: install a "
                           "newer one (Debian: libpq5)",
                           functions[i].name);
        memcpy((char *)&pq + functions[i].offset, &function, sizeof(function));
    }
    return NULL;
}

static err_t load(void)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    err_t err;

    if (!handle)
        return err_new(ERR_CONFIG,
                       "store: PostgreSQL needs " LIBRARY ", which cannot be loaded (%s): install "
                       "it (Debian: libpq5)",
                       dlerror());
    err = look_up(handle);
    if (err)
        dlclose(handle);
    else
        library = handle;
    return err;
}

err_t db_postgres_library_load(void)
{
    err_t err = NULL;

    pthread_mutex_lock(&lock);
    if (!library)
        err = load();
    pthread_mutex_unlock(&lock);
    return err;
}
