/* The checks of a directory that is to be written: apart from the source, empty, with room enough. */
#include "destination.h"

#include "layout/base/checked.h"
#include "layout/base/memory.h"
#include "layout/base/text.h"
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define VFAT_FILE_MAX UINT64_C(0xffffffff)

/* Where the directory is, or will be. */
struct place {
    char *resolved; /* absolute, without links */
    char *existing; /* the directory itself, or the one that it will be made in */
    bool exists;
};

static int find_place(const char *path, struct place *place, struct error *err)
{
    cleanup_free char *plain = xstrdup(path);
    size_t length = strlen(plain);

    *place = (struct place){.resolved = realpath(path, NULL)};
    if (place->resolved) {
        place->exists = true;
        place->existing = xstrdup(place->resolved);
        return 0;
    }
    if (errno != ENOENT)
        return error_set(err, "%s: %s", path, strerror(errno));
    while (length > 1 && plain[length - 1] == '/')
        plain[--length] = '\0';
    char *slash = strrchr(plain, '/');
    const char *name = slash ? slash + 1 : plain;
    cleanup_free char *parent = slash ? xasprintf("%.*s/", (int)(slash - plain), plain) : xstrdup(".");
    place->existing = realpath(parent, NULL);
    if (!place->existing)
        return error_set(err, "%s: the directory in which it is to be made: %s", path, strerror(errno));
    place->resolved = xasprintf("%s/%s", strcmp(place->existing, "/") == 0 ? "" : place->existing, name);
    return 0;
}

static int check_apart(const char *path, const struct place *place, const char *source, struct error *err)
{
    if (strcmp(place->resolved, source) == 0)
        return error_set(err, "%s: the destination is the source directory itself", path);
    if (text_path_below(place->resolved, source))
        return error_set(err, "%s: the destination lies inside the source directory %s", path, source);
    if (text_path_below(source, place->resolved))
        return error_set(err, "%s: the source directory %s lies inside the destination", path, source);
    return 0;
}

static int check_space(const char *path, const struct place *place, const struct tree *tree,
                       struct destination *destination, struct error *err)
{
    struct statvfs answer;

    if (statvfs(place->existing, &answer) < 0)
        return error_set(err, "%s: %s", path, strerror(errno));
    const uint64_t block = max_u64(answer.f_frsize, 1);
    for (uint64_t number = TREE_ROOT; number <= tree->n_inodes; number++) {
        const struct tree_inode *inode = tree_get(tree, number);
        const uint64_t size = inode->kind == TREE_DIRECTORY ? block : (uint64_t)inode->stat.st_size;
        if (!checked_add(destination->needed, (size / block + (size % block != 0)) * block,
                         &destination->needed))
            return error_set(err, "%s: the files have more bytes than can be counted", path);
    }
    destination->free = DESTINATION_FREE_UNKNOWN;
    if (answer.f_blocks > 0) /* else the filesystem does not say */
        destination->free = (uint64_t)(geteuid() == 0 ? answer.f_bfree : answer.f_bavail) * block;
    if (destination->needed > destination->free)
        return error_set(err, "%s: %" PRIu64 " bytes are needed, and its filesystem has %" PRIu64 " free",
                         path, destination->needed, destination->free);
    return 0;
}

/* The largest file, against what the filesystem and this process may have. */
static int check_file_sizes(const char *path, const struct place *place, const struct tree *tree,
                            struct error *err)
{
    const struct tree_inode *largest = NULL;
    struct rlimit limit;
    struct statfs answer;

    for (uint64_t number = TREE_ROOT; number <= tree->n_inodes; number++) {
        const struct tree_inode *inode = tree_get(tree, number);
        if (inode->kind != TREE_DIRECTORY && (!largest || inode->stat.st_size > largest->stat.st_size))
            largest = inode;
    }
    const uint64_t size = largest ? (uint64_t)largest->stat.st_size : 0;
    if (size > VFAT_FILE_MAX && statfs(place->existing, &answer) == 0 && answer.f_type == MSDOS_SUPER_MAGIC)
        return error_set(err,
                         "%s/%s would have %" PRIu64 " bytes, and a file on vfat has at most %" PRIu64
                         ": --max-shard-size 4GB makes smaller ones",
                         path, largest->path, size, VFAT_FILE_MAX);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && size > limit.rlim_cur)
        return error_set(err,
                         "%s/%s would have %" PRIu64 " bytes, and this process may write files of at most "
                         "%" PRIu64 " (ulimit -f)",
                         path, largest->path, size, (uint64_t)limit.rlim_cur);
    return 0;
}

static int check_place(const char *path, const struct place *place, const char *const *sources,
                       struct error *err)
{
    for (; *sources; sources++)
        if (check_apart(path, place, *sources, err) < 0)
            return -1;
    if (place->exists && output_check_empty(path, err) < 0)
        return -1;
    if (access(place->existing, W_OK | X_OK) < 0)
        return error_set(err, "%s: cannot write there: %s", path, strerror(errno));
    return 0;
}

int destination_check(const char *path, const char *const *sources, const struct tree *tree,
                      struct destination *destination, struct error *err)
{
    struct place place;

    *destination = (struct destination){0};
    int result = find_place(path, &place, err);
    if (result == 0)
        result = check_place(path, &place, sources, err);
    if (result == 0)
        result = check_file_sizes(path, &place, tree, err);
    if (result == 0)
        result = check_space(path, &place, tree, destination, err);
    free(place.resolved);
    free(place.existing);
    return result;
}
