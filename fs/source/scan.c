/* Walking a local directory. */
#include "scan.h"

#include "regular_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <string.h>
#include <unistd.h>

#include <utarray.h>

/* The directories above the one that is being read: a link back to one of them would never end. */
struct ancestor {
    const struct ancestor *up;
    dev_t dev;
    ino_t ino;
    unsigned depth;
};

struct walk {
    const struct snapshot *snapshot;
    const struct scan_options *options;
    struct arena *arena;
    UT_array *names;
    bool *exclude_used; /* per glob */
    struct error *err;
};

static const UT_icd found_icd = {.sz = sizeof(struct found)};

static int walk_directory(struct walk *walk, const struct found *parent, const struct ancestor *up);

static char *arena_join(struct arena *arena, const char *directory, const char *name)
{
    size_t head = strlen(directory), tail = strlen(name);
    char *path = arena_alloc(arena, head + 1 + tail + 1);

    memcpy(path, directory, head);
    path[head] = '/';
    memcpy(path + head + 1, name, tail + 1);
    return path;
}

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

/* Finds where a link leads: sets the kind, and target and stat where it leads to something. */
static int follow_link(struct walk *walk, const char *link, struct found *found)
{
    cleanup_free char *target = realpath(link, NULL);

    if (!target) {
        switch (errno) {
        case ENOENT:
        case ENOTDIR:
            found->kind = LISTED_DANGLING;
            return 0;
        case ELOOP:
            found->kind = LISTED_LOOP;
            return 0;
        case EACCES:
            found->kind = LISTED_DENIED;
            return 0;
        default:
            return regular_file_error(walk->err, link, "cannot be followed", errno);
        }
    }
    found->target = arena_strdup(walk->arena, target);
    if (!walk->options->follow_symlinks && !snapshot_contains(walk->snapshot, target)) {
        found->kind = LISTED_OUTSIDE;
        return 0;
    }
    if (lstat(target, &found->stat) < 0)
        return regular_file_error(walk->err, link, "cannot be followed", errno);
    return 0;
}

static bool is_ancestor(const struct ancestor *ancestor, const struct stat *stat)
{
    for (; ancestor; ancestor = ancestor->up)
        if (ancestor->dev == stat->st_dev && ancestor->ino == stat->st_ino)
            return true;
    return false;
}

static int walk_name(struct walk *walk, const struct found *parent, int parent_fd, const char *name,
                     const struct ancestor *up)
{
    struct found found = {.kind = LISTED_FILE};
    const char *full = arena_join(walk->arena, parent->target, name);

    if (utarray_len(walk->names) >= SCAN_NAMES_MAX)
        return error_set(walk->err,
                         "%s holds more than %zu files: is it a checkpoint? (--exclude hides directories)",
                         walk->snapshot->path, SCAN_NAMES_MAX);
    found.path =
        *parent->path ? arena_join(walk->arena, parent->path, name) : arena_strdup(walk->arena, name);
    if (fstatat(parent_fd, name, &found.stat, AT_SYMLINK_NOFOLLOW) < 0)
        return regular_file_error(walk->err, full, "cannot be looked at", errno);
    found.target = full;
    if (!*parent->path && (strcmp(name, ".git") == 0 || strcmp(name, ".cache") == 0)) {
        found.kind = LISTED_PRIVATE;
        utarray_push_back(walk->names, &found);
        return 0;
    }
    /* A link is matched before it is followed: --exclude is the way past one that cannot be. */
    struct stat followed;
    bool leads_to_directory = fstatat(parent_fd, name, &followed, 0) == 0 && S_ISDIR(followed.st_mode);
    if (is_excluded(walk, found.path, leads_to_directory)) {
        found.kind = LISTED_EXCLUDED;
        utarray_push_back(walk->names, &found);
        return 0;
    }
    if (S_ISLNK(found.stat.st_mode) && follow_link(walk, full, &found) < 0)
        return -1;
    if (found.kind == LISTED_FILE) {
        if (S_ISDIR(found.stat.st_mode))
            found.kind = is_ancestor(up, &found.stat) ? LISTED_LOOP : LISTED_DIRECTORY;
        else if (!S_ISREG(found.stat.st_mode))
            found.kind = LISTED_SPECIAL;
    }
    utarray_push_back(walk->names, &found);
    return found.kind == LISTED_DIRECTORY ? walk_directory(walk, &found, up) : 0;
}

static int walk_stream(struct walk *walk, const struct found *parent, DIR *stream,
                       const struct ancestor *here)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry && errno)
            return regular_file_error(walk->err, parent->target, "cannot be read", errno);
        if (!entry)
            return 0;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (walk_name(walk, parent, dirfd(stream), entry->d_name, here) < 0)
            return -1;
    }
}

static int walk_directory(struct walk *walk, const struct found *parent, const struct ancestor *up)
{
    const struct ancestor here = {up, parent->stat.st_dev, parent->stat.st_ino, up ? up->depth + 1 : 0};

    if (here.depth > SCAN_DEPTH_MAX)
        return error_set(walk->err, "%s: directories are nested deeper than %d levels (--exclude hides them)",
                         parent->path, SCAN_DEPTH_MAX);
    int fd = open(parent->target, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return regular_file_error(walk->err, parent->target, "cannot be opened", errno);
    DIR *stream = fdopendir(fd);
    if (!stream) {
        regular_file_error(walk->err, parent->target, "cannot be read", errno);
        close(fd);
        return -1;
    }
    int result = walk_stream(walk, parent, stream, &here);
    closedir(stream);
    return result;
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

int scan_read(const struct snapshot *snapshot, const struct scan_options *options, struct arena *arena,
              struct scan *scan, struct notes *notes, struct error *err)
{
    const struct found top = {
        .path = "", .target = snapshot->path, .stat = snapshot->stat, .kind = LISTED_DIRECTORY};
    struct walk walk = {.snapshot = snapshot, .options = options, .arena = arena, .err = err};
    size_t n_globs = 0;

    while (options->exclude && options->exclude[n_globs])
        n_globs++;
    cleanup_free bool *exclude_used = xcalloc(n_globs, sizeof *exclude_used);
    walk.exclude_used = exclude_used;
    utarray_new(walk.names, &found_icd);
    int result = walk_directory(&walk, &top, NULL);
    const struct found *names = utarray_front(walk.names);
    if (names) {
        utarray_sort(walk.names, compare_found);
        scan->n = utarray_len(walk.names);
        scan->list = xmalloc(scan->n * sizeof *scan->list);
        memcpy(scan->list, names, scan->n * sizeof *scan->list);
    }
    utarray_free(walk.names);
    if (result < 0) {
        scan_free(scan);
        return -1;
    }
    note_unused_globs(&walk, notes);
    return 0;
}

void scan_free(struct scan *scan)
{
    free(scan->list);
    *scan = (struct scan){0};
}
