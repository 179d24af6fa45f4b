/* Held descriptors: reading them exactly, and noticing that a file has changed. */
#include "files.h"

#include "regular_file.h"

#include "fs/base/log.h"
#include "layout/base/checked.h"
#include "layout/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

/* Linux moves at most 2 GiB less a page in one call. */
#define PREAD_MAX ((size_t)1 << 30)
#define HEAD_CHUNK ((size_t)64 << 10)

/* The page cache is dropped in windows, not behind each read: the kernel keeps a folio of which it is told to
 * drop only a part, and RWF_DONTCACHE halves the speed (docs/measurements.md). */
#define WINDOW ((uint64_t)32 << 20)
#define FOLIO_MAX ((uint64_t)2 << 20)
#define WINDOW_STAYS (1U << 31) /* it was in the page cache before */

#define SYS_CACHESTAT 451 /* Linux 6.5, the same number everywhere; libc's headers may be older */

/* One file as it was opened. */
struct opened_file {
    int fd;
    const char *name; /* in messages: the directory and the path */
    struct stat stat;
    uint64_t head_length; /* bytes at the beginning whose digest is compared when ctime alone changed */
    uint64_t head_digest; /* XXH3-64 of them */
};

struct held_file {
    struct opened_file opened;
    pthread_mutex_t lock; /* guards the next two; never held during I/O */
    struct timespec ctime;
    nlink_t nlink;
    atomic_uint
        *windows; /* bytes read from each window since it was dropped; NULL: the page cache keeps them */
    atomic_bool logged_change, logged_link, logged_error;
    bool opening; /* until source_keep(): the opener tells of failures, nothing is logged */
};

struct source_files {
    struct source source;
    struct arena arena;        /* names */
    struct source_info *infos; /* source.files */
    struct held_file *files;   /* source.n_files */
};

