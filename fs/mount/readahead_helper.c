/* The process that populates: threads that take orders from a socket. */
#include "readahead_helper.h"

#include "bdi.h"
#include "fs/view/tree.h"
#include "layout/base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOCKET 3

#define HELPER_NICE 10

/* One call of posix_fadvise reads no more than the device's read-ahead, which is at least this. */
#define STEP_MIN ((uint64_t)128 << 10)

struct helper {
    const char *mount_point;
    const struct tree *tree;
    struct readahead_shared *shared;
    atomic_bool seen;          /* a file of the mount has been opened */
    atomic_uint_fast64_t step; /* bytes; 0: not known yet */
};

struct worker {
    struct helper *helper;
    unsigned number;
};

/* How much one call of posix_fadvise reads. */
static uint64_t step_of(dev_t device)
{
    const uint64_t step = bdi_read_ahead(device);

    return max_u64(step, STEP_MIN);
}

/* Says why it ends; the daemon logs it and reads nothing ahead from then on. */
_Noreturn static void helper_give_up(const char *path, const char *why)
{
    char text[PATH_MAX + 128];
    const int length = snprintf(text, sizeof text, "%s: %s", path, why);

    (void)!send(SOCKET, text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1, MSG_NOSIGNAL);
    _exit(0);
}

/* The file of an order, or -1: another file system may lie there by now, or nothing. */
static int helper_open(struct helper *helper, const struct readahead_order *order)
{
    const struct tree_inode *inode = tree_get(helper->tree, order->inode);
    char path[PATH_MAX];
    struct stat found;

    if (!inode || inode->kind == TREE_DIRECTORY ||
        (size_t)snprintf(path, sizeof path, "%s/%s", helper->mount_point, inode->path) >= sizeof path)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    const int error = errno;
    if (fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == order->device && found.st_ino == order->inode) {
        atomic_store(&helper->seen, true);
        return fd;
    }
    if (!atomic_load(&helper->seen))
        helper_give_up(path, fd < 0 ? strerror(error) : "not a file of this mount");
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool order_holds(const struct helper *helper, const struct readahead_order *order)
{
    return atomic_load(&helper->shared->epochs[order->slot % READAHEAD_SLOTS]) == order->epoch;
}

/* The kernel takes pages and sends the requests, and waits for nothing: who reads them first waits. */
static void helper_populate(struct helper *helper, const struct readahead_order *order, int fd)
{
    uint64_t step = atomic_load(&helper->step);

    if (step == 0) {
        step = step_of(order->device);
        atomic_store(&helper->step, step);
    }
    for (uint64_t done = 0; done < order->length && order_holds(helper, order);) {
        const uint64_t at = order->offset + done, left = order->length - done;
        const uint64_t n = min_u64(left, step - at % step);
        if (posix_fadvise(fd, (off_t)at, (off_t)n, POSIX_FADV_WILLNEED) != 0)
            return;
        done += n;
    }
}

/* The next order. False: none is waiting, and wait is false. */
static bool helper_receive(struct readahead_order *order, bool wait)
{
    for (;;) {
        const ssize_t n = recv(SOCKET, order, sizeof *order, wait ? 0 : MSG_DONTWAIT);
        if (n == (ssize_t)sizeof *order)
            return true;
        if (n == 0)
            _exit(0);
        if (n < 0 && errno == EAGAIN && !wait)
            return false;
        if (n < 0 && errno != EINTR)
            _exit(1);
    }
}

/* A file is held open only while orders for it are waiting: an open file would keep the mount busy. */
_Noreturn static void worker_serve(const struct worker *worker)
{
    struct helper *helper = worker->helper;
    struct readahead_order order;
    uint64_t inode = 0;
    int fd = -1;

    atomic_store(&helper->shared->threads[worker->number], gettid());
    for (;;) {
        if (!helper_receive(&order, fd < 0)) {
            close(fd);
            fd = -1;
            continue;
        }
        if (!order_holds(helper, &order))
            continue;
        if (fd >= 0 && inode != order.inode) {
            close(fd);
            fd = -1;
        }
        if (fd < 0)
            fd = helper_open(helper, &order);
        inode = order.inode;
        if (fd >= 0)
            helper_populate(helper, &order, fd);
    }
}

static void *worker_run(void *context)
{
    worker_serve(context);
}

/* Everything but the socket, which becomes number SOCKET. */
static void close_descriptors(int socket)
{
    const int null = open("/dev/null", O_RDWR);

    if (socket != SOCKET)
        dup2(socket, SOCKET);
    for (int fd = 0; fd < SOCKET && null >= 0; fd++)
        dup2(null, fd);
    closefrom(SOCKET + 1);
}

void readahead_helper_run(int socket, pid_t parent, const char *mount_point, const struct tree *tree,
                          struct readahead_shared *shared)
{
    struct helper helper = {.mount_point = mount_point, .tree = tree, .shared = shared};
    struct worker workers[READAHEAD_THREADS];
    pthread_t thread;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    prctl(PR_SET_NAME, "moefs-readahead");
    /* Where the cores are busy, with readers and the daemon who serves them, those come first. No less than
     * this: a reader may wait for a page that a thread of the helper has begun. */
    sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    (void)!nice(HELPER_NICE);
    /* a signal to the daemon's whole group is the daemon's to act on: it may serve for long after it */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    close_descriptors(socket);
    for (unsigned i = 0; i < READAHEAD_THREADS; i++)
        workers[i] = (struct worker){&helper, i};
    for (unsigned i = 1; i < READAHEAD_THREADS; i++)
        if (pthread_create(&thread, NULL, worker_run, &workers[i]) != 0)
            break; /* fewer do as well */
    worker_serve(&workers[0]);
}
