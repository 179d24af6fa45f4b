/* Any bytes as an index: what is accepted is written, and what was written is read and written again
 * unchanged. */
#include "layout/format/index.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *write_again(const struct index *index, struct arena *arena, uint64_t *length)
{
    const char **tensors = arena_alloc(arena, index->n_entries * sizeof *tensors);
    const char **files = arena_alloc(arena, index->n_entries * sizeof *files);

    for (size_t i = 0; i < index->n_entries; i++) {
        if (index->entries[i].file >= index->n_files)
            abort();
        tensors[i] = index->entries[i].tensor;
        files[i] = index->files[index->entries[i].file];
        if (strchr(files[i], '/'))
            abort();
    }
    return index_write(index->metadata, index->metadata_length, 12, tensors, files, index->n_entries, length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct index index, again;
    struct arena arena = {0};
    struct error err = {0};

    if (index_parse("i", (const char *)data, size, &arena, &index, &err) == 0) {
        uint64_t length, length_again;
        cleanup_free char *text = write_again(&index, &arena, &length);
        if (index_parse("i", text, length, &arena, &again, &err) || again.n_entries != index.n_entries)
            abort();
        cleanup_free char *text_again = write_again(&again, &arena, &length_again);
        if (length != length_again || memcmp(text, text_again, length) != 0)
            abort();
    }
    error_free(&err);
    arena_free(&arena);
    return 0;
}
