#include "weights.h"

#include "regular_file.h"
#include "layout/base/text.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <utarray.h>

#define INDEX_SIZE_MAX (UINT64_C(1) << 30)
#define SINGLE_FILE "model.safetensors"

struct choice {
    const char *src;
    struct scan *scan;
    struct weights *weights;
    struct error *err;
};

static bool is_safetensors(const char *path)
{
    return scan_ends_with(path, ".safetensors");
}

/* model.safetensors.index.json, and with a variant: model.safetensors.index.fp16.json */
static bool is_index_name(const char *path)
{
    return strstr(path, ".safetensors.index.") && scan_ends_with(path, ".json");
}

/* NULL unless the scan has a regular file of that name that may be shown. */
static struct found *find_file(const struct scan *scan, const char *name)
{
    struct found *found = scan_find(scan, name);

    return found && found->kind == FOUND_FILE ? found : NULL;
}

/* Refuses a name that config.json or an index gives and that is not a file of the directory. */
static int refuse_name(const struct choice *choice, const char *by, const char *name)
{
    const struct found *found = scan_find(choice->scan, name);

    if (!found)
        return error_set(choice->err, "%s names %s, which is not in %s: download incomplete?", by, name,
                         choice->src);
    if (found->kind == FOUND_EXCLUDED)
        return error_set(choice->err, "%s names %s: --exclude cannot hide it", by, name);
    return error_set(choice->err, "%s names %s, which is a %s and not a file", by, name,
                     scan_kind_name(found));
}

static char *load_index(const struct found *file, size_t *length, struct error *err)
{
    struct stat stat = file->stat;

    int fd = regular_file_open(file->path, file->target, 1, &stat, err);
    if (fd < 0)
        return NULL;
    char *text = regular_file_load(fd, file->path, (uint64_t)stat.st_size, INDEX_SIZE_MAX, err);
    close(fd);
    *length = (size_t)stat.st_size;
    return text;
}

static int read_index(const struct choice *choice, const struct found *file)
{
    struct weights *weights = choice->weights;
    size_t length;

    weights->index_text = load_index(file, &length, choice->err);
    if (!weights->index_text)
        return -1;
    if (index_parse(file->path, weights->index_text, length, &weights->arena, &weights->index, choice->err))
        return -1;
    weights->has_index = true;
    return 0;
}

static void take_file(struct weights *weights, struct found *file)
{
    file->role = ROLE_WEIGHT;
    weights->files = xreallocarray(weights->files, weights->n_files + 1, sizeof *weights->files);
    weights->files[weights->n_files++] = file;
}

static int take_indexed_files(const struct choice *choice, const char *index_name)
{
    const struct index *index = &choice->weights->index;
    size_t n_missing = 0;
    const char *missing = NULL;

    for (size_t i = 0; i < index->n_files; i++) {
        struct found *file = find_file(choice->scan, index->files[i]);
        if (file) {
            take_file(choice->weights, file);
            continue;
        }
        if (scan_find(choice->scan, index->files[i]))
            return refuse_name(choice, index_name, index->files[i]);
        missing = missing ? missing : index->files[i];
        n_missing++;
    }
    if (n_missing > 1)
        return error_set(choice->err,
                         "%s names %s and %zu more files of %zu that are not in %s: download incomplete?",
                         index_name, missing, n_missing - 1, index->n_files, choice->src);
    if (n_missing)
        return refuse_name(choice, index_name, missing);
    if (!index->n_files)
        return error_set(choice->err, "%s names no file: it has no tensors", index_name);
    return 0;
}

static int choose_index(const struct choice *choice, struct found *file)
{
    file->role = ROLE_HIDDEN;
    if (!choice->weights->has_index && read_index(choice, file))
        return -1;
    return take_indexed_files(choice, file->path);
}

static int choose_named(const struct choice *choice, const char *name)
{
    static const char by[] = "transformers_weights in config.json";

    if (strchr(name, '/') || !*name)
        return error_set(choice->err, "%s is \"%s\": it must name a file directly in %s", by, name,
                         choice->src);
    if (!is_safetensors(name) && !scan_ends_with(name, ".safetensors.index.json"))
        return error_set(
            choice->err,
            "%s is \"%s\": moefs reads safetensors only (*.safetensors or *.safetensors.index.json)", by,
            name);
    struct found *file = find_file(choice->scan, name);
    if (!file)
        return refuse_name(choice, by, name);
    if (is_safetensors(name)) {
        take_file(choice->weights, file);
        return 0;
    }
    choice->weights->index_name = name;
    choice->weights->index_required = true;
    return choose_index(choice, file);
}

