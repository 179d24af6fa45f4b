/* Choosing the weight files by name, and telling the user of what is not chosen. */
#include "weights.h"

#include "load.h"
#include "weight_names.h"

#include "layout/base/text.h"

#include <string.h>

#define LISTED_MAX 8 /* names in one message */
#define SINGLE_FILE "model.safetensors"

struct choice {
    const struct listing *listing;
    struct source *source;
    struct weights *weights;
    struct error *err;
};

/* NULL unless the scan has a regular file of that name that may be shown. */
static const struct listed *find_file(const struct listing *listing, const char *name)
{
    const struct listed *found = listing_find(listing, name);

    return found && found->kind == LISTED_FILE ? found : NULL;
}

/* Refuses a name that config.json or an index gives and that is not a file of the directory. */
static int refuse_name(const struct choice *choice, const char *by, const char *name)
{
    const struct listed *found = listing_find(choice->listing, name);

    if (!found)
        return error_set(choice->err, "%s names %s, which is not in %s: download incomplete?", by, name,
                         choice->listing->top.path);
    if (found->kind == LISTED_EXCLUDED)
        return error_set(choice->err, "%s names %s: --exclude cannot hide it", by, name);
    return error_set(choice->err, "%s names %s, which is a %s and not a file", by, name,
                     listing_kind_name(found));
}

static int read_index(const struct choice *choice, const struct listed *file)
{
    struct weights *weights = choice->weights;
    size_t length;

    weights->index_text = load_file(choice->source, file->file, INDEX_LENGTH_MAX, &length, choice->err);
    if (!weights->index_text || index_parse(file->info.path, weights->index_text, length, &weights->arena,
                                            &weights->index, choice->err) < 0)
        return -1;
    weights->has_index = true;
    weights->index_file = file;
    return 0;
}

static void set_role(const struct choice *choice, const struct listed *listed, enum weights_role role)
{
    choice->weights->roles[listed - choice->listing->list] = role;
}

static void take_file(const struct choice *choice, const struct listed *file)
{
    struct weights *weights = choice->weights;

    set_role(choice, file, ROLE_WEIGHT);
    weights->files = xreallocarray(weights->files, weights->n_files + 1, sizeof *weights->files);
    weights->files[weights->n_files++] = file;
}

static int take_indexed_files(const struct choice *choice, const char *index_name)
{
    const struct index *index = &choice->weights->index;
    size_t n_missing = 0;
    const char *missing = NULL;

    for (size_t i = 0; i < index->n_files; i++) {
        const struct listed *file = find_file(choice->listing, index->files[i]);
        if (file) {
            take_file(choice, file);
            continue;
        }
        if (listing_find(choice->listing, index->files[i]))
            return refuse_name(choice, index_name, index->files[i]);
        missing = missing ? missing : index->files[i];
        n_missing++;
    }
    if (n_missing > 1)
        return error_set(choice->err,
                         "%s names %s and %zu more files of %zu that are not in %s: download incomplete?",
                         index_name, missing, n_missing - 1, index->n_files, choice->listing->top.path);
    if (n_missing)
        return refuse_name(choice, index_name, missing);
    if (!index->n_files)
        return error_set(choice->err, "%s names no file: it has no tensors", index_name);
    return 0;
}

static int choose_index(const struct choice *choice, const struct listed *file)
{
    set_role(choice, file, ROLE_HIDDEN);
    if (!choice->weights->has_index && read_index(choice, file) < 0)
        return -1;
    return take_indexed_files(choice, file->info.path);
}

static int choose_named(const struct choice *choice, const char *name)
{
    static const char by[] = "transformers_weights in config.json";

    if (strchr(name, '/') || !*name)
        return error_set(choice->err, "%s is \"%s\": it must name a file directly in %s", by, name,
                         choice->listing->top.path);
    if (!name_is_safetensors(name) && !listing_ends_with(name, ".safetensors.index.json"))
        return error_set(
            choice->err,
            "%s is \"%s\": moefs reads safetensors only (*.safetensors or *.safetensors.index.json)", by,
            name);
    const struct listed *file = find_file(choice->listing, name);
    if (!file)
        return refuse_name(choice, by, name);
    if (name_is_safetensors(name)) {
        take_file(choice, file);
        return 0;
    }
    choice->weights->index_name = name;
    choice->weights->index_required = true;
    return choose_index(choice, file);
}

/* model.safetensors and an index: loaders take the former without a word, which is seldom what was meant. */
static int choose_of_both(const struct choice *choice, const struct listed *index_file)
{
    if (read_index(choice, index_file) < 0)
        return -1;
    const struct index *index = &choice->weights->index;
    if (index->n_files == 1 && strcmp(index->files[0], SINGLE_FILE) == 0)
        return choose_index(choice, index_file);
    return error_set(
        choice->err,
        "%s holds both " SINGLE_FILE " and " WEIGHTS_INDEX_DEFAULT ", which names %zu files: loaders "
        "would take the former; say which with --exclude " SINGLE_FILE
        ", with --exclude " WEIGHTS_INDEX_DEFAULT ", or with transformers_weights in config.json",
        choice->listing->top.path, index->n_files);
}

