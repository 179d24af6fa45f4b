/* Writing a tree: pieces of its files, by several threads. */
#include "convert.h"

#include "output.h"

#include "fs/base/parallel.h"
#include "layout/base/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define PIECE ((size_t)4 << 20)

/* A file of the tree. Its first piece begins it, and the last one that is written gives it its name. */
struct item {
    const struct tree_inode *inode;
    uint64_t size, length; /* length: what is written of it; the rest is a hole */
    uint64_t first_piece;
    atomic_uint_least64_t pieces_left;
    bool open; /* output_file is; under the conversion's lock until all pieces are written */
    struct output_file output_file;
};

struct conversion {
    const struct tree *tree;
    const struct convert_options *options;
    struct output output;
    struct item *items; /* what makes a directory a checkpoint, its index and config.json, last */
    uint32_t n_items, n_first;
    void **buffers;       /* a thread's own */
    pthread_mutex_t lock; /* guards what follows */
    struct error *err;    /* the first one */
    bool failed;
};

/* Items that are written at once. */
struct phase {
    struct conversion *conversion;
    struct item *items;
    uint32_t n;
};

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
#define N_SIGNALS (sizeof signals / sizeof *signals)

static atomic_int interrupted; /* lock-free, so a handler may set it; every thread reads it */

/* What was written must be removed: only a flag is set here. */
static void note_signal(int number)
{
    interrupted = number;
}

/* A limit on the size of files (ulimit -f) is to be an error of write(): its signal would leave files behind. */
static void catch_signals(struct sigaction before[N_SIGNALS], struct sigaction *size_before)
{
    const struct sigaction action = {.sa_handler = note_signal}, ignore = {.sa_handler = SIG_IGN};

    interrupted = 0;
    for (size_t i = 0; i < N_SIGNALS; i++) {
        sigaction(signals[i], &action, &before[i]);
        if (signals[i] == SIGHUP && before[i].sa_handler == SIG_IGN) /* nohup */
            sigaction(signals[i], &before[i], NULL);
    }
    sigaction(SIGXFSZ, &ignore, size_before);
}

static void leave_signals(const struct sigaction before[N_SIGNALS], const struct sigaction *size_before)
{
    for (size_t i = 0; i < N_SIGNALS; i++)
        sigaction(signals[i], &before[i], NULL);
    sigaction(SIGXFSZ, size_before, NULL);
}

/* The bytes of a file that a sparse output has: all but the tensors. */
static uint64_t head_length(const struct tree_inode *inode)
{
    const struct checkpoint *checkpoint = &inode->view->directory->checkpoint;
    const uint64_t size = (uint64_t)inode->stat.st_size;

    if (inode->kind != TREE_PLANNED)
        return size;
    const struct planned_file *file = &inode->view->plan.files[inode->file];
    if (file->verbatim_shard == PLAN_NO_SHARD)
        return file->head_length;
    const struct shard *shard = &checkpoint->shards[file->verbatim_shard];
    return shard->n_tensors > 0 ? checkpoint->tensors[shard->first_tensor].offset : size;
}

/* Keeps the first error: those that follow are often its consequences. Always returns -1. */
static int fail(struct conversion *conversion, struct error *err)
{
    pthread_mutex_lock(&conversion->lock);
    if (conversion->failed)
        error_free(err);
    else
        *conversion->err = *err;
    conversion->failed = true;
    pthread_mutex_unlock(&conversion->lock);
    return -1;
}

static int begin_item(struct conversion *conversion, struct item *item, struct error *err)
{
    const mode_t mode = conversion->options->keep_modes ? item->inode->stat.st_mode & 0777 : 0666;
    int result = 0;

    pthread_mutex_lock(&conversion->lock);
    if (!item->open) {
        result = output_begin(&conversion->output, item->inode->path, mode, &item->output_file, err);
        item->open = result == 0;
    }
    pthread_mutex_unlock(&conversion->lock);
    return result;
}

static int finish_item(struct conversion *conversion, struct item *item, struct error *err)
{
    if (item->length < item->size && output_set_size(&item->output_file, item->size, err) < 0)
        return -1;
    item->open = false; /* output_finish() abandons what it cannot finish */
    if (output_finish(&item->output_file, err) < 0)
        return -1;
    if (conversion->options->progress)
        progress_add_file(conversion->options->progress);
    return 0;
}

/* Bytes [offset, offset + length) of the file. */
static int write_range(const struct item *item, struct output_file *file, uint64_t offset, size_t length,
                       void *buffer, struct error *err)
{
    const char *path = file->output->path;
    struct reader_loan loan;

    if (length == 0)
        return 0;
    const int error = tree_read(item->inode, offset, length, buffer, &loan);
    if (error)
        return error_set(err, "%s/%s: cannot compute bytes %" PRIu64 " to %" PRIu64 ": %s", path, file->name,
                         offset, offset + length, strerror(error));
    const int result = output_write(file, offset, loan.bytes, length, err);
    reader_take_back(&loan);
    return result;
}

/* The item that the piece is of. */
static struct item *find_item(const struct phase *phase, uint64_t piece)
{
    uint32_t low = 0, high = phase->n;

    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (phase->items[middle].first_piece <= piece)
            low = middle;
        else
            high = middle;
    }
    return &phase->items[low];
}

