/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the tokens of a file as often as it is told: count_tokens DATA_DIR o200k|cl100k FILE.
 * Each line of standard input is a number of times; each answer is the count and the CPU time of
 * all these times in nanoseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/arena.h"
#include "model/tokens.h"

#define MOST_BYTES (64 * 1024 * 1024)

static uint64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static struct str read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(MOST_BYTES);
    size_t len = file && text ? fread(text, 1, MOST_BYTES, file) : 0;

    if (file)
        fclose(file);
    return (struct str){text, len};
}

int main(int argc, char **argv)
{
    enum token_family family;
    struct str text;
    char line[32];

    if (argc != 4)
        return 2;
    err_scope_set(arena_new(MEM_TOOL, (size_t)64 * 1024));
    family = str_eq(str_from(argv[2]), STR("cl100k")) ? TOKENS_CL100K : TOKENS_O200K;
    text = read_file(argv[3]);
    tokens_use(str_from(argv[1]));
    if (text.len == 0 || !tokens_is_exact(family))
        return 3;
    while (fgets(line, sizeof(line), stdin)) {
        uint64_t begin = cpu_ns(), count = 0;
        for (long times = strtol(line, NULL, 10); times > 0; times--)
            count = tokens_count(family, text);
        printf("%llu %llu\n", (unsigned long long)count, (unsigned long long)(cpu_ns() - begin));
        fflush(stdout);
    }
    return 0;
}
