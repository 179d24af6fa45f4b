/* Resolving SRC, which may be a model's folder in a Hugging Face cache. */
#include "snapshot.h"

#include "beneath.h"
#include "regular_file.h"

#include "layout/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <utarray.h>

#define REVISION_MAX 1024 /* bytes of refs/main; a revision has 40 */

static bool is_directory_at(int directory, const char *name)
{
    struct stat stat_buffer;

    return fstatat(directory, name, &stat_buffer, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(stat_buffer.st_mode);
}

static bool exists_at(int directory, const char *name)
{
    struct stat stat_buffer;

    return fstatat(directory, name, &stat_buffer, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool is_cache_repository(int directory)
{
    return !exists_at(directory, "config.json") && exists_at(directory, "snapshots") &&
           (is_directory_at(directory, "refs") || exists_at(directory, "blobs"));
}

/* The revision in refs/main, malloc'd; NULL where there is none that could be a directory's name. */
static char *read_main_revision(int repository)
{
    char text[REVISION_MAX + 1];
    struct stat stat_buffer;

    int fd = beneath_open(repository, "refs/main", O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    ssize_t length = -1;
    if (fstat(fd, &stat_buffer) == 0 && S_ISREG(stat_buffer.st_mode))
        length = read(fd, text, REVISION_MAX);
    close(fd);
    if (length <= 0)
        return NULL;
    text[length] = '\0';
    text[strcspn(text, " \t\r\n")] = '\0';
    if (!*text || strchr(text, '/') || strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
        return NULL;
    return xstrdup(text);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* One line for each snapshot of the repository, added to the error. */
static void add_snapshots(int repository, const char *path, struct error *err)
{
    UT_array *names;

    const int fd = beneath_open(repository, "snapshots", O_RDONLY | O_DIRECTORY);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (!stream) {
        error_add(err, "  (%s/snapshots: %s)", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return;
    }
    utarray_new(names, &ut_str_icd);
    for (const struct dirent *entry; (entry = readdir(stream));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && is_directory_at(fd, name))
            utarray_push_back(names, &name);
    }
    closedir(stream);
    if (utarray_len(names) > 0)
        utarray_sort(names, compare_names);
    else
        error_add(err, "  (there is none: download incomplete)");
    for (unsigned i = 0; i < utarray_len(names); i++)
        error_add(err, "  %s/snapshots/%s", path, *(char **)utarray_eltptr(names, i));
    utarray_free(names);
}

/* The directory that the revision names, opened, or -1 with *err set. */
static int open_revision(int repository, const char *path, const char *revision, struct error *err)
{
    cleanup_free char *name = xasprintf("snapshots/%s", revision);
    const int fd = beneath_open(repository, name, O_PATH | O_DIRECTORY);

    if (fd < 0 && errno == ENOENT) {
        error_set(err,
                  "%s is a model's folder in a Hugging Face cache, and refs/main names snapshot %s, which is "
                  "not there; choose one of:",
                  path, revision);
        add_snapshots(repository, path, err);
    } else if (fd < 0 && (errno == ELOOP || errno == ENOTDIR)) {
        error_set(err,
                  "%s/%s is a symbolic link or no directory: moefs follows none inside a cache; name the "
                  "directory that holds config.json and the weights",
                  path, name);
    } else if (fd < 0) {
        cleanup_free char *full = xasprintf("%s/%s", path, name);
        regular_file_error(err, full, "cannot be reached", errno);
    }
    return fd;
}

/* From a cache's model folder to the snapshot that it stands for: *path, malloc'd, and the descriptor change.
 */
static int choose_snapshot(char **path, int *fd, struct error *err)
{
    cleanup_free char *revision = read_main_revision(*fd);

    if (!revision) {
        error_set(
            err, "%s is a model's folder in a Hugging Face cache without a refs/main; choose one of:", *path);
        add_snapshots(*fd, *path, err);
        return -1;
    }
    const int chosen = open_revision(*fd, *path, revision, err);
    if (chosen < 0)
        return -1;
    char *full = xasprintf("%s/snapshots/%s", *path, revision);
    free(*path);
    close(*fd);
    *path = full;
    *fd = chosen;
    return 0;
}

/* Opens the blobs/ of the cache that the snapshot lies in: its path is <repo>/snapshots/<revision> or below
 * it. Only a directory of that very name counts. */
static void find_blobs(struct snapshot *snapshot, struct arena *arena)
{
    static const char marker[] = "/snapshots/";

    for (size_t at = strlen(snapshot->path); at-- > 0;) {
        if (strncmp(snapshot->path + at, marker, strlen(marker)) != 0)
            continue;
        cleanup_free char *blobs = xasprintf("%.*s/blobs", (int)at, snapshot->path);
        snapshot->blobs_fd = beneath_open(snapshot->top_fd, blobs + 1, O_PATH | O_DIRECTORY);
        if (snapshot->blobs_fd >= 0) {
            snapshot->blobs = arena_strdup(arena, blobs);
            return;
        }
    }
}

int snapshot_resolve(const char *src, struct arena *arena, struct snapshot *snapshot, struct error *err)
{
    cleanup_free char *path = realpath(src, NULL);

    *snapshot = (struct snapshot){.fd = -1, .blobs_fd = -1, .top_fd = -1};
    if (!path)
        return regular_file_error(err, src, "cannot be reached", errno);
    snapshot->top_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (snapshot->top_fd < 0)
        return regular_file_error(err, "/", "cannot be opened", errno);
    snapshot->fd = beneath_open(snapshot->top_fd, path + 1, O_PATH | O_DIRECTORY);
    if (snapshot->fd < 0 && errno == ENOTDIR) {
        error_set(err,
                  "%s is not a directory: moefs takes the directory that holds config.json and the weights",
                  src);
        goto fail;
    }
    if (snapshot->fd < 0) {
        regular_file_error(err, src, "cannot be reached", errno);
        goto fail;
    }
    if (is_cache_repository(snapshot->fd) && choose_snapshot(&path, &snapshot->fd, err) < 0)
        goto fail;
    if (fstat(snapshot->fd, &snapshot->stat) < 0) {
        regular_file_error(err, path, "cannot be reached", errno);
        goto fail;
    }
    snapshot->path = arena_strdup(arena, path);
    find_blobs(snapshot, arena);
    return 0;
fail:
    snapshot_close(snapshot);
    return -1;
}

static void close_if_open(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void snapshot_close(struct snapshot *snapshot)
{
    close_if_open(&snapshot->fd);
    close_if_open(&snapshot->blobs_fd);
    close_if_open(&snapshot->top_fd);
}

/* What of the path lies below the directory, relative to it, or NULL. */
static const char *path_below(const char *directory, const char *path)
{
    const char *below = text_path_below(path, directory);

    return below && *below == '/' ? below + 1 : below;
}

bool snapshot_place(const struct snapshot *snapshot, const char *path, bool anywhere,
                    struct snapshot_place *place)
{
    *place = (struct snapshot_place){snapshot->fd, path_below(snapshot->path, path)};
    if (!place->path && snapshot->blobs)
        *place = (struct snapshot_place){snapshot->blobs_fd, path_below(snapshot->blobs, path)};
    if (!place->path && anywhere)
        *place = (struct snapshot_place){snapshot->top_fd, path + 1};
    return place->path != NULL;
}
