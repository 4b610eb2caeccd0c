/* SPDX-License-Identifier: Apache-2.0 */
/* For tests with servers of others: a program as a child with a folder and a port of its own.
 *
 * It ends with the test, however that ends. What it prints goes to the folder's log. */
#ifndef TESTS_UNIT_CHILD_SERVER_H
#define TESTS_UNIT_CHILD_SERVER_H

#include <arpa/inet.h>
#include <fcntl.h>
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

struct child_server {
    pid_t pid; /* 0: it does not run */
    unsigned port;
    char folder[64];
    const struct passwd *user; /* who runs it; NULL: whoever we are */
};

/* A port of this machine that nobody has; 127.0.0.1 that is. */
static inline unsigned child_free_port(void)
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

static inline bool child_accepts(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool result = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;

    close(fd);
    return result;
}

/* A folder for its user, and a port. */
static inline bool child_prepare(struct child_server *child, const char *name)
{
    const struct passwd *user = child->user;

    snprintf(child->folder, sizeof(child->folder), "/tmp/sluice-%s-XXXXXX", name);
    child->port = child_free_port();
    return mkdtemp(child->folder) &&
           (!user || chown(child->folder, user->pw_uid, user->pw_gid) == 0);
}

/* Run a program for it; `number` is what it gets when the test ends. Returns its id. */
static inline pid_t child_spawn(const struct child_server *child, int number, const char *program,
                                const char *const *arguments)
{
    const struct passwd *user = child->user;
    char log[96];
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    snprintf(log, sizeof(log), "%s/log", child->folder);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    if (user && (setgid(user->pw_gid) || setuid(user->pw_uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, number);
    execvp(program, (char *const *)(uintptr_t)arguments);
    _exit(127);
}

/* Wait until it is ready. False if it ends instead, or 10 s have passed; then it does not run. */
static inline bool child_await(struct child_server *child, bool (*is_ready)(void))
{
    for (int i = 0; i < 500; i++) {
        if (is_ready())
            return true;
        if (waitpid(child->pid, NULL, WNOHANG) == child->pid) {
            child->pid = 0;
            return false;
        }
        usleep(20000);
    }
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    child->pid = 0;
    return false;
}

/* Signal it and wait for its end. */
static inline void child_end(struct child_server *child, int number)
{
    if (child->pid <= 0)
        return;
    kill(child->pid, number);
    waitpid(child->pid, NULL, 0);
    child->pid = 0;
}

/* The same, and remove its folder. */
static inline void child_close(struct child_server *child, int number)
{
    char command[96];

    child_end(child, number);
    snprintf(command, sizeof(command), "rm -rf %s", child->folder);
    if (child->folder[0] && system(command) != 0)
        fprintf(stderr, "%s is left\n", child->folder);
}

#endif
