#include "directory.h"

#include "fs/base/parallel.h"
#include "regular_file.h"
#include "scan.h"
#include "snapshot.h"
#include "weights.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <xxhash.h>

#define CONFIG_NAME "config.json"
#define CONFIG_SIZE_MAX (UINT64_C(64) << 20)
#define READERS_MAX 16 /* threads that read headers */
#define PREFIX_SIZE 8  /* bytes before a shard's header: its length */

/* Every file is held open: a checkpoint of some hundred shards passes the usual soft limit of 1024. Where it
 * cannot be raised, opening says so. */
static void raise_open_files_limit(void)
{
    struct rlimit limit;

    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int check_config(const struct directory *directory, const struct scan *scan, struct found **config,
                        struct error *err)
{
    *config = scan_find(scan, CONFIG_NAME);
    if (!*config)
        return error_set(err, "%s has no " CONFIG_NAME ": it is not a checkpoint of transformers",
                         directory->path);
    if ((*config)->kind == FOUND_EXCLUDED)
        return error_set(err, CONFIG_NAME " cannot be hidden with --exclude: without it %s is no checkpoint",
                         directory->path);
    if ((*config)->kind != FOUND_FILE)
        return error_set(err, "%s/" CONFIG_NAME " is a %s and not a file", directory->path,
                         scan_kind_name(*config));
    return 0;
}

static int read_config(struct directory *directory, const struct scan *scan, struct error *err)
{
    struct found *found;

    if (check_config(directory, scan, &found, err))
        return -1;
    int fd = regular_file_open(found->path, found->target, 1, &found->stat, err);
    if (fd < 0)
        return -1;
    uint64_t size = (uint64_t)found->stat.st_size;
    int result = -1;
    cleanup_free char *text = regular_file_load(fd, found->path, size, CONFIG_SIZE_MAX, err);
    if (text && regular_file_is_lfs_pointer(fd, size))
        error_set(err, CONFIG_NAME " is a git-lfs pointer and not the file: run `git lfs pull` in %s",
                  directory->path);
    else if (text)
        result = config_parse(CONFIG_NAME, text, size, &directory->checkpoint.config, err);
    close(fd);
    return result;
}

/* A directory without config.json is refused before it is scanned: it may be a whole disk. */
static int check_is_checkpoint(const struct directory *directory, struct error *err)
{
    cleanup_free char *path = xasprintf("%s/" CONFIG_NAME, directory->path);
    struct stat stat_buffer;

    if (!lstat(path, &stat_buffer))
        return 0;
    if (errno == ENOENT)
        return error_set(err, "%s has no " CONFIG_NAME ": it is not a checkpoint of transformers",
                         directory->path);
    return regular_file_error(err, path, "cannot be looked at", errno);
}

/* Opens one file and gives it the next number. */
static struct source_file *open_file(struct directory *directory, struct found *found, size_t n_needed,
                                     struct error *err)
{
    int fd = regular_file_open(found->path, found->target, n_needed, &found->stat, err);

    if (fd < 0)
        return NULL;
    cleanup_free char *path = xasprintf("%s/%s", directory->path, found->path);
    struct source_file *file = &directory->files[directory->n_files++];
    *file =
        (struct source_file){.fd = fd, .path = arena_strdup(&directory->arena, path), .stat = found->stat};
    return file;
}

/* A shard's header, read beside others' in a thread of its own. */
struct reading {
    const char *name;
    struct source_file *file;
    struct safetensors_header header;
    struct arena arena; /* the header's */
    struct error err;
};

struct readings {
    const char *directory;
    struct reading *list;
    size_t n;
};

static int read_header(const char *directory, struct reading *reading)
{
    const char *name = reading->name;
    struct source_file *file = reading->file;
    struct error *err = &reading->err;
    uint8_t prefix[PREFIX_SIZE] = {0};
    uint64_t size = (uint64_t)file->stat.st_size, n;

    if (regular_file_is_lfs_pointer(file->fd, size))
        return error_set(err, "%s is a git-lfs pointer and not the weights: run `git lfs pull` in %s", name,
                         directory);
    if (size >= PREFIX_SIZE && regular_file_read(file->fd, name, 0, prefix, PREFIX_SIZE, err))
        return -1;
    if (safetensors_header_length(name, prefix, size, &n, err))
        return -1;
    /* With the prefix before it, because the digest covers both. */
    cleanup_free char *head = xmalloc(PREFIX_SIZE + n);
    if (regular_file_read(file->fd, name, 0, head, PREFIX_SIZE + n, err))
        return -1;
    if (safetensors_parse(name, head + PREFIX_SIZE, n, size, &reading->arena, &reading->header, err))
        return -1;
    file->head_length = PREFIX_SIZE + n;
    file->head_digest = XXH3_64bits(head, PREFIX_SIZE + n);
    return 0;
}

static int read_header_in_thread(void *context, unsigned thread, uint64_t number)
{
    struct readings *readings = context;

    (void)thread;
    return read_header(readings->directory, &readings->list[number]);
}

/* Adds the shards' tensors in the shards' order. On failure the error is the first shard's that has one: all
 * before a shard that was begun were begun too, and ended. */
static int take_headers(struct readings *readings, struct checkpoint *checkpoint, struct error *err)
{
    int result = 0;

    for (size_t i = 0; i < readings->n; i++) {
        struct reading *reading = &readings->list[i];
        if (!result && reading->err.text) {
            *err = reading->err;
            reading->err = (struct error){0};
            result = -1;
        }
        if (!result)
            checkpoint_add_shard(checkpoint, reading->name, (uint64_t)reading->file->stat.st_size,
                                 &reading->header);
        arena_adopt(&checkpoint->arena, &reading->arena);
        error_free(&reading->err);
    }
    return result;
}

static int read_headers(struct directory *directory, const struct weights *weights, struct error *err)
{
    cleanup_free struct reading *list = xcalloc(weights->n_files, sizeof *list);
    struct readings readings = {directory->path, list, weights->n_files};
    const unsigned processors = parallel_processors();

    for (size_t i = 0; i < weights->n_files; i++)
        list[i] = (struct reading){.name = weights->files[i]->path, .file = &directory->files[i]};
    parallel_run(readings.n, processors < READERS_MAX ? processors : READERS_MAX, read_header_in_thread,
                 &readings);
    return take_headers(&readings, &directory->checkpoint, err);
}

static int read_weights(struct directory *directory, size_t n_needed, struct weights *weights,
                        struct error *err)
{
    struct checkpoint *checkpoint = &directory->checkpoint;
    const struct index *index = weights->has_index ? &weights->index : NULL;

    for (size_t i = 0; i < weights->n_files; i++)
        if (!open_file(directory, weights->files[i], n_needed, err))
            return -1;
    if (read_headers(directory, weights, err))
        return -1;
    checkpoint->index_name = arena_strdup(&checkpoint->arena, weights->index_name);
    checkpoint->index_required = weights->index_required;
    return checkpoint_settle(checkpoint, index, &directory->notes, err);
}

static bool is_shown(const struct found *found)
{
    return found->role == ROLE_PASS && (found->kind == FOUND_FILE || found->kind == FOUND_DIRECTORY);
}

/* Opens what passes through. A git-lfs pointer there is shown as it is: one leaves out what one does not
 * need. */
static int open_entries(struct directory *directory, struct scan *scan, size_t n_needed, struct error *err)
{
    for (size_t i = 0; i < scan->n; i++) {
        struct found *found = &scan->list[i];
        if (!is_shown(found))
            continue;
        struct directory_entry *entry = &directory->entries[directory->n_entries];
        *entry =
            (struct directory_entry){.path = found->path, .is_directory = found->kind == FOUND_DIRECTORY};
        if (!entry->is_directory) {
            entry->file = directory->n_files;
            const struct source_file *file = open_file(directory, found, n_needed, err);
            if (!file)
                return -1;
            found->marked = regular_file_is_lfs_pointer(file->fd, (uint64_t)file->stat.st_size);
        }
        entry->stat = found->stat;
        directory->n_entries++;
    }
    return 0;
}

static bool is_marked(const struct found *found)
{
    return found->marked;
}

static int open_all(struct directory *directory, struct scan *scan, struct weights *weights,
                    struct error *err)
{
    size_t n_shown = 0;

    for (size_t i = 0; i < scan->n; i++)
        n_shown += is_shown(&scan->list[i]);
    /* Directories get no number; counting them costs nothing and the sum is below SCAN_NAMES_MAX. */
    directory->files = xcalloc(weights->n_files + n_shown, sizeof *directory->files);
    directory->entries = xcalloc(n_shown, sizeof *directory->entries);
    if (read_weights(directory, weights->n_files + n_shown, weights, err) ||
        open_entries(directory, scan, weights->n_files + n_shown, err))
        return -1;
    cleanup_free char *pointers = scan_list(scan, is_marked);
    if (pointers)
        notes_add(&directory->notes, NOTE_WARNING,
                  "git-lfs pointers and not the files, shown as they are (`git lfs pull` fetches them): %s",
                  pointers);
    return 0;
}

static int open_scanned(struct directory *directory, struct scan *scan, struct error *err)
{
    struct weights weights = {0};

    if (read_config(directory, scan, err) ||
        weights_choose(directory->path, scan, &directory->checkpoint.config, &weights, err))
        return -1;
    weights_note_others(&weights, scan, &directory->notes);
    int result = open_all(directory, scan, &weights, err);
    weights_free(&weights);
    return result;
}

int directory_open(const char *src, const struct directory_options *options, struct directory *directory,
                   struct error *err)
{
    struct snapshot snapshot;
    struct scan scan = {0};

    *directory = (struct directory){0};
    raise_open_files_limit();
    if (snapshot_resolve(src, &directory->arena, &snapshot, err))
        goto fail;
    directory->path = snapshot.path;
    directory->stat = snapshot.stat;
    if (check_is_checkpoint(directory, err) ||
        scan_read(&snapshot, options, &directory->arena, &scan, &directory->notes, err))
        goto fail;
    int result = open_scanned(directory, &scan, err);
    scan_free(&scan);
    if (!result)
        return 0;
fail:
    directory_close(directory);
    return -1;
}

void directory_close(struct directory *directory)
{
    for (uint32_t i = 0; i < directory->n_files; i++)
        if (directory->files[i].fd >= 0)
            close(directory->files[i].fd);
    free(directory->files);
    free(directory->entries);
    notes_free(&directory->notes);
    checkpoint_free(&directory->checkpoint);
    arena_free(&directory->arena);
    *directory = (struct directory){0};
}

struct source *directory_source(struct directory *directory, struct error *err)
{
    struct source *source = source_files_open(directory->files, directory->n_files);

    if (!source) {
        error_set(err, "out of memory");
        return NULL;
    }
    for (uint32_t i = 0; i < directory->n_files; i++)
        directory->files[i].fd = -1;
    return source;
}
