/* Level 1 for the experts: a logical tensor at a time, in strips where all sides have it row by row. */
#include "bytes.h"

#include "layout/base/checked.h"

#include "fs/base/parallel.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* XXH3_128bits() is then the processor's fastest */
#endif

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

/* One expert's logical tensor: what is compared at once. */
struct piece {
    const struct logical_group *group;
    const struct logical_form *form;
    uint64_t expert;
    unsigned thread;
};

static struct digest *digest_of(const struct bytes *bytes, const struct piece *piece)
{
    return &bytes->digests->list[piece->form->first_digest + piece->expert];
}

static void report_bytes(const struct bytes *bytes, const struct piece *piece, unsigned s,
                         const struct logical_place *from, const struct logical_place *to,
                         const unsigned char *want, const unsigned char *got)
{
    const struct logical_form *form = piece->form;
    const uint64_t number = piece->expert * LOGICAL_FORMS_MAX + (uint64_t)(form - piece->group->forms);
    const size_t size = slab_element_bytes(from->tensor);
    struct difference place =
        report_place(DIFFERENCE_GROUPS, (piece->group->number << 32) + number * SIDES_MAX + s, "bytes");
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
    place.digest = form->first_digest + piece->expert;
    report_difference(
        bytes->report, &place, digest_of(bytes, piece)->name,
        "expert %" PRIu64 ", row %" PRIu64 ", column %" PRIu64 ": the source has 0x%s (%s, byte %" PRIu64
        "), %s has 0x%s (%s, byte %" PRIu64 " of %s)%s",
        piece->expert, place.row, place.column, want_text,
        side_file_name(&bytes->sides[0], from->tensor->file), from->tensor->offset + source_at * size,
        bytes->sides[s].title, got_text, side_file_name(&bytes->sides[s], to->tensor->file),
        to->tensor->offset + exposed_at * size, to->tensor->info.name, explain(want, got, form, size));
}

/* ---- one logical tensor ---- */

/* Whether a strip of rows is one run of bytes on every side. */
static bool is_strip(const struct bytes *bytes, const struct piece *piece)
{
    for (unsigned s = 0; s < bytes->n_sides; s++) {
        struct logical_place place;
        logical_locate(piece->group, piece->form, s, piece->expert, &place);
        if (!place.tensor || piece->form->n_axes != 2 || !slab_is_row_major(piece->form, &place))
            return false;
    }
    return true;
}

static struct slab *slab_of(const struct bytes *bytes, const struct piece *piece, unsigned s)
{
    return &bytes->slabs[piece->thread].of[s][piece->form->at[s > 0].form];
}

static int load_sides(const struct bytes *bytes, const struct piece *piece)
{
    for (unsigned s = 0; s < bytes->n_sides; s++)
        if (slab_load_form(bytes->sides, s, piece->group, piece->form->at[s > 0].form, piece->expert,
                           slab_of(bytes, piece, s), bytes->report) < 0)
            return -1;
    return 0;
}

/* All of the tensor, whatever its strides; says where it differs. */
static int compare_whole(const struct bytes *bytes, const struct piece *piece)
{
    struct slabs *slabs = &bytes->slabs[piece->thread];
    struct digest *digest = digest_of(bytes, piece);
    struct logical_place from, to;

    if (load_sides(bytes, piece) < 0)
        return -1;
    logical_locate(piece->group, piece->form, 0, piece->expert, &from);
    const size_t length = piece->form->elements * slab_element_bytes(from.tensor);
    if (length == 0)
        return 0;
    const unsigned char *want = slab_row_major_bytes(piece->form, &from, slab_of(bytes, piece, 0),
                                                     &slabs->row_major[0], &slabs->row_major_size[0]);
    if (bytes->hashes)
        digest->hash = XXH3_128bits(want, length);
    for (unsigned s = 1; s < bytes->n_sides; s++) {
        logical_locate(piece->group, piece->form, s, piece->expert, &to);
        if (!to.tensor)
            continue;
        const unsigned char *got = slab_row_major_bytes(piece->form, &to, slab_of(bytes, piece, s),
                                                        &slabs->row_major[1], &slabs->row_major_size[1]);
        if (memcmp(want, got, length) == 0)
            continue;
        digest->found = XXH3_128bits(got, length);
        report_bytes(bytes, piece, s, &from, &to, want, got);
    }
    return 0;
}

/* Rows [first, first + n) on every side. *equal is cleared where they differ. */
static int compare_strip(const struct bytes *bytes, const struct piece *piece, uint64_t first, uint64_t n,
                         XXH3_state_t *state, bool *equal)
{
    const uint64_t columns = piece->form->n[1];
    const unsigned char *want = NULL;

    for (unsigned s = 0; s < bytes->n_sides; s++) {
        struct slab *slab = slab_of(bytes, piece, s);
        struct logical_place place;
        logical_locate(piece->group, piece->form, s, piece->expert, &place);
        const uint64_t begin = place.first + first * columns, end = begin + n * columns;
        if (slab_load(&bytes->sides[s], place.tensor, begin, end, slab, bytes->report) < 0)
            return -1;
        const size_t size = slab_element_bytes(place.tensor), length = (end - begin) * size;
        const unsigned char *got = slab->bytes + (begin - slab->begin) * size;
        if (s == 0) {
            want = got;
            if (bytes->hashes)
                XXH3_128bits_update(state, got, length);
        } else {
            *equal &= memcmp(want, got, length) == 0;
        }
    }
    return 0;
}