/* model.safetensors and an index: loaders take the former without a word, which is seldom what was meant. */
static int choose_of_both(const struct choice *choice, struct found *index_file)
{
    if (read_index(choice, index_file))
        return -1;
    const struct index *index = &choice->weights->index;
    if (index->n_files == 1 && !strcmp(index->files[0], SINGLE_FILE))
        return choose_index(choice, index_file);
    return error_set(
        choice->err,
        "%s holds both " SINGLE_FILE " and " WEIGHTS_INDEX_DEFAULT ", which names %zu files: loaders "
        "would take the former; say which with --exclude " SINGLE_FILE
        ", with --exclude " WEIGHTS_INDEX_DEFAULT ", or with transformers_weights in config.json",
        choice->src, index->n_files);
}

static bool is_consolidated(const struct found *found)
{
    const char *name = strrchr(found->path, '/');

    name = name ? name + 1 : found->path;
    return found->kind == FOUND_FILE && !strncmp(name, "consolidated", 12) &&
           (is_safetensors(name) || scan_ends_with(name, ".pth"));
}

static bool is_adapter(const struct found *found)
{
    return found->kind == FOUND_FILE && scan_is_top(found) && !strncmp(found->path, "adapter", 7) &&
           (is_safetensors(found->path) || scan_ends_with(found->path, ".bin"));
}

static bool is_gguf(const struct found *found)
{
    return found->kind == FOUND_FILE && scan_ends_with(found->path, ".gguf");
}

static bool is_pickle(const struct found *found)
{
    static const char *const ends[] = {".bin", ".pth", ".pt", ".ckpt"};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (found->kind == FOUND_FILE && scan_ends_with(found->path, ends[i]))
            return !is_consolidated(found) && !is_adapter(found);
    return false;
}

static bool is_excluded_weight(const struct found *found)
{
    return found->kind == FOUND_EXCLUDED && scan_is_top(found) && is_safetensors(found->path);
}

static bool is_lower_safetensors(const struct found *found)
{
    return found->kind == FOUND_FILE && !scan_is_top(found) && is_safetensors(found->path) &&
           !is_consolidated(found);
}

static int refuse_without_weights(const struct choice *choice)
{
    static const struct {
        bool (*is)(const struct found *found);
        const char *text;
    } formats[] = {
        {is_gguf,
         "GGUF files, which moefs does not read (use the safetensors checkpoint they were made from)"},
        {is_pickle, "PyTorch .bin/.pth files, which moefs does not read (convert them to safetensors first)"},
        {is_consolidated,
         "consolidated weights, whose tensors are not in the transformers format that moefs reads"},
        {is_adapter, "an adapter, which is no checkpoint of its own"},
        {is_lower_safetensors, "weights in a subdirectory: mount it separately"},
        {is_excluded_weight, "weights that --exclude hides"},
    };

    error_set(choice->err, "%s holds no safetensors weights", choice->src);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        cleanup_free char *names = scan_list(choice->scan, formats[i].is);
        if (names)
            error_add(choice->err, "  it holds %s: %s", formats[i].text, names);
    }
    return -1;
}

static int choose_all(const struct choice *choice)
{
    for (size_t i = 0; i < choice->scan->n; i++) {
        struct found *found = &choice->scan->list[i];
        if (found->kind != FOUND_FILE || !scan_is_top(found) || !is_safetensors(found->path) ||
            is_consolidated(found) || is_adapter(found))
            continue;
        if (!text_is_utf8(found->path))
            return error_set(
                choice->err,
                "%s: the name of a weight file is not UTF-8, and the index could not hold it (rename it, "
                "or hide it with --exclude)",
                found->path);
        take_file(choice->weights, found);
    }
    return choice->weights->n_files ? 0 : refuse_without_weights(choice);
}

static int choose(const struct choice *choice, const struct config *config)
{
    struct found *single = find_file(choice->scan, SINGLE_FILE);
    struct found *index_file = find_file(choice->scan, WEIGHTS_INDEX_DEFAULT);

    if (config->transformers_weights)
        return choose_named(choice, config->transformers_weights);
    if (single && index_file)
        return choose_of_both(choice, index_file);
    if (single) {
        take_file(choice->weights, single);
        return 0;
    }
    return index_file ? choose_index(choice, index_file) : choose_all(choice);
}

