/* Level 1 for the tensors that are in no group, a piece at a time. */
#include "ungrouped.h"

#include "fs/base/parallel.h"

#include "layout/base/checked.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#include <inttypes.h>
#include <string.h>

#define PIECE ((uint64_t)8 << 20)

struct ungrouped_work {
    const struct bytes *bytes;
    const struct ungrouped *list;
};

static void report_bytes(const struct bytes *bytes, const struct side_tensor *from, unsigned s,
                         const struct side_tensor *to, uint64_t at, const unsigned char *want,
                         const unsigned char *got)
{
    const uint64_t size = max_u64(slab_element_bytes(from), 1);
    const uint64_t columns = from->info.n_dims > 0 ? from->info.shape[from->info.n_dims - 1] : 1;
    struct difference place =
        report_place(DIFFERENCE_UNGROUPED, (uint64_t)(from - bytes->sides[0].tensors), "bytes");
    uint64_t i = 0;

    while (want[i] == got[i])
        i++;
    place.row = (at + i) / size / columns;
    place.column = (at + i) / size % columns;
    report_difference(bytes->report, &place, from->info.name,
                      "row %" PRIu64 ", column %" PRIu64 ": the source has byte 0x%02x (%s, byte %" PRIu64
                      "), %s has 0x%02x (%s, byte %" PRIu64 ")",
                      place.row, place.column, want[i], side_file_name(&bytes->sides[0], from->file),
                      from->offset + at + i, bytes->sides[s].title, got[i],
                      side_file_name(&bytes->sides[s], to->file), to->offset + at + i);
}

static int read_piece(const struct bytes *bytes, unsigned thread, unsigned s,
                      const struct side_tensor *tensor, uint64_t at, uint64_t length)
{
    const struct side *side = &bytes->sides[s];
    struct slabs *slabs = &bytes->slabs[thread];
    const unsigned which = s > 0;

    slabs->row_major[which] = slab_grow(slabs->row_major[which], &slabs->row_major_size[which], length);
    const int error = side_read(side, tensor->file, tensor->offset + at, slabs->row_major[which], length);
    return !error ? 0
                  : report_failure(bytes->report, "%s: %s in %s: %s", side->title, tensor->info.name,
                                   side_file_name(side, tensor->file), strerror(error));
}

/* The piece at byte `at` of the tensor, on every side. differs: sides on which it is not looked at any more.
 */
static int compare_piece(const struct bytes *bytes, unsigned thread, const struct ungrouped *ungrouped,
                         uint64_t at, XXH3_state_t *state, bool differs[SIDES_MAX])
{
    const struct side_tensor *from = ungrouped->tensor;
    const struct slabs *slabs = &bytes->slabs[thread];
    const uint64_t n = min_u64(from->length - at, PIECE);

    if (read_piece(bytes, thread, 0, from, at, n) < 0)
        return -1;
    XXH3_128bits_update(state, slabs->row_major[0], n);
    for (unsigned s = 1; s < bytes->n_sides; s++) {
        const struct side_tensor *to = side_find(&bytes->sides[s], ungrouped->name);
        if (!to || to->length != from->length || differs[s])
            continue; /* reported already */
        if (read_piece(bytes, thread, s, to, at, n) < 0)
            return -1;
        differs[s] = memcmp(slabs->row_major[0], slabs->row_major[1], n) != 0;
        if (differs[s])
            report_bytes(bytes, from, s, to, at, slabs->row_major[0], slabs->row_major[1]);
    }
    progress_add(bytes->progress, n);
    return 0;
}

static int compare_tensor(void *context, unsigned thread, uint64_t t)
{
    const struct ungrouped_work *work = context;
    const struct ungrouped *ungrouped = &work->list[t];
    bool differs[SIDES_MAX] = {false};
    XXH3_state_t *state = XXH3_createState();
    int result = 0;

    if (!state)
        memory_exhausted();
    XXH3_128bits_reset(state);
    for (uint64_t at = 0; at < ungrouped->tensor->length && result == 0; at += PIECE)
        result = compare_piece(work->bytes, thread, ungrouped, at, state, differs);
    work->bytes->digests->list[work->bytes->digests->first_ungrouped + t].hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    return result;
}

int ungrouped_compare(struct bytes *bytes, const struct ungrouped *ungrouped, uint32_t n)
{
    struct ungrouped_work work = {bytes, ungrouped};

    return parallel_run(n, bytes->n_threads, compare_tensor, &work);
}
