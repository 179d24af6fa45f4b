/* What one thread holds of one expert, and its bytes in the logical order. */
#include "slabs.h"

#include "layout/base/checked.h"

#include <inttypes.h>
#include <string.h>

#define BAND 32

void slabs_free(struct slabs *slabs)
{
    for (unsigned s = 0; s < SIDES_MAX; s++)
        for (unsigned f = 0; f < FORMS_MAX; f++)
            free(slabs->of[s][f].bytes);
    free(slabs->row_major[0]);
    free(slabs->row_major[1]);
    *slabs = (struct slabs){0};
}

void *slab_grow(void *memory, size_t *size, size_t wanted)
{
    if (*size >= wanted)
        return memory;
    free(memory);
    *size = wanted;
    return xmalloc(wanted);
}

uint64_t slab_element_bytes(const struct side_tensor *tensor)
{
    return dtype_bits(tensor->info.dtype) / 8;
}

/* The last element of a logical tensor. */
static uint64_t last_element(const struct logical_form *form, const struct logical_place *place)
{
    uint64_t last = place->first;

    for (unsigned i = 0; i < form->n_axes; i++)
        last += (form->n[i] - 1) * place->stride[i];
    return last;
}

int slab_load(const struct side *side, const struct side_tensor *tensor, uint64_t begin, uint64_t end,
              struct slab *slab, struct report *report)
{
    const uint64_t size = slab_element_bytes(tensor), length = (end - begin) * size;

    if (slab->tensor == tensor && slab->begin <= begin && slab->end >= end)
        return 0;
    slab->bytes = slab_grow(slab->bytes, &slab->capacity, length);
    slab->tensor = NULL;
    const int error = side_read(side, tensor->file, tensor->offset + begin * size, slab->bytes, length);
    if (error)
        return report_failure(report, "%s: %s in %s: bytes %" PRIu64 " to %" PRIu64 ": %s", side->title,
                              tensor->info.name, side_file_name(side, tensor->file),
                              tensor->offset + begin * size, tensor->offset + end * size, strerror(error));
    *slab = (struct slab){tensor, begin, end, slab->bytes, slab->capacity};
    return 0;
}

int slab_load_form(const struct side *sides, unsigned s, const struct logical_group *group, unsigned f,
                   uint64_t expert, struct slab *slab, struct report *report)
{
    uint64_t begin = UINT64_MAX, end = 0;
    const struct side_tensor *tensor = NULL;

    for (unsigned i = 0; i < group->n_forms; i++) {
        const struct logical_form *form = &group->forms[i];
        struct logical_place place;
        if (form->at[s > 0].form != f || expert >= form->count || form->elements == 0)
            continue;
        logical_locate(group, form, s, expert, &place);
        if (!place.tensor)
            return 0; /* reported when it was looked for */
        tensor = place.tensor;
        begin = min_u64(begin, place.first);
        end = max_u64(end, last_element(form, &place) + 1);
    }
    return tensor ? slab_load(&sides[s], tensor, begin, end, slab, report) : 0;
}

static inline __attribute__((always_inline)) void copy_band(const unsigned char *const *rows, uint64_t n_rows,
                                                            uint64_t columns, uint64_t stride,
                                                            unsigned char *out, size_t size)
{
    unsigned char tile[BAND][BAND * sizeof(uint64_t)]; /* rows of `out` may be a power of two apart */

    for (uint64_t first = 0; first < columns; first += BAND) {
        const uint64_t n = min_u64(columns - first, BAND);
        /* rows inside: transposed, they lie next to each other */
        for (uint64_t c = 0; c < n; c++)
            for (uint64_t r = 0; r < n_rows; r++)
                memcpy(tile[r] + c * size, rows[r] + (first + c) * stride * size, size);
        for (uint64_t r = 0; r < n_rows; r++)
            memcpy(out + (r * columns + first) * size, tile[r], n * size);
    }
}

static void copy_rows(const unsigned char *const *rows, uint64_t n_rows, uint64_t columns, uint64_t stride,
                      unsigned char *out, size_t size)
{
    if (stride == 1) {
        for (uint64_t r = 0; r < n_rows; r++)
            memcpy(out + r * columns * size, rows[r], columns * size);
        return;
    }
    switch (size) {
    case 1:
        copy_band(rows, n_rows, columns, stride, out, 1);
        break;
    case 2:
        copy_band(rows, n_rows, columns, stride, out, 2);
        break;
    case 4:
        copy_band(rows, n_rows, columns, stride, out, 4);
        break;
    default:
        copy_band(rows, n_rows, columns, stride, out, 8);
    }
}

bool slab_is_row_major(const struct logical_form *form, const struct logical_place *place)
{
    uint64_t stride = 1;

    for (unsigned i = form->n_axes; i-- > 0; stride *= form->n[i])
        if (form->n[i] > 1 && place->stride[i] != stride)
            return false;
    return true;
}

const unsigned char *slab_row_major_bytes(const struct logical_form *form, const struct logical_place *place,
                                          const struct slab *slab, unsigned char **copy, size_t *copy_size)
{
    const size_t size = slab_element_bytes(place->tensor);
    const unsigned char *first = slab->bytes + (place->first - slab->begin) * size;
    const uint64_t columns = form->n_axes > 0 ? form->n[form->n_axes - 1] : 1;
    const uint64_t stride = form->n_axes > 0 ? place->stride[form->n_axes - 1] : 1;
    const unsigned char *rows[BAND];

    if (slab_is_row_major(form, place))
        return first;
    *copy = slab_grow(*copy, copy_size, form->elements * size);
    const uint64_t n_rows = form->elements / columns;
    for (uint64_t row = 0; row < n_rows; row += BAND) {
        const uint64_t n = min_u64(n_rows - row, BAND);
        for (uint64_t r = 0; r < n; r++) {
            uint64_t rest = row + r, at = 0;
            for (unsigned i = form->n_axes - 1; i-- > 0; rest /= form->n[i])
                at += rest % form->n[i] * place->stride[i];
            rows[r] = first + at * size;
        }
        copy_rows(rows, n, columns, stride, *copy + row * columns * size, size);
    }
    return *copy;
}
