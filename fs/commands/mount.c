/* `moefs mount`: opens the view, prepares everything that can fail, and leaves a daemon behind. */
#include "fs/mount/daemon.h"
#include "layout/base/memory.h"
#include "fs/base/log.h"
#include "fs/mount/fuse_options.h"
#include "fs/mount/memory_budget.h"
#include "fs/mount/memory_limit.h"
#include "fs/base/messages.h"
#include "fs/mount/mount_point.h"
#include "fs/mount/mount_table.h"
#include "plan_rows.h"
#include "source_layers.h"
#include "fs/mount/bdi.h"
#include "fs/mount/passthrough.h"
#include "fs/mount/readahead.h"
#include "fs/read/reader.h"
#include "fs/mount/session.h"
#include "fs/view/tree.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct mount_command {
    struct plan_arguments plan;
    size_t cache_size;        /* bytes */
    size_t readahead;         /* bytes ahead of one reader; 0: off */
    size_t kernel_read_ahead; /* bytes; 0: left alone */
    bool keep_source_cache;
    bool passthrough;
    bool foreground;
    const char *log_file; /* or NULL */
    char *fuse;           /* what all -o say, joined by commas, or NULL; owned */
};

static int parse_kernel_read_ahead(const struct option_use *use, void *field, struct error *err)
{
    size_t *bytes = field;

    if (!option_parse_size(use->text, bytes))
        return option_refuse(use, err, "not a size (examples: 1M, 512K, 0)");
    if (*bytes > BDI_READ_AHEAD_MAX || *bytes % 1024 != 0)
        return option_refuse(use, err, "whole KiB, at most 1G");
    return 0;
}

static int parse_readahead(const struct option_use *use, void *field, struct error *err)
{
    size_t *bytes = field;

    *bytes = 0;
    if (strcmp(use->text, "off") == 0)
        return 0;
    if (!option_parse_size(use->text, bytes))
        return option_refuse(use, err, "neither a size (examples: 64M, 1G) nor off");
    if (*bytes < READAHEAD_MIN || *bytes > READAHEAD_MAX)
        return option_refuse(use, err, "1M to 4G, or off");
    return 0;
}

static int parse_source_cache(const struct option_use *use, void *field, struct error *err)
{
    static const char *const words[] = {"keep", "drop", NULL};
    const int word = option_parse_choice(use, words, err);

    *(bool *)field = word == 0;
    return word < 0 ? -1 : 0;
}

#define FIELD(member) offsetof(struct mount_command, member)

static const struct option_row mount_rows[] = {
    {"cache-size", 0, "SIZE", option_cache_size, FIELD(cache_size),
     "memory for computed blocks: 64M, 1G; default 256M"},
    {"source-cache", 0, "keep|drop", parse_source_cache, FIELD(keep_source_cache),
     "whether the page cache keeps what moefs reads of SRC, beside what is read of the mount; default drop"},
    {"readahead", 0, "SIZE|off", parse_readahead, FIELD(readahead),
     "how much a helper process populates ahead of each sequential reader; default 64M"},
    {"kernel-read-ahead", 0, "SIZE", parse_kernel_read_ahead, FIELD(kernel_read_ahead),
     "how far the kernel reads ahead, where moefs may set it (root); default 1M, 0 leaves it alone"},
    {"passthrough", 0, NULL, option_flag, FIELD(passthrough),
     "the kernel reads unchanged files from SRC by itself: native speed, no check for a changed source; "
     "needs root, Linux 6.9, libfuse 3.17"},
    {"foreground", 'f', NULL, option_flag, FIELD(foreground), "stay in the foreground and log to stderr"},
    {"log-file", 0, "FILE", option_text, FIELD(log_file), "append the daemon's log to FILE; default syslog"},
    {NULL, 'o', "OPTIONS", option_joined, FIELD(fuse), "mount options, e.g. allow_other, nonempty"},
    {0},
};

/* Everything that one mount needs, in the order in which it comes into being. */
struct mount {
    struct mount_command options;
    struct operands operands; /* SRC MNT */
    struct directory directory;
    struct view view;
    struct tree tree;
    struct fuse_options fuse_options;
    struct mount_point mount_point;
    struct daemon daemon;
    struct memory_budget budget;
    struct notes memory_notes; /* what the memory limit has changed */
};