static void show_rows(const struct bytes *bytes, const struct bytes_watcher *watcher,
                      const struct piece *piece, uint64_t first, uint64_t n)
{
    if (watcher)
        watcher->rows(watcher->context, piece->thread, piece->form, &bytes->slabs[piece->thread], first, n);
}

static uint64_t element_bytes(const struct piece *piece)
{
    return slab_element_bytes(piece->group->members[0][piece->form->at[0].form][0]);
}

static int compare_strips(const struct bytes *bytes, const struct bytes_watcher *watcher,
                          const struct piece *piece)
{
    const struct logical_form *form = piece->form;
    const uint64_t row = form->n[1] * element_bytes(piece);
    const uint64_t step = row < STRIP ? STRIP / row : 1;
    XXH3_state_t *state = XXH3_createState();
    bool equal = true;
    int result = 0;

    if (!state)
        memory_exhausted();
    XXH3_128bits_reset(state);
    for (uint64_t first = 0; first < form->n[0] && result == 0; first += step) {
        const uint64_t n = min_u64(form->n[0] - first, step);
        result = compare_strip(bytes, piece, first, n, state, &equal);
        if (result == 0)
            show_rows(bytes, watcher, piece, first, n);
    }
    digest_of(bytes, piece)->hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    return result == 0 && !equal ? compare_whole(bytes, piece) : result;
}

static int compare_piece(const struct bytes *bytes, const struct bytes_watcher *watcher,
                         const struct piece *piece)
{
    const struct logical_form *form = piece->form;
    int result;

    digest_of(bytes, piece)->hash = XXH3_128bits("", 0);
    /* biases and scales have to stay in memory for the weights */
    if (form->part == 0 && form->elements > 0 && is_strip(bytes, piece)) {
        result = compare_strips(bytes, watcher, piece);
    } else {
        result = compare_whole(bytes, piece);
        if (result == 0 && form->elements > 0)
            show_rows(bytes, watcher, piece, 0, form->n[0]);
    }
    progress_add(bytes->progress, form->elements * element_bytes(piece));
    return result;
}

/* ---- groups ---- */

struct group_work {
    const struct bytes *bytes;
    const struct logical_group *group;
    const struct bytes_watcher *watcher;
};

static int compare_expert(void *context, unsigned thread, uint64_t expert)
{
    const struct group_work *work = context;

    if (work->watcher)
        work->watcher->open(work->watcher->context, thread, expert);
    /* the weights, which need their biases and scales, behind those */
    for (unsigned weights = 0; weights < 2; weights++)
        for (unsigned f = 0; f < work->group->n_forms; f++) {
            const struct piece piece = {work->group, &work->group->forms[f], expert, thread};
            if (expert < piece.form->count && (piece.form->part == 0) == weights &&
                compare_piece(work->bytes, work->watcher, &piece) < 0)
                return -1;
        }
    if (work->watcher)
        work->watcher->close(work->watcher->context, thread);
    return 0;
}

/* As many threads as have their experts in memory together. */
static unsigned threads_for(const struct bytes *bytes, const struct logical_group *group)
{
    uint64_t size = 1;

    for (unsigned f = 0; f < group->n_forms; f++)
        size += group->forms[f].elements * 8 * bytes->n_sides;
    return (unsigned)min_u64(max_u64(MEMORY_MAX / size, 1), bytes->n_threads);
}

void bytes_begin(struct bytes *bytes)
{
    bytes->slabs = xcalloc(bytes->n_threads, sizeof *bytes->slabs);
}

void bytes_end(struct bytes *bytes)
{
    for (unsigned t = 0; t < bytes->n_threads; t++)
        slabs_free(&bytes->slabs[t]);
    free(bytes->slabs);
    bytes->slabs = NULL;
}

int bytes_compare(struct bytes *bytes, const struct logical_group *group, const struct bytes_watcher *watcher)
{
    struct group_work work = {bytes, group, watcher};

    return parallel_run(group->count, threads_for(bytes, group), compare_expert, &work);
}

/* ---- digests alone ---- */

static int hash_expert(void *context, unsigned thread, uint64_t expert)
{
    const struct group_work *work = context;
    const struct bytes *bytes = work->bytes;
    struct slabs *slabs = &bytes->slabs[thread];

    for (unsigned f = 0; f < work->group->n_forms; f++) {
        const struct piece piece = {work->group, &work->group->forms[f], expert, thread};
        struct logical_place place;
        if (expert >= piece.form->count || piece.form->elements == 0)
            continue;
        if (slab_load_form(bytes->sides, 0, work->group, piece.form->at[0].form, expert,
                           slab_of(bytes, &piece, 0), bytes->report) < 0)
            return -1;
        logical_locate(work->group, piece.form, 0, expert, &place);
        const unsigned char *want = slab_row_major_bytes(piece.form, &place, slab_of(bytes, &piece, 0),
                                                         &slabs->row_major[0], &slabs->row_major_size[0]);
        digest_of(bytes, &piece)->hash =
            XXH3_128bits(want, piece.form->elements * slab_element_bytes(place.tensor));
    }
    return 0;
}

int bytes_hash(struct bytes *bytes, const struct logical_group *group)
{
    struct group_work work = {bytes, group, NULL};

    return parallel_run(group->count, threads_for(bytes, group), hash_expert, &work);
}
