/* Walking a local directory: each directory is read once, and its names are seen on every path that leads to
 * it. */
#include "scan.h"

#include "beneath.h"
#include "regular_file.h"

#include "layout/base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <string.h>
#include <unistd.h>

#include <utarray.h>

/* A directory that has been read. */
struct folder {
    const char *real; /* the key */
    struct snapshot_place place;
    struct scan_name *names;
    size_t n;
    UT_hash_handle hh;
};

/* The directories on the way to the one that is being walked: a link back to one of them would never end. */
struct ancestor {
    const struct ancestor *up;
    dev_t dev;
    ino_t ino;
    unsigned depth;
};

struct walk {
    const struct snapshot *snapshot;
    const struct scan_options *options;
    struct scan *scan;
    struct arena *paths;
    size_t path_bytes;
    struct folder *folders;
    UT_array *found;
    bool *exclude_used; /* per glob */
    struct error *err;
};

static const UT_icd found_icd = {.sz = sizeof(struct found)};
static const UT_icd name_icd = {.sz = sizeof(struct scan_name)};

static int walk_directory(struct walk *walk, const char *path, const struct scan_name *directory,
                          const struct ancestor *up);

static char *arena_join(struct arena *arena, const char *directory, const char *name)
{
    size_t head = strlen(directory), tail = strlen(name);
    const bool slash = head > 0 && directory[head - 1] != '/';
    char *path = arena_alloc(arena, head + slash + tail + 1);

    memcpy(path, directory, head);
    if (slash)
        path[head++] = '/';
    memcpy(path + head, name, tail + 1);
    return path;
}

/* ---- a directory's names ---- */

static int add_name(struct walk *walk, const struct folder *folder, int fd, const char *text, UT_array *names)
{
    struct scan_name name = {.name = arena_strdup(&walk->scan->arena, text), .kind = LISTED_FILE};
    struct stat followed;

    if (fstatat(fd, text, &name.stat, AT_SYMLINK_NOFOLLOW) < 0) {
        const int error = errno;
        cleanup_free char *full = xasprintf("%s/%s", folder->real, text);
        return regular_file_error(walk->err, full, "cannot be looked at", error);
    }
    if (S_ISLNK(name.stat.st_mode))
        name.is_link_to_directory = fstatat(fd, text, &followed, 0) == 0 && S_ISDIR(followed.st_mode);
    utarray_push_back(names, &name);
    return 0;
}

static int too_many(struct walk *walk)
{
    return error_set(
        walk->err,
        "%s holds more than %zu paths, or more than %zu MiB of them, with what its links lead to: "
        "is it a checkpoint? (--exclude hides directories)",
        walk->snapshot->path, SCAN_PATHS_MAX, SCAN_PATH_BYTES_MAX >> 20);
}

static int read_stream(struct walk *walk, const struct folder *folder, DIR *stream, UT_array *names)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry && errno)
            return regular_file_error(walk->err, folder->real, "cannot be read", errno);
        if (!entry)
            return 0;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (utarray_len(names) >= SCAN_PATHS_MAX)
            return too_many(walk);
        if (add_name(walk, folder, dirfd(stream), entry->d_name, names) < 0)
            return -1;
    }
}

