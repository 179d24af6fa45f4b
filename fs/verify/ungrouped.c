/* Level 1 for the tensors that are in no group: compared as they are stored. */
#include "slabs.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#include <inttypes.h>
#include <string.h>

#define PIECE ((uint64_t)8 << 20)

static void report_other(struct verify *verify, uint32_t t, unsigned s, const struct side_tensor *to,
                         uint64_t at, const unsigned char *want, const unsigned char *got)
{
    const struct side_tensor *from = verify->others[t];
    const uint64_t size = slab_element_bytes(from) > 0 ? slab_element_bytes(from) : 1;
    const uint64_t columns = from->info.n_dims > 0 ? from->info.shape[from->info.n_dims - 1] : 1;
    struct difference place = report_place((UINT64_C(1) << 62) + t, "bytes");
    uint64_t i = 0;

    while (want[i] == got[i])
        i++;
    place.row = (at + i) / size / columns;
    place.column = (at + i) / size % columns;
    report_difference(&verify->report, &place, from->info.name,
                      "row %" PRIu64 ", column %" PRIu64 ": the source has byte 0x%02x (%s, byte %" PRIu64
                      "), %s has 0x%02x (%s, byte %" PRIu64 ")",
                      place.row, place.column, want[i], side_file_name(&verify->sides[0], from->file),
                      from->offset + at + i, verify->sides[s].title, got[i],
                      side_file_name(&verify->sides[s], to->file), to->offset + at + i);
}

static int read_piece(struct verify *verify, unsigned s, const struct side_tensor *tensor, uint64_t at,
                      uint64_t length, struct worker_memory *memory)
{
    const unsigned which = s > 0;

    memory->plain[which] = slab_grow(memory->plain[which], &memory->plain_size[which], length);
    const int error =
        side_read(&verify->sides[s], tensor->file, tensor->offset + at, memory->plain[which], length);
    return !error ? 0
                  : report_failure(&verify->report, "%s: %s in %s: %s", verify->sides[s].title,
                                   tensor->info.name, side_file_name(&verify->sides[s], tensor->file),
                                   strerror(error));
}

int verify_other(void *context, unsigned thread, uint64_t t)
{
    const struct other_work *work = context;
    struct verify *verify = work->verify;
    struct worker_memory *memory = &work->memories[thread];
    const struct side_tensor *from = verify->others[t];
    struct digest *digest = &verify->digests[verify->n_digests - verify->n_others + t];
    bool differs[SIDES_MAX] = {false};
    XXH3_state_t *state = XXH3_createState();

    if (!state)
        memory_exhausted();
    XXH3_128bits_reset(state);
    int result = 0;
    for (uint64_t at = 0; at < from->length && result == 0; at += PIECE) {
        const uint64_t n = from->length - at < PIECE ? from->length - at : PIECE;
        result = read_piece(verify, 0, from, at, n, memory);
        if (result == 0)
            XXH3_128bits_update(state, memory->plain[0], n);
        for (unsigned s = 1; s < verify->n_sides && result == 0; s++) {
            const struct side_tensor *to = side_find(&verify->sides[s], verify->other_names[t]);
            if (!to || to->length != from->length || differs[s])
                continue; /* reported already */
            result = read_piece(verify, s, to, at, n, memory);
            differs[s] = result == 0 && memcmp(memory->plain[0], memory->plain[1], n) != 0;
            if (differs[s])
                report_other(verify, (uint32_t)t, s, to, at, memory->plain[0], memory->plain[1]);
        }
        report_add_bytes(&verify->report, n);
    }
    digest->hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    return result;
}