static bool is_excluded_weight(const struct listed *found)
{
    return found->kind == LISTED_EXCLUDED && listing_is_top(found) && name_is_safetensors(found->info.path);
}

static bool is_lower_safetensors(const struct listed *found)
{
    return found->kind == LISTED_FILE && !listing_is_top(found) && name_is_safetensors(found->info.path) &&
           !listed_is_consolidated(found);
}

/* Names as weight files have, which belong to something that is none. */
static void add_what_is_no_file(const struct choice *choice)
{
    size_t n = 0;

    for (size_t i = 0; i < choice->listing->n; i++) {
        const struct listed *listed = &choice->listing->list[i];
        const bool is_no_file =
            listed->kind == LISTED_DIRECTORY || listed->kind == LISTED_SPECIAL || listed->kind == LISTED_LOOP;
        if (!is_no_file || !listing_is_top(listed) || !name_is_safetensors(listed->info.path))
            continue;
        if (n < LISTED_MAX)
            error_add(choice->err, "  %s is a %s and not a file", listed->info.path,
                      listing_kind_name(listed));
        n++;
    }
    if (n > LISTED_MAX)
        error_add(choice->err, "  and %zu more", n - LISTED_MAX);
}

static int refuse_without_weights(const struct choice *choice)
{
    static const struct {
        bool (*is)(const struct listed *found);
        const char *text;
    } formats[] = {
        {listed_is_gguf,
         "GGUF files, which moefs does not read (use the safetensors checkpoint they were made from)"},
        {listed_is_pickle,
         "PyTorch .bin/.pth files, which moefs does not read (convert them to safetensors first)"},
        {listed_is_consolidated,
         "consolidated weights, whose tensors are not in the transformers format that moefs reads"},
        {listed_is_adapter, "an adapter, which is no checkpoint of its own"},
        {is_lower_safetensors, "weights in a subdirectory: mount it separately"},
        {is_excluded_weight, "weights that --exclude hides"},
    };

    error_set(choice->err, "%s holds no safetensors weights", choice->listing->top.path);
    add_what_is_no_file(choice);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        cleanup_free char *names = listing_names(choice->listing, formats[i].is);
        if (names)
            error_add(choice->err, "  it holds %s: %s", formats[i].text, names);
    }
    return -1;
}

static int choose_all(const struct choice *choice)
{
    for (size_t i = 0; i < choice->listing->n; i++) {
        const struct listed *found = &choice->listing->list[i];
        if (found->kind != LISTED_FILE || !listing_is_top(found) || !name_is_safetensors(found->info.path) ||
            listed_is_consolidated(found) || listed_is_adapter(found))
            continue;
        if (!text_is_utf8(found->info.path))
            return error_set(
                choice->err,
                "%s: the name of a weight file is not UTF-8, and the index could not hold it (rename it, "
                "or hide it with --exclude)",
                found->info.path);
        take_file(choice, found);
    }
    return choice->weights->n_files ? 0 : refuse_without_weights(choice);
}

static int choose(const struct choice *choice, const struct config *config)
{
    const struct listed *single = find_file(choice->listing, SINGLE_FILE);
    const struct listed *index_file = find_file(choice->listing, WEIGHTS_INDEX_DEFAULT);

    if (config->transformers_weights)
        return choose_named(choice, config->transformers_weights);
    if (single && index_file)
        return choose_of_both(choice, index_file);
    if (single) {
        take_file(choice, single);
        return 0;
    }
    return index_file ? choose_index(choice, index_file) : choose_all(choice);
}

/* Whether every file that the index names is shown as it is, so that the index is still true in the mount. */
static bool index_stays_true(const struct listing *listing, struct source *source,
                             const struct weights *weights, const struct listed *file)
{
    struct arena arena = {0};
    struct index index = {0};
    struct error err = {0};
    size_t length;

    cleanup_free char *text = load_file(source, file->file, WEIGHTS_OTHER_INDEXES_MAX, &length, &err);
    bool is_true = text && index_parse(file->info.path, text, length, &arena, &index, &err) == 0;
    for (size_t i = 0; is_true && i < index.n_files; i++) {
        const struct listed *named = find_file(listing, index.files[i]);
        is_true = named && weights->roles[named - listing->list] == ROLE_PASS;
    }
    error_free(&err);
    arena_free(&arena);
    return is_true;
}

static void note_marked(const struct listing *listing, const bool *marks, struct notes *notes,
                        enum note_kind kind, const char *before, const char *after)
{
    cleanup_free char *names = listing_marked_names(listing, marks);

    if (names)
        notes_add(notes, kind, "%s%s%s", before, names, after);
}

/* Other indexes name files that the mount does not have, or not with those tensors. One that has the name of
 * the index to generate would be taken for it. */