static void mount_free(struct mount *mount)
{
    notes_free(&mount->memory_notes);
    mount_point_clear(&mount->mount_point);
    fuse_options_free(&mount->fuse_options);
    tree_free(&mount->tree);
    view_close(&mount->view);
    directory_close(&mount->directory);
    daemon_clear(&mount->daemon);
    plan_arguments_free(&mount->options.plan);
    free(mount->options.fuse);
}

static int choose_mount_point(struct mount *mount, struct error *err)
{
    /* an HF cache's model directory is not the snapshot that is mounted from it */
    cleanup_free char *given = realpath(mount->operands.list[0], NULL);
    const char *const sources[] = {mount->directory.path, given, NULL};

    return mount_point_choose(mount->operands.list[1], sources, mount->fuse_options.nonempty,
                              &mount->mount_point, err);
}

static void fit_memory(struct mount *mount)
{
    uint64_t weights = 0;

    for (size_t i = 0; i < mount->view.plan.n_weight_files; i++)
        weights += mount->view.plan.files[i].size;
    mount->budget = (struct memory_budget){.cache_size = mount->options.cache_size,
                                           .readahead = mount->options.readahead,
                                           .threads = memory_budget_threads()};
    memory_budget_fit(&mount->budget, memory_limit_find(""), weights, &mount->memory_notes);
}

static int prepare(struct mount *mount, struct error *err)
{
    if (mount->options.passthrough && passthrough_check(err) < 0)
        return -1;
    if (directory_open(mount->operands.list[0], &mount->options.plan.directory, &mount->directory, err) < 0)
        return -1;
    messages_print_notes(&mount->directory.notes);
    if (view_open(&mount->view, &mount->directory, &mount->options.plan.plan, err) < 0 ||
        tree_build(&mount->view, 1, &mount->tree, err) < 0)
        return -1;
    if (fuse_options_make(mount->directory.path, mount->options.fuse, &mount->fuse_options, err) < 0 ||
        choose_mount_point(mount, err) < 0)
        return -1;
    messages_print_notes(&mount->view.plan.notes);
    fit_memory(mount);
    messages_print_notes(&mount->memory_notes);
    return 0;
}

/* The kernel has made contact. */
static void become_ready(void *context)
{
    struct mount *mount = context;

    log_line(LOG_LEVEL_INFO, "%s: mounted at %s", mount->directory.path, mount->mount_point.name);
    if (daemon_report_ready(&mount->daemon) < 0) {
        log_line(LOG_LEVEL_WARNING, "%s: the caller did not wait for the mount: taking it down",
                 mount->mount_point.name);
        kill(getpid(), SIGTERM);
    }
}

/* To be called before any descriptor is opened that the helper must not inherit. NULL: off, and the log says why. */
static struct readahead *start_readahead(struct mount *mount)
{
    struct error err = {0};

    if (!mount->options.foreground) /* in the foreground they were printed where the log goes */
        for (size_t i = 0; i < mount->memory_notes.n; i++)
            log_line(LOG_LEVEL_WARNING, "%s", mount->memory_notes.list[i].text);
    if (mount->budget.readahead == 0)
        return NULL;
    if (mount->mount_point.descriptor >= 0) {
        log_line(LOG_LEVEL_INFO, "read-ahead is off: a mount given as %s has no path",
                 mount->mount_point.name);
        return NULL;
    }
    struct readahead *readahead =
        readahead_new(&mount->tree, mount->mount_point.name, mount->budget.readahead, &err);
    if (!readahead)
        log_line(LOG_LEVEL_WARNING, "%s: read-ahead is off: %s", mount->mount_point.name, err.text);
    error_free(&err);
    return readahead;
}

