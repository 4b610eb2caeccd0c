/* SPDX-License-Identifier: Apache-2.0 */
/* What every process can tell about itself: CPU, memory, descriptors, age, lost log lines.
 *
 * All of it is read when somebody scrapes, because that is rarer than anything else here. */
#include "observe/metrics_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"
#include "observe/log.h"
#include "observe/metrics.h"

static void set(enum metric metric, int64_t value)
{
    metric_set(metric_series_get(metric, NULL), value);
}

/* Read a small file of /proc; an empty string if that fails. */
static void read_small(const char *path, char *text, size_t size)
{
    int fd = sys_open(path, O_RDONLY, 0);
    ssize_t len = fd < 0 ? -1 : sys_read(fd, text, size - 1);

    text[len > 0 ? len : 0] = '\0';
    if (fd >= 0)
        sys_close(fd);
}

static int64_t cpu_us(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return ((int64_t)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
           usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

/* The second field of statm counts pages. */
static int64_t resident_bytes(void)
{
    char text[128], *second;

    read_small("/proc/self/statm", text, sizeof text);
    strtol(text, &second, 10);
    return (int64_t)strtol(second, NULL, 10) * sysconf(_SC_PAGESIZE);
}

static int64_t open_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int64_t count = -3; /* ".", ".." and the folder's own descriptor */

    if (!folder)
        return 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* The wall-clock time at which the process started: field 22 of stat (proc(5)) counts ticks
 * since boot, and the fields before it may be skipped from the last parenthesis on. */
static int64_t started_us(void)
{
    char stat[1024], uptime[64];
    double boot_age_s;

    read_small("/proc/self/stat", stat, sizeof stat);
    read_small("/proc/uptime", uptime, sizeof uptime);
    char *at = strrchr(stat, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    boot_age_s = strtod(uptime, NULL);
    if (!at || boot_age_s <= 0)
        return 0;
    double age_s = boot_age_s - (double)strtoull(at, NULL, 10) / (double)sysconf(_SC_CLK_TCK);
    return (int64_t)sys_wall_ms() * 1000 - (int64_t)(age_s * 1e6);
}

void metrics_process_set(void)
{
    static int64_t start_us; /* once: a later look would differ by the clocks' rounding */
    struct rlimit descriptors;

    if (!start_us)
        start_us = started_us();
    set(METRIC_PROCESS_START_TIME, start_us);
    set(METRIC_PROCESS_CPU, cpu_us());
    set(METRIC_PROCESS_RESIDENT, resident_bytes());
    set(METRIC_PROCESS_OPEN_FDS, open_fds());
    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0)
        set(METRIC_PROCESS_MAX_FDS, (int64_t)descriptors.rlim_cur);
    set(METRIC_LOG_DROPPED, (int64_t)log_dropped());
    for (int use = 0; use < MEM_USE_COUNT; use++)
        metric_set(metric_series_get(METRIC_MEMORY, mem_use_label(use), NULL),
                   (int64_t)mem_in_use(use));
}
