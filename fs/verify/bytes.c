/* Level 1: every logical tensor, and every other one, read from the source and from what is exposed. */
#include "slabs.h"

#include "fs/base/parallel.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* XXH3_128bits() is then the processor's fastest */
#endif

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MEMORY_MAX ((uint64_t)4 << 30) /* of all threads' slabs together */
#define STRIP ((uint64_t)256 << 10)    /* bytes of a matrix that are looked at while the caches hold them */

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
    const size_t size = slab_element_bytes(from->tensor);
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
        if (!place.tensor || form->n_axes != 2 || !slab_is_plain(form, &place))
            return false;
    }
    return true;
}

static int load_sides(struct verify *verify, const struct logical_group *group,
                      const struct logical_form *form, uint64_t expert, struct worker_memory *memory)
{
    for (unsigned s = 0; s < verify->n_sides; s++) {
        const unsigned f = form->at[s > 0].form;
        if (slab_load_form(verify, group, s, f, expert, &memory->slabs[s][f]) < 0)
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
    const size_t length = form->elements * slab_element_bytes(from.tensor);
    if (length == 0)
        return 0;
    const unsigned char *want = slab_plain_bytes(form, &from, &memory->slabs[0][form->at[0].form],
                                                 &memory->plain[0], &memory->plain_size[0]);
    if (verify->hashes)
        digest->hash = XXH3_128bits(want, length);
    for (unsigned s = 1; s < verify->n_sides; s++) {
        logical_locate(verify, group, form, s, expert, &to);
        if (!to.tensor)
            continue;
        const unsigned char *got = slab_plain_bytes(form, &to, &memory->slabs[s][form->at[1].form],
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
        if (slab_load(verify, s, place.tensor, begin, end, slab) < 0)
            return -1;
        const size_t size = slab_element_bytes(place.tensor), length = (end - begin) * size;
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
    const uint64_t row = form->n[1] * slab_element_bytes(tensor);
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
    report_add_bytes(&verify->report,
                     form->elements * slab_element_bytes(group->members[0][form->at[0].form][0]));
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
        if (slab_load_form(verify, work->group, 0, form->at[0].form, expert, slab) < 0)
            return -1;
        logical_locate(verify, work->group, form, 0, expert, &place);
        const unsigned char *bytes =
            slab_plain_bytes(form, &place, slab, &memory->plain[0], &memory->plain_size[0]);
        verify->digests[form->first_digest + expert].hash =
            XXH3_128bits(bytes, form->elements * slab_element_bytes(place.tensor));
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
        result = parallel_run(verify->n_others, verify->n_threads, verify_other, &others);
    for (unsigned i = 0; i < verify->n_threads; i++)
        free_memory(&memories[i]);
    free(memories);
    return result;
}
