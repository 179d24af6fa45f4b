/* Parsing /proc/self/mountinfo; unmounting by umount2, or by fusermount3 where that is not permitted. */
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

/* Two paths of PATH_MAX bytes, four characters for each byte, and a page of options. */
#define LINE_BYTES_MAX (64 << 10)

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

char *mount_table_resolve(const char *path, struct error *err)
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

/* Cuts up a line of proc_pid_mountinfo(5). Behind " - " stand the type, the source and the file system's own
 * options. False: no such line. */
static bool line_parse(char *line, struct mount_line *mount)
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
    char *root = strsep(&rest, " ");
    char *point = strsep(&rest, " ");
    if (!point || sscanf(device, "%u:%u", &mount->major, &mount->minor) != 2)
        return false;
    mount->root = unescape(root);
    mount->point = unescape(point);
    mount->type = strsep(&tail, " ");
    char *source = strsep(&tail, " ");
    if (!source)
        return false;
    mount->source = unescape(source);
    mount->options = tail ? tail : "";
    return true;
}

/* Visits the whole lines in the buffer; gives how many bytes they have. A line longer than the buffer is none that
 * the kernel writes. */
static size_t visit_lines(char *buffer, size_t length, mount_table_visit *visit, void *context)
{
    size_t done = 0;

    for (char *end; (end = memchr(buffer + done, '\n', length - done)); done = (size_t)(end - buffer) + 1) {
        struct mount_line mount;
        *end = '\0';
        if (line_parse(buffer + done, &mount))
            visit(context, &mount);
    }
    return done;
}

int mount_table_read(const char *root, mount_table_visit *visit, void *context)
{
    char path[PATH_MAX], buffer[LINE_BYTES_MAX];
    size_t length = 0;
    ssize_t n;

    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    while ((n = read(fd, buffer + length, sizeof buffer - length)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        length += (size_t)n;
        const size_t done = visit_lines(buffer, length, visit, context);
        length -= done;
        memmove(buffer, buffer + done, length);
    }
    const int error = n < 0 ? errno : length > 0 ? EOVERFLOW : 0;
    close(fd);
    return error;
}

struct search {
    const char *path;
    struct mount_entry *entry;
    int found;
};

static void take_topmost(void *context, const struct mount_line *mount)
{
    struct search *search = context;

    if (strcmp(mount->point, search->path) != 0)
        return;
    mount_entry_clear(search->entry); /* a later mount lies on top */
    *search->entry = (struct mount_entry){.type = xstrdup(mount->type), .source = xstrdup(mount->source)};
    search->found = 1;
}

int mount_table_find(const char *path, struct mount_entry *entry, struct error *err)
{
    struct search search = {.path = path, .entry = entry};

    *entry = (struct mount_entry){0};
    const int error = mount_table_read("", take_topmost, &search);
    if (error)
        return error_set(err, "/proc/self/mountinfo: %s", strerror(error));
    return search.found;
}

void mount_entry_clear(struct mount_entry *entry)
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
    int rc = posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    if (rc == 0)
        rc = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
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
int mount_table_unmount(const char *path, bool lazy, struct error *err)
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
