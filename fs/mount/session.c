/* A session: libfuse, the signal thread, and how the mount leaves the tree. */
#include "session.h"

#include "bdi.h"
#include "fs/base/buffer_pool.h"
#include "fs/base/log.h"
#include "fuse_messages.h"
#include "fuse_options.h"
#include "layout/base/memory.h"
#include "mount_point.h"
#include "mount_table.h"
#include "operations.h"
#include "passthrough.h"
#include "readahead.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* Nothing of a mount ever changes: the kernel may keep names and attributes. Seconds; 30 years. */
#define FOREVER 1e9

#define NUDGE_NANOSECONDS 20000000

struct session {
    struct operations operations;
    struct fuse_session *fuse;
    struct fuse_loop_config *loop;
    const char *path; /* of the mount point; NULL: the mount is the caller's (/dev/fd/N) */
    dev_t device;
    size_t kernel_read_ahead;
    atomic_bool finished; /* serving has ended */
    /* The signal thread's, until it is joined: */
    bool detached; /* by us: whatever is mounted there now is not ours */
    bool left;     /* the loop was ended while the mount was still in use */
    pthread_t main_thread, signal_thread;
};

static int make_generation(uint32_t *generation, struct error *err)
{
    for (*generation = 0; *generation == 0;)
        if (getrandom(generation, sizeof *generation, 0) < 0 && errno != EINTR)
            return error_set(err, "getrandom: %s", strerror(errno));
    return 0;
}

static void *wait_to_be_cancelled(void *context)
{
    for (;;)
        pause();
    return context;
}

/* libfuse ends its threads by pthread_cancel, which loads libgcc_s the first time, and aborts the process where there
 * is no memory for it: so it is loaded before there is a mount to leave behind. */
static int load_cancellation(struct error *err)
{
    pthread_t thread;
    const int rc = pthread_create(&thread, NULL, wait_to_be_cancelled, NULL);

    if (rc != 0)
        return error_set(err, "starting a thread: %s", strerror(rc));
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    return 0;
}

static int start_libfuse(struct session *session, const struct session_options *options, struct error *err)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);

    fuse_messages_keep();
    session->loop = fuse_loop_cfg_create();
    if (!session->loop || fuse_opt_add_arg(&args, "moefs") < 0 || fuse_opt_add_arg(&args, "-o") < 0 ||
        fuse_opt_add_arg(&args, options->fuse->text) < 0)
        memory_exhausted();
    fuse_loop_cfg_set_max_threads(session->loop, options->threads);
    session->fuse = fuse_session_new(&args, &operations_table, sizeof operations_table, &session->operations);
    fuse_opt_free_args(&args);
    return session->fuse ? 0 : fuse_messages_fail(err, "libfuse refuses the mount options");
}

struct session *session_new(const struct tree *tree, const struct session_options *options, struct error *err)
{
    struct session *session = xcalloc(1, sizeof *session);

    session->kernel_read_ahead = options->kernel_read_ahead;
    session->operations = (struct operations){
        .tree = tree,
        .buffers = buffer_pool_new(),
        .kernel_read_ahead = (unsigned)options->kernel_read_ahead,
        .readahead = options->readahead,
        .timeout = options->fuse->allow_root ? 0 : FOREVER,
    };
    if (options->passthrough > 0)
        session->operations.passthrough = passthrough_new(options->passthrough);
    if (!session->operations.buffers || (options->passthrough > 0 && !session->operations.passthrough))
        memory_exhausted();
    if (make_generation(&session->operations.generation, err) == 0 && load_cancellation(err) == 0 &&
        start_libfuse(session, options, err) == 0)
        return session;
    session_free(session);
    return NULL;
}

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

/* The mounts of our device, and what lies at our path. */
struct search {
    const char *path;
    dev_t device, top;    /* top: what lies at the path, over all else; 0: nothing is mounted there */
    bool covered;         /* ours is at the path, and something over it */
    char moved[PATH_MAX]; /* another path where ours is, over all else; or "" */
};

static void search_visit(void *context, const struct mount_line *mount)
{
    struct search *search = context;
    const dev_t device = makedev(mount->major, mount->minor);

    if (strcmp(mount->point, search->path) == 0) {
        search->covered = search->covered || search->top == search->device;
        search->top = device;
    } else if (device == search->device && strlen(mount->point) < sizeof search->moved) {
        strcpy(search->moved, mount->point);
    } else if (strcmp(mount->point, search->moved) == 0) {
        search->moved[0] = '\0';
    }
}

