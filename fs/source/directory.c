/* From a listing to a checkpoint: config.json, the weights' headers, and what passes through. */
#include "directory.h"

#include "load.h"
#include "local.h"
#include "weights.h"

#include "fs/base/parallel.h"

#include <string.h>

#define CONFIG_NAME "config.json"
#define READERS_MAX 16 /* threads that read headers */

/* What is needed while reading. */
struct reading {
    const struct listing *listing;
    struct source *source; /* numbered as in the listing */
    struct weights weights;
    struct directory *directory;
};

static const struct listed *find_config(const struct reading *reading, struct error *err)
{
    const char *path = reading->directory->path;
    const struct listed *config = listing_find(reading->listing, CONFIG_NAME);

    if (!config)
        error_set(err, "%s has no " CONFIG_NAME ": it is not a Hugging Face checkpoint", path);
    else if (config->kind == LISTED_EXCLUDED)
        error_set(err, CONFIG_NAME " cannot be hidden with --exclude: without it %s is not a checkpoint",
                  path);
    else if (config->kind != LISTED_FILE)
        error_set(err, "%s/" CONFIG_NAME " is a %s and not a file", path, listing_kind_name(config));
    else
        return config;
    return NULL;
}

static int read_config(const struct reading *reading, struct error *err)
{
    const struct listed *config = find_config(reading, err);
    size_t size;

    if (!config)
        return -1;
    if (load_is_lfs_pointer(reading->source, config->file))
        return error_set(err, CONFIG_NAME " is a git-lfs pointer and not the file: run `git lfs pull` in %s",
                         reading->directory->path);
    cleanup_free char *text = load_file(reading->source, config->file, CONFIG_LENGTH_MAX, &size, err);
    if (!text)
        return -1;
    return config_parse(CONFIG_NAME, text, size, &reading->directory->checkpoint.config, err);
}

/* A shard's header, read beside others' in a thread of its own. */
struct head {
    const struct reading *reading;
    const struct listed *shard;
    struct safetensors_header header;
    struct arena arena; /* the header's */
    struct error err;
};

static int read_head(struct head *head)
{
    struct source *source = head->reading->source;
    const uint32_t file = head->shard->file;
    const char *name = head->shard->info.path;
    const uint64_t size = source->files[file].size;
    struct error *err = &head->err;
    uint8_t prefix[SAFETENSORS_PREFIX_SIZE] = {0};
    uint64_t n;

    if (load_is_lfs_pointer(source, file))
        return error_set(err, "%s is a git-lfs pointer and not the weights: run `git lfs pull` in %s", name,
                         head->reading->directory->path);
    if (size >= SAFETENSORS_PREFIX_SIZE &&
        load_range(source, file, 0, prefix, SAFETENSORS_PREFIX_SIZE, err) < 0)
        return -1;
    if (safetensors_header_length(name, prefix, size, &n, err) < 0)
        return -1;
    /* With the prefix before it, because the source holds both. */
    cleanup_free char *text = xmalloc(SAFETENSORS_PREFIX_SIZE + n);
    if (load_range(source, file, 0, text, SAFETENSORS_PREFIX_SIZE + n, err) < 0 ||
        safetensors_parse(name, text + SAFETENSORS_PREFIX_SIZE, n, size, &head->arena, &head->header, err) <
            0)
        return -1;
    const int e = source_hold_head(source, file, text, SAFETENSORS_PREFIX_SIZE + n);
    return e ? error_set(err, "%s cannot be held: %s", name, strerror(e)) : 0;
}

static int read_head_in_thread(void *context, unsigned thread, uint64_t number)
{
    struct head *heads = context;

    (void)thread;
    return read_head(&heads[number]);
}

/* Adds the shards' tensors in the shards' order. On failure the error is the first shard's that has one: all
 * before a shard that was begun were begun too, and ended. */
static int take_heads(const struct reading *reading, struct head *heads, struct error *err)
{
    struct checkpoint *checkpoint = &reading->directory->checkpoint;
    int result = 0;

    for (size_t i = 0; i < reading->weights.n_files; i++) {
        struct head *head = &heads[i];
        if (result == 0 && head->err.text) {
            *err = head->err;
            head->err = (struct error){0};
            result = -1;
        }
        if (result == 0)
            checkpoint_add_shard(checkpoint, head->shard->info.path,
                                 reading->source->files[head->shard->file].size, &head->header);
        arena_adopt(&checkpoint->arena, &head->arena);
        error_free(&head->err);
    }
    return result;
}

static int read_heads(const struct reading *reading, struct error *err)
{
    const struct weights *weights = &reading->weights;
    cleanup_free struct head *heads = xcalloc(weights->n_files, sizeof *heads);
    const unsigned processors = parallel_processors();

    for (size_t i = 0; i < weights->n_files; i++)
        heads[i] = (struct head){.reading = reading, .shard = weights->files[i]};
    parallel_run(weights->n_files, processors < READERS_MAX ? processors : READERS_MAX, read_head_in_thread,
                 heads);
    return take_heads(reading, heads, err);
}

