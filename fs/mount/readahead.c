/* The daemon's side of reading ahead: open files, orders to the helper, and the helper's end. */
#include "readahead.h"

#include "layout/base/memory.h"
#include "layout/base/checked.h"
#include "fs/base/log.h"
#include "fs/view/tree.h"
#include "readahead_helper.h"
#include "readahead_streams.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utlist.h>

/* The helper's threads share a range in pieces of this many bytes, in the file's order. */
#define PIECE ((uint64_t)4 << 20)

/* The reader of a smaller file is at its end before it is known for one. */
#define FILE_MIN (2 * STREAMS_START)

#define HANDLE_NONE UINT64_C(0)

struct readahead {
    const char *mount_point;
    size_t window;
    int socket;
    uint64_t device; /* written once, before the kernel's first request is answered */
    struct readahead_shared *shared;
    atomic_uint next_slot;
    atomic_bool off, ending;
    pthread_t reaper;
    pthread_mutex_t lock;   /* guards the next two */
    pid_t helper;           /* 0: waited for, and another process's number by now */
    struct handle *handles; /* all of them: a mount may end with files open, which nobody closes then */
};

struct handle {
    const struct tree_inode *inode;
    struct handle *prev, *next;
    uint32_t slot;
    pthread_mutex_t lock; /* guards streams; orders are sent under it, so that they ascend */
    struct streams streams;
};

/* Why the helper ended, for the log. */
static void log_end(const struct readahead *readahead, const char *said, int status)
{
    if (*said)
        log_line(LOG_LEVEL_WARNING, "read-ahead is off: the helper does not see the mount: %s", said);
    else if (WIFSIGNALED(status))
        log_line(LOG_LEVEL_WARNING, "%s: read-ahead is off: the helper was ended by a signal: %s",
                 readahead->mount_point, strsignal(WTERMSIG(status)));
    else
        log_line(LOG_LEVEL_WARNING, "%s: read-ahead is off: the helper ended with exit status %d",
                 readahead->mount_point, WEXITSTATUS(status));
}

