/* A checkpoint put together from its shards' headers and its index. */
#include "checkpoint.h"

#include "layout/base/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* At most this many notes of a kind; the rest are counted. */
#define NOTES_MAX 5

/* A tensor by its name, for sorting; for an index's entry, too. */
struct named {
    const char *name;
    uint32_t place; /* in checkpoint.tensors or index.entries */
};

/* What settling works with. */
struct settling {
    struct checkpoint *checkpoint;
    const struct index *index;
    uint32_t *shard_of_file; /* of an index's file: the shard, or UINT32_MAX */
    struct named *tensors;   /* by name, then by place */
    struct named *entries;   /* by name */
    bool *dropped;           /* by place in checkpoint.tensors */
    uint32_t n_dropped, n_misplaced;
    struct notes *notes;
    struct error *err;
};

void checkpoint_add_shard(struct checkpoint *checkpoint, const char *name, uint64_t size,
                          const struct safetensors_header *header)
{
    uint64_t n_tensors;

    if (!checked_add(checkpoint->n_tensors, header->n_tensors, &n_tensors) || n_tensors >= UINT32_MAX)
        memory_exhausted();
    checkpoint->shards =
        xreallocarray(checkpoint->shards, (size_t)checkpoint->n_shards + 1, sizeof *checkpoint->shards);
    checkpoint->tensors = xreallocarray(checkpoint->tensors, n_tensors, sizeof *checkpoint->tensors);
    for (size_t i = 0; i < header->n_tensors; i++) {
        const struct safetensors_tensor *tensor = &header->tensors[i];
        checkpoint->tensors[checkpoint->n_tensors + i] = (struct tensor){
            .info = tensor->info,
            .offset = header->data_offset + tensor->begin,
            .length = tensor->end - tensor->begin,
            .shard = checkpoint->n_shards,
        };
    }
    checkpoint->shards[checkpoint->n_shards++] = (struct shard){
        .name = arena_strdup(&checkpoint->arena, name),
        .size = size,
        .first_tensor = checkpoint->n_tensors,
        .n_tensors = (uint32_t)header->n_tensors,
    };
    checkpoint->n_tensors = (uint32_t)n_tensors;
}

static int compare_named(const void *a, const void *b)
{
    const struct named *left = a, *right = b;
    int order = strcmp(left->name, right->name);

    return order ? order : (left->place > right->place) - (left->place < right->place);
}

static int compare_shard_name(const void *name, const void *shard)
{
    return strcmp(name, ((const struct shard *)shard)->name);
}

static uint32_t find_shard(const struct checkpoint *checkpoint, const char *name)
{
    const struct shard *shard = NULL;

    if (checkpoint->n_shards)
        shard = bsearch(name, checkpoint->shards, checkpoint->n_shards, sizeof *shard, compare_shard_name);
    return shard ? (uint32_t)(shard - checkpoint->shards) : UINT32_MAX;
}

static void settling_begin(struct settling *settling)
{
    const struct checkpoint *checkpoint = settling->checkpoint;
    const struct index *index = settling->index;
    size_t n_entries = index ? index->n_entries : 0, n_files = index ? index->n_files : 0;

    settling->shard_of_file = xcalloc(n_files, sizeof *settling->shard_of_file);
    settling->tensors = xcalloc(checkpoint->n_tensors, sizeof *settling->tensors);
    settling->entries = xcalloc(n_entries, sizeof *settling->entries);
    settling->dropped = xcalloc(checkpoint->n_tensors, sizeof *settling->dropped);
    for (size_t i = 0; i < n_files; i++)
        settling->shard_of_file[i] = find_shard(checkpoint, index->files[i]);
    for (uint32_t i = 0; i < checkpoint->n_tensors; i++)
        settling->tensors[i] = (struct named){.name = checkpoint->tensors[i].info.name, .place = i};
    for (size_t i = 0; i < n_entries; i++)
        settling->entries[i] = (struct named){.name = index->entries[i].tensor, .place = (uint32_t)i};
    qsort(settling->tensors, checkpoint->n_tensors, sizeof *settling->tensors, compare_named);
    qsort(settling->entries, n_entries, sizeof *settling->entries, compare_named);
}

static void settling_end(struct settling *settling)
{
    free(settling->shard_of_file);
    free(settling->tensors);
    free(settling->entries);
    free(settling->dropped);
}

static uint32_t shard_of(const struct settling *settling, size_t named)
{
    return settling->checkpoint->tensors[settling->tensors[named].place].shard;
}

static const char *shard_name(const struct settling *settling, size_t named)
{
    return settling->checkpoint->shards[shard_of(settling, named)].name;
}

static void drop_copy(struct settling *settling, size_t named, const char *winner)
{
    settling->dropped[settling->tensors[named].place] = true;
    settling->checkpoint->shards[shard_of(settling, named)].incomplete = true;
    if (settling->n_dropped++ < NOTES_MAX)
        notes_add(settling->notes, NOTE_WARNING,
                  "tensor '%s' is in %s and in %s: the index names %s, the other is dropped",
                  settling->tensors[named].name, shard_name(settling, named), winner, winner);
}

