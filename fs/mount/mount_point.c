/* Resolving and checking a mount point, with a message for each cause. */
#include "mount_point.h"

#include "layout/base/memory.h"
#include "layout/base/text.h"
#include "mount_table.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DESCRIPTOR_PREFIX "/dev/fd/"
#define FUSE_MAJOR 10
#define FUSE_MINOR 229

/* "/dev/fd/N": gives N; -1 with *err set. */
static int check_descriptor(const char *given, struct error *err)
{
    const char *digits = given + strlen(DESCRIPTOR_PREFIX);
    struct stat stat;
    int fd = -1, end = 0;

    if (strspn(digits, "0123456789") != strlen(digits) || strlen(digits) > 9 ||
        sscanf(digits, "%d%n", &fd, &end) != 1)
        return error_set(err, "%s: not the number of a descriptor", given);
    if (fd <= STDERR_FILENO)
        return error_set(
            err, "%s: descriptors 0 to 2 are stdin, stdout and stderr: pass /dev/fuse as another", given);
    if (fstat(fd, &stat) < 0)
        return error_set(err, "%s: %s", given, strerror(errno));
    if (!S_ISCHR(stat.st_mode) || major(stat.st_rdev) != FUSE_MAJOR || minor(stat.st_rdev) != FUSE_MINOR)
        return error_set(err, "%s: not an open /dev/fuse", given);
    return fd;
}

static int check_directory(const char *path, const struct mount_entry *mounted, struct error *err)
{
    struct stat stat_;
    struct statvfs answer;

    /* of a dead mount the kernel may still know the attributes; its numbers it has to ask for */
    if (stat(path, &stat_) == 0 && statvfs(path, &answer) == 0) {
        if (!S_ISDIR(stat_.st_mode))
            return error_set(err, "%s: not a directory", path);
        return 0;
    }
    if (errno == ENOTCONN)
        return error_set(
            err,
            "%s: a dead mount of %s (the process that served it is gone); `moefs umount %s` takes "
            "it away",
            path, mounted->source ? mounted->source : "something", path);
    if (errno == ENOENT)
        return error_set(err, "%s: no such directory: make it first", path);
    return error_set(err, "%s: %s", path, strerror(errno));
}

static int check_empty(const char *path, struct error *err)
{
    DIR *directory = opendir(path);
    const struct dirent *entry;
    int result = 0;

    if (!directory)
        return error_set(err, "%s: %s", path, strerror(errno));
    errno = 0;
    while (result == 0 && (entry = readdir(directory))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = error_set(err, "%s: not empty (it holds %s): -o nonempty mounts over it", path,
                               entry->d_name);
    }
    if (result == 0 && errno != 0)
        result = error_set(err, "%s: %s", path, strerror(errno));
    closedir(directory);
    return result;
}

static int check_apart(const char *mount_point, const char *source, struct error *err)
{
    struct stat a, b;

    if (strcmp(mount_point, source) == 0 ||
        (stat(mount_point, &a) == 0 && stat(source, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino))
        return error_set(err, "%s: the mount point is the source directory itself", mount_point);
    if (text_path_below(mount_point, source))
        return error_set(err, "%s: the mount point lies inside the source directory %s", mount_point, source);
    if (text_path_below(source, mount_point))
        return error_set(err, "%s: a mount there would hide the source directory %s", mount_point, source);
    return 0;
}

static bool in_path(const char *program)
{
    cleanup_free char *path = xstrdup(getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    char *rest = path;

    for (const char *folder; (folder = strsep(&rest, ":"));) {
        cleanup_free char *file = xasprintf("%s/%s", *folder ? folder : ".", program);
        if (access(file, X_OK) == 0)
            return true;
    }
    return false;
}

/* /dev/fuse can be opened; and whoever may not mount has fusermount3. */
static int check_fuse(struct error *err)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    else if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return error_set(err,
                         "/dev/fuse: %s: load the kernel module (modprobe fuse); a container needs --device "
                         "/dev/fuse and the right to mount. `moefs convert` needs neither",
                         strerror(errno));
    else if (errno == EACCES || errno == EPERM)
        return error_set(err,
                         "/dev/fuse: %s: this user or container may not use FUSE (a container needs --device "
                         "/dev/fuse). `moefs convert` works without it",
                         strerror(errno));
    else
        return error_set(err, "/dev/fuse: %s", strerror(errno));
    if (geteuid() != 0 && !in_path("fusermount3"))
        return error_set(
            err, "fusermount3 is not installed, and only root mounts without it (Debian: package fuse3)");
    return 0;
}

static int check_path(const char *path, const char *const *sources, bool nonempty, struct error *err)
{
    struct mount_entry mounted;
    int result = mount_table_find(path, &mounted, err);

    if (result >= 0)
        result = check_directory(path, &mounted, err);
    for (; result == 0 && *sources; sources++)
        result = check_apart(path, *sources, err);
    if (result == 0 && mounted.type && !nonempty)
        result =
            error_set(err,
                      "%s: already a mount point, of %s (type %s): unmount it first, or mount over it with "
                      "-o nonempty",
                      path, mounted.source, mounted.type);
    mount_entry_clear(&mounted);
    if (result == 0 && !nonempty)
        result = check_empty(path, err);
    return result == 0 ? check_fuse(err) : -1;
}

int mount_point_choose(const char *given, const char *const *sources, bool nonempty,
                       struct mount_point *point, struct error *err)
{
    *point = (struct mount_point){.descriptor = -1};
    if (strncmp(given, DESCRIPTOR_PREFIX, strlen(DESCRIPTOR_PREFIX)) == 0) {
        point->name = xstrdup(given);
        point->descriptor = check_descriptor(given, err);
        return point->descriptor < 0 ? -1 : 0;
    }
    point->name = mount_table_resolve(given, err);
    return point->name ? check_path(point->name, sources, nonempty, err) : -1;
}

void mount_point_clear(struct mount_point *point)
{
    free(point->name);
    *point = (struct mount_point){.descriptor = -1};
}
