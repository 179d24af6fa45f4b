/* From a path to a listing and its open files. */
#include "local.h"

#include "files.h"
#include "regular_file.h"
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

#define CONFIG_NAME "config.json"
#define SHA256_DIGITS 64

/* Every file is held open: a checkpoint of some hundred shards passes the usual soft limit of 1024. Where it
 * cannot be raised, opening says so. */
static void raise_open_files_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A directory without config.json is refused before it is scanned: it may be a whole disk. */
static int check_is_checkpoint(const struct snapshot *snapshot, struct error *err)
{
    struct stat stat_buffer;

    if (fstatat(snapshot->fd, CONFIG_NAME, &stat_buffer, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    if (errno == ENOENT)
        return error_set(err, "%s has no " CONFIG_NAME ": it is not a Hugging Face checkpoint",
                         snapshot->path);
    const int error = errno;
    cleanup_free char *path = xasprintf("%s/" CONFIG_NAME, snapshot->path);
    errno = error;
    return regular_file_error(err, path, "cannot be looked at", errno);
}

static bool is_private(const struct listed *listed)
{
    return listed->kind == LISTED_PRIVATE;
}

static bool is_loop(const struct listed *listed)
{
    return listed->kind == LISTED_LOOP;
}

static bool is_special(const struct listed *listed)
{
    return listed->kind == LISTED_SPECIAL;
}

static bool is_dangling(const struct listed *listed)
{
    return listed->kind == LISTED_DANGLING;
}

static bool is_outside(const struct listed *listed)
{
    return listed->kind == LISTED_OUTSIDE;
}

static bool is_denied(const struct listed *listed)
{
    return listed->kind == LISTED_DENIED;
}

/* Top level only: what a downloader leaves below SRC is in .cache, which is not shown. */
static bool is_incomplete(const struct listed *listed)
{
    return listed->kind == LISTED_FILE && listing_is_top(listed) &&
           listing_ends_with(listed->info.path, ".incomplete");
}

static int check_names(const struct listing *listing, const struct snapshot *snapshot, struct error *err)
{
    cleanup_free char *dangling = listing_names(listing, is_dangling);
    cleanup_free char *incomplete = listing_names(listing, is_incomplete);
    cleanup_free char *outside = listing_names(listing, is_outside);
    cleanup_free char *denied = listing_names(listing, is_denied);

    if (dangling)
        return error_set(
            err,
            "download incomplete: links in %s whose files are missing: %s (finish the download, or hide them "
            "with --exclude)",
            snapshot->path, dangling);
    if (incomplete)
        return error_set(
            err,
            "download incomplete: unfinished files in %s: %s (finish the download, or hide them with "
            "--exclude)",
            snapshot->path, incomplete);
    if (outside)
        return error_set(
            err, "links that lead out of %s%s: %s (--follow-symlinks allows them, --exclude hides them)",
            snapshot->path, snapshot->blobs ? " and its cache's blobs/" : "", outside);
    if (denied)
        return regular_file_error(err, denied, "cannot be followed", EACCES);
    return 0;
}

static void note_names(struct listing *listing)
{
    struct notes *notes = &listing->notes;
    cleanup_free char *private = listing_names(listing, is_private);
    cleanup_free char *loops = listing_names(listing, is_loop);
    cleanup_free char *special = listing_names(listing, is_special);

    if (private)
        notes_add(notes, NOTE_INFO, "not shown: %s", private);
    if (loops)
        notes_add(notes, NOTE_WARNING, "not shown, links that lead back to themselves: %s", loops);
    if (special)
        notes_add(notes, NOTE_WARNING, "not shown, neither a file nor a directory: %s", special);
}

/* The sha256 that a file's real name promises: a blob that came through LFS into a Hugging Face cache. NULL
 * for others. */
static const char *promised_digest(const char *real)
{
    const char *name = strrchr(real, '/');
    static const char folder[] = "/blobs";
    const size_t length = strlen(folder);

    if (!name || (size_t)(name - real) < length || strncmp(name - length, folder, length) != 0)
        return NULL;
    name++;
    return strlen(name) == SHA256_DIGITS && strspn(name, "0123456789abcdef") == SHA256_DIGITS ? name : NULL;
}

static struct source_info info_of(const char *path, const struct stat *stat)
{
    return (struct source_info){.path = path,
                                .size = (uint64_t)stat->st_size,
                                .mtime = stat->st_mtim,
                                .uid = stat->st_uid,
                                .gid = stat->st_gid,
                                .mode = stat->st_mode};
}

/* What the scan found, numbering its files in the order of their paths. */
static void list_found(const struct scan *scan, struct listing *listing)
{
    struct listed *list = xcalloc(scan->n, sizeof *list);
    uint32_t n_files = 0;

    for (size_t i = 0; i < scan->n; i++) {
        const struct found *found = &scan->list[i];
        list[i] = (struct listed){.info = info_of(found->path, &found->name->stat), .kind = found->kind};
        if (found->kind == LISTED_FILE)
            list[i].file = n_files++;
    }
    listing->list = list;
    listing->n = scan->n;
}

static struct source *open_found(const struct scan *scan, const char *directory, struct error *err)
{
    cleanup_free struct files_target *targets = xcalloc(scan->n, sizeof *targets);
    uint32_t n = 0;

    for (size_t i = 0; i < scan->n; i++) {
        const struct found *found = &scan->list[i];
        if (found->kind == LISTED_FILE)
            targets[n++] = (struct files_target){.path = found->path,
                                                 .root = found->name->place.root,
                                                 .target = found->name->place.path,
                                                 .sha256 = promised_digest(found->name->real),
                                                 .stat = found->name->stat};
    }
    return source_files_open(directory, targets, n, err);
}

struct source *local_open(const char *src, const struct scan_options *options, struct listing *listing,
                          struct error *err)
{
    struct snapshot snapshot;
    struct scan scan = {0};
    struct source *source = NULL;

    *listing = (struct listing){0};
    raise_open_files_limit();
    if (snapshot_resolve(src, &listing->arena, &snapshot, err) < 0) {
        listing_free(listing);
        return NULL;
    }
    if (check_is_checkpoint(&snapshot, err) < 0 ||
        scan_read(&snapshot, options, &listing->arena, &scan, &listing->notes, err) < 0)
        goto out;
    listing->top = info_of(snapshot.path, &snapshot.stat);
    list_found(&scan, listing);
    if (check_names(listing, &snapshot, err) < 0)
        goto out;
    note_names(listing);
    source = open_found(&scan, snapshot.path, err);
out:
    scan_free(&scan);
    snapshot_close(&snapshot);
    if (!source)
        listing_free(listing);
    return source;
}
