/* The index and config.json of a directory, held against its tensors and against the source. */
#include "loading.h"

#include "config_keys.h"
#include "sides.h"

#include "fs/source/load.h"

#include <inttypes.h>
#include <string.h>

#include <utstring.h>

#define FILE_MAX (UINT64_C(1) << 30)    /* opening the directory has set narrower bounds */
#define SINGLE_FILE "model.safetensors" /* what a loader takes where there is no index */
#define VALUE_WIDTH 60                  /* of a value in a message */
#define KEYS_NAMED 8                    /* in a note */

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

/* Without an index a loader finds the one file that has the usual name, or that config.json names. */
static void check_needless(const char *title, const struct checkpoint *checkpoint, struct report *report)
{
    const struct difference place = report_place(DIFFERENCE_INDEX, 0, "index");

    if (checkpoint->n_shards == 1 &&
        (checkpoint->config.transformers_weights || strcmp(checkpoint->shards[0].name, SINGLE_FILE) == 0))
        return;
    report_difference(report, &place, checkpoint->index_name,
                      "%s has %" PRIu32
                      " weight files and no such index: a loader that looks for it or for %s finds no "
                      "weights",
                      title, checkpoint->n_shards, SINGLE_FILE);
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

int loading_check_index(const char *title, const struct directory *directory, bool required,
                        struct report *report, struct error *err)
{
    const uint32_t file = directory->index_file;
    size_t size;

    if (file == DIRECTORY_NO_FILE) {
        if (required)
            check_needless(title, &directory->checkpoint, report);
        return 0;
    }
    cleanup_free char *text = load_file(directory->source, file, FILE_MAX, &size, err);
    return text ? check_named(title, &directory->checkpoint, source_name(directory->source, file), text, size,
                              report, err)
                : -1;
}

/* ---- config.json ---- */

/* *config is the directory's, malloc'd; empty where there is none. */
static int load_config(const struct directory *directory, struct config_text *config, struct error *err)
{
    *config = (struct config_text){0};
    for (uint32_t e = 0; e < directory->n_entries; e++) {
        const struct directory_entry *entry = &directory->entries[e];
        if (entry->is_directory || strcmp(entry->info.path, "config.json") != 0)
            continue;
        config->text = load_file(directory->source, entry->file, FILE_MAX, &config->length, err);
        return config->text ? 0 : -1;
    }
    return 0;
}

/* What is told of one comparison. */
struct telling {
    const char *title;
    struct report *report;
    uint64_t n_told, n_added;
    UT_string added; /* the keys of the other alone */
};

static int cut_width(const char *value)
{
    return strlen(value) > VALUE_WIDTH ? VALUE_WIDTH : (int)strlen(value);
}

static void tell(void *context, const struct config_key_difference *difference)
{
    struct telling *telling = context;
    const struct difference place = report_place(DIFFERENCE_CONFIG, telling->n_told++, "config");
    const char *want = difference->want ? difference->want : "no such key";
    const char *got = difference->got ? difference->got : "no such key";

    if (difference->changes)
        report_difference(telling->report, &place, difference->path,
                          "the source's config.json has %.*s, %s's has %.*s: a loader builds another model",
                          cut_width(want), want, telling->title, cut_width(got), got);
    else if (telling->n_added++ < KEYS_NAMED)
        utstring_printf(&telling->added, "%s%s (%.*s)", telling->n_added > 1 ? ", " : "", difference->path,
                        cut_width(got), got);
}

int loading_check_config(const struct directory *source, const char *title, const struct directory *other,
                         struct report *report, struct error *err)
{
    struct telling telling = {.title = title, .report = report};
    struct config_text want, got = {0};

    utstring_init(&telling.added);
    int result = load_config(source, &want, err);
    if (result == 0)
        result = load_config(other, &got, err);
    if (result == 0)
        result = config_keys_compare(&want, &got, tell, &telling, err);
    if (telling.n_added > KEYS_NAMED)
        utstring_printf(&telling.added, " and %" PRIu64 " more", telling.n_added - KEYS_NAMED);
    if (telling.n_added > 0)
        notes_add(&report->notes, NOTE_WARNING,
                  "%s's config.json has keys that the source's lacks: %s. It builds the same model where "
                  "they say what a "
                  "loader assumes without them",
                  title, utstring_body(&telling.added));
    utstring_done(&telling.added);
    free(want.text);
    free(got.text);
    return result;
}
