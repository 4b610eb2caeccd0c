/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the store: a PostgreSQL server of their own, from the distribution's programs, in a folder of its own.
 *
 * It refuses to run as root, so root starts it as the user postgres or nobody. It speaks TLS with those who want it; here that
 * is nobody without an `sslmode` in the address. */
#ifndef TESTS_UNIT_POSTGRES_H
#define TESTS_UNIT_POSTGRES_H

#include <glob.h>
#include <sys/stat.h>

#include "certificate.h"
#include "child_server.h"

static struct {
    struct child_server child; /* the postmaster */
    char programs[256], url[128];
    char tls_url[192]; /* the same server, surely */
} postgres;

/* The folder of the newest version's programs. */
static inline bool postgres_find(void)
{
    glob_t found;

    if (glob("/usr/lib/postgresql/*/bin", 0, NULL, &found) != 0)
        return false;
    snprintf(postgres.programs, sizeof(postgres.programs), "%s",
             found.gl_pathv[found.gl_pathc - 1]);
    globfree(&found);
    return true;
}

/* SIGQUIT is an immediate shutdown. */
static inline pid_t postgres_spawn(const char *const *arguments)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", postgres.programs, arguments[0]);
    return child_spawn(&postgres.child, SIGQUIT, path, arguments);
}

static inline bool postgres_run(const char *const *arguments)
{
    int status;
    pid_t pid = postgres_spawn(arguments);

    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* The last line of postmaster.pid says how far it is. */
static inline bool postgres_is_ready(void)
{
    char path[128], text[1024];
    FILE *file;
    size_t n;

    snprintf(path, sizeof(path), "%s/data/postmaster.pid", postgres.child.folder);
    file = fopen(path, "r");
    if (!file)
        return false;
    n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = '\0';
    return strstr(text, "\nready") && atol(text) == postgres.child.pid;
}

/* Write what it is to be like. `setting` is one more, like "max_connections=10". */
static inline bool postgres_configure(const char *setting)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/data/postgresql.auto.conf", postgres.child.folder);
    file = fopen(path, "w");
    if (!file)
        return false;
    fprintf(
        file,
        "port=%u\nunix_socket_directories='%s'\nlisten_addresses='127.0.0.1'\n"
        "shared_buffers=16MB\nssl=on\nssl_cert_file='%s/cert.pem'\nssl_key_file='%s/key.pem'\n%s\n",
        postgres.child.port, postgres.child.folder, postgres.child.folder, postgres.child.folder,
        setting ? setting : "fsync=off");
    return fclose(file) == 0;
}

/* Start it, again on the same port. Memory that a killed server's children still hold delays it. */
static inline bool postgres_start(const char *setting)
{
    char data[128];
    const char *arguments[] = {"postgres", "-D", data, NULL};
    bool is_ready = false;

    snprintf(data, sizeof(data), "%s/data", postgres.child.folder);
    if (!postgres_configure(setting))
        return false;
    for (int attempt = 0; attempt < 20 && !is_ready; attempt++) {
        if (attempt > 0)
            usleep(200000);
        postgres.child.pid = postgres_spawn(arguments);
        is_ready = child_await(&postgres.child, postgres_is_ready);
    }
    return is_ready;
}

/* Signal the postmaster and wait for its end: SIGINT fast, SIGQUIT immediate, SIGKILL as if the power went. */
static inline void postgres_end(int number)
{
    child_end(&postgres.child, number);
}

static inline void postgres_close(void)
{
    child_close(&postgres.child, SIGQUIT);
}

/* A certificate for localhost, which is its own authority. */
static inline bool postgres_certify(void)
{
    const struct certificate_plan plan = {"DNS:localhost", true, -60, 3600, NULL, NULL};
    const struct passwd *user = postgres.child.user;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = certificate_make("localhost", key, &plan);
    char path[128], key_path[128];

    snprintf(path, sizeof(path), "%s/cert.pem", postgres.child.folder);
    snprintf(key_path, sizeof(key_path), "%s/key.pem", postgres.child.folder);
    certificate_write(path, certificate);
    certificate_write_key(key_path, key);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return chmod(key_path, 0600) == 0 &&
           (!user || chown(key_path, user->pw_uid, user->pw_gid) == 0);
}

/* Make a cluster and start it. The URL of its database; NULL if PostgreSQL is not installed or does not start. */
static inline const char *postgres_open(const char *setting)
{
    char data[128];
    const char *arguments[] = {"initdb",    "-D",
                               data,        "-U",
                               "postgres",  "-A",
                               "trust",     "-E",
                               "UTF8",      "--locale=C.UTF-8",
                               "--no-sync", "--no-instructions",
                               NULL};

    if (!postgres_find())
        return NULL;
    if (geteuid() == 0 && !(postgres.child.user = getpwnam("postgres")))
        postgres.child.user = getpwnam("nobody");
    if (!child_prepare(&postgres.child, "postgres"))
        return NULL;
    snprintf(data, sizeof(data), "%s/data", postgres.child.folder);
    if (!postgres_run(arguments) || !postgres_certify() || !postgres_start(setting)) {
        postgres_close();
        return NULL;
    }
    setenv("PGSSLMODE", "disable", 1);
    snprintf(postgres.url, sizeof(postgres.url), "postgresql://postgres@127.0.0.1:%u/postgres",
             postgres.child.port);
    snprintf(
        postgres.tls_url, sizeof(postgres.tls_url),
        "postgresql://postgres@localhost:%u/postgres?sslmode=verify-full&sslrootcert=%s/cert.pem",
        postgres.child.port, postgres.child.folder);
    return postgres.url;
}

#endif
