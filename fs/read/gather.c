/* Computing gathers: which runs of the source to read, and where their elements go. */
#include "gather.h"

#include "layout/base/checked.h"
#include "strided_copy.h"
#include "transpose.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

/* Bytes between two runs that are as cheap to read as to step over: a pread costs what copying some kilobytes
 * does, and a disk would be asked for the page anyway. */
#define GAP_CHEAP ((uint64_t)4 << 10)
/* Runs of at least this many bytes go to the target without passing through the scratch. */
#define RUN_DIRECT ((uint64_t)32 << 10)

/* A box, or the part of one that lies in the unit, seen from the source: rows of one outermost source stride.
 */
struct piece {
    uint32_t shard;
    uint32_t n_inner;
    uint64_t source;       /* bytes from the beginning of the shard's file */
    uint64_t target;       /* bytes from the beginning of the unit's buffer */
    struct gather_dim row; /* the dimension of the largest source stride */
    struct gather_dim inner[GATHER_DIMS_MAX];
    uint64_t span;   /* bytes of one row from its first to its last element */
    uint64_t wanted; /* bytes of one row that are elements */
};

struct job {
    struct source *source;
    unsigned char *buffer;
    unsigned char *scratch;
    unsigned element_size;
    uint32_t part, n_parts;
    uint64_t n_steps; /* so far, this part's and the others' */
};

/* Called at each step: whether it is this part's. */
static bool job_takes_step(struct job *job)
{
    return job->n_steps++ % job->n_parts == job->part;
}

/* At most n rows of elements: where it can be, a number that cuts no tile of the transpose. */
static uint64_t whole_tiles(uint64_t n, unsigned element_size)
{
    const uint64_t tile = TRANSPOSE_LINE / element_size;

    return n > tile ? n - n % tile : n;
}

uint64_t gather_unit(const struct gather *gather, uint64_t limit)
{
    const uint64_t row = gather->row;

    if (gather->length <= limit || row == 0)
        return gather->length;
    /* Of about equal length, so that the cache's memory for one fits the next. */
    const uint64_t tile = TRANSPOSE_LINE / gather->element_size, n_rows = (gather->length + row - 1) / row;
    const uint64_t most = max_u64(whole_tiles(limit / row, gather->element_size), 1);
    const uint64_t n_units = (n_rows + most - 1) / most;
    const uint64_t rows = (n_rows + n_units - 1) / n_units;
    return min_u64(min_u64((rows + tile - 1) / tile * tile, most) * row, gather->length);
}

/* Takes dims apart into the row dimension and what is inside it; those of one step vanish. */
static void piece_set_dims(struct piece *piece, const struct gather_dim *dims, uint32_t n,
                           unsigned element_size)
{
    uint64_t span = 1, wanted = 1;

    piece->row = (struct gather_dim){.n = 1, .target = 1, .source = 1};
    piece->n_inner = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct gather_dim dim = dims[i];
        if (dim.n == 1)
            continue;
        assert(dim.source > 0 && dim.target > 0);
        if (piece->row.n == 1) {
            piece->row = dim;
            continue;
        }
        if (dim.source > piece->row.source) {
            dim = piece->row;
            piece->row = dims[i];
        }
        piece->inner[piece->n_inner++] = dim;
        span += (dim.n - 1) * dim.source;
        wanted *= dim.n;
    }
    piece->span = span * element_size;
    piece->wanted = min_u64(wanted, span) * element_size;
}

/* The part of the box inside bytes [begin, end) of the interval; false where there is none. Either that is
 * the whole interval, or it is cut at multiples of row, which no inner part of a box straddles. */
static bool piece_cut(struct piece *piece, const struct gather_box *box, unsigned element_size, uint64_t row,
                      uint64_t begin, uint64_t end)
{
    struct gather_dim dims[GATHER_DIMS_MAX];
    uint64_t source = box->source, target = box->target;

    for (uint32_t i = 0; i < box->n_dims; i++)
        dims[i] = box->dims[i];
    if (box->n_dims > 0 && dims[0].target * element_size == row) {
        const uint64_t begin_row = begin / row, end_row = (end + row - 1) / row, box_row = target / row;
        const uint64_t first = begin_row > box_row ? begin_row - box_row : 0;
        const uint64_t behind = end_row > box_row ? min_u64(end_row - box_row, dims[0].n) : 0;
        if (first >= behind)
            return false;
        source += first * dims[0].source * element_size;
        target += first * row;
        dims[0].n = behind - first;
    } else if (target < begin || target >= end) {
        return false;
    }
    piece->shard = box->shard;
    piece->source = source;
    piece->target = target - begin;
    piece_set_dims(piece, dims, box->n_dims, element_size);
    return true;
}

/* Copies rows [first, first + n) of the piece; from is where the first of them begins, source_row the
 * elements from one to the next there. */