/* Opens the directory, which must still be the one that was looked at. */
static DIR *open_directory(struct walk *walk, const struct scan_name *directory)
{
    struct stat now;

    int fd = beneath_open(directory->place.root, directory->place.path, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
    if (fd < 0 && errno != ELOOP && errno != ENOTDIR) {
        regular_file_error(walk->err, directory->real, "cannot be opened", errno);
        return NULL;
    }
    if (fd < 0 || fstat(fd, &now) < 0 || now.st_dev != directory->stat.st_dev ||
        now.st_ino != directory->stat.st_ino) {
        error_set(walk->err, "%s was replaced while it was being read", directory->real);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    DIR *stream = fdopendir(fd);
    if (!stream) {
        regular_file_error(walk->err, directory->real, "cannot be read", errno);
        close(fd);
    }
    return stream;
}

static struct folder *read_folder(struct walk *walk, const struct scan_name *directory)
{
    struct arena *arena = &walk->scan->arena;
    struct folder *folder;
    UT_array *names;

    HASH_FIND_STR(walk->folders, directory->real, folder);
    if (folder)
        return folder;
    DIR *stream = open_directory(walk, directory);
    if (!stream)
        return NULL;
    folder = arena_alloc(arena, sizeof *folder);
    *folder = (struct folder){.real = directory->real, .place = directory->place};
    utarray_new(names, &name_icd);
    if (read_stream(walk, folder, stream, names) == 0) {
        folder->n = utarray_len(names);
        folder->names = arena_alloc(arena, (folder->n + 1) * sizeof *folder->names);
        const struct scan_name *first = utarray_front(names);
        if (first)
            memcpy(folder->names, first, folder->n * sizeof *folder->names);
        HASH_ADD_KEYPTR(hh, walk->folders, folder->real, strlen(folder->real), folder);
    } else {
        folder = NULL;
    }
    utarray_free(names);
    closedir(stream);
    return folder;
}

/* ---- where a name leads ---- */

static int stat_place(const struct snapshot_place *place, struct stat *stat)
{
    const int fd = beneath_open(place->root, place->path, O_PATH);
    const int result = fd < 0 ? -1 : fstat(fd, stat);
    const int error = errno;

    if (fd >= 0)
        close(fd);
    errno = error;
    return result;
}

/* Finds where a link leads: real, place, stat and kind. */
static void follow_link(struct walk *walk, const char *link, struct scan_name *name)
{
    cleanup_free char *real = realpath(link, NULL);

    if (!real) {
        switch (errno) {
        case ENOENT:
        case ENOTDIR:
            name->kind = LISTED_DANGLING;
            return;
        case ELOOP:
            name->kind = LISTED_LOOP;
            return;
        case EACCES:
            name->kind = LISTED_DENIED;
            return;
        default:
            name->error = errno;
            return;
        }
    }
    name->real = arena_strdup(&walk->scan->arena, real);
    if (!snapshot_place(walk->snapshot, name->real, walk->options->follow_symlinks, &name->place))
        name->kind = LISTED_OUTSIDE;
    else if (stat_place(&name->place, &name->stat) < 0)
        name->error = errno;
}

/* Once for each name, and not before a path to it is known that --exclude does not match. */
static int resolve(struct walk *walk, const struct folder *folder, struct scan_name *name)
{
    struct arena *arena = &walk->scan->arena;

    if (!name->is_resolved) {
        const char *full = arena_join(arena, folder->real, name->name);
        name->is_resolved = true;
        name->real = full;
        name->place =
            (struct snapshot_place){folder->place.root, arena_join(arena, folder->place.path, name->name)};
        if (S_ISLNK(name->stat.st_mode))
            follow_link(walk, full, name);
        if (name->kind == LISTED_FILE && S_ISDIR(name->stat.st_mode))
            name->kind = LISTED_DIRECTORY;
        else if (name->kind == LISTED_FILE && !S_ISREG(name->stat.st_mode))
            name->kind = LISTED_SPECIAL;
    }
    return name->error ? regular_file_error(walk->err, name->real, "cannot be followed", name->error) : 0;
}

/* ---- paths ---- */

static bool glob_matches(const char *glob, const char *path, bool is_directory)
{
    size_t length = strlen(glob);

    if (length < 2 || glob[length - 1] != '/')
        return fnmatch(glob, path, 0) == 0;
    cleanup_free char *name = xstrdup(glob);
    name[length - 1] = '\0';
    return is_directory && fnmatch(name, path, 0) == 0;
}

static bool is_excluded(struct walk *walk, const char *path, bool is_directory)
{
    bool excluded = false;

    for (size_t i = 0; walk->options->exclude && walk->options->exclude[i]; i++) {
        if (glob_matches(walk->options->exclude[i], path, is_directory)) {
            walk->exclude_used[i] = true;
            excluded = true;
        }
    }
    return excluded;
}

static bool is_ancestor(const struct ancestor *ancestor, const struct stat *stat)
{
    for (; ancestor; ancestor = ancestor->up)
        if (ancestor->dev == stat->st_dev && ancestor->ino == stat->st_ino)
            return true;
    return false;
}

static int walk_name(struct walk *walk, const char *parent, const struct folder *folder,
                     struct scan_name *name, const struct ancestor *up)
{
    struct found found = {.path = arena_join(walk->paths, parent, name->name), .name = name};

    walk->path_bytes += strlen(found.path) + 1;
    if (utarray_len(walk->found) >= SCAN_PATHS_MAX || walk->path_bytes > SCAN_PATH_BYTES_MAX)
        return too_many(walk);
    if (!*parent && (strcmp(name->name, ".git") == 0 || strcmp(name->name, ".cache") == 0)) {
        found.kind = LISTED_PRIVATE;
    } else if (is_excluded(walk, found.path, name->is_link_to_directory || S_ISDIR(name->stat.st_mode))) {
        found.kind = LISTED_EXCLUDED;
    } else {
        if (resolve(walk, folder, name) < 0)
            return -1;
        found.kind = name->kind;
        if (found.kind == LISTED_DIRECTORY && is_ancestor(up, &name->stat))
            found.kind = LISTED_LOOP;
    }
    utarray_push_back(walk->found, &found);
    return found.kind == LISTED_DIRECTORY ? walk_directory(walk, found.path, name, up) : 0;
}

static int walk_directory(struct walk *walk, const char *path, const struct scan_name *directory,
                          const struct ancestor *up)
{
    const struct ancestor here = {up, directory->stat.st_dev, directory->stat.st_ino, up ? up->depth + 1 : 0};

    if (here.depth > SCAN_DEPTH_MAX)
        return error_set(walk->err, "%s: directories are nested deeper than %d levels (--exclude hides them)",
                         path, SCAN_DEPTH_MAX);
    const struct folder *folder = read_folder(walk, directory);
    if (!folder)
        return -1;
    for (size_t i = 0; i < folder->n; i++)
        if (walk_name(walk, path, folder, &folder->names[i], &here) < 0)
            return -1;
    return 0;
}

static int compare_found(const void *a, const void *b)
{
    return strcmp(((const struct found *)a)->path, ((const struct found *)b)->path);
}

static void note_unused_globs(const struct walk *walk, struct notes *notes)
{
    for (size_t i = 0; walk->options->exclude && walk->options->exclude[i]; i++)
        if (!walk->exclude_used[i])
            notes_add(notes, NOTE_WARNING, "--exclude %s matches nothing in %s", walk->options->exclude[i],
                      walk->snapshot->path);
}

/* Moves the found paths to the scan, sorted. */
static void take_found(UT_array *found, struct scan *scan)
{
    const struct found *first = utarray_front(found);

    if (!first)
        return;
    utarray_sort(found, compare_found);
    scan->n = utarray_len(found);
    scan->list = xreallocarray(NULL, scan->n, sizeof *scan->list);
    memcpy(scan->list, first, scan->n * sizeof *scan->list);
}

int scan_read(const struct snapshot *snapshot, const struct scan_options *options, struct arena *arena,
              struct scan *scan, struct notes *notes, struct error *err)
{
    const struct scan_name top = {.name = "",
                                  .real = snapshot->path,
                                  .place = {snapshot->fd, ""},
                                  .stat = snapshot->stat,
                                  .kind = LISTED_DIRECTORY};
    struct walk walk = {.snapshot = snapshot, .options = options, .scan = scan, .paths = arena, .err = err};
    size_t n_globs = 0;

    *scan = (struct scan){0};
    while (options->exclude && options->exclude[n_globs])
        n_globs++;
    cleanup_free bool *exclude_used = xcalloc(n_globs, sizeof *exclude_used);
    walk.exclude_used = exclude_used;
    utarray_new(walk.found, &found_icd);
    int result = walk_directory(&walk, "", &top, NULL);
    HASH_CLEAR(hh, walk.folders); /* of the scan's arena */
    if (result == 0) {
        take_found(walk.found, scan);
        note_unused_globs(&walk, notes);
    } else {
        scan_free(scan);
    }
    utarray_free(walk.found);
    return result;
}

void scan_free(struct scan *scan)
{
    free(scan->list);
    arena_free(&scan->arena);
    *scan = (struct scan){0};
}
