/* The index of a directory, held against its tensors. */
#include "loading.h"

#include "sides.h"

#include "fs/source/load.h"

#include <inttypes.h>
#include <string.h>

#define FILE_MAX (UINT64_C(1) << 30) /* opening the directory has set narrower bounds */

/* ---- the index ---- */

/* Among a directory's differences: those of the entries, then those of the tensors that no entry names. */
static void check_entry(const struct side *side, const struct index *index, size_t number,
                        struct report *report)
{
    const struct index_entry *entry = &index->entries[number];
    const struct side_tensor *tensor = side_find(side, entry->tensor);
    const struct difference place = report_place(DIFFERENCE_INDEX, number, "index");
    const char *file = index->files[entry->file];

    if (!tensor)
        report_difference(report, &place, entry->tensor, "%s's index names it in %s, and no file has it",
                          side->title, file);
    else if (strcmp(side_file_name(side, tensor->file), file) != 0)
        report_difference(report, &place, entry->tensor, "%s's index names it in %s, and it is in %s",
                          side->title, file, side_file_name(side, tensor->file));
}

static void check_unnamed(const struct side *side, const struct index *index, struct report *report)
{
    bool *named = xcalloc(side->n_tensors + 1, sizeof *named);

    for (size_t i = 0; i < index->n_entries; i++) {
        const struct side_tensor *tensor = side_find(side, index->entries[i].tensor);
        if (tensor)
            named[tensor - side->tensors] = true;
    }
    for (uint32_t t = 0; t < side->n_tensors; t++) {
        const struct difference place = report_place(DIFFERENCE_INDEX, index->n_entries + t, "index");
        if (!named[t])
            report_difference(report, &place, side->tensors[t].info.name,
                              "it is in %s, and %s's index does not name it",
                              side_file_name(side, side->tensors[t].file), side->title);
    }
    free(named);
}

static int check_named(const char *title, const struct checkpoint *checkpoint, const char *path,
                       const char *text, uint64_t size, struct report *report, struct error *err)
{
    struct arena arena = {0};
    struct index index;
    struct side side;

    int result = index_parse(path, text, size, &arena, &index, err);
    if (result == 0) {
        side_of_checkpoint(&side, title, checkpoint, NULL);
        for (size_t i = 0; i < index.n_entries; i++)
            check_entry(&side, &index, i, report);
        check_unnamed(&side, &index, report);
        side_free(&side);
    }
    arena_free(&arena);
    return result;
}

int loading_check_index(const char *title, const struct directory *directory, struct report *report,
                        struct error *err)
{
    const uint32_t file = directory->index_file;
    size_t size;

    if (file == DIRECTORY_NO_FILE)
        return 0;
    cleanup_free char *text = load_file(directory->source, file, FILE_MAX, &size, err);
    return text ? check_named(title, &directory->checkpoint, source_name(directory->source, file), text, size,
                              report, err)
                : -1;
}
