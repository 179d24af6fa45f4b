/* Level 0: files against what their names and indexes promise. */
#include "verify.h"

#include "fs/source/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#ifdef MOEFS_HAVE_LIBCRYPTO
#include <openssl/evp.h>
#endif

#define PIECE ((size_t)4 << 20)
#define INDEX_MAX (UINT64_C(1) << 30)
#define SHA256_DIGITS 64

#ifdef MOEFS_HAVE_LIBCRYPTO
static int digest_file(struct source *source, uint32_t file, char text[SHA256_DIGITS + 1], struct error *err)
{
    const uint64_t size = source->files[file].size;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    int result = 0;

    EVP_MD_CTX *context = EVP_MD_CTX_new();
    cleanup_free unsigned char *buffer = xmalloc(PIECE);
    bool good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    for (uint64_t at = 0; good && result == 0 && at < size; at += PIECE) {
        const size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;
        result = load_range(source, file, at, buffer, n, err);
        good = result < 0 || EVP_DigestUpdate(context, buffer, n);
    }
    good = good && EVP_DigestFinal_ex(context, digest, &length);
    EVP_MD_CTX_free(context);
    if (result < 0)
        return -1;
    if (!good)
        return error_set(err, "%s: libcrypto cannot compute SHA-256", source_name(source, file));
    for (unsigned i = 0; i < length; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return 0;
}
#else
static int digest_file(struct source *source, uint32_t file, char text[SHA256_DIGITS + 1], struct error *err)
{
    text[0] = '\0';
    return error_set(err, "%s: --source needs a moefs built with libcrypto (OpenSSL)",
                     source_name(source, file));
}
#endif

static int check_blob(struct verify *verify, struct source *source, uint32_t file, uint64_t *n_checked,
                      struct error *err)
{
    const struct difference place = report_place(file, "blob");
    const char *promised = source->files[file].sha256;
    char found[SHA256_DIGITS + 1];

    if (!promised)
        return 0;
    if (digest_file(source, file, found, err) < 0)
        return -1;
    ++*n_checked;
    if (strcmp(found, promised) != 0)
        report_difference(&verify->report, &place, source_name(source, file),
                          "its name in the cache promises sha256 %s, its contents have %s", promised, found);
    return 0;
}

/* Opening the directory has already held every header against its file's size. */
int verify_source(struct verify *verify, const struct directory *directory, struct error *err)
{
    uint64_t n_checked = 0;

    for (uint32_t f = 0; f < directory->source->n_files; f++)
        if (check_blob(verify, directory->source, f, &n_checked, err) < 0)
            return -1;
    if (verify_index(verify, "the source", directory, err) < 0)
        return -1;
    if (!verify->options->json)
        printf("source: %" PRIu64
               " of %u files are named by their sha256 and were checked; %u headers fit their "
               "files' sizes\n",
               n_checked, directory->source->n_files, directory->checkpoint.n_shards);
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
    struct arena arena = {0};
    struct index index;
    struct side side;
    size_t size;

    if (directory->index_file == DIRECTORY_NO_FILE)
        return 0; /* what lacks an index that it needs was refused when it was opened */
    const char *path = source_name(directory->source, directory->index_file);
    cleanup_free char *text = load_file(directory->source, directory->index_file, INDEX_MAX, &size, err);
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