static int session_search(const struct session *session, struct search *search, struct error *err)
{
    *search = (struct search){.path = session->path, .device = session->device};
    const int error = mount_table_read("", search_visit, search);
    if (error)
        return error_set(err, "/proc/self/mountinfo: %s", strerror(error));
    return 0;
}

/* Of a path, once mounted: which device it is, and how far the kernel is to read ahead. */
static int session_find_device(struct session *session, struct error *err)
{
    struct search search;

    if (session_search(session, &search, err) < 0)
        return -1;
    if (search.top == 0)
        return error_set(err, "%s: mounted, but not in /proc/self/mountinfo", session->path);
    session->device = search.top;
    if (session->kernel_read_ahead > 0)
        bdi_set_read_ahead(session->device, session->kernel_read_ahead);
    if (session->operations.readahead)
        readahead_mounted(session->operations.readahead, session->device);
    return 0;
}

int session_mount(struct session *session, const struct mount_point *mount_point, struct error *err)
{
    cleanup_free char *what = xasprintf("%s: cannot be mounted", mount_point->name);
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (fuse_session_mount(session->fuse, mount_point->name) != 0)
        return fuse_messages_fail(err, what);
    if (mount_point->descriptor >= 0)
        return 0;
    session->path = mount_point->name;
    if (session_find_device(session, err) == 0)
        return 0;
    fuse_session_unmount(session->fuse);
    return -1;
}

/* Whether the kernel has let go of our mount: unmounted by somebody, or the connection aborted. */
static bool session_is_severed(const struct session *session)
{
    struct pollfd poll_fd = {.fd = fuse_session_fd(session->fuse)};

    return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLERR) != 0;
}

/* Whether our device's mount at this path is ours. Device numbers are given out anew at once: where ours has been
 * let go of, the same number may be a newer mount's, which answers, while an aborted one of ours does not. */
static bool session_owns(const struct session *session, const char *path)
{
    struct statvfs answer;

    return !session_is_severed(session) || (statvfs(path, &answer) < 0 && errno == ENOTCONN);
}

/* Takes the mount out of the tree, if it is still there and on top. False with *err set: it could not be done. */
static bool session_detach(struct session *session, struct error *err)
{
    struct search search;

    if (session->detached)
        return true;
    if (session_search(session, &search, err) < 0)
        return false;
    if (search.top == session->device && session_owns(session, session->path)) {
        session->detached = mount_table_unmount(session->path, true, err) == 0;
    } else if (search.moved[0] && session_owns(session, search.moved)) {
        log_line(LOG_LEVEL_INFO, "%s: the mount is now at %s, and is unmounted there", session->path,
                 search.moved);
        session->detached = mount_table_unmount(search.moved, true, err) == 0;
    } else {
        session->detached = !search.covered || session_is_severed(session);
        if (!session->detached)
            error_set(err, "%s: not unmounted: another mount lies over this one", session->path);
    }
    return session->detached;
}

/* A signal has asked for it. False: serving is to end with the mount in place, a dead one; the log says why. */
static bool session_unmount(struct session *session)
{
    struct error err = {0};
    const bool done = session->path && session_detach(session, &err);

    if (err.text)
        log_line(LOG_LEVEL_ERROR, "%s", err.text);
    error_free(&err);
    return done;
}

static void ignore_nudge(int number)
{
    (void)number;
}

/* Ends the loop. It sleeps on a semaphore and looks at the flag when a signal interrupts that; one signal
 * could come just before it falls asleep, hence several. */
static void session_leave(struct session *session)
{
    const struct timespec pause = {.tv_nsec = NUDGE_NANOSECONDS};

    if (atomic_load(&session->finished))
        return;
    session->left = true;
    fuse_session_exit(session->fuse);
    while (!atomic_load(&session->finished)) {
        pthread_kill(session->main_thread, SIGUSR1);
        nanosleep(&pause, NULL);
    }
}