static int write_piece(void *context, unsigned thread, uint64_t piece)
{
    const struct phase *phase = context;
    struct conversion *conversion = phase->conversion;
    struct item *item = find_item(phase, piece);
    const uint64_t offset = (piece - item->first_piece) * PIECE;
    const size_t length = (size_t)min_u64(item->length - offset, PIECE);
    struct error err = {0};

    if (interrupted) {
        error_set(&err, "interrupted: %s is left as it was", conversion->output.path);
        return fail(conversion, &err);
    }
    if (begin_item(conversion, item, &err) < 0 ||
        write_range(item, &item->output_file, offset, length, conversion->buffers[thread], &err) < 0)
        return fail(conversion, &err);
    if (conversion->options->progress)
        progress_add(conversion->options->progress, length);
    if (atomic_fetch_sub(&item->pieces_left, 1) == 1 && finish_item(conversion, item, &err) < 0)
        return fail(conversion, &err);
    return 0;
}

/* Writes items [begin, end). */
static int write_items(struct conversion *conversion, uint32_t begin, uint32_t end, unsigned jobs)
{
    struct phase phase = {.conversion = conversion, .items = conversion->items + begin, .n = end - begin};
    struct error err = {0};
    uint64_t n_pieces = 0;

    for (uint32_t i = 0; i < phase.n; i++) {
        struct item *item = &phase.items[i];
        const uint64_t pieces = max_u64(1, item->length / PIECE + (item->length % PIECE != 0));
        item->first_piece = n_pieces;
        atomic_init(&item->pieces_left, pieces);
        n_pieces += pieces;
    }
    const int result = parallel_run(n_pieces, jobs, write_piece, &phase);
    for (uint32_t i = 0; i < phase.n; i++)
        if (phase.items[i].open)
            output_abandon(&phase.items[i].output_file);
    if (result == 0 && output_sync_names(&conversion->output, &err) < 0)
        return fail(conversion, &err);
    return result;
}

/* Without them no loader takes the directory for a checkpoint. */
static bool comes_last(const struct tree_inode *inode)
{
    return strcmp(inode->name, "config.json") == 0 ||
           (inode->kind == TREE_PLANNED && inode->file >= inode->view->plan.n_weight_files);
}

static void list_items(struct conversion *conversion)
{
    const struct tree *tree = conversion->tree;

    conversion->items = xcalloc(tree->n_inodes, sizeof *conversion->items);
    for (int last = 0; last < 2; last++) {
        for (uint64_t number = TREE_ROOT + 1; number <= tree->n_inodes; number++) {
            const struct tree_inode *inode = tree_get(tree, number);
            const uint64_t size = (uint64_t)inode->stat.st_size;
            if (inode->kind == TREE_DIRECTORY || comes_last(inode) != (bool)last)
                continue;
            struct item *item = &conversion->items[conversion->n_items++];
            item->inode = inode;
            item->size = size;
            item->length = conversion->options->sparse ? head_length(inode) : size;
        }
        if (!last)
            conversion->n_first = conversion->n_items;
    }
}

/* Directories come before what is in them. */
static int make_directories(struct conversion *conversion)
{
    struct error err = {0};

    for (uint64_t number = TREE_ROOT + 1; number <= conversion->tree->n_inodes; number++) {
        const struct tree_inode *inode = tree_get(conversion->tree, number);
        const mode_t mode = conversion->options->keep_modes ? inode->stat.st_mode & 0777 : 0777;
        if (inode->kind == TREE_DIRECTORY &&
            output_make_directory(&conversion->output, inode->path, mode, &err) < 0)
            return fail(conversion, &err);
    }
    return 0;
}

static int write_all(struct conversion *conversion)
{
    const unsigned jobs = conversion->options->jobs > 0 ? conversion->options->jobs : 1;

    list_items(conversion);
    conversion->buffers = xcalloc(jobs, sizeof *conversion->buffers);
    for (unsigned i = 0; i < jobs; i++)
        conversion->buffers[i] = xmalloc(PIECE);
    int result = make_directories(conversion);
    if (result == 0)
        result = write_items(conversion, 0, conversion->n_first, jobs);
    /* one after another: each is small */
    for (uint32_t i = conversion->n_first; i < conversion->n_items && result == 0; i++)
        result = write_items(conversion, i, i + 1, 1);
    for (unsigned i = 0; i < jobs; i++)
        free(conversion->buffers[i]);
    free(conversion->buffers);
    free(conversion->items);
    return result;
}

int convert_tree(const struct tree *tree, const char *path, const struct convert_options *options,
                 struct error *err)
{
    const mode_t mode = options->keep_modes ? tree_get(tree, TREE_ROOT)->stat.st_mode & 0777 : 0777;
    struct conversion conversion = {.tree = tree, .options = options, .err = err};
    struct sigaction before[N_SIGNALS], size_before;

    catch_signals(before, &size_before);
    int result = output_open(path, mode, options->sync, &conversion.output, err);
    if (result == 0) {
        pthread_mutex_init(&conversion.lock, NULL);
        result = write_all(&conversion);
        output_close(&conversion.output, result != 0);
        pthread_mutex_destroy(&conversion.lock);
    }
    leave_signals(before, &size_before);
    return result;
}