static void copy_rows(const struct job *job, const struct piece *piece, uint64_t first, uint64_t n,
                      const unsigned char *from, uint64_t source_row)
{
    struct gather_dim dims[GATHER_DIMS_MAX];
    uint32_t n_dims = 0, outer = 0, inner = 0;
    const unsigned size = job->element_size;
    unsigned char *to = job->buffer + piece->target + first * piece->row.target * size;

    if (n > 1 || piece->n_inner == 0)
        dims[n_dims++] = (struct gather_dim){.n = n, .target = piece->row.target, .source = source_row};
    for (uint32_t i = 0; i < piece->n_inner; i++)
        dims[n_dims++] = piece->inner[i];
    /* The kernel gets the dimension that is innermost in the target and the one that is so in the source;
     * where that is one and the same, the longest other one beside it. */
    for (uint32_t i = 1; i < n_dims; i++) {
        if (dims[i].target < dims[inner].target)
            inner = i;
        if (dims[i].source < dims[outer].source)
            outer = i;
    }
    if (outer == inner) {
        outer = inner == 0 && n_dims > 1 ? 1 : 0;
        for (uint32_t i = 0; i < n_dims; i++)
            if (i != inner && dims[i].n > dims[outer].n)
                outer = i;
    }
    struct gather_dim rest[2] = {{.n = 1}, {.n = 1}};
    for (uint32_t i = 0, k = 0; i < n_dims; i++)
        if (i != inner && i != outer)
            rest[k++] = dims[i];
    const struct gather_dim one = {.n = 1};
    const struct gather_dim o = outer == inner ? one : dims[outer];
    for (uint64_t a = 0; a < rest[0].n; a++)
        for (uint64_t b = 0; b < rest[1].n; b++)
            strided_copy_2d(to + (a * rest[0].target + b * rest[1].target) * size,
                            from + (a * rest[0].source + b * rest[1].source) * size, size, o.n, dims[inner].n,
                            o.target, dims[inner].target, o.source, dims[inner].source);
}

static int read_piece(struct job *job, const struct piece *piece);

/* Each row as a piece of its own. */
static int read_row_by_row(struct job *job, const struct piece *piece)
{
    for (uint64_t i = 0; i < piece->row.n; i++) {
        struct piece row = *piece;
        row.source += i * piece->row.source * job->element_size;
        row.target += i * piece->row.target * job->element_size;
        piece_set_dims(&row, piece->inner, piece->n_inner, job->element_size);
        int e = read_piece(job, &row);
        if (e)
            return e;
    }
    return 0;
}

/* Rows that are runs on both sides: straight to where they belong. */
static int read_direct(struct job *job, const struct piece *piece)
{
    for (uint64_t i = 0; i < piece->row.n; i++) {
        if (!job_takes_step(job))
            continue;
        int e = source_pread(
            job->source, piece->shard, piece->source + i * piece->row.source * job->element_size,
            job->buffer + piece->target + i * piece->row.target * job->element_size, piece->span);
        if (e)
            return e;
    }
    return 0;
}

/* Each row's span with a pread of its own, packed in the scratch. */
static int read_runs(struct job *job, const struct piece *piece)
{
    const uint64_t at_once = whole_tiles(GATHER_SCRATCH / piece->span, job->element_size);

    for (uint64_t first = 0; first < piece->row.n; first += at_once) {
        uint64_t n = min_u64(at_once, piece->row.n - first);
        const uint64_t stride = piece->row.source * job->element_size;
        if (!job_takes_step(job))
            continue;
        int e = source_pread_runs(job->source, piece->shard, piece->source + first * stride, stride, n,
                                  job->scratch, piece->span);
        if (e)
            return e;
        copy_rows(job, piece, first, n, job->scratch, piece->span / job->element_size);
    }
    return 0;
}

static bool is_run(const struct piece *piece)
{
    return piece->n_inner == 0 ||
           (piece->n_inner == 1 && piece->inner[0].target == 1 && piece->inner[0].source == 1);
}

/* Of `total` bytes, in `rows` rows, `wanted` are of use. */
static bool worth_a_strip(uint64_t wanted, uint64_t total, uint64_t rows)
{
    return wanted >= total / 2 || (total - wanted) / rows <= GAP_CHEAP;
}

/* Pieces of one shard and one source stride whose rows overlap: whole strips of rows, read once for all of
 * them. */
static int read_strips(struct job *job, const struct piece *pieces, uint32_t n, uint64_t begin, uint64_t end)
{
    const uint64_t stride = pieces[0].row.source * job->element_size;
    uint64_t widest = 0;

    for (uint32_t i = 0; i < n; i++)
        widest = max_u64(widest, (pieces[i].source - begin) % stride + pieces[i].span);
    const uint64_t at_once = whole_tiles((GATHER_SCRATCH - widest) / stride + 1, job->element_size);
    for (uint64_t first = 0; first * stride < end - begin; first += at_once) {
        uint64_t from = UINT64_MAX, to = 0;
        if (!job_takes_step(job))
            continue;
        for (int copying = 0; copying < 2; copying++) {
            for (uint32_t i = 0; i < n; i++) {
                const struct piece *piece = &pieces[i];
                const uint64_t row = (piece->source - begin) / stride;
                const uint64_t a = max_u64(first, row), b = min_u64(first + at_once, row + piece->row.n);
                if (a >= b)
                    continue;
                const uint64_t at = piece->source + (a - row) * stride;
                if (copying) {
                    copy_rows(job, piece, a - row, b - a, job->scratch + (at - from), piece->row.source);
                } else {
                    from = min_u64(from, at);
                    to = max_u64(to, at + (b - 1 - a) * stride + piece->span);
                }
            }
            if (from >= to)
                break;
            int e = copying ? 0 : source_pread(job->source, pieces[0].shard, from, job->scratch, to - from);
            if (e)
                return e;
        }
    }
    return 0;
}