static void hide_other_indexes(const struct listing *listing, struct source *source, struct weights *weights,
                               struct notes *notes)
{
    cleanup_free bool *untrue = xcalloc(listing->n + 1, sizeof *untrue);
    cleanup_free bool *unread = xcalloc(listing->n + 1, sizeof *unread);
    uint64_t left = WEIGHTS_OTHER_INDEXES_MAX;

    for (size_t i = 0; i < listing->n; i++) {
        const struct listed *listed = &listing->list[i];
        if (listed->kind != LISTED_FILE || weights->roles[i] != ROLE_PASS || !listing_is_top(listed) ||
            !name_is_index(listed->info.path))
            continue;
        const uint64_t size = source->files[listed->file].size;
        if (strcmp(listed->info.path, weights->index_name) == 0) {
            untrue[i] = true;
        } else if (size > left) {
            unread[i] = true;
        } else {
            left -= size;
            untrue[i] = !index_stays_true(listing, source, weights, listed);
        }
        if (untrue[i] || unread[i])
            weights->roles[i] = ROLE_HIDDEN;
    }
    note_marked(listing, untrue, notes, NOTE_WARNING,
                "not shown, an index of files that the mount does not hold unchanged: ", "");
    note_marked(
        listing, unread, notes, NOTE_WARNING,
        "not shown, an index that is not looked at because such indexes may have 64 MiB in all: ", "");
}

/* Marks the directory that holds the file, or with `at_top` the one in SRC that it lies below. */
static void mark_directory(const struct listing *listing, const struct listed *file, bool at_top, bool *marks)
{
    cleanup_free char *path = xstrdup(file->info.path);

    *(at_top ? strchr(path, '/') : strrchr(path, '/')) = '\0';
    const struct listed *directory = listing_find(listing, path);
    if (directory)
        marks[directory - listing->list] = true;
}

static void note_unconverted(const struct listing *listing, const struct weights *weights,
                             struct notes *notes)
{
    cleanup_free bool *marks = xcalloc(listing->n + 1, sizeof *marks);

    for (size_t i = 0; i < listing->n; i++) {
        const struct listed *found = &listing->list[i];
        if (found->kind != LISTED_FILE || weights->roles[i] != ROLE_PASS || !listed_is_weight_format(found))
            continue;
        if (listing_is_top(found))
            marks[i] = true;
        else
            mark_directory(listing, found, true, marks);
    }
    note_marked(listing, marks, notes, NOTE_INFO, "not converted, shown as they are: weights in ",
                " (--exclude hides them)");
}

static void note_other_checkpoints(const struct listing *listing, struct notes *notes)
{
    cleanup_free bool *marks = xcalloc(listing->n + 1, sizeof *marks);

    for (size_t i = 0; i < listing->n; i++) {
        const struct listed *found = &listing->list[i];
        const char *name = strrchr(found->info.path, '/');
        if (name && found->kind == LISTED_FILE && (strcmp(name, "/config.json") == 0 || name_is_index(name)))
            mark_directory(listing, found, false, marks);
    }
    note_marked(listing, marks, notes, NOTE_INFO,
                "a checkpoint of its own, shown unconverted: ", ": mount it separately");
}

/* Without an index every *.safetensors counts: a file that some tool has left there, too. Those are named that
 * are not part of a numbered series. */
static void note_unnumbered(const struct listing *listing, const struct weights *weights, struct notes *notes)
{
    cleanup_free bool *marks = xcalloc(listing->n + 1, sizeof *marks);

    if (weights->has_index || weights->n_files < 2)
        return;
    for (size_t i = 0; i < weights->n_files; i++)
        if (!name_is_numbered(weights->files[i]->info.path))
            marks[weights->files[i] - listing->list] = true;
    note_marked(listing, marks, notes, NOTE_WARNING,
                "there is no index, so every *.safetensors at the top counts as weights, also ",
                " (--exclude hides a file)");
}

void weights_note_others(const struct listing *listing, struct source *source, struct weights *weights,
                         struct notes *notes)
{
    note_unnumbered(listing, weights, notes);
    hide_other_indexes(listing, source, weights, notes);
    note_unconverted(listing, weights, notes);
    note_other_checkpoints(listing, notes);
}

static int compare_files(const void *a, const void *b)
{
    const struct listed *const *x = a, *const *y = b;

    return strcmp((*x)->info.path, (*y)->info.path);
}

int weights_choose(const struct listing *listing, struct source *source, const struct config *config,
                   struct weights *weights, struct error *err)
{
    const struct choice choice = {listing, source, weights, err};

    *weights = (struct weights){.index_name = WEIGHTS_INDEX_DEFAULT,
                                .roles = xcalloc(listing->n + 1, sizeof *weights->roles)};
    if (choose(&choice, config) < 0) {
        weights_free(weights);
        return -1;
    }
    qsort(weights->files, weights->n_files, sizeof *weights->files, compare_files);
    return 0;
}

void weights_free(struct weights *weights)
{
    free(weights->files);
    free(weights->roles);
    free(weights->index_text);
    arena_free(&weights->arena);
    *weights = (struct weights){0};
}
