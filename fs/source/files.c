#include "files.h"
#include "layout/base/checked.h"
#include "fs/base/log.h"

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

struct held_file {
    struct source_file opened;
    pthread_mutex_t lock; /* guards the next two; never held during I/O */
    struct timespec ctime;
    nlink_t nlink;
    atomic_uint
        *windows; /* bytes read from each window since it was dropped; NULL: the page cache keeps them */
    atomic_bool logged_change, logged_link, logged_error;
};

struct source_files {
    struct source source;
    uint32_t n;
    struct held_file files[];
};

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* The window's first folio may begin in the one before. */
static void drop_window(const struct held_file *file, uint64_t window)
{
    const uint64_t begin = window * WINDOW, before = begin < FOLIO_MAX ? begin : FOLIO_MAX;

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
    return found[0] * (uint64_t)sysconf(_SC_PAGESIZE) > (size < WINDOW ? size : WINDOW) / 2;
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
        const uint64_t begin = window * WINDOW > head ? window * WINDOW : head;
        const uint64_t all = (end < size ? end : size) - begin;
        const uint64_t n = length < end - offset ? length : end - offset;
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
        ssize_t n = pread(file->opened.fd, to, length < PREAD_MAX ? length : PREAD_MAX, (off_t)offset);
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
    if (!atomic_exchange(&file->logged_error, true))
        log_line(LOG_LEVEL_ERROR, "%s: reading bytes %llu to %llu of %lld: %s", file->opened.path,
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
        size_t n = left < HEAD_CHUNK ? (size_t)left : HEAD_CHUNK;
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
    if (!atomic_exchange(&file->logged_link, true))
        log_line(LOG_LEVEL_WARNING,
                 "%s: its status changed (a link, an owner, a mode, a rename or a removal), its size and "
                 "modification time did not: reading goes on",
                 file->opened.path);
    if (file->opened.head_length > 0) {
        bool same = false;
        int e = compare_head(file, &same);
        if (e) {
            log_failure_once(file, 0, file->opened.head_length, e);
            return e;
        }
        if (!same) {
            if (!atomic_exchange(&file->logged_change, true))
                log_line(LOG_LEVEL_ERROR, "%s: its header is no longer the one that was mounted: reads fail",
                         file->opened.path);
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
        if (!atomic_exchange(&file->logged_error, true))
            log_line(LOG_LEVEL_ERROR, "%s: fstat: %s", file->opened.path, strerror(e));
        return e;
    }
    if (now.st_size != then->st_size || !same_time(now.st_mtim, then->st_mtim)) {
        if (!atomic_exchange(&file->logged_change, true))
            log_line(LOG_LEVEL_ERROR,
                     "%s: changed since it was mounted (%lld bytes then, %lld now; modification time %s): "
                     "reads fail",
                     file->opened.path, (long long)then->st_size, (long long)now.st_size,
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
    if (number >= files->n || !checked_mul(stride, n - 1, &begin) || !checked_add(begin, offset, &begin) ||
        !checked_add(begin, length, &end) || end > INT64_MAX)
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

    return number < files->n ? files->files[number].opened.path : NULL;
}

static int files_descriptor(struct source *source, uint32_t number)
{
    const struct source_files *files = (const struct source_files *)source;

    return number < files->n ? files->files[number].opened.fd : -1;
}

static void files_close(struct source *source)
{
    struct source_files *files = (struct source_files *)source;

    for (uint32_t i = 0; i < files->n; i++) {
        close(files->files[i].opened.fd);
        pthread_mutex_destroy(&files->files[i].lock);
        free(files->files[i].windows);
    }
    free(files);
}

static const struct source_ops files_ops = {.pread = files_pread,
                                            .pread_runs = files_pread_runs,
                                            .name = files_name,
                                            .descriptor = files_descriptor,
                                            .close = files_close};

int source_files_drop_cache(struct source *source)
{
    struct source_files *files = (struct source_files *)source;

    for (uint32_t i = 0; i < files->n; i++) {
        const uint64_t size = (uint64_t)files->files[i].opened.stat.st_size;
        files->files[i].windows = calloc(size / WINDOW + 1, sizeof *files->files[i].windows);
        if (!files->files[i].windows)
            return -1;
    }
    return 0;
}

struct source *source_files_open(const struct source_file *opened, uint32_t n)
{
    struct source_files *files = calloc(1, sizeof *files + n * sizeof files->files[0]);

    if (!files)
        return NULL;
    files->source.ops = &files_ops;
    files->n = n;
    for (uint32_t i = 0; i < n; i++) {
        struct held_file *file = &files->files[i];
        file->opened = opened[i];
        file->ctime = opened[i].stat.st_ctim;
        file->nlink = opened[i].stat.st_nlink;
        pthread_mutex_init(&file->lock, NULL);
    }
    return &files->source;
}
