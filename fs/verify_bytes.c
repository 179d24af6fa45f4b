/* Level 1: every logical tensor, and every other one, read from the source and from what is exposed. */
#include "verify.h"

#include "parallel.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* XXH3_128bits() is then the processor's fastest */
#endif

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((uint64_t)8 << 20)
#define MEMORY_MAX ((uint64_t)4 << 30) /* of all threads' slabs together */
#define BAND 32
#define STRIP ((uint64_t)256 << 10) /* bytes of a matrix that are looked at while the caches hold them */

/* ---- one expert in memory ---- */

static void *grown(void *memory, size_t *size, size_t wanted)
{
    if (*size >= wanted)
        return memory;
    free(memory);
    *size = wanted;
    return xmalloc(wanted);
}

static uint64_t element_bytes(const struct side_tensor *tensor)
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

static int load_slab(struct verify *verify, unsigned s, const struct side_tensor *tensor, uint64_t begin,
                     uint64_t end, struct slab *slab)
{
    const struct side *side = &verify->sides[s];
    const uint64_t size = element_bytes(tensor), length = (end - begin) * size;

    if (slab->tensor == tensor && slab->begin <= begin && slab->end >= end)
        return 0;
    slab->bytes = grown(slab->bytes, &slab->capacity, length);
    slab->tensor = NULL;
    const int error = side_read(side, tensor->file, tensor->offset + begin * size, slab->bytes, length);
    if (error)
        return report_failure(&verify->report, "%s: %s in %s: bytes %" PRIu64 " to %" PRIu64 ": %s",
                              side->title, tensor->info.name, side_file_name(side, tensor->file),
                              tensor->offset + begin * size, tensor->offset + end * size, strerror(error));
    *slab = (struct slab){tensor, begin, end, slab->bytes, slab->capacity};
    return 0;
}

/* What stored form f holds of one expert: of all its projections at once, which may lie between each other.
 */
static int load_form(struct verify *verify, const struct logical_group *group, unsigned s, unsigned f,
                     uint64_t expert, struct slab *slab)
{
    uint64_t begin = UINT64_MAX, end = 0;
    const struct side_tensor *tensor = NULL;

    for (unsigned i = 0; i < group->n_forms; i++) {
        const struct logical_form *form = &group->forms[i];
        struct logical_place place;
        if (form->at[s > 0].form != f || expert >= form->count || form->elements == 0)
            continue;
        logical_locate(verify, group, form, s, expert, &place);
        if (!place.tensor)
            return 0; /* reported when it was looked for */
        tensor = place.tensor;
        begin = place.first < begin ? place.first : begin;
        const uint64_t last = last_element(form, &place);
        end = last >= end ? last + 1 : end;
    }
    return tensor ? load_slab(verify, s, tensor, begin, end, slab) : 0;
}

/* ---- in the logical order of elements ---- */

