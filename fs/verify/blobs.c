/* Level 0: files against what their names and indexes promise. */
#include "verify.h"

#include "fs/source/regular_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef MOEFS_HAVE_LIBCRYPTO
#include <openssl/evp.h>
#endif

#define PIECE ((size_t)4 << 20)
#define INDEX_MAX (UINT64_C(1) << 30)
#define SHA256_DIGITS 64

/* The sha256 that a file's real name promises, in path: a blob that came through LFS into a Hugging Face
 * cache. NULL for others. */
static const char *promised_digest(const char *path)
{
    const char *name = strrchr(path, '/');
    static const char folder[] = "/blobs";

    if (!name || (size_t)(name - path) < strlen(folder) ||
        strncmp(name - strlen(folder), folder, strlen(folder)) != 0)
        return NULL;
    name++;
    return strlen(name) == SHA256_DIGITS && strspn(name, "0123456789abcdef") == SHA256_DIGITS ? name : NULL;
}

#ifdef MOEFS_HAVE_LIBCRYPTO
static int digest_descriptor(int fd, const char *path, char text[SHA256_DIGITS + 1], struct error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    ssize_t n = 0;

    EVP_MD_CTX *context = EVP_MD_CTX_new();
    cleanup_free unsigned char *buffer = xmalloc(PIECE);
    bool good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    for (off_t at = 0; good && (n = pread(fd, buffer, PIECE, at)) > 0; at += n)
        good = EVP_DigestUpdate(context, buffer, (size_t)n);
    const int error = errno;
    good = good && n == 0 && EVP_DigestFinal_ex(context, digest, &length);
    EVP_MD_CTX_free(context);
    if (!good)
        return error_set(err, "%s: %s", path, n < 0 ? strerror(error) : "libcrypto cannot compute SHA-256");
    for (unsigned i = 0; i < length; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return 0;
}
#else
static int digest_descriptor(int fd, const char *path, char text[SHA256_DIGITS + 1], struct error *err)
{
    (void)fd;
    text[0] = '\0';
    return error_set(err, "%s: --source needs a moefs built with libcrypto (OpenSSL)", path);
}
#endif

static int check_blob(struct verify *verify, const struct source_file *file, uint32_t number,
                      uint64_t *n_checked, struct error *err)
{
    const struct difference place = report_place(number, "blob");
    char found[SHA256_DIGITS + 1];
    cleanup_free char *real = realpath(file->path, NULL);
    const char *promised = real ? promised_digest(real) : NULL;

    if (!promised)
        return 0;
    int fd = open(real, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, "%s: %s", real, strerror(errno));
    const int result = digest_descriptor(fd, file->path, found, err);
    close(fd);
    if (result < 0)
        return -1;
    ++*n_checked;
    if (strcmp(found, promised) != 0)
        report_difference(&verify->report, &place, file->path,
                          "its name in the cache promises sha256 %s, its contents have %s", promised, found);
    return 0;
}

/* Opening the directory has already held every header against its file's size. */
int verify_source(struct verify *verify, const struct directory *directory, struct error *err)
{
    uint64_t n_checked = 0;

    for (uint32_t f = 0; f < directory->n_files; f++)
        if (check_blob(verify, &directory->files[f], f, &n_checked, err) < 0)
            return -1;
    if (verify_index(verify, "the source", directory, err) < 0)
        return -1;
    if (!verify->options->json)
        printf("source: %" PRIu64
               " of %u files are named by their sha256 and were checked; %u headers fit their "
               "files' sizes\n",
               n_checked, directory->n_files, directory->checkpoint.n_shards);
    return 0;
}

/* ---- the index ---- */

static void check_entry(struct verify *verify, const char *title, const struct checkpoint *checkpoint,
                        const struct side *side, const struct index *index, size_t number)
{
    const struct index_entry *entry = &index->entries[number];
    const struct side_tensor *tensor = side_find(side, entry->tensor);
    const struct difference place = report_place(4096 + number, "index");
    const char *file = index->files[entry->file];

    (void)checkpoint;
    if (!tensor)
        report_difference(&verify->report, &place, entry->tensor,
                          "%s's index names it in %s, and no file has it", title, file);
    else if (strcmp(side_file_name(side, tensor->file), file) != 0)
        report_difference(&verify->report, &place, entry->tensor,
                          "%s's index names it in %s, and it is in %s", title, file,
                          side_file_name(side, tensor->file));
}

static void check_unnamed(struct verify *verify, const char *title, const struct side *side,
                          const struct index *index)
{
    bool *named = xcalloc(side->n_tensors + 1, sizeof *named);

    for (size_t i = 0; i < index->n_entries; i++) {
        const struct side_tensor *tensor = side_find(side, index->entries[i].tensor);
        if (tensor)
            named[tensor - side->tensors] = true;
    }
    for (uint32_t t = 0; t < side->n_tensors; t++) {
        const struct difference place = report_place(4096 + index->n_entries + t, "index");
        if (!named[t])
            report_difference(&verify->report, &place, side->tensors[t].info.name,
                              "it is in %s, and %s's index does not name it",
                              side_file_name(side, side->tensors[t].file), title);
    }
    free(named);
}

int verify_index(struct verify *verify, const char *title, const struct directory *directory,
                 struct error *err)
{
    const struct checkpoint *checkpoint = &directory->checkpoint;
    cleanup_free char *path = xasprintf("%s/%s", directory->path, checkpoint->index_name);
    struct arena arena = {0};
    struct index index;
    struct side side;
    struct stat stat_buffer;

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0; /* a single file needs none; what lacks one it needs was refused when it was opened */
    if (fd < 0 || fstat(fd, &stat_buffer) < 0) {
        if (fd >= 0)
            close(fd);
        return error_set(err, "%s: %s", path, strerror(errno));
    }
    const uint64_t size = (uint64_t)stat_buffer.st_size;
    cleanup_free char *text = regular_file_load(fd, path, size, INDEX_MAX, err);
    close(fd);
    if (!text)
        return -1;
    int result = index_parse(path, text, size, &arena, &index, err);
    if (result == 0) {
        side_of_checkpoint(&side, title, checkpoint, NULL);
        for (size_t i = 0; i < index.n_entries; i++)
            check_entry(verify, title, checkpoint, &side, &index, i);
        check_unnamed(verify, title, &side, &index);
        side_free(&side);
    }
    arena_free(&arena);
    return result;
}