static void *session_watch_signals(void *context)
{
    struct session *session = context;
    const struct timespec a_moment = {.tv_sec = 1};
    sigset_t set;

    signal_set(&set);
    int number = sigwaitinfo(&set, NULL);
    while (number < 0)
        number = sigwaitinfo(&set, NULL);
    if (atomic_load(&session->finished))
        return NULL;
    log_line(LOG_LEVEL_INFO, "%s: unmounting", strsignal(number));
    if (session_unmount(session)) {
        number = sigtimedwait(&set, NULL, &a_moment);
        if (number < 0 && !atomic_load(&session->finished))
            log_line(LOG_LEVEL_INFO,
                     "%s: unmounted, but still open somewhere: serving until it is closed; a second "
                     "signal ends it now",
                     session->path);
        while (number < 0)
            number = sigwaitinfo(&set, NULL);
    }
    session_leave(session);
    return NULL;
}

/* The kernel's first request, in which both say what they can do. 0 when it was accepted. Apart from the loop since
 * libfuse says nothing to anybody where it has no memory for it, and the mount would never answer. */
static int session_make_contact(struct session *session, struct error *err)
{
    struct fuse_buf request = {0};
    int n = fuse_session_receive_buf(session->fuse, &request);

    while (n == -EINTR && !fuse_session_exited(session->fuse))
        n = fuse_session_receive_buf(session->fuse, &request);
    if (n > 0)
        fuse_session_process_buf(session->fuse, &request);
    free(request.mem);
    if (session->operations.refusal)
        return error_set(err, "%s", session->operations.refusal);
    if (n > 0 && session->operations.accepted && !fuse_session_exited(session->fuse))
        return 0;
    if (n > 0)
        return fuse_messages_fail(err, "the kernel's first request could not be answered");
    if (n < 0 && n != -EINTR)
        return error_set(err, "the kernel's first request could not be read: %s", strerror(-n));
    return error_set(err, "the mount was ended before it was ready, by a signal or by unmounting it");
}

static int session_start_signals(struct session *session, struct error *err)
{
    struct sigaction nudge = {.sa_handler = ignore_nudge}; /* no SA_RESTART: it is to interrupt */

    session->main_thread = pthread_self();
    sigaction(SIGUSR1, &nudge, NULL);
    const int rc = pthread_create(&session->signal_thread, NULL, session_watch_signals, session);
    return rc == 0 ? 0 : error_set(err, "starting a thread: %s", strerror(rc));
}

static void session_end_signals(struct session *session)
{
    atomic_store(&session->finished, true);
    pthread_kill(session->signal_thread, SIGTERM);
    pthread_join(session->signal_thread, NULL);
}

/* Until the mount is gone. 0, or -1 with *err set. */
static int session_answer(struct session *session, void (*ready)(void *context), void *context,
                          struct error *err)
{
    if (session_make_contact(session, err) < 0)
        return -1;
    fuse_messages_log();
    ready(context);
    const int result = fuse_session_loop_mt(session->fuse, session->loop);
    /* ECONNABORTED: the connection is gone, which the kernel mostly says by ENODEV, and libfuse then ends well */
    if (result == -1)
        return error_set(err, "serving the mount: libfuse has started no thread"); /* and has logged why */
    if (result < 0 && result != -ECONNABORTED)
        return error_set(err, "serving the mount: %s", strerror(-result));
    return 0;
}

int session_serve(struct session *session, void (*ready)(void *context), void *context, struct error *err)
{
    struct error left = {0};

    if (session_start_signals(session, err) < 0) {
        fuse_session_unmount(session->fuse);
        return -1;
    }
    int result = session_answer(session, ready, context, err);
    session_end_signals(session);
    /* an aborted connection, too, leaves a dead mount */
    if (session->path && !session_detach(session, &left))
        result = err->text ? error_add(err, "%s", left.text) : error_relay(err, left.text);
    error_free(&left);
    return result;
}

/* Sessions that libfuse could free only by unmounting a path where another mount may lie by now. Kept in
 * sight of leak checkers; the end of the process closes their descriptor. */
static struct fuse_session *volatile abandoned;

void session_free(struct session *session)
{
    if (!session)
        return;
    if (session->path && session->left) {
        abandoned = session->fuse;
    } else if (session->fuse) {
        fuse_session_unmount(session->fuse);
        fuse_session_destroy(session->fuse);
    }
    fuse_loop_cfg_destroy(session->loop);
    passthrough_free(session->operations.passthrough);
    buffer_pool_free(session->operations.buffers);
    free(session);
}