static bool is_first(const struct held_file *file, atomic_bool *logged)
{
    return !file->opening && !atomic_exchange(logged, true);
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* The window's first folio may begin in the one before. */
static void drop_window(const struct held_file *file, uint64_t window)
{
    const uint64_t begin = window * WINDOW, before = min_u64(begin, FOLIO_MAX);

    posix_fadvise(file->opened.fd, (off_t)(begin - before), (off_t)(before + WINDOW), POSIX_FADV_DONTNEED);
}

/* Whether most of the window is in the page cache, or the kernel cannot say: then it is left there. */
static bool window_is_cached(const struct held_file *file, uint64_t window)
{
    const uint64_t range[2] = {window * WINDOW, WINDOW};
    uint64_t found[5] = {0}; /* the first is the number of cached pages */
    const uint64_t size = (uint64_t)file->opened.stat.st_size - window * WINDOW;

    if (syscall(SYS_CACHESTAT, file->opened.fd, range, found, 0) != 0)
        return true;
    return found[0] * (uint64_t)sysconf(_SC_PAGESIZE) > min_u64(size, WINDOW) / 2;
}

/* Before a read: which of its windows begin to be read, and are they somebody's already? */
static void look_ahead(const struct held_file *file, uint64_t offset, uint64_t length)
{
    const uint64_t size = (uint64_t)file->opened.stat.st_size;

    if (!file->windows || length == 0)
        return;
    for (uint64_t window = offset / WINDOW;
         window * WINDOW < size && window <= (offset + length - 1) / WINDOW; window++) {
        unsigned untouched = 0;
        if (atomic_load(&file->windows[window]) == untouched)
            atomic_compare_exchange_strong(&file->windows[window], &untouched,
                                           window_is_cached(file, window) ? WINDOW_STAYS : 1);
    }
}

static void drop_behind(const struct held_file *file, uint64_t offset, uint64_t length)
{
    const uint64_t size = (uint64_t)file->opened.stat.st_size;
    const uint64_t head = file->opened.head_length; /* nobody reads it again */

    if (!file->windows)
        return;
    while (length > 0 && offset < size) {
        const uint64_t window = offset / WINDOW, end = (window + 1) * WINDOW;
        const uint64_t begin = max_u64(window * WINDOW, head);
        const uint64_t all = min_u64(end, size) - begin;
        const uint64_t n = min_u64(length, end - offset);
        unsigned read = atomic_fetch_add(&file->windows[window], (unsigned)n) + (unsigned)n;
        if ((read & ~WINDOW_STAYS) >= all) {
            /* dropped first: who begins the window anew must not take what is cached for another's */
            if (!(read & WINDOW_STAYS))
                drop_window(file, window);
            atomic_compare_exchange_strong(&file->windows[window], &read, 0); /* or the last reader does it */
        }
        offset += n;
        length -= n;
    }
}

/* Not logged here: a file that was cut is reported as changed. An early end is EIO. */
static int read_exact(const struct held_file *file, uint64_t offset, void *buffer, size_t length)
{
    char *to = buffer;

    look_ahead(file, offset, length);
    while (length > 0) {
        ssize_t n = pread(file->opened.fd, to, min_u64(length, PREAD_MAX), (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        drop_behind(file, offset, (uint64_t)n);
        to += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

static void log_failure_once(struct held_file *file, uint64_t offset, uint64_t length, int e)
{
    if (is_first(file, &file->logged_error))
        log_line(LOG_LEVEL_ERROR, "%s: reading bytes %llu to %llu of %lld: %s", file->opened.name,
                 (unsigned long long)offset, (unsigned long long)(offset + length),
                 (long long)file->opened.stat.st_size, strerror(e));
}

/* Sets *same to whether the head's digest still is what it was at mount. */
static int compare_head(struct held_file *file, bool *same)
{
    int e = ENOMEM;
    char *chunk = malloc(HEAD_CHUNK);
    XXH3_state_t *state = XXH3_createState();

    if (!chunk || !state)
        goto out;
    XXH3_64bits_reset(state);
    for (uint64_t at = 0; at < file->opened.head_length;) {
        uint64_t left = file->opened.head_length - at;
        size_t n = min_u64(left, HEAD_CHUNK);
        e = read_exact(file, at, chunk, n);
        if (e)
            goto out;
        XXH3_64bits_update(state, chunk, n);
        at += n;
    }
    *same = XXH3_64bits_digest(state) == file->opened.head_digest;
    e = 0;
out:
    XXH3_freeState(state);
    free(chunk);
    return e;
}

/* The file's status changed and its contents, by size and mtime, did not. */
static int accept_status(struct held_file *file, const struct stat *now)
{
    if (is_first(file, &file->logged_link))
        log_line(LOG_LEVEL_WARNING,
                 "%s: its status changed (a link, an owner, a mode, a rename or a removal), its size and "
                 "modification time did not: reading goes on",
                 file->opened.name);
    if (file->opened.head_length > 0) {
        bool same = false;
        int e = compare_head(file, &same);
        if (e) {
            log_failure_once(file, 0, file->opened.head_length, e);
            return e;
        }
        if (!same) {
            if (is_first(file, &file->logged_change))
                log_line(LOG_LEVEL_ERROR, "%s: its header is no longer the one that was mounted: reads fail",
                         file->opened.name);
            return EIO;
        }
    }
    pthread_mutex_lock(&file->lock);
    file->ctime = now->st_ctim;
    file->nlink = now->st_nlink;
    pthread_mutex_unlock(&file->lock);
    return 0;
}

/* Called after a read: bytes that were right when they were read are checked against a change before or
 * during it. */
static int check_unchanged(struct held_file *file)
{
    const struct stat *then = &file->opened.stat;
    struct stat now;

    if (fstat(file->opened.fd, &now) != 0) {
        int e = errno;
        if (is_first(file, &file->logged_error))
            log_line(LOG_LEVEL_ERROR, "%s: fstat: %s", file->opened.name, strerror(e));
        return e;
    }
    if (now.st_size != then->st_size || !same_time(now.st_mtim, then->st_mtim)) {
        if (is_first(file, &file->logged_change))
            log_line(LOG_LEVEL_ERROR,
                     "%s: changed since it was mounted (%lld bytes then, %lld now; modification time %s): "
                     "reads fail",
                     file->opened.name, (long long)then->st_size, (long long)now.st_size,
                     same_time(now.st_mtim, then->st_mtim) ? "the same" : "another");
        return EIO;
    }
    pthread_mutex_lock(&file->lock);
    bool same_status = same_time(now.st_ctim, file->ctime) && now.st_nlink == file->nlink;
    pthread_mutex_unlock(&file->lock);
    return same_status ? 0 : accept_status(file, &now);
}

/* The check costs as much as reading some kilobytes: once for all the runs. */
static int files_pread_runs(struct source *source, uint32_t number, uint64_t offset, uint64_t stride,
                            uint64_t n, void *buffer, size_t length)
{
    struct source_files *files = (struct source_files *)source;
    uint64_t begin, end;
    int e = 0;

    if (n == 0)
        return 0;
    if (number >= source->n_files || !checked_mul(stride, n - 1, &begin) ||
        !checked_add(begin, offset, &begin) || !checked_add(begin, length, &end) || end > INT64_MAX)
        return EINVAL;
    struct held_file *file = &files->files[number];
    for (uint64_t i = 0; i < n && !e; i++, offset += stride)
        e = read_exact(file, offset, (unsigned char *)buffer + i * length, length);
    int changed = check_unchanged(file);
    if (e && !changed)
        log_failure_once(file, offset - stride, length, e);
    return e ? e : changed;
}

static int files_pread(struct source *source, uint32_t number, uint64_t offset, void *buffer, size_t length)
{
    return files_pread_runs(source, number, offset, 0, 1, buffer, length);
}

static const char *files_name(struct source *source, uint32_t number)
{
    const struct source_files *files = (const struct source_files *)source;

    return number < source->n_files ? files->files[number].opened.name : NULL;
}

static int files_descriptor(struct source *source, uint32_t number)
{
    const struct source_files *files = (const struct source_files *)source;

    return number < source->n_files ? files->files[number].opened.fd : -1;
}

/* What is held of a file that has been opened. */
static struct held_file hold(const struct opened_file *opened, bool opening)
{
    return (struct held_file){.opened = *opened,
                              .lock = PTHREAD_MUTEX_INITIALIZER,
                              .ctime = opened->stat.st_ctim,
                              .nlink = opened->stat.st_nlink,
                              .opening = opening};
}

/* The opener's thread for this file has read the head; nobody else looks at it. */
static int files_hold_head(struct source *source, uint32_t number, const void *head, size_t length)
{
    struct source_files *files = (struct source_files *)source;

    if (number >= source->n_files)
        return EINVAL;
    files->files[number].opened.head_length = length;
    files->files[number].opened.head_digest = XXH3_64bits(head, length);
    return 0;
}

static void let_go(struct held_file *file)
{
    close(file->opened.fd);
    pthread_mutex_destroy(&file->lock);
    free(file->windows);
}

static int files_keep(struct source *source, const uint32_t *numbers, uint32_t n)
{
    struct source_files *files = (struct source_files *)source;
    struct held_file *kept = calloc(n + UINT64_C(1), sizeof *kept);
    struct source_info *infos = calloc(n + UINT64_C(1), sizeof *infos);

    if (!kept || !infos) {
        free(kept);
        free(infos);
        return ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct opened_file *opened = &files->files[numbers[i]].opened;
        kept[i] = hold(opened, false);
        infos[i] = files->infos[numbers[i]];
        opened->fd = -1;
    }
    for (uint32_t i = 0; i < source->n_files; i++)
        if (files->files[i].opened.fd >= 0)
            let_go(&files->files[i]);
    free(files->files);
    free(files->infos);
    files->files = kept;
    files->infos = infos;
    source->files = infos;
    source->n_files = n;
    return 0;
}

static void files_close(struct source *source)
{
    struct source_files *files = (struct source_files *)source;

    for (uint32_t i = 0; i < source->n_files; i++)
        let_go(&files->files[i]);
    free(files->files);
    free(files->infos);
    arena_free(&files->arena);
    free(files);
}

static const struct source_ops files_ops = {.pread = files_pread,
                                            .pread_runs = files_pread_runs,
                                            .name = files_name,
                                            .descriptor = files_descriptor,
                                            .hold_head = files_hold_head,
                                            .keep = files_keep,
                                            .close = files_close};

int source_files_drop_cache(struct source *source)
{
    struct source_files *files = (struct source_files *)source;

    for (uint32_t i = 0; i < source->n_files; i++) {
        const uint64_t size = files->infos[i].size;
        files->files[i].windows = calloc(size / WINDOW + 1, sizeof *files->files[i].windows);
        if (!files->files[i].windows)
            return -1;
    }
    return 0;
}

static int open_target(struct source_files *files, const char *directory, const struct files_target *target,
                       uint32_t n_needed, struct error *err)
{
    const uint32_t number = files->source.n_files;
    cleanup_free char *name = xasprintf("%s/%s", directory, target->path);
    struct opened_file opened = {.name = arena_strdup(&files->arena, name), .stat = target->stat};

    opened.fd = regular_file_open(target->path, target->root, target->target, n_needed, &opened.stat, err);
    if (opened.fd < 0)
        return -1;
    files->files[number] = hold(&opened, true);
    files->infos[number] = (struct source_info){
        .path = opened.name + strlen(directory) + 1,
        .size = (uint64_t)opened.stat.st_size,
        .mtime = opened.stat.st_mtim,
        .uid = opened.stat.st_uid,
        .gid = opened.stat.st_gid,
        .mode = opened.stat.st_mode,
        .sha256 = target->sha256 ? arena_strdup(&files->arena, target->sha256) : NULL,
    };
    files->source.n_files++;
    return 0;
}

struct source *source_files_open(const char *directory, const struct files_target *targets, uint32_t n,
                                 struct error *err)
{
    struct source_files *files = xcalloc(1, sizeof *files);

    files->source.ops = &files_ops;
    files->files = xcalloc(n, sizeof *files->files);
    files->infos = xcalloc(n, sizeof *files->infos);
    files->source.files = files->infos;
    for (uint32_t i = 0; i < n; i++) {
        if (open_target(files, directory, &targets[i], n, err) < 0) {
            source_close(&files->source);
            return NULL;
        }
    }
    return &files->source;
}
