/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabularies from files.
 *
 * The ranks are checked by their sha256. An image names the ranks that it was made of and has a
 * sum over all its tables, so a cut or damaged one is noticed before an index out of it is
 * followed. A new one takes its name when it is complete; the loser of two that make it at the
 * same time replaces an equal file. */
#include "model/tokens_file.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/sys.h"
#include "model/tokens_build.h"

#define MAX_BYTES ((off_t)64 * 1024 * 1024)

static const struct {
    const char *name, *sha256;
} files[] = {
#define X(name_, file, sha256_) [TOKENS_##name_] = {file, sha256_},
    TOKENS_ENCODINGS(X)
#undef X
};

struct path {
    char text[TOKENS_FILE_PATH + 64];
};

const char *tokens_file_name(enum tokens_encoding encoding)
{
    return files[encoding].name;
}

static const char *make_path(struct path *path, const char *folder, enum tokens_encoding encoding,
                             const char *ending)
{
    snprintf(path->text, sizeof(path->text), "%s/%s.%s", folder, files[encoding].name, ending);
    return path->text;
}

/* A sum over what follows the head, in four lanes for speed: against accidents, not attackers. */
static uint64_t sum_of(const struct tokens_head *head)
{
    const char *at = (const char *)(head + 1), *end = (const char *)head + head->bytes;
    uint64_t lanes[4] = {1, 2, 3, 4}, sum = 0;

    for (; end - at >= 32; at += 32)
        for (int i = 0; i < 4; i++)
            lanes[i] = (lanes[i] ^ word_load(at + 8 * i)) * UINT64_C(0x9E3779B97F4A7C15);
    for (; at < end; at++)
        sum = (sum ^ (unsigned char)*at) * UINT64_C(0xD6E8FEB86659FD93);
    for (int i = 0; i < 4; i++)
        sum = (sum ^ lanes[i] ^ lanes[i] >> 29) * UINT64_C(0xD6E8FEB86659FD93);
    return sum;
}

static bool is_good(const struct tokens_head *head, uint64_t bytes, enum tokens_encoding encoding)
{
    return memcmp(head->magic, TOKENS_MAGIC, sizeof(head->magic)) == 0 && head->bytes == bytes &&
           memcmp(head->source, files[encoding].sha256, sizeof(head->source)) == 0 &&
           tokens_vocab_bytes(head) == bytes && head->sum == sum_of(head);
}

/* Open a regular file of a size that may be. */
static err_t open_file(const char *path, int *fd, size_t *bytes)
{
    struct stat info;

    *fd = sys_open(path, O_RDONLY, 0);
    if (*fd < 0 && errno == ENOENT)
        return err_new(ERR_NOT_FOUND, "%s is not there", path);
    if (*fd < 0)
        return err_system(errno, path);
    if (fstat(*fd, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size > MAX_BYTES ||
        info.st_size < (off_t)sizeof(struct tokens_head)) {
        sys_close(*fd);
        return err_new(ERR_CONFIG, "%s is not a file of tokens", path);
    }
    *bytes = (size_t)info.st_size;
    return NULL;
}

static err_t map_image(const char *path, enum tokens_encoding encoding,
                       const struct tokens_head **image)
{
    size_t bytes;
    void *ptr;
    int fd;

    TRY(open_file(path, &fd, &bytes));
    ptr = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    sys_close(fd);
    if (ptr == MAP_FAILED)
        return err_system(errno, path);
    if (!is_good(ptr, bytes, encoding)) {
        munmap(ptr, bytes);
        return err_new(ERR_CONFIG, "%s is damaged or of another version", path);
    }
    *image = ptr;
    return NULL;
}

/* ---- making an image ---- */

static err_t read_all(int fd, char *to, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = sys_read(fd, to, bytes);
        if (n <= 0)
            return n < 0 ? err_system(errno, "reading ranks")
                         : err_new(ERR_SYSTEM, "the ranks' file became shorter");
        to += n;
        bytes -= (size_t)n;
    }
    return NULL;
}

static err_t check_hash(const char *path, struct str lines, const char *sha256)
{
    unsigned char raw[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned len = 0;

    if (!EVP_Digest(lines.ptr, lines.len, raw, &len, EVP_sha256(), NULL))
        return err_new(ERR_SYSTEM, "cannot compute a sha256");
    for (unsigned i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", raw[i]);
    if (str_eq(str_from(hex), str_from(sha256)))
        return NULL;
    return err_new(ERR_CONFIG, "%s has the sha256 %s instead of %s", path, hex, sha256);
}

static err_t build(const char *path, enum tokens_encoding encoding, struct tokens_head **image)
{
    size_t bytes;
    char *lines;
    int fd;
    err_t err;

    TRY(open_file(path, &fd, &bytes));
    lines = mem_alloc(MEM_PROCESS, bytes);
    err = lines ? read_all(fd, lines, bytes) : err_no_memory();
    sys_close(fd);
    if (!err)
        err = check_hash(path, (struct str){lines, bytes}, files[encoding].sha256);
    if (!err)
        err = tokens_build((struct str){lines, bytes}, image);
    mem_free(MEM_PROCESS, lines, bytes);
    TRY(err);
    memcpy((*image)->source, files[encoding].sha256, sizeof((*image)->source));
    (*image)->sum = sum_of(*image);
    return NULL;
}

/* Save under a name of our own, then under the right one. Whether it worked. */
static bool save(const char *path, const struct tokens_head *image)
{
    struct path new;
    const char *at = (const char *)image, *end = at + image->bytes;
    ssize_t n = 0;
    int fd;

    if (snprintf(new.text, sizeof(new.text), "%s.%d", path, (int)getpid()) >= (int)sizeof(new.text))
        return false;
    fd = sys_open(new.text, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return false;
    while (at < end && (n = sys_write(fd, at, (size_t)(end - at))) > 0)
        at += n;
    if (sys_close(fd) == 0 && at == end && rename(new.text, path) == 0)
        return true;
    unlink(new.text);
    return false;
}

err_t tokens_file_open(const char *folder, enum tokens_encoding encoding,
                       const struct tokens_head **image)
{
    struct path path;
    struct tokens_head *built;

    if (!map_image(make_path(&path, folder, encoding, "image"), encoding, image))
        return NULL;
    TRY(build(make_path(&path, folder, encoding, "tiktoken"), encoding, &built));
    make_path(&path, folder, encoding, "image");
    if (save(path.text, built) && !map_image(path.text, encoding, image)) {
        mem_free(MEM_PROCESS, built, built->bytes);
        return NULL;
    }
    *image = built;
    return NULL;
}