static int serve(struct mount *mount, struct error *err)
{
    struct session *session = NULL;
    int result = -1;
    struct readahead *readahead = start_readahead(mount);
    const struct session_options options = {
        .readahead = readahead,
        .fuse = &mount->fuse_options,
        .threads = mount->budget.threads,
        .kernel_read_ahead = mount->options.kernel_read_ahead,
        .passthrough = mount->options.passthrough ? mount->directory.source->n_files : 0};

    if (source_layers_add(&mount->directory, mount->options.keep_source_cache, err) < 0 ||
        view_start(&mount->view, mount->budget.cache_size, err) < 0)
        goto out;
    session = session_new(&mount->tree, &options, err);
    if (!session || session_mount(session, &mount->mount_point, err) < 0)
        goto out;
    result = session_serve(session, become_ready, mount, err);
    log_line(LOG_LEVEL_INFO, "%s: no longer mounted", mount->mount_point.name);
out:
    session_free(session);
    readahead_free(readahead);
    return result;
}

/* In the daemon's process, or in the foreground. */
static int run_daemon(struct mount *mount, struct error *err)
{
    if (serve(mount, err) == 0)
        return EXIT_OK;
    if (mount->daemon.report >= 0) {
        daemon_report_failure(&mount->daemon, err);
    } else if (!mount->options.foreground) {
        log_line(LOG_LEVEL_ERROR, "%s", err->text ? err->text : "failed without a message");
        error_free(err);
    }
    return EXIT_REFUSED;
}

/* In the parent: the mount is there; does it answer, and is it still there when it has? */
static int confirm(const struct mount *mount, struct error *err)
{
    const char *name = mount->mount_point.name;
    struct statvfs answer;
    struct mount_entry entry;

    if (mount->mount_point.descriptor >= 0)
        return EXIT_OK;
    if (statvfs(name, &answer) < 0) {
        error_set(err, "%s: mounted, but it does not answer: %s", name, strerror(errno));
        kill(mount->daemon.pid, SIGTERM);
        return EXIT_REFUSED;
    }
    const int found = mount_table_find(name, &entry, err);
    const bool is_ours = found > 0 && strcmp(entry.type, MOUNT_TABLE_MOEFS) == 0;
    if (found >= 0 && !is_ours)
        error_set(err, "%s: the mount has ended right after it was made; the log says why", name);
    mount_entry_clear(&entry);
    return is_ours ? EXIT_OK : EXIT_REFUSED;
}

static int run(struct mount *mount, struct error *err)
{
    if (daemon_init(&mount->daemon, err) < 0 || prepare(mount, err) < 0 ||
        daemon_open_log(&mount->daemon, mount->options.log_file, mount->options.foreground, err) < 0)
        return EXIT_REFUSED;
    if (mount->options.foreground)
        return run_daemon(mount, err);
    switch (daemon_fork(&mount->daemon, mount->mount_point.descriptor, err)) {
    case DAEMON_CHILD:
        return run_daemon(mount, err);
    case DAEMON_PARENT:
        return confirm(mount, err);
    case DAEMON_FAILED:
        break;
    }
    return EXIT_REFUSED;
}

static int run_mount(int argc, char **argv, struct error *err)
{
    struct mount mount = {.mount_point = {.descriptor = -1},
                          .options = {.cache_size = READER_CACHE_DEFAULT,
                                      .readahead = READAHEAD_DEFAULT,
                                      .kernel_read_ahead = BDI_READ_AHEAD_DEFAULT}};
    int status = options_parse(&command_mount, argc, argv, &mount.options, &mount.operands, err);

    if (status == OPTIONS_GO)
        status = run(&mount, err);
    mount_free(&mount);
    return status;
}

const struct command command_mount = {
    .name = "mount",
    .purpose = "mount a checkpoint in another expert layout",
    .operands = "SRC MNT",
    .n_operands = 2,
    .description =
        "Mounts the checkpoint in directory SRC, read-only and in another expert layout, at the empty "
        "directory MNT (or /dev/fd/N: a /dev/fuse that the caller has opened and mounted). Returns "
        "when the mount answers; `moefs umount MNT` or SIGTERM to the daemon ends it.",
    .options =
        (const struct option_set[]){{plan_rows, offsetof(struct mount_command, plan)}, {mount_rows, 0}, {0}},
    .run = run_mount,
};
