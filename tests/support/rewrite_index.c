/* For test_index_writer.py: a case is an index; its answer is the index as moefs writes it with
 * total_size 12. */
#include "cases.h"
#include "layout/format/index.h"

int main(void)
{
    uint64_t length;

    for (char *text; (text = cases_next(&length)); free(text)) {
        struct arena arena = {0};
        struct error err = {0};
        struct index index;
        if (index_parse("case", text, length, &arena, &index, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        const char **tensors = arena_alloc(&arena, index.n_entries * sizeof *tensors);
        const char **files = arena_alloc(&arena, index.n_entries * sizeof *files);
        for (size_t i = 0; i < index.n_entries; i++) {
            tensors[i] = index.entries[i].tensor;
            files[i] = index.files[index.entries[i].file];
        }
        cleanup_free char *written =
            index_write(index.metadata, index.metadata_length, 12, tensors, files, index.n_entries, &length);
        cases_put_length(length);
        fwrite(written, 1, length, stdout);
        arena_free(&arena);
    }
    return 0;
}
