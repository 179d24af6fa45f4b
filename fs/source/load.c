/* Files of a source as text, and failures as messages. */
#include "load.h"

#include "regular_file.h"

#include "layout/base/memory.h"

#include <string.h>

#define LFS_POINTER_MAX 1024 /* bytes; git-lfs' own limit for a pointer file */

int load_range(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length,
               struct error *err)
{
    const int e = source_pread(source, file, offset, buffer, length);

    return e ? regular_file_error(err, source->files[file].path, "cannot be read", e) : 0;
}

char *load_file(struct source *source, uint32_t file, uint64_t limit, size_t *length, struct error *err)
{
    const uint64_t size = source->files[file].size;

    if (size > limit) {
        error_set(err, "%s has %llu bytes, more than the %llu that such a file may have",
                  source->files[file].path, (unsigned long long)size, (unsigned long long)limit);
        return NULL;
    }
    char *text = xmalloc(size);
    if (load_range(source, file, 0, text, size, err) < 0) {
        free(text);
        return NULL;
    }
    *length = size;
    return text;
}

bool load_is_lfs_pointer(struct source *source, uint32_t file)
{
    static const char start[] = "version https://git-lfs.github.com/spec/";
    const uint64_t size = source->files[file].size;
    char head[sizeof start - 1];

    if (size < sizeof head || size > LFS_POINTER_MAX)
        return false;
    return source_pread(source, file, 0, head, sizeof head) == 0 && memcmp(head, start, sizeof head) == 0;
}