static inline __attribute__((always_inline)) void copy_band(const unsigned char *const *rows, uint64_t n_rows,
                                                            uint64_t columns, uint64_t stride,
                                                            unsigned char *out, size_t size)
{
    /* rows inside: transposed, they lie next to each other */
    for (uint64_t c = 0; c < columns; c++)
        for (uint64_t r = 0; r < n_rows; r++)
            memcpy(out + (r * columns + c) * size, rows[r] + c * stride * size, size);
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

static bool is_plain(const struct logical_form *form, const struct logical_place *place)
{
    uint64_t stride = 1;

    for (unsigned i = form->n_axes; i-- > 0; stride *= form->n[i])
        if (form->n[i] > 1 && place->stride[i] != stride)
            return false;
    return true;
}

/* The logical tensor's bytes in its own order: where they are already so, in the slab; else copied. */
static const unsigned char *plain_bytes(const struct logical_form *form, const struct logical_place *place,
                                        const struct slab *slab, unsigned char **copy, size_t *copy_size)
{
    const size_t size = element_bytes(place->tensor);
    const unsigned char *first = slab->bytes + (place->first - slab->begin) * size;
    const uint64_t columns = form->n_axes > 0 ? form->n[form->n_axes - 1] : 1;
    const uint64_t stride = form->n_axes > 0 ? place->stride[form->n_axes - 1] : 1;
    const unsigned char *rows[BAND];

    if (is_plain(form, place))
        return first;
    *copy = grown(*copy, copy_size, form->elements * size);
    const uint64_t n_rows = form->elements / columns;
    for (uint64_t row = 0; row < n_rows; row += BAND) {
        const uint64_t n = n_rows - row < BAND ? n_rows - row : BAND;
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

/* ---- what differs ---- */

static bool is_transposed(const unsigned char *want, const unsigned char *got,
                          const struct logical_form *form, size_t size)
{
    const uint64_t rows = form->n[0], columns = form->n[1];

    for (uint64_t c = 0; c < columns; c++)
        for (uint64_t r = 0; r < rows; r++)
            if (memcmp(got + (c * rows + r) * size, want + (r * columns + c) * size, size) != 0)
                return false;
    return true;
}

/* What happened to the matrix, where it can be told. */
static const char *explain(const unsigned char *want, const unsigned char *got,
                           const struct logical_form *form, size_t size)
{
    if (form->n_axes != 2 || form->n[0] < 2 || form->n[1] < 2)
        return "";
    const uint64_t row = form->n[1] * size, rest = (form->n[0] - 1) * row;
    if (is_transposed(want, got, form, size))
        return "; the matrix is transposed";
    if (memcmp(got + row, want, rest) == 0 || memcmp(got, want + row, rest) == 0)
        return "; the matrix is shifted by a row";
    return "";
}

static void hex_of(const unsigned char *bytes, size_t size, char text[17])
{
    for (size_t i = 0; i < size; i++) /* little-endian: as a number */
        snprintf(text + 2 * i, 3, "%02x", bytes[size - 1 - i]);
}

static void report_bytes(struct verify *verify, const struct logical_group *group, unsigned f,
                         uint64_t expert, unsigned s, const struct logical_place *from,
                         const struct logical_place *to, const unsigned char *want, const unsigned char *got)
{
    const struct logical_form *form = &group->forms[f];
    const size_t size = element_bytes(from->tensor);
    struct difference place =
        report_place(group->order + (expert * LOGICAL_FORMS_MAX + f) * SIDES_MAX + s, "bytes");
    uint64_t source_at = from->first, exposed_at = to->first, i = 0;
    char want_text[17] = "", got_text[17] = "";

    while (memcmp(want + i * size, got + i * size, size) == 0)
        i++;
    hex_of(want + i * size, size, want_text);
    hex_of(got + i * size, size, got_text);
    place.column = form->n_axes > 0 ? i % form->n[form->n_axes - 1] : 0;
    place.row = form->n_axes > 0 ? i / form->n[form->n_axes - 1] : 0;
    for (unsigned a = form->n_axes; a-- > 0; i /= form->n[a]) {
        source_at += i % form->n[a] * from->stride[a];
        exposed_at += i % form->n[a] * to->stride[a];
    }
    place.digest = form->first_digest + expert;
    report_difference(
        &verify->report, &place, verify->digests[place.digest].name,
        "expert %" PRIu64 ", row %" PRIu64 ", column %" PRIu64 ": the source has 0x%s (%s, byte %" PRIu64
        "), %s has 0x%s (%s, byte %" PRIu64 " of %s)%s",
        expert, place.row, place.column, want_text, side_file_name(&verify->sides[0], from->tensor->file),
        from->tensor->offset + source_at * size, verify->sides[s].title, got_text,
        side_file_name(&verify->sides[s], to->tensor->file), to->tensor->offset + exposed_at * size,
        to->tensor->info.name, explain(want, got, form, size));
}

/* The form's two places are both as the logical tensor is: then a strip of rows is one run of bytes. */
static bool is_strip(const struct verify *verify, const struct logical_group *group,
                     const struct logical_form *form, uint64_t expert)
{
    for (unsigned s = 0; s < verify->n_sides; s++) {
        struct logical_place place;
        logical_locate(verify, group, form, s, expert, &place);
        if (!place.tensor || form->n_axes != 2 || !is_plain(form, &place))
            return false;
    }
    return true;
}

static int load_sides(struct verify *verify, const struct logical_group *group,
                      const struct logical_form *form, uint64_t expert, struct worker_memory *memory)
{
    for (unsigned s = 0; s < verify->n_sides; s++) {
        const unsigned f = form->at[s > 0].form;
        if (load_form(verify, group, s, f, expert, &memory->slabs[s][f]) < 0)
            return -1;
    }
    return 0;
}

/* All of the form, whatever its strides; says where it differs. */
static int compare_whole(struct verify *verify, const struct logical_group *group, unsigned f,
                         uint64_t expert, struct worker_memory *memory)
{
    const struct logical_form *form = &group->forms[f];
    struct digest *digest = &verify->digests[form->first_digest + expert];
    struct logical_place from, to;

    if (load_sides(verify, group, form, expert, memory) < 0)
        return -1;
    logical_locate(verify, group, form, 0, expert, &from);
    const size_t length = form->elements * element_bytes(from.tensor);
    if (length == 0)
        return 0;
    const unsigned char *want = plain_bytes(form, &from, &memory->slabs[0][form->at[0].form],
                                            &memory->plain[0], &memory->plain_size[0]);
    if (verify->hashes)
        digest->hash = XXH3_128bits(want, length);
    for (unsigned s = 1; s < verify->n_sides; s++) {
        logical_locate(verify, group, form, s, expert, &to);
        if (!to.tensor)
            continue;
        const unsigned char *got = plain_bytes(form, &to, &memory->slabs[s][form->at[1].form],
                                               &memory->plain[1], &memory->plain_size[1]);
        if (memcmp(want, got, length) == 0)
            continue;
        digest->found = XXH3_128bits(got, length);
        report_bytes(verify, group, f, expert, s, &from, &to, want, got);
    }
    return 0;
}

/* Rows [first, first + n) on every side. *equal is cleared where they differ. */
static int compare_strip(struct verify *verify, const struct logical_group *group,
                         const struct logical_form *form, uint64_t expert, uint64_t first, uint64_t n,
                         struct worker_memory *memory, XXH3_state_t *state, bool *equal)
{
    const unsigned char *want = NULL;

    for (unsigned s = 0; s < verify->n_sides; s++) {
        struct slab *slab = &memory->slabs[s][form->at[s > 0].form];
        struct logical_place place;
        logical_locate(verify, group, form, s, expert, &place);
        const uint64_t begin = place.first + first * form->n[1], end = begin + n * form->n[1];
        if (load_slab(verify, s, place.tensor, begin, end, slab) < 0)
            return -1;
        const size_t size = element_bytes(place.tensor), length = (end - begin) * size;
        const unsigned char *bytes = slab->bytes + (begin - slab->begin) * size;
        if (s == 0) {
            want = bytes;
            if (verify->hashes)
                XXH3_128bits_update(state, bytes, length);
        } else {
            *equal &= memcmp(want, bytes, length) == 0;
        }
    }
    return 0;
}

static int compare_strips(struct verify *verify, const struct logical_group *group, unsigned f,
                          uint64_t expert, struct worker_memory *memory)
{
    const struct logical_form *form = &group->forms[f];
    const struct side_tensor *tensor = group->members[0][form->at[0].form][0];
    const uint64_t row = form->n[1] * element_bytes(tensor);
    const uint64_t step = row < STRIP ? STRIP / row : 1;
    XXH3_state_t *state = XXH3_createState();
    bool equal = true;
    int result = 0;

    if (!state)
        memory_exhausted();
    XXH3_128bits_reset(state);
    for (uint64_t first = 0; first < form->n[0] && result == 0; first += step) {
        const uint64_t n = form->n[0] - first < step ? form->n[0] - first : step;
        result = compare_strip(verify, group, form, expert, first, n, memory, state, &equal);
        if (result == 0)
            function_rows(memory, form, first, n);
    }
    verify->digests[form->first_digest + expert].hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    return result == 0 && !equal ? compare_whole(verify, group, f, expert, memory) : result;
}

static int compare_form(struct verify *verify, const struct logical_group *group, unsigned f, uint64_t expert,
                        struct worker_memory *memory)
{
    const struct logical_form *form = &group->forms[f];
    int result;

    verify->digests[form->first_digest + expert].hash = XXH3_128bits("", 0);
    /* biases and scales have to stay in memory for the weights */
    if (form->part == 0 && form->elements > 0 && is_strip(verify, group, form, expert)) {
        result = compare_strips(verify, group, f, expert, memory);
    } else {
        result = compare_whole(verify, group, f, expert, memory);
        if (result == 0 && form->elements > 0)
            function_rows(memory, form, 0, form->n[0]);
    }
    report_add_bytes(&verify->report, form->elements * element_bytes(group->members[0][form->at[0].form][0]));
    return result;
}

/* ---- groups ---- */

struct group_work {
    struct verify *verify;
    const struct logical_group *group;
    struct function_run *run;
    struct worker_memory *memories; /* one a thread */
};

static int do_expert(void *context, unsigned thread, uint64_t expert)
{
    const struct group_work *work = context;
    struct worker_memory *memory = &work->memories[thread];

    function_open(work->run, memory, expert);
    /* the weights, which need their biases and scales, behind those */
    for (unsigned weights = 0; weights < 2; weights++)
        for (unsigned f = 0; f < work->group->n_forms; f++)
            if (expert < work->group->forms[f].count && (work->group->forms[f].part == 0) == weights &&
                compare_form(work->verify, work->group, f, expert, memory) < 0)
                return -1;
    function_close(memory);
    return 0;
}

static void free_memory(struct worker_memory *memory)
{
    for (unsigned s = 0; s < SIDES_MAX; s++)
        for (unsigned f = 0; f < FORMS_MAX; f++)
            free(memory->slabs[s][f].bytes);
    free(memory->plain[0]);
    free(memory->plain[1]);
    function_free(memory);
    *memory = (struct worker_memory){0};
}

/* So many threads that their experts fit in memory together. */
static unsigned threads_for(const struct verify *verify, const struct logical_group *group)
{
    uint64_t bytes = 1;

    for (unsigned f = 0; f < group->n_forms; f++)
        bytes += group->forms[f].elements * 8 * verify->n_sides;
    const uint64_t fit = MEMORY_MAX / bytes;
    return fit < 1 ? 1 : fit < verify->n_threads ? (unsigned)fit : verify->n_threads;
}

static int verify_group(struct verify *verify, uint32_t g, struct worker_memory *memories)
{
    struct group_work work = {.verify = verify, .group = &verify->groups[g], .memories = memories};

    work.run = function_begin(verify, work.group, &verify->report.blocks[g]);
    int result = parallel_run(work.group->count, threads_for(verify, work.group), do_expert, &work);
    if (function_end(work.run) < 0)
        result = -1;
    return result;
}

/* ---- digests alone ---- */

static int hash_expert(void *context, unsigned thread, uint64_t expert)
{
    const struct group_work *work = context;
    struct verify *verify = work->verify;
    struct worker_memory *memory = &work->memories[thread];

    for (unsigned f = 0; f < work->group->n_forms; f++) {
        const struct logical_form *form = &work->group->forms[f];
        struct slab *slab = &memory->slabs[0][form->at[0].form];
        struct logical_place place;
        if (expert >= form->count || form->elements == 0)
            continue;
        if (load_form(verify, work->group, 0, form->at[0].form, expert, slab) < 0)
            return -1;
        logical_locate(verify, work->group, form, 0, expert, &place);
        const unsigned char *bytes =
            plain_bytes(form, &place, slab, &memory->plain[0], &memory->plain_size[0]);
        verify->digests[form->first_digest + expert].hash =
            XXH3_128bits(bytes, form->elements * element_bytes(place.tensor));
    }
    return 0;
}

int verify_hash(struct verify *verify)
{
    struct worker_memory *memories = xcalloc(verify->n_threads, sizeof *memories);
    int result = 0;

    for (uint32_t g = 0; g < verify->n_groups && result == 0; g++) {
        struct group_work work = {.verify = verify, .group = &verify->groups[g], .memories = memories};
        result = parallel_run(work.group->count, threads_for(verify, work.group), hash_expert, &work);
    }
    for (unsigned i = 0; i < verify->n_threads; i++)
        free_memory(&memories[i]);
    free(memories);
    return result;
}

/* ---- everything else ---- */

struct other_work {
    struct verify *verify;
    struct worker_memory *memories;
};

static void report_other(struct verify *verify, uint32_t t, unsigned s, const struct side_tensor *to,
                         uint64_t at, const unsigned char *want, const unsigned char *got)
{
    const struct side_tensor *from = verify->others[t];
    const uint64_t size = element_bytes(from) > 0 ? element_bytes(from) : 1;
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

    memory->plain[which] = grown(memory->plain[which], &memory->plain_size[which], length);
    const int error =
        side_read(&verify->sides[s], tensor->file, tensor->offset + at, memory->plain[which], length);
    return !error ? 0
                  : report_failure(&verify->report, "%s: %s in %s: %s", verify->sides[s].title,
                                   tensor->info.name, side_file_name(&verify->sides[s], tensor->file),
                                   strerror(error));
}

static int do_other(void *context, unsigned thread, uint64_t t)
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

int verify_bytes(struct verify *verify)
{
    struct worker_memory *memories = xcalloc(verify->n_threads, sizeof *memories);
    struct other_work others = {verify, memories};
    int result = 0;

    verify->report.blocks = xcalloc(verify->n_groups, sizeof *verify->report.blocks);
    for (uint32_t g = 0; g < verify->n_groups && result == 0; g++) {
        verify->report.n_blocks = g + 1;
        result = verify_group(verify, g, memories);
    }
    if (result == 0)
        result = parallel_run(verify->n_others, verify->n_threads, do_other, &others);
    for (unsigned i = 0; i < verify->n_threads; i++)
        free_memory(&memories[i]);
    free(memories);
    return result;
}
