/* SPDX-License-Identifier: Apache-2.0 */
/* Loads bytes as a configuration file. Whatever they are, loading ends with a configuration that
 * can be printed, or with problems; and no byte of memory is left. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/json_members.h"
#include "base/mem.h"
#include "conf/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What a configuration that was accepted shows must be whole. */
static void print(const struct conf *conf)
{
    struct buf out = buf_make(MEM_TOOL, (size_t)64 * 1024 * 1024);

    check(!conf_print(conf, &out));
    out.len = 0;
    check(!conf_print_json(conf, &out));
    check(!json_check(buf_str(&out)));
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct buf problems = buf_make(MEM_TOOL, (size_t)64 * 1024 * 1024);
    struct conf *conf;
    char path[64];
    int fd = memfd_create("conf", MFD_CLOEXEC);

    setenv("FUZZ", "value", 1);
    check(fd >= 0 && write(fd, data, len) == (ssize_t)len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    err_t err = conf_load(str_from(path), &problems, &conf);
    check(!err == (problems.len == 0));
    if (!err) {
        print(conf);
        conf_unref(conf);
    }
    close(fd);
    buf_fini(&problems);
    check(mem_in_use(MEM_CONF) == 0);
    return 0;
}