/* Whether every file that the index names is shown as it is, so that the index is still true in the mount. */
static bool index_stays_true(const struct scan *scan, const struct found *file)
{
    struct arena arena = {0};
    struct index index = {0};
    struct error err = {0};
    size_t length;

    cleanup_free char *text = load_index(file, &length, &err);
    bool is_true = text && !index_parse(file->path, text, length, &arena, &index, &err);
    for (size_t i = 0; is_true && i < index.n_files; i++) {
        const struct found *named = find_file(scan, index.files[i]);
        is_true = named && named->role == ROLE_PASS;
    }
    error_free(&err);
    arena_free(&arena);
    return is_true;
}

static bool is_marked(const struct found *found)
{
    return found->marked;
}

/* The names of the marked ones, which are then unmarked; malloc'd or NULL. */
static char *list_marked(struct scan *scan)
{
    char *names = scan_list(scan, is_marked);

    for (size_t i = 0; i < scan->n; i++)
        scan->list[i].marked = false;
    return names;
}

/* Other indexes name files that the mount does not have, or not with those tensors. One that has the name of
 * the index to generate would be taken for it. */
static void hide_other_indexes(struct scan *scan, const char *generated, struct notes *notes)
{
    for (size_t i = 0; i < scan->n; i++) {
        struct found *found = &scan->list[i];
        if (found->kind == FOUND_FILE && found->role == ROLE_PASS && scan_is_top(found) &&
            is_index_name(found->path) &&
            (!strcmp(found->path, generated) || !index_stays_true(scan, found))) {
            found->role = ROLE_HIDDEN;
            found->marked = true;
        }
    }
    cleanup_free char *names = list_marked(scan);
    if (names)
        notes_add(notes, NOTE_WARNING,
                  "not shown, an index of files that the mount does not hold unchanged: %s", names);
}

/* Marks the directory that holds the file, or with `at_top` the one in SRC that it lies below. */
static void mark_directory(struct scan *scan, const struct found *file, bool at_top)
{
    cleanup_free char *path = xstrdup(file->path);

    *(at_top ? strchr(path, '/') : strrchr(path, '/')) = '\0';
    struct found *directory = scan_find(scan, path);
    if (directory)
        directory->marked = true;
}

static bool is_weight_format(const struct found *found)
{
    return is_safetensors(found->path) || is_pickle(found) || is_gguf(found) || is_consolidated(found) ||
           is_adapter(found);
}

static void note_unconverted(struct scan *scan, struct notes *notes)
{
    for (size_t i = 0; i < scan->n; i++) {
        struct found *found = &scan->list[i];
        if (found->kind != FOUND_FILE || found->role != ROLE_PASS || !is_weight_format(found))
            continue;
        if (scan_is_top(found))
            found->marked = true;
        else
            mark_directory(scan, found, true);
    }
    cleanup_free char *names = list_marked(scan);
    if (names)
        notes_add(notes, NOTE_INFO, "not converted, shown as they are: weights in %s (--exclude hides them)",
                  names);
}

static void note_other_checkpoints(struct scan *scan, struct notes *notes)
{
    for (size_t i = 0; i < scan->n; i++) {
        const struct found *found = &scan->list[i];
        const char *name = strrchr(found->path, '/');
        if (name && found->kind == FOUND_FILE && (!strcmp(name, "/config.json") || is_index_name(name)))
            mark_directory(scan, found, false);
    }
    cleanup_free char *names = list_marked(scan);
    if (names)
        notes_add(notes, NOTE_INFO, "a checkpoint of its own, shown unconverted: %s: mount it separately",
                  names);
}

void weights_note_others(const struct weights *weights, struct scan *scan, struct notes *notes)
{
    hide_other_indexes(scan, weights->index_name, notes);
    note_unconverted(scan, notes);
    note_other_checkpoints(scan, notes);
}

static int compare_files(const void *a, const void *b)
{
    return strcmp((*(struct found *const *)a)->path, (*(struct found *const *)b)->path);
}

int weights_choose(const char *src, struct scan *scan, const struct config *config, struct weights *weights,
                   struct error *err)
{
    const struct choice choice = {src, scan, weights, err};

    *weights = (struct weights){.index_name = WEIGHTS_INDEX_DEFAULT};
    if (choose(&choice, config)) {
        weights_free(weights);
        return -1;
    }
    qsort(weights->files, weights->n_files, sizeof *weights->files, compare_files);
    return 0;
}

void weights_free(struct weights *weights)
{
    free(weights->files);
    free(weights->index_text);
    arena_free(&weights->arena);
    *weights = (struct weights){0};
}