static int read_weights(const struct reading *reading, struct error *err)
{
    const struct weights *weights = &reading->weights;
    struct checkpoint *checkpoint = &reading->directory->checkpoint;

    if (read_heads(reading, err) < 0)
        return -1;
    checkpoint->index_name = arena_strdup(&checkpoint->arena, weights->index_name);
    checkpoint->index_required = weights->index_required;
    return checkpoint_settle(checkpoint, weights->has_index ? &weights->index : NULL,
                             &reading->directory->notes, err);
}

static bool is_shown(const struct reading *reading, size_t i)
{
    const enum listed_kind kind = reading->listing->list[i].kind;

    return reading->weights.roles[i] == ROLE_PASS && (kind == LISTED_FILE || kind == LISTED_DIRECTORY);
}

/* A git-lfs pointer that is no weight file is shown as it is: one leaves out what one does not need. */
static void note_lfs_pointers(const struct reading *reading)
{
    const struct listing *listing = reading->listing;
    cleanup_free bool *marks = xcalloc(listing->n + 1, sizeof *marks);

    for (size_t i = 0; i < listing->n; i++)
        marks[i] = is_shown(reading, i) && listing->list[i].kind == LISTED_FILE &&
                   load_is_lfs_pointer(reading->source, listing->list[i].file);
    cleanup_free char *pointers = listing_marked_names(listing, marks);
    if (pointers)
        notes_add(&reading->directory->notes, NOTE_WARNING,
                  "git-lfs pointers and not the files, shown as they are (`git lfs pull` fetches them): %s",
                  pointers);
}

/* The shards, what passes through and the index are kept, in this order. */
static int keep_files(const struct reading *reading, struct error *err)
{
    const struct listing *listing = reading->listing;
    const struct weights *weights = &reading->weights;
    struct directory *directory = reading->directory;
    cleanup_free uint32_t *numbers = xcalloc(reading->source->n_files + UINT64_C(1), sizeof *numbers);
    uint32_t n = 0;

    directory->entries = xcalloc(listing->n, sizeof *directory->entries);
    for (size_t i = 0; i < weights->n_files; i++)
        numbers[n++] = weights->files[i]->file;
    for (size_t i = 0; i < listing->n; i++) {
        const struct listed *listed = &listing->list[i];
        if (!is_shown(reading, i))
            continue;
        struct directory_entry *entry = &directory->entries[directory->n_entries++];
        *entry =
            (struct directory_entry){.info = listed->info, .is_directory = listed->kind == LISTED_DIRECTORY};
        if (entry->is_directory)
            continue;
        entry->info = reading->source->files[listed->file];
        entry->file = n;
        numbers[n++] = listed->file;
    }
    directory->index_file = DIRECTORY_NO_FILE;
    if (weights->index_file) {
        directory->index_file = n;
        numbers[n++] = weights->index_file->file;
    }
    const int e = source_keep(reading->source, numbers, n);
    return e ? error_set(err, "%s: its files cannot be held: %s", directory->path, strerror(e)) : 0;
}

int directory_read(struct listing *listing, struct source *source, struct directory *directory,
                   struct error *err)
{
    struct reading reading = {.listing = listing, .source = source, .directory = directory};
    struct notes *notes = &directory->notes;

    *directory = (struct directory){
        .source = source, .path = listing->top.path, .top = listing->top, .notes = listing->notes};
    listing->notes = (struct notes){0};
    int result = read_config(&reading, err);
    if (result == 0)
        result = weights_choose(listing, source, &directory->checkpoint.config, &reading.weights, err);
    if (result == 0) {
        weights_note_others(listing, source, &reading.weights, notes);
        result = read_weights(&reading, err);
        if (result == 0) {
            note_lfs_pointers(&reading);
            result = keep_files(&reading, err);
        }
        weights_free(&reading.weights);
    }
    arena_adopt(&directory->arena, &listing->arena);
    listing_free(listing);
    if (result < 0)
        directory_close(directory);
    return result;
}

int directory_open(const char *src, const struct scan_options *options, struct directory *directory,
                   struct error *err)
{
    struct listing listing;

    *directory = (struct directory){0};
    struct source *source = local_open(src, options, &listing, err);
    if (source)
        return directory_read(&listing, source, directory, err);
    return -1;
}

void directory_close(struct directory *directory)
{
    source_close(directory->source);
    free(directory->entries);
    notes_free(&directory->notes);
    checkpoint_free(&directory->checkpoint);
    arena_free(&directory->arena);
    *directory = (struct directory){0};
}