/* The tensors [first, end) have one name, which the index's entry places (NULL: it does not). */
static int settle_name(struct settling *settling, size_t first, size_t end, const struct index_entry *entry)
{
    const char *name = settling->tensors[first].name;
    const char *file = entry ? settling->index->files[entry->file] : NULL;
    uint32_t wanted = entry ? settling->shard_of_file[entry->file] : UINT32_MAX;
    bool found = false;

    for (size_t i = first; i < end; i++)
        found |= shard_of(settling, i) == wanted;
    if (end - first == 1) {
        if (entry && !found && settling->n_misplaced++ < NOTES_MAX)
            notes_add(settling->notes, NOTE_WARNING,
                      "tensor '%s': the index names %s, but only %s has it: it is taken from there", name,
                      file, shard_name(settling, first));
        return 0;
    }
    if (!found)
        return error_set(settling->err, "tensor '%s' is in %s and in %s, and %s%s", name,
                         shard_name(settling, first), shard_name(settling, first + 1),
                         !settling->index
                             ? "there is no index to decide between them (--exclude hides a file)"
                         : !entry ? "the index does not name it"
                                  : "the index names a third file: ",
                         entry ? file : "");
    for (size_t i = first; i < end; i++)
        if (shard_of(settling, i) != wanted)
            drop_copy(settling, i, file);
    return 0;
}

static void add_absent(struct settling *settling, const struct index_entry *entry)
{
    struct checkpoint *checkpoint = settling->checkpoint;

    checkpoint->absent[checkpoint->n_absent++] = arena_strdup(&checkpoint->arena, entry->tensor);
    if (checkpoint->n_absent <= NOTES_MAX)
        notes_add(settling->notes, NOTE_WARNING,
                  "tensor '%s': the index names %s, but no file has it: it is left out", entry->tensor,
                  settling->index->files[entry->file]);
}

/* Walks tensors and entries, both by name, side by side. */
static int settle_names(struct settling *settling)
{
    struct checkpoint *checkpoint = settling->checkpoint;
    const struct index *index = settling->index;
    size_t n_entries = index ? index->n_entries : 0, next_entry = 0, first = 0;

    checkpoint->absent = arena_alloc(&checkpoint->arena, n_entries * sizeof *checkpoint->absent);
    while (first < checkpoint->n_tensors || next_entry < n_entries) {
        const struct index_entry *entry = NULL;
        int order = next_entry == n_entries ? -1
                    : first == checkpoint->n_tensors
                        ? 1
                        : strcmp(settling->tensors[first].name, settling->entries[next_entry].name);
        if (order >= 0)
            entry = &index->entries[settling->entries[next_entry++].place];
        if (order > 0) {
            add_absent(settling, entry);
            continue;
        }
        size_t end = first + 1;
        while (end < checkpoint->n_tensors &&
               strcmp(settling->tensors[first].name, settling->tensors[end].name) == 0)
            end++;
        if (settle_name(settling, first, end, entry))
            return -1;
        first = end;
    }
    return 0;
}

static void note_rest(struct notes *notes, size_t n, const char *what)
{
    if (n > NOTES_MAX)
        notes_add(notes, NOTE_WARNING, "%zu more tensors %s", n - NOTES_MAX, what);
}

static void remove_dropped(struct checkpoint *checkpoint, const bool *dropped)
{
    uint32_t kept = 0;

    for (uint32_t s = 0; s < checkpoint->n_shards; s++) {
        struct shard *shard = &checkpoint->shards[s];
        uint32_t first = shard->first_tensor, end = first + shard->n_tensors;
        shard->first_tensor = kept;
        for (uint32_t i = first; i < end; i++)
            if (!dropped[i])
                checkpoint->tensors[kept++] = checkpoint->tensors[i];
        shard->n_tensors = kept - shard->first_tensor;
    }
    checkpoint->n_tensors = kept;
}

int checkpoint_settle(struct checkpoint *checkpoint, const struct index *index, struct notes *notes,
                      struct error *err)
{
    struct settling settling = {.checkpoint = checkpoint, .index = index, .notes = notes, .err = err};

    if (index && index->metadata) {
        checkpoint->metadata = arena_strndup(&checkpoint->arena, index->metadata, index->metadata_length);
        checkpoint->metadata_length = index->metadata_length;
    }
    settling_begin(&settling);
    int failed = settle_names(&settling);
    if (!failed) {
        note_rest(notes, settling.n_dropped,
                  "are in two files: the index decides, the other copies are dropped");
        note_rest(notes, settling.n_misplaced,
                  "are in another file than the index names: they are taken from there");
        note_rest(notes, checkpoint->n_absent,
                  "are named by the index, but no file has them: they are left out");
        remove_dropped(checkpoint, settling.dropped);
    }
    settling_end(&settling);
    return failed;
}

const struct tensor *checkpoint_find_tensor(const struct checkpoint *checkpoint, uint32_t shard,
                                            uint64_t offset)
{
    const struct tensor *first = &checkpoint->tensors[checkpoint->shards[shard].first_tensor];
    size_t low = 0, high = checkpoint->shards[shard].n_tensors;

    /* the last tensor that begins at or before the offset: empty ones begin where the next one does */
    while (low + 1 < high) {
        size_t middle = (low + high) / 2;
        if (first[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return &first[low];
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    arena_free(&checkpoint->arena);
    config_free(&checkpoint->config);
    free(checkpoint->shards);
    free(checkpoint->tensors);
    *checkpoint = (struct checkpoint){0};
}