/* Bytes from the piece's first to its last element. */
static uint64_t piece_extent(const struct piece *piece, unsigned element_size)
{
    return (piece->row.n - 1) * piece->row.source * element_size + piece->span;
}

static int read_piece(struct job *job, const struct piece *piece)
{
    const uint64_t extent = piece_extent(piece, job->element_size);

    if (is_run(piece) && piece->span >= RUN_DIRECT)
        return read_direct(job, piece);
    if (piece->span > GATHER_SCRATCH)
        return read_row_by_row(job, piece);
    if (worth_a_strip(piece->row.n * piece->span, extent, piece->row.n))
        return read_strips(job, piece, 1, piece->source, piece->source + extent);
    if (worth_a_strip(piece->wanted, piece->span, 1) || piece->n_inner == 0)
        return read_runs(job, piece);
    return read_row_by_row(job, piece);
}

/* Pieces that may share source rows. They are read together where that pays. */
static int read_cluster(struct job *job, const struct piece *pieces, uint32_t n, uint64_t begin, uint64_t end)
{
    const uint64_t stride = pieces[0].row.source * job->element_size;
    uint64_t wanted = 0;
    bool together = n > 1;

    for (uint32_t i = 0; i < n; i++) {
        wanted += pieces[i].row.n * pieces[i].wanted;
        if ((pieces[i].source - begin) % stride + pieces[i].span > GATHER_SCRATCH ||
            (is_run(&pieces[i]) && pieces[i].span >= RUN_DIRECT))
            together = false;
    }
    if (together && worth_a_strip(wanted, end - begin, (end - begin + stride - 1) / stride))
        return read_strips(job, pieces, n, begin, end);
    for (uint32_t i = 0; i < n; i++) {
        int e = read_piece(job, &pieces[i]);
        if (e)
            return e;
    }
    return 0;
}

static int compare_pieces(const void *left, const void *right)
{
    const struct piece *a = left, *b = right;

    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    if (a->row.source != b->row.source)
        return a->row.source < b->row.source ? -1 : 1;
    if (a->source != b->source)
        return a->source < b->source ? -1 : 1;
    return 0;
}

/* Whether elements of different steps lie between each other: the tiles then read what lies there and write
 * it back (transpose.h), which undoes what another thread writes meanwhile. */
static bool gather_interleaves(const struct plan *plan, const struct gather *gather)
{
    const struct gather_box *boxes = plan->boxes + gather->first_box;

    for (uint32_t i = 0; i < gather->n_boxes; i++)
        for (uint32_t k = 0; k < boxes[i].n_dims; k++)
            if (boxes[i].dims[k].target == TRANSPOSE_STEP_MAX && boxes[i].dims[k].n > 1)
                return true;
    return false;
}

int gather_compute(const struct plan *plan, const struct gather *gather, struct gather_share share,
                   struct source *source, void *scratch, void *buffer)
{
    const uint64_t row = gather->row, begin = share.begin, end = share.end;
    const unsigned size = gather->element_size;
    uint32_t n = 0;
    int e = 0;

    assert(begin < end && end <= gather->length && share.part < share.n_parts);
    assert((begin == 0 && end == gather->length) ||
           (row > 0 && begin % row == 0 && (end % row == 0 || end == gather->length)));
    if (share.n_parts > 1 && gather_interleaves(plan, gather)) {
        if (share.part > 0)
            return 0;
        share.n_parts = 1;
    }
    struct piece *pieces = malloc(gather->n_boxes * sizeof *pieces);
    struct job job = {source, buffer, scratch, size, share.part, share.n_parts, 0};
    if (!pieces)
        return ENOMEM;
    for (uint32_t i = 0; i < gather->n_boxes; i++)
        n += piece_cut(&pieces[n], &plan->boxes[gather->first_box + i], size, row, begin, end);
    qsort(pieces, n, sizeof *pieces, compare_pieces);
    for (uint32_t first = 0, behind; first < n && !e; first = behind) {
        const uint64_t from = pieces[first].source;
        uint64_t to = from + piece_extent(&pieces[first], size);
        for (behind = first + 1;
             behind < n && pieces[behind].shard == pieces[first].shard &&
             pieces[behind].row.source == pieces[first].row.source && pieces[behind].source < to;
             behind++)
            to = max_u64(to, pieces[behind].source + piece_extent(&pieces[behind], size));
        e = read_cluster(&job, pieces + first, behind - first, from, to);
    }
    free(pieces);
    return e;
}
