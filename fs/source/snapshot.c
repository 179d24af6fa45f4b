#include "snapshot.h"

#include "regular_file.h"
#include "layout/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <utarray.h>

#define REVISION_MAX 1024 /* bytes of refs/main; a revision has 40 */

static bool is_directory_at(const char *path, const char *name)
{
    cleanup_free char *full = xasprintf("%s/%s", path, name);
    struct stat stat_buffer;

    return !stat(full, &stat_buffer) && S_ISDIR(stat_buffer.st_mode);
}

static bool exists_at(const char *path, const char *name)
{
    cleanup_free char *full = xasprintf("%s/%s", path, name);
    struct stat stat_buffer;

    return !lstat(full, &stat_buffer);
}

static bool is_cache_repository(const char *path)
{
    return !exists_at(path, "config.json") && is_directory_at(path, "snapshots") &&
           (is_directory_at(path, "refs") || is_directory_at(path, "blobs"));
}

/* The revision in refs/main, malloc'd; NULL where there is none that could be a directory's name. */
static char *read_main_revision(const char *repository)
{
    cleanup_free char *path = xasprintf("%s/refs/main", repository);
    char text[REVISION_MAX + 1];
    struct stat stat_buffer;

    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    ssize_t length = -1;
    if (!fstat(fd, &stat_buffer) && S_ISREG(stat_buffer.st_mode))
        length = read(fd, text, REVISION_MAX);
    close(fd);
    if (length <= 0)
        return NULL;
    text[length] = '\0';
    text[strcspn(text, " \t\r\n")] = '\0';
    if (!*text || strchr(text, '/') || !strcmp(text, ".") || !strcmp(text, ".."))
        return NULL;
    return xstrdup(text);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* One line for each snapshot of the repository, added to the error. */
static void add_snapshots(const char *repository, struct error *err)
{
    cleanup_free char *path = xasprintf("%s/snapshots", repository);
    UT_array *names;
    DIR *stream = opendir(path);

    if (!stream) {
        error_add(err, "  (%s: %s)", path, strerror(errno));
        return;
    }
    utarray_new(names, &ut_str_icd);
    for (const struct dirent *entry; (entry = readdir(stream));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") && strcmp(name, "..") && is_directory_at(path, name))
            utarray_push_back(names, &name);
    }
    closedir(stream);
    utarray_sort(names, compare_names);
    for (unsigned i = 0; i < utarray_len(names); i++)
        error_add(err, "  %s/%s", path, *(char **)utarray_eltptr(names, i));
    if (!utarray_len(names))
        error_add(err, "  (there is none: download incomplete)");
    utarray_free(names);
}

/* The snapshot that a cache's model folder stands for, malloc'd. */
static char *choose_snapshot(const char *repository, struct error *err)
{
    cleanup_free char *revision = read_main_revision(repository);

    if (revision) {
        char *path = xasprintf("%s/snapshots/%s", repository, revision);
        char *real = realpath(path, NULL);
        free(path);
        if (real)
            return real;
        error_set(
            err,
            "%s is a model's folder in a Hugging Face cache, and refs/main names snapshot %s, which is not "
            "there; choose one of:",
            repository, revision);
    } else {
        error_set(err, "%s is a model's folder in a Hugging Face cache without a refs/main; choose one of:",
                  repository);
    }
    add_snapshots(repository, err);
    return NULL;
}

/* The blobs/ of the cache that path lies in: path is <repo>/snapshots/<revision> or below it. Malloc'd, or
 * NULL. */
static char *find_blobs(const char *path)
{
    static const char marker[] = "/snapshots/";

    for (const char *at = path; (at = strstr(at, marker)); at++) {
        cleanup_free char *candidate = xasprintf("%.*s/blobs", (int)(at - path), path);
        char *blobs = realpath(candidate, NULL);
        struct stat stat_buffer;
        if (blobs && !stat(blobs, &stat_buffer) && S_ISDIR(stat_buffer.st_mode))
            return blobs;
        free(blobs);
    }
    return NULL;
}

static int stat_directory(const char *src, const char *path, struct stat *result, struct error *err)
{
    if (stat(path, result))
        return regular_file_error(err, src, "cannot be reached", errno);
    if (!S_ISDIR(result->st_mode))
        return error_set(
            err, "%s is not a directory: moefs takes the directory that holds config.json and the weights",
            src);
    return 0;
}

int snapshot_resolve(const char *src, struct arena *arena, struct snapshot *snapshot, struct error *err)
{
    cleanup_free char *path = realpath(src, NULL);

    *snapshot = (struct snapshot){0};
    if (!path)
        return regular_file_error(err, src, "cannot be reached", errno);
    if (stat_directory(src, path, &snapshot->stat, err))
        return -1;
    if (is_cache_repository(path)) {
        char *chosen = choose_snapshot(path, err);
        if (!chosen)
            return -1;
        free(path);
        path = chosen;
        if (stat_directory(path, path, &snapshot->stat, err))
            return -1;
    }
    cleanup_free char *blobs = find_blobs(path);
    snapshot->path = arena_strdup(arena, path);
    snapshot->blobs = blobs ? arena_strdup(arena, blobs) : NULL;
    return 0;
}

bool snapshot_contains(const struct snapshot *snapshot, const char *path)
{
    return text_path_below(path, snapshot->path) ||
           (snapshot->blobs && text_path_below(path, snapshot->blobs));
}
