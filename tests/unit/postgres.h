/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the store: a PostgreSQL server of their own, from the distribution's programs, in a folder of its own.
 *
 * It refuses to run as root, so root starts it as the user postgres or nobody. It ends with the test, however that ends. */
#ifndef TESTS_UNIT_POSTGRES_H
#define TESTS_UNIT_POSTGRES_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    pid_t pid; /* of the postmaster; 0: it does not run */
    unsigned port;
    char folder[64], programs[256], url[128];
    struct passwd *user; /* NULL: whoever we are */
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

/* Run one of its programs as the ordinary user; its output goes to the folder's log. */
static inline pid_t postgres_spawn(const char *const *arguments)
{
    char path[512], log[128];
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    snprintf(path, sizeof(path), "%s/%s", postgres.programs, arguments[0]);
    snprintf(log, sizeof(log), "%s/log", postgres.folder);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    if (postgres.user && (setgid(postgres.user->pw_gid) || setuid(postgres.user->pw_uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGQUIT); /* an immediate shutdown */
    execv(path, (char *const *)(uintptr_t)arguments);
    _exit(127);
}

static inline bool postgres_run(const char *const *arguments)
{
    int status;
    pid_t pid = postgres_spawn(arguments);

    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static inline unsigned postgres_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (bind(fd, (struct sockaddr *)&address, len) ||
        getsockname(fd, (struct sockaddr *)&address, &len))
        abort();
    close(fd);
    return ntohs(address.sin_port);
}

/* The last line of postmaster.pid says how far it is. */
static inline bool postgres_is_ready(void)
{
    char path[128], text[1024];
    FILE *file;
    size_t n;

    snprintf(path, sizeof(path), "%s/data/postmaster.pid", postgres.folder);
    file = fopen(path, "r");
    if (!file)
        return false;
    n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = '\0';
    return strstr(text, "\nready") && atol(text) == postgres.pid;
}

/* Start it, again on the same port. `setting` is one more, like "max_connections=10". Memory that a killed server's
 * children still hold delays it. */
static inline bool postgres_start(const char *setting)
{
    char data[128], port[16], sockets[128];
    const char *arguments[] = {"postgres",
                               "-D",
                               data,
                               "-p",
                               port,
                               "-k",
                               sockets,
                               "-c",
                               "listen_addresses=127.0.0.1",
                               "-c",
                               "shared_buffers=16MB",
                               "-c",
                               setting ? setting : "fsync=off",
                               NULL};
    bool is_ready = false;

    snprintf(data, sizeof(data), "%s/data", postgres.folder);
    snprintf(port, sizeof(port), "%u", postgres.port);
    snprintf(sockets, sizeof(sockets), "%s", postgres.folder);
    for (int attempt = 0; attempt < 20 && !is_ready; attempt++) {
        postgres.pid = postgres_spawn(arguments);
        for (int i = 0; i < 500 && !(is_ready = postgres_is_ready()); i++) {
            if (waitpid(postgres.pid, NULL, WNOHANG) == postgres.pid)
                break;
            usleep(20000);
        }
        if (!is_ready)
            usleep(200000);
    }
    return is_ready;
}

/* Signal the postmaster and wait for its end: SIGINT fast, SIGQUIT immediate, SIGKILL as if the power went. */
static inline void postgres_end(int number)
{
    if (postgres.pid <= 0)
        return;
    kill(postgres.pid, number);
    waitpid(postgres.pid, NULL, 0);
    postgres.pid = 0;
}

static inline void postgres_close(void)
{
    char command[128];

    postgres_end(SIGQUIT);
    snprintf(command, sizeof(command), "rm -rf %s", postgres.folder);
    if (postgres.folder[0] && system(command) != 0)
        fprintf(stderr, "%s is left\n", postgres.folder);
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
    if (geteuid() == 0 && !(postgres.user = getpwnam("postgres")))
        postgres.user = getpwnam("nobody");
    memcpy(postgres.folder, "/tmp/sluice-postgres-XXXXXX", sizeof("/tmp/sluice-postgres-XXXXXX"));
    if (!mkdtemp(postgres.folder) ||
        (postgres.user && chown(postgres.folder, postgres.user->pw_uid, postgres.user->pw_gid)))
        return NULL;
    snprintf(data, sizeof(data), "%s/data", postgres.folder);
    postgres.port = postgres_free_port();
    if (!postgres_run(arguments) || !postgres_start(setting)) {
        postgres_close();
        return NULL;
    }
    snprintf(postgres.url, sizeof(postgres.url), "postgresql://postgres@127.0.0.1:%u/postgres",
             postgres.port);
    return postgres.url;
}

#endif
