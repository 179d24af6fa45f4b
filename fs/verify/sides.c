/* Where a checkpoint is read from, and its tensors by name. */
#include "sides.h"

#include <string.h>

static void add_names(struct side *side)
{
    for (uint32_t t = 0; t < side->n_tensors; t++)
        HASH_ADD_KEYPTR(hh, side->by_name, side->tensors[t].info.name, strlen(side->tensors[t].info.name),
                        &side->tensors[t]);
}

void side_of_checkpoint(struct side *side, const char *title, const struct checkpoint *checkpoint,
                        struct source *source)
{
    *side = (struct side){.title = title,
                          .tensors = xcalloc(checkpoint->n_tensors, sizeof *side->tensors),
                          .n_tensors = checkpoint->n_tensors,
                          .source = source,
                          .checkpoint = checkpoint};
    for (uint32_t t = 0; t < side->n_tensors; t++) {
        const struct tensor *tensor = &checkpoint->tensors[t];
        side->tensors[t] = (struct side_tensor){
            .info = tensor->info, .offset = tensor->offset, .length = tensor->length, .file = tensor->shard};
    }
    add_names(side);
}

void side_of_plan(struct side *side, const char *title, const struct plan *plan, struct reader *reader)
{
    *side = (struct side){.title = title,
                          .tensors = xcalloc(plan->n_tensors, sizeof *side->tensors),
                          .n_tensors = plan->n_tensors,
                          .reader = reader,
                          .plan = plan};
    for (uint32_t t = 0; t < side->n_tensors; t++) {
        const struct planned_tensor *tensor = &plan->tensors[t];
        side->tensors[t] = (struct side_tensor){
            .info = tensor->info, .offset = tensor->offset, .length = tensor->length, .file = tensor->file};
    }
    add_names(side);
}

void side_free(struct side *side)
{
    HASH_CLEAR(hh, side->by_name);
    free(side->tensors);
    *side = (struct side){0};
}

struct side_tensor *side_find(const struct side *side, const char *name)
{
    struct side_tensor *tensor;

    HASH_FIND(hh, side->by_name, name, strlen(name), tensor);
    return tensor;
}

const char *side_file_name(const struct side *side, uint32_t file)
{
    return side->plan ? side->plan->files[file].name : side->checkpoint->shards[file].name;
}

int side_read(const struct side *side, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    if (length == 0)
        return 0;
    return side->reader ? reader_read(side->reader, file, offset, length, buffer)
                        : source_pread(side->source, file, offset, buffer, length);
}
