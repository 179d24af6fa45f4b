/* Files against the sha256 that their store promises of them. */
#include "blobs.h"

#include "fs/source/load.h"

#include "layout/base/memory.h"
#include "layout/base/checked.h"

#include <stdio.h>
#include <string.h>

#ifdef MOEFS_HAVE_LIBCRYPTO
#include <openssl/evp.h>
#endif

#define PIECE ((size_t)4 << 20)
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
        const size_t n = (size_t)min_u64(size - at, PIECE);
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

static int check_blob(struct source *source, uint32_t file, uint64_t *n_checked, struct report *report,
                      struct error *err)
{
    const struct difference place = report_place(DIFFERENCE_BLOBS, file, "blob");
    const char *promised = source->files[file].sha256;
    char found[SHA256_DIGITS + 1];

    if (!promised)
        return 0;
    if (digest_file(source, file, found, err) < 0)
        return -1;
    ++*n_checked;
    if (strcmp(found, promised) != 0)
        report_difference(report, &place, source_name(source, file),
                          "its name in the cache promises sha256 %s, its contents have %s", promised, found);
    return 0;
}

int blobs_check(struct source *source, uint64_t *n_checked, struct report *report, struct error *err)
{
    *n_checked = 0;
    for (uint32_t f = 0; f < source->n_files; f++)
        if (check_blob(source, f, n_checked, report, err) < 0)
            return -1;
    return 0;
}