/* Waits for the helper's end. The helper says nothing unless it is about to end. */
static void *reap(void *context)
{
    struct readahead *readahead = context;
    char said[PATH_MAX + 128];
    size_t length = 0;
    siginfo_t info;
    int status = 0;

    for (;;) {
        const ssize_t n = recv(readahead->socket, said + length, sizeof said - 1 - length, 0);
        /* it ended with orders unread, which is told once and before what it has said */
        const bool again = n < 0 && (errno == EINTR || errno == ECONNRESET);
        if (n == 0 || (n < 0 && !again))
            break;
        length += n > 0 ? (size_t)n : 0;
    }
    said[length] = '\0';
    atomic_store(&readahead->off, true);
    while (waitid(P_PID, (id_t)readahead->helper, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    for (unsigned i = 0; i < READAHEAD_THREADS; i++)
        atomic_store(&readahead->shared->threads[i], 0); /* the numbers may be given out anew */
    pthread_mutex_lock(&readahead->lock);
    while (waitpid(readahead->helper, &status, 0) < 0 && errno == EINTR)
        ;
    readahead->helper = 0;
    pthread_mutex_unlock(&readahead->lock);
    if (!atomic_load(&readahead->ending))
        log_end(readahead, said, status);
    return NULL;
}

/* Signals are the main thread's and its signal thread's to take. */
static int start_reaper(struct readahead *readahead)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&readahead->reaper, NULL, reap, readahead);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static int start_helper(struct readahead *readahead, const struct tree *tree, struct error *err)
{
    const pid_t parent = getpid();
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set(err, "socketpair: %s", strerror(errno));
    readahead->helper = fork();
    if (readahead->helper == 0)
        readahead_helper_run(ends[1], parent, readahead->mount_point, tree, readahead->shared);
    close(ends[1]);
    if (readahead->helper < 0) {
        close(ends[0]);
        return error_set(err, "fork: %s", strerror(errno));
    }
    readahead->socket = ends[0];
    const int rc = start_reaper(readahead);
    if (rc == 0)
        return 0;
    close(readahead->socket);
    kill(readahead->helper, SIGKILL);
    while (waitpid(readahead->helper, NULL, 0) < 0 && errno == EINTR)
        ;
    return error_set(err, "starting a thread: %s", strerror(rc));
}

struct readahead *readahead_new(const struct tree *tree, const char *mount_point, size_t window,
                                struct error *err)
{
    struct readahead *readahead = xcalloc(1, sizeof *readahead);

    readahead->mount_point = mount_point;
    readahead->window = window;
    pthread_mutex_init(&readahead->lock, NULL);
    readahead->shared =
        mmap(NULL, sizeof *readahead->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (readahead->shared == MAP_FAILED) {
        error_set(err, "mmap: %s", strerror(errno));
        goto out;
    }
    if (start_helper(readahead, tree, err) == 0)
        return readahead;
    munmap(readahead->shared, sizeof *readahead->shared);
out:
    pthread_mutex_destroy(&readahead->lock);
    free(readahead);
    return NULL;
}

void readahead_mounted(struct readahead *readahead, dev_t device)
{
    readahead->device = device;
}

static struct handle *handle_of(uint64_t handle)
{
    return (struct handle *)(uintptr_t)handle;
}

static void handle_free(struct handle *handle)
{
    pthread_mutex_destroy(&handle->lock);
    free(handle);
}

uint64_t readahead_open(struct readahead *readahead, const struct tree_inode *inode, pid_t thread)
{
    if (!readahead || atomic_load(&readahead->off) || (uint64_t)inode->stat.st_size < FILE_MIN)
        return HANDLE_NONE;
    /* the helper's own requests say nothing of a reader */
    for (unsigned i = 0; i < READAHEAD_THREADS; i++)
        if (atomic_load(&readahead->shared->threads[i]) == thread)
            return HANDLE_NONE;
    struct handle *handle = malloc(sizeof *handle);
    if (!handle)
        return HANDLE_NONE; /* read all the same, without read-ahead */
    handle->inode = inode;
    handle->slot = atomic_fetch_add(&readahead->next_slot, 1) % READAHEAD_SLOTS;
    pthread_mutex_init(&handle->lock, NULL);
    streams_init(&handle->streams, (uint64_t)inode->stat.st_size, readahead->window);
    pthread_mutex_lock(&readahead->lock);
    DL_APPEND(readahead->handles, handle);
    pthread_mutex_unlock(&readahead->lock);
    return (uint64_t)(uintptr_t)handle;
}

/* An order that finds the socket full is dropped: the reader reads those bytes itself. */
static void send_range(const struct readahead *readahead, const struct handle *handle,
                       const struct streams_range *range)
{
    const uint64_t end = range->offset + range->length;
    const uint32_t epoch = atomic_load(&readahead->shared->epochs[handle->slot]);

    for (uint64_t at = range->offset; at < end;) {
        const uint64_t n = min_u64(end - at, PIECE - at % PIECE);
        const struct readahead_order order = {.inode = handle->inode->stat.st_ino,
                                              .device = readahead->device,
                                              .offset = at,
                                              .length = n,
                                              .slot = handle->slot,
                                              .epoch = epoch};
        if (send(readahead->socket, &order, sizeof order, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            return;
        at += n;
    }
}

void readahead_note(struct readahead *readahead, uint64_t number, uint64_t offset, uint64_t length)
{
    struct streams_range ranges[STREAMS_RANGES];
    struct handle *handle = handle_of(number);

    if (!handle || atomic_load(&readahead->off))
        return;
    pthread_mutex_lock(&handle->lock);
    const size_t n = streams_note(&handle->streams, offset, length, ranges);
    for (size_t i = 0; i < n; i++)
        send_range(readahead, handle, &ranges[i]);
    pthread_mutex_unlock(&handle->lock);
}

void readahead_release(struct readahead *readahead, uint64_t number)
{
    struct handle *handle = handle_of(number);

    if (!handle)
        return;
    /* another open file with this slot loses what it has ordered so far: it reads those bytes itself */
    atomic_fetch_add(&readahead->shared->epochs[handle->slot], 1);
    pthread_mutex_lock(&readahead->lock);
    DL_DELETE(readahead->handles, handle);
    pthread_mutex_unlock(&readahead->lock);
    handle_free(handle);
}

void readahead_free(struct readahead *readahead)
{
    if (!readahead)
        return;
    atomic_store(&readahead->ending, true);
    pthread_mutex_lock(&readahead->lock);
    if (readahead->helper > 0)
        kill(readahead->helper, SIGKILL);
    pthread_mutex_unlock(&readahead->lock);
    pthread_join(readahead->reaper, NULL);
    while (readahead->handles) {
        struct handle *handle = readahead->handles;
        DL_DELETE(readahead->handles, handle);
        handle_free(handle);
    }
    close(readahead->socket);
    munmap(readahead->shared, sizeof *readahead->shared);
    pthread_mutex_destroy(&readahead->lock);
    free(readahead);
}
