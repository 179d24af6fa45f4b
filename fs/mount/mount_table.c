#include "mount_table.h"

#include "layout/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Half a second in all. */
#define BUSY_ATTEMPTS 20
#define BUSY_PAUSE_NANOSECONDS 25000000

static char *resolve(const char *path, struct error *err)
{
    char *resolved = realpath(path, NULL);

    if (!resolved && errno == ENOMEM)
        memory_exhausted();
    if (!resolved)
        error_set(err, "%s: %s", path, strerror(errno));
    return resolved;
}

char *mounts_resolve(const char *path, struct error *err)
{
    cleanup_free char *copy = xstrdup(path);
    size_t length = strlen(copy);

    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return resolve(copy, err);

    char target[PATH_MAX];
    if (readlink(copy, target, sizeof target) >= 0)
        return resolve(copy, err);
    cleanup_free char *name_copy = xstrdup(name);
    if (slash)
        slash[slash == copy] = '\0';
    cleanup_free char *parent = resolve(slash ? copy : ".", err);
    if (!parent)
        return NULL;
    return xasprintf("%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name_copy);
}

/* mountinfo writes space, tab, newline and backslash as \ooo. In place. */
static char *unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from;) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
            from[3] >= '0' && from[3] <= '7') {
            *to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
    return text;
}

/* Line format: proc_pid_mountinfo(5). Cuts the line up. */
static bool line_parse(char *line, const char **point, struct mount_entry *found)
{
    char *rest = line;
    char *tail = strstr(line, " - ");

    if (!tail)
        return false;
    *tail = '\0';
    tail += strlen(" - ");
    strsep(&rest, " ");
    strsep(&rest, " ");
    const char *device = strsep(&rest, " ");
    strsep(&rest, " ");
    char *escaped = strsep(&rest, " ");
    if (!escaped || sscanf(device, "%u:%u", &found->major, &found->minor) != 2)
        return false;
    *point = unescape(escaped);
    found->type = strsep(&tail, " ");
    found->source = strsep(&tail, " ");
    if (!found->source)
        return false;
    unescape(found->source);
    return true;
}

int mounts_find(const char *path, struct mount_entry *entry, struct error *err)
{
    const char *table = "/proc/self/mountinfo";
    cleanup_close FILE *stream = fopen(table, "re");
    cleanup_free char *line = NULL;
    size_t capacity = 0;
    int result = 0;

    *entry = (struct mount_entry){0};
    if (!stream)
        return error_set(err, "%s: %s", table, strerror(errno));
    for (ssize_t length; (length = getline(&line, &capacity, stream)) > 0;) {
        struct mount_entry found;
        const char *point;
        if (line[length - 1] == '\n')
            line[length - 1] = '\0';
        if (!line_parse(line, &point, &found) || strcmp(point, path) != 0)
            continue;
        mounts_entry_clear(entry); /* a later mount lies on top */
        *entry = found;
        entry->type = xstrdup(found.type);
        entry->source = xstrdup(found.source);
        result = 1;
    }
    return result;
}

void mounts_entry_clear(struct mount_entry *entry)
{
    free(entry->type);
    free(entry->source);
    *entry = (struct mount_entry){0};
}

static int refuse_busy(const char *path, struct error *err)
{
    return error_set(
        err,
        "%s: in use: end what reads it first (fuser -vm '%s' lists it), or give --lazy to take it out of "
        "the tree now and let its readers finish",
        path, path);
}

/* Runs fusermount3 and gives what it says on stderr (cut at 4 KiB). */
static int run_fusermount(const char *path, bool lazy, char *said, size_t size, struct error *err)
{
    const char *argv[] = {"fusermount3",      "-u", lazy ? "-z" : "--", lazy ? "--" : path,
                          lazy ? path : NULL, NULL};
    posix_spawn_file_actions_t actions;
    int ends[2], status = 0;
    pid_t pid;
    size_t length = 0;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set(err, "pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    int rc = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        return error_set(err, "%s: fusermount3: %s (Debian: package fuse3)", path, strerror(rc));
    }
    for (ssize_t n; length < size - 1 && (n = read(ends[0], said + length, size - 1 - length)) > 0;)
        length += (size_t)n;
    close(ends[0]);
    while (length > 0 && said[length - 1] == '\n')
        length--;
    said[length] = '\0';
    pid_t ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR)
        ended = waitpid(pid, &status, 0);
    return ended >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* 0, or -1 with *err set; *busy: because it is in use. */
static int unmount_once(const char *path, bool lazy, bool *busy, struct error *err)
{
    char said[4096];

    *busy = false;
    if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
        return 0;
    *busy = errno == EBUSY;
    if (*busy)
        return refuse_busy(path, err);
    if (errno != EPERM)
        return error_set(err, "%s: unmounting: %s", path, strerror(errno));
    int status = run_fusermount(path, lazy, said, sizeof said, err);
    if (status <= 0)
        return status;
    *busy = strstr(said, "busy") != NULL;
    if (*busy)
        return refuse_busy(path, err);
    return error_set(err, "%s: unmounting: %s", path, *said ? said : "fusermount3 failed");
}

/* The readahead helper closes its file a moment after the last reader has closed its own. */
int mounts_unmount(const char *path, bool lazy, struct error *err)
{
    const struct timespec pause = {.tv_nsec = BUSY_PAUSE_NANOSECONDS};
    bool busy;
    int result = unmount_once(path, lazy, &busy, err);

    for (int i = 0; busy && i < BUSY_ATTEMPTS; i++) {
        nanosleep(&pause, NULL);
        error_free(err);
        result = unmount_once(path, lazy, &busy, err);
    }
    return result;
}
