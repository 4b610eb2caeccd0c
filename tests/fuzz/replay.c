/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over files instead of letting a fuzzer make them up: every argument is a file or a folder
 * of files, and each file is one input. Linked with a target in ordinary builds, it turns the committed corpus
 * into a test. A folder without a single input is an error, so that an empty corpus cannot look like success. */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Feed one file to the target. The copy is exactly as long as the file, so that a sanitizer sees every overrun. */
static void replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;

    if (!file || fstat(fileno(file), &info) != 0) {
        perror(path);
        exit(1);
    }
    size_t len = (size_t)info.st_size;
    uint8_t *data = malloc(len ? len : 1);
    if (!data || fread(data, 1, len, file) != len) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, len);
    free(data);
}

/* Feed every file of a folder to the target, in name order. Returns how many there were. */
static int replay_folder(const char *path)
{
    struct dirent **entries;
    int total = scandir(path, &entries, NULL, alphasort);
    int count = 0;

    if (total < 0) {
        perror(path);
        exit(1);
    }
    for (int i = 0; i < total; i++) {
        char name[1024];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') {
            replay_file(name);
            count++;
        }
        free(entries[i]);
    }
    free(entries);
    return count;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct stat info;
        int count = 1;

        if (stat(argv[i], &info) == 0 && S_ISDIR(info.st_mode))
            count = replay_folder(argv[i]);
        else
            replay_file(argv[i]);
        if (count == 0) {
            fprintf(stderr, "%s: no inputs\n", argv[i]);
            return 1;
        }
        printf("%s: %d inputs\n", argv[i], count);
    }
    return 0;
}
