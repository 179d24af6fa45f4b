/* Writing a tree file by file. */
#include "convert.h"

#include "output.h"

#include "layout/base/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#define BUFFER_SIZE ((size_t)8 << 20)

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
#define N_SIGNALS (sizeof signals / sizeof *signals)

static volatile sig_atomic_t interrupted;

/* What was written must be removed: only a flag is set here. */
static void note_signal(int number)
{
    interrupted = number;
}

static void catch_signals(struct sigaction before[N_SIGNALS])
{
    const struct sigaction action = {.sa_handler = note_signal};

    interrupted = 0;
    for (size_t i = 0; i < N_SIGNALS; i++)
        sigaction(signals[i], &action, &before[i]);
}

static void leave_signals(const struct sigaction before[N_SIGNALS])
{
    for (size_t i = 0; i < N_SIGNALS; i++)
        sigaction(signals[i], &before[i], NULL);
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

/* Bytes [offset, offset + length) of the file. */
static int write_range(const struct tree_inode *inode, struct output_file *file, uint64_t offset,
                       size_t length, void *buffer, struct error *err)
{
    const char *path = file->output->path;
    struct reader_loan loan;

    if (interrupted)
        return error_set(err, "interrupted: %s is left as it was", path);
    const int error = tree_read(inode, offset, length, buffer, &loan);
    if (error)
        return error_set(err, "%s/%s: cannot compute bytes %" PRIu64 " to %" PRIu64 ": %s", path, file->name,
                         offset, offset + length, strerror(error));
    const int result = output_write(file, offset, loan.bytes, length, err);
    reader_take_back(&loan);
    return result;
}

static int write_file(struct output *output, const struct tree_inode *inode, bool sparse, void *buffer,
                      struct error *err)
{
    const uint64_t size = (uint64_t)inode->stat.st_size, length = sparse ? head_length(inode) : size;
    struct output_file file;
    int result = 0;

    if (output_begin(output, inode->path, &file, err) < 0)
        return -1;
    for (uint64_t at = 0; at < length && result == 0; at += BUFFER_SIZE)
        result = write_range(inode, &file, at, min_u64(length - at, BUFFER_SIZE), buffer, err);
    if (result == 0 && length < size)
        result = output_set_size(&file, size, err);
    if (result == 0)
        return output_finish(&file, err);
    output_abandon(&file);
    return -1;
}

/* Directories come before what is in them. */
static int write_inodes(struct output *output, const struct tree *tree, bool sparse, struct error *err)
{
    cleanup_free void *buffer = xmalloc(BUFFER_SIZE);
    int result = 0;

    for (uint64_t number = TREE_ROOT + 1; number <= tree->n_inodes && result == 0; number++) {
        const struct tree_inode *inode = tree_get(tree, number);
        result = inode->kind == TREE_DIRECTORY ? output_make_directory(output, inode->path, err)
                                               : write_file(output, inode, sparse, buffer, err);
    }
    return result;
}

int convert_tree(const struct tree *tree, const char *path, const struct convert_options *options,
                 struct error *err)
{
    struct sigaction before[N_SIGNALS];
    struct output output;

    catch_signals(before);
    int result = output_open(path, &output, err);
    if (result == 0) {
        result = write_inodes(&output, tree, options->sparse, err);
        output_close(&output, result < 0);
    }
    leave_signals(before);
    return result;
}
