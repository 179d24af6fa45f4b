/* A source that holds its files in memory. */
#include "memory_source.h"

#include "layout/base/memory.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

struct memory_source {
    struct source source;
    struct source_info *infos; /* source.files */
    const unsigned char **bytes;
};

static int memory_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    const struct memory_source *memory = (const struct memory_source *)source;

    if (file >= source->n_files || offset > memory->infos[file].size ||
        length > memory->infos[file].size - offset)
        return EIO;
    if (length > 0)
        memcpy(buffer, memory->bytes[file] + offset, length);
    return 0;
}

static int memory_keep(struct source *source, const uint32_t *numbers, uint32_t n)
{
    struct memory_source *memory = (struct memory_source *)source;
    struct source_info *infos = xcalloc(n + UINT64_C(1), sizeof *infos);
    const unsigned char **bytes = xcalloc(n + UINT64_C(1), sizeof *bytes);

    for (uint32_t i = 0; i < n; i++) {
        infos[i] = memory->infos[numbers[i]];
        bytes[i] = memory->bytes[numbers[i]];
    }
    free(memory->infos);
    free(memory->bytes);
    memory->infos = infos;
    memory->bytes = bytes;
    source->files = infos;
    source->n_files = n;
    return 0;
}

static void memory_close(struct source *source)
{
    struct memory_source *memory = (struct memory_source *)source;

    free(memory->infos);
    free(memory->bytes);
    free(memory);
}

static const struct source_ops memory_ops = {
    .pread = memory_pread, .keep = memory_keep, .close = memory_close};

static int compare_listed(const void *a, const void *b)
{
    return strcmp(((const struct listed *)a)->info.path, ((const struct listed *)b)->info.path);
}

/* The directories that a path lies in, unless they are listed already; listed is big enough. */
static size_t add_parents(struct listed *list, size_t n, const char *path, struct arena *arena)
{
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        const char *parent = arena_strndup(arena, path, (size_t)(slash - path));
        size_t i = 0;
        while (i < n && strcmp(list[i].info.path, parent) != 0)
            i++;
        if (i == n)
            list[n++] =
                (struct listed){.info = {.path = parent, .mode = S_IFDIR | 0755}, .kind = LISTED_DIRECTORY};
    }
    return n;
}

struct source *memory_source_open(const char *name, const struct memory_file *files, uint32_t n,
                                  struct listing *listing)
{
    struct memory_source *memory = xcalloc(1, sizeof *memory);
    size_t most = n;

    *listing = (struct listing){.top = {.path = name, .mode = S_IFDIR | 0755}};
    for (uint32_t i = 0; i < n; i++)
        for (const char *at = files[i].path; *at; at++)
            most += *at == '/';
    listing->list = xcalloc(most, sizeof *listing->list);
    memory->infos = xcalloc(n + UINT64_C(1), sizeof *memory->infos);
    memory->bytes = xcalloc(n + UINT64_C(1), sizeof *memory->bytes);
    memory->source = (struct source){.ops = &memory_ops, .files = memory->infos};
    for (uint32_t i = 0; i < n; i++) {
        struct listed listed = {.info = files[i].info, .kind = files[i].kind};
        listed.info.path = files[i].path;
        listed.info.size = files[i].size;
        if (listed.info.mode == 0)
            listed.info.mode = S_IFREG | 0644;
        if (listed.kind == LISTED_FILE) {
            listed.file = memory->source.n_files++;
            memory->infos[listed.file] = listed.info;
            memory->bytes[listed.file] = files[i].bytes;
        }
        listing->list[listing->n++] = listed;
        listing->n = add_parents(listing->list, listing->n, files[i].path, &listing->arena);
    }
    qsort(listing->list, listing->n, sizeof *listing->list, compare_listed);
    return &memory->source;
}
