/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of sockets: $XDG_RUNTIME_DIR or /tmp, mode 0700, a name that nobody can guess.
 *
 * A process that is killed cannot remove its folder, so the next one does. The hard thing is to
 * know that nobody uses it: process ids mean nothing across containers that share /tmp, but a
 * lock does, and goes with its process. */
#include "model/socket_folder.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "base/text.h"

#define PREFIX     "sluice-"
#define NAME_BYTES (sizeof(PREFIX) - 1 + 22)
#define TRIES      3 /* at making it, against others that tidy up */

static struct {
    char path[SOCKET_FOLDER_BYTES]; /* empty: not chosen */
    size_t place_len;               /* of the part before the name */
    int lock;                       /* -1: not made */
} folder = {.lock = -1};

static bool is_place(const char *path)
{
    struct stat info;

    return path && strlen(path) + 1 + NAME_BYTES < SOCKET_FOLDER_BYTES && stat(path, &info) == 0 &&
           S_ISDIR(info.st_mode) && access(path, W_OK) == 0;
}

err_t socket_folder_name(const char **path)
{
    const char *wanted = getenv("XDG_RUNTIME_DIR"), *place = is_place(wanted) ? wanted : "/tmp";
    char name[NAME_BYTES + 1];

    *path = folder.path;
    if (folder.path[0])
        return NULL;
    if (!is_place(place))
        return err_new(ERR_CONFIG,
                       "no place for the sockets of local models: /tmp is not writable");
    text_random_id(PREFIX, name);
    folder.place_len = strlen(place);
    snprintf(folder.path, sizeof(folder.path), "%s/%s", place, name);
    return NULL;
}

/* ---- tidying up ---- */

/* Remove a folder and the sockets in it. `fd` is open on it. */
static void remove_folder(int fd, const char *path)
{
    DIR *dir = fdopendir(dup(fd));
    struct dirent *entry;

    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            unlinkat(fd, entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

/* Remove this folder if it is ours and no process has it locked. */
static void tidy(const char *path)
{
    int fd = sys_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    struct stat info;

    if (fd < 0)
        return;
    if (fstat(fd, &info) == 0 && info.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0)
        remove_folder(fd, path);
    sys_close(fd);
}

static void tidy_place(void)
{
    char place[SOCKET_FOLDER_BYTES], path[SOCKET_FOLDER_BYTES + NAME_BYTES + 1];
    struct dirent *entry;
    DIR *dir;

    memcpy(place, folder.path, folder.place_len);
    place[folder.place_len] = 0;
    dir = opendir(place);
    while (dir && (entry = readdir(dir))) {
        if (strlen(entry->d_name) != NAME_BYTES ||
            strncmp(entry->d_name, PREFIX, sizeof(PREFIX) - 1) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%.*s", place, (int)NAME_BYTES, entry->d_name);
        tidy(path);
    }
    if (dir)
        closedir(dir);
}

/* ---- making it ---- */

/* Make and lock it. Between the two it looks abandoned to others: then it is gone, and errno is
 * ENOENT. */
static bool make(void)
{
    struct stat opened, named;

    if (mkdir(folder.path, 0700) < 0)
        return false;
    folder.lock = sys_open(folder.path, O_RDONLY | O_DIRECTORY, 0);
    if (folder.lock < 0)
        return false;
    if (flock(folder.lock, LOCK_SH | LOCK_NB) == 0 && fstat(folder.lock, &opened) == 0 &&
        stat(folder.path, &named) == 0 && named.st_ino == opened.st_ino)
        return true;
    sys_close(folder.lock);
    folder.lock = -1;
    errno = ENOENT;
    return false;
}

err_t socket_folder_open(void)
{
    if (folder.lock >= 0)
        return NULL;
    tidy_place();
    for (int i = 0; i < TRIES; i++) {
        if (make())
            return NULL;
        if (errno != ENOENT)
            break;
    }
    return err_system(errno, "making a folder for the sockets of local models");
}

void socket_folder_close(void)
{
    if (folder.lock >= 0) {
        remove_folder(folder.lock, folder.path);
        sys_close(folder.lock);
    }
    folder.lock = -1;
    folder.path[0] = 0;
}
