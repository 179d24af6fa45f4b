/* Finding bytes in a plan: what a read does. Building one is plan.c's. */
#include "plan.h"

#include <assert.h>

/* The tensor of the file that holds the byte at `offset`, which lies behind the head. */
static const struct planned_tensor *find_tensor(const struct plan *plan, const struct planned_file *file,
                                                uint64_t offset)
{
    const struct planned_tensor *tensors = plan->tensors + file->first_tensor;
    uint32_t low = 0, high = file->n_tensors;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (offset < tensors[middle].offset)
            high = middle;
        else if (offset >= tensors[middle].offset + tensors[middle].length)
            low = middle + 1;
        else
            return &tensors[middle];
    }
    assert(!"a file's tensors have no holes between them");
    return NULL;
}

/* The extent of the tensor that holds byte `offset` of it. */
static const struct extent *find_extent(const struct plan *plan, const struct planned_tensor *tensor,
                                        uint64_t offset)
{
    const struct extent *extents = plan->extents + tensor->first_extent;
    uint32_t low = 0, high = tensor->n_extents;

    while (low + 1 < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (offset < extents[middle].begin)
            high = middle;
        else
            low = middle;
    }
    return &extents[low];
}

struct plan_location plan_locate(const struct plan *plan, const struct planned_file *file, uint64_t offset)
{
    assert(offset < file->size);
    if (file->verbatim_shard != PLAN_NO_SHARD)
        return (struct plan_location){.file = file, .inside = offset, .left = file->size - offset};
    if (offset < file->head_length)
        return (struct plan_location){.file = file, .inside = offset, .left = file->head_length - offset};
    const struct planned_tensor *tensor = find_tensor(plan, file, offset);
    const struct extent *extent = find_extent(plan, tensor, offset - tensor->offset);
    const uint64_t inside = offset - tensor->offset - extent->begin;
    assert(inside < extent->length);
    return (struct plan_location){file, tensor, extent, inside, extent->length - inside};
}

bool plan_locate_next(const struct plan *plan, struct plan_location *location)
{
    const struct planned_file *file = location->file;
    const struct planned_tensor *tensor = location->tensor, *end;
    const struct extent *extent = location->extent;

    if (file->verbatim_shard != PLAN_NO_SHARD)
        return false;
    end = plan->tensors + file->first_tensor + file->n_tensors;
    if (tensor && ++extent < plan->extents + tensor->first_extent + tensor->n_extents) {
        *location = (struct plan_location){file, tensor, extent, 0, extent->length};
        return true;
    }
    for (tensor = tensor ? tensor + 1 : end - file->n_tensors; tensor < end; tensor++)
        if (tensor->n_extents > 0) {
            extent = plan->extents + tensor->first_extent;
            *location = (struct plan_location){file, tensor, extent, 0, extent->length};
            return true;
        }
    return false;
}
