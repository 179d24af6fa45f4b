/* moefs convert: the files that a mount would show, written to a directory. */
#include "plan_rows.h"
#include "source_layers.h"

#include "fs/base/messages.h"
#include "fs/base/parallel.h"
#include "fs/convert/convert.h"
#include "fs/convert/destination.h"
#include "fs/view/tree.h"
#include "layout/base/checked.h"

#include <inttypes.h>
#include <stdlib.h>

#define CACHE_DEFAULT ((size_t)128 << 20)
#define JOBS_DEFAULT_MAX 16
#define JOBS_MAX 64

struct convert_command {
    struct plan_arguments plan;
    uint64_t jobs;
    size_t cache_size;
    bool dry_run;
    const char *src, *dst;
};

static int parse_jobs(const struct option_use *use, void *field, struct error *err)
{
    return option_parse_number(use, 1, JOBS_MAX, field, err);
}

#define FIELD(member) offsetof(struct convert_command, member)

static const struct option_row convert_rows[] = {
    {"jobs", 0, "N", parse_jobs, FIELD(jobs),
     "threads that compute and write, 1 to 64; default: one a processor, at most 16"},
    {"cache-size", 0, "SIZE", option_cache_size, FIELD(cache_size),
     "memory for computed blocks: 64M, 1G; default 128M"},
    {"dry-run", 0, NULL, option_flag, FIELD(dry_run),
     "check everything, print the files and the space that they need, and write nothing"},
    {0},
};

static unsigned count_files(const struct tree *tree)
{
    unsigned n = 0;

    for (uint64_t number = TREE_ROOT; number <= tree->n_inodes; number++)
        n += tree_get(tree, number)->kind != TREE_DIRECTORY;
    return n;
}

static void print_dry_run(const struct convert_command *options, const struct view *view,
                          const struct tree *tree, const struct destination *destination)
{
    for (uint64_t number = TREE_ROOT; number <= tree->n_inodes; number++) {
        const struct tree_inode *inode = tree_get(tree, number);
        if (inode->kind != TREE_DIRECTORY)
            messages_printf("%14" PRIu64 "  %s\n", (uint64_t)inode->stat.st_size, inode->path);
    }
    if (destination->free == DESTINATION_FREE_UNKNOWN)
        messages_printf("space: %" PRIu64 " bytes needed; the filesystem does not say what is free\n",
                        destination->needed);
    else
        messages_printf("space: %" PRIu64 " bytes needed, %" PRIu64 " free\n", destination->needed,
                        destination->free);
    messages_printf("%s: would hold %" PRIu32 " tensors, %" PRIu64
                    " bytes in %u files; nothing was written\n",
                    options->dst, view->plan.n_tensors, tree->total_size, count_files(tree));
}

static int write_tree(const struct convert_command *options, struct directory *directory, struct view *view,
                      const struct tree *tree, struct error *err)
{
    struct progress progress;
    const struct convert_options how = {
        .sync = true, .keep_modes = true, .jobs = (unsigned)options->jobs, .progress = &progress};

    if (source_layers_add(directory, false, err) < 0 || view_start(view, options->cache_size, err) < 0)
        return -1;
    progress_begin(&progress, tree->total_size);
    progress.n_files = count_files(tree);
    const int result = convert_tree(tree, options->dst, &how, err);
    progress_end(&progress);
    if (result == 0)
        messages_printf("%s: %" PRIu32 " tensors, %" PRIu64 " bytes in %u files, %.1f s\n", options->dst,
                        view->plan.n_tensors, tree->total_size, progress.n_files,
                        progress_seconds(&progress));
    return result;
}

static int convert_view(const struct convert_command *options, struct directory *directory, struct view *view,
                        struct error *err)
{
    /* an HF cache's model directory is not the snapshot that is converted */
    cleanup_free char *given = realpath(options->src, NULL);
    const char *const sources[] = {directory->path, given, NULL};
    struct destination destination;
    struct tree tree;

    messages_print_notes(&view->plan.notes);
    if (tree_build(view, 1, &tree, err) < 0)
        return -1;
    int result = destination_check(options->dst, sources, &tree, &destination, err);
    if (result == 0 && options->dry_run)
        print_dry_run(options, view, &tree, &destination);
    else if (result == 0)
        result = write_tree(options, directory, view, &tree, err);
    tree_free(&tree);
    return result;
}

static int convert_source(const struct convert_command *options, struct error *err)
{
    struct directory directory;
    struct view view;

    if (directory_open(options->src, &options->plan.directory, &directory, err) < 0)
        return -1;
    messages_print_notes(&directory.notes);
    int result = view_open(&view, &directory, &options->plan.plan, err);
    if (result == 0) {
        result = convert_view(options, &directory, &view, err);
        view_close(&view);
    }
    directory_close(&directory);
    return result;
}

static int run_convert(int argc, char **argv, struct error *err)
{
    struct convert_command options = {.jobs = min_u64(parallel_processors(), JOBS_DEFAULT_MAX),
                                      .cache_size = CACHE_DEFAULT};
    struct operands operands;
    int status = options_parse(&command_convert, argc, argv, &options, &operands, err);

    if (status == OPTIONS_GO) {
        options.src = operands.list[0];
        options.dst = operands.list[1];
        status = convert_source(&options, err) < 0 ? EXIT_REFUSED : EXIT_OK;
    }
    plan_arguments_free(&options.plan);
    return status;
}

const struct command command_convert = {
    .name = "convert",
    .purpose = "write the files that a mount would show to a directory",
    .operands = "SRC DST",
    .n_operands = 2,
    .description =
        "Writes the checkpoint in directory SRC in another expert layout to DST, which must be absent or "
        "empty: byte for byte what `cp -r` of a mount writes, without FUSE. A file has its name once it is "
        "whole and on the disk; config.json and the index come last. After a failure or a signal DST is as "
        "it was.",
    .options = (const struct option_set[]){{plan_rows, offsetof(struct convert_command, plan)},
                                           {convert_rows, 0},
                                           {0}},
    .run = run_convert,
};
