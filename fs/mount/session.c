#include "session.h"

#include "layout/base/memory.h"
#include "fs/base/log.h"
#include "mount_point.h"
#include "mount_table.h"
#include "operations.h"
#include "passthrough.h"
#include "bdi.h"

#include <errno.h>
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

#define THREADS_MIN 32 /* each waits for the source while it reads: docs/measurements.md */

/* Nothing of a mount ever changes: the kernel may keep names and attributes. Seconds; 30 years. */
#define FOREVER 1e9

#define NUDGE_NANOSECONDS 20000000

struct session {
    struct served served;
    struct fuse_session *fuse;
    char *mount_point; /* NULL: the mount is the caller's (/dev/fd/N) */
    unsigned major, minor;
    size_t kernel_read_ahead;
    const char *refusal; /* why the kernel's first request was not accepted; set before the loop ends */
    void (*ready)(void *context);
    void *context;
    atomic_bool was_ready;
    atomic_bool finished; /* the loop has ended */
    /* The signal thread's, until it is joined: */
    bool signalled;
    bool detached; /* by us: whatever is mounted there now is not ours */
    bool left;     /* the loop was ended while the mount was still in use */
    pthread_t main_thread, signal_thread;
};

/* What libfuse has to say goes to the error while there is a caller to be told, and to the log afterwards. */
static struct {
    pthread_mutex_t lock;
    bool capturing;
    size_t length;
    char text[2048];
} messages = {.lock = PTHREAD_MUTEX_INITIALIZER};

__attribute__((format(printf, 2, 0))) static void take_message(enum fuse_log_level level, const char *format,
                                                               va_list args)
{
    char line[1024];

    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    if (*line == '\0')
        return;
    pthread_mutex_lock(&messages.lock);
    bool capturing = messages.capturing;
    if (capturing) {
        size_t space = sizeof messages.text - messages.length;
        int n = snprintf(messages.text + messages.length, space, "%s%s", messages.length ? "\n" : "", line);
        messages.length += (size_t)n < space ? (size_t)n : space - 1;
    }
    pthread_mutex_unlock(&messages.lock);
    if (!capturing)
        log_line(level <= FUSE_LOG_ERR ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "%s", line);
}

static void capture(bool on)
{
    pthread_mutex_lock(&messages.lock);
    messages.capturing = on;
    pthread_mutex_unlock(&messages.lock);
}

static int fail(struct error *err, const char *what)
{
    pthread_mutex_lock(&messages.lock);
    cleanup_free char *text = xasprintf("%s%s%s", what, messages.length ? "\n" : "", messages.text);
    error_relay(err, text);
    pthread_mutex_unlock(&messages.lock);
    return -1;
}

static void session_became_ready(void *context)
{
    struct session *session = context;

    if (session->kernel_read_ahead > 0 && session->mount_point)
        kernel_read_ahead_set(session->major, session->minor, session->kernel_read_ahead);
    capture(false);
    atomic_store(&session->was_ready, true);
    session->ready(session->context);
}

static void session_refuse(void *context, const char *why)
{
    struct session *session = context;

    session->refusal = why;
    fuse_session_exit(session->fuse);
}

static int make_generation(uint32_t *generation, struct error *err)
{
    for (*generation = 0; *generation == 0;)
        if (getrandom(generation, sizeof *generation, 0) < 0 && errno != EINTR)
            return error_set(err, "getrandom: %s", strerror(errno));
    return 0;
}

struct session *session_new(const struct plan *plan, const struct tree *tree, struct reader *reader,
                            struct source *source, const struct session_options *options, struct error *err)
{
    struct session *session = xcalloc(1, sizeof *session);
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);

    session->kernel_read_ahead = options->kernel_read_ahead;
    session->served = (struct served){.plan = plan,
                                      .tree = tree,
                                      .reader = reader,
                                      .source = source,
                                      .buffers = buffer_pool_new(),
                                      .kernel_read_ahead = (unsigned)options->kernel_read_ahead,
                                      .readahead = options->readahead,
                                      .timeout = options->each_asks ? 0 : FOREVER,
                                      .ready = session_became_ready,
                                      .refuse = session_refuse,
                                      .context = session};
    if (!session->served.buffers)
        memory_exhausted();
    if (make_generation(&session->served.generation, err) < 0) {
        session_free(session);
        return NULL;
    }
    if (options->passthrough > 0) {
        session->served.passthrough = passthrough_new(options->passthrough);
        if (!session->served.passthrough)
            memory_exhausted();
    }
    fuse_set_log_func(take_message);
    capture(true);
    if (fuse_opt_add_arg(&args, "moefs") < 0 || fuse_opt_add_arg(&args, "-o") < 0 ||
        fuse_opt_add_arg(&args, options->fuse) < 0)
        memory_exhausted();
    session->fuse = fuse_session_new(&args, &operations, sizeof operations, &session->served);
    fuse_opt_free_args(&args);
    if (!session->fuse) {
        fail(err, "libfuse refuses the mount options");
        session_free(session);
        return NULL;
    }
    return session;
}

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

int session_mount(struct session *session, const char *mount_point, struct error *err)
{
    struct mount_entry entry;
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (fuse_session_mount(session->fuse, mount_point) != 0) {
        cleanup_free char *what = xasprintf("%s: cannot be mounted", mount_point);
        return fail(err, what);
    }
    if (mount_point_is_descriptor(mount_point))
        return 0;
    session->mount_point = xstrdup(mount_point);
    int found = mounts_find(mount_point, &entry, err);
    session->major = entry.major;
    session->minor = entry.minor;
    mounts_entry_clear(&entry);
    if (found == 0)
        error_set(err, "%s: mounted, but not in /proc/self/mountinfo", mount_point);
    if (found <= 0)
        fuse_session_unmount(session->fuse);
    else if (session->served.readahead)
        readahead_mounted(session->served.readahead, makedev(session->major, session->minor));
    return found > 0 ? 0 : -1;
}

/* Whether the kernel has let go of our mount: unmounted by somebody, or the connection aborted. */
static bool session_is_severed(const struct session *session)
{
    struct pollfd poll_fd = {.fd = fuse_session_fd(session->fuse)};

    return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLERR) != 0;
}

/* Whether what is mounted there is ours. Device numbers are given out anew at once: where ours has been let
 * go of, the same numbers may be a newer mount's, which answers, while an aborted one of ours does not. */
static bool session_is_mounted(const struct session *session, const struct mount_entry *entry)
{
    struct statvfs answer;

    if (entry->major != session->major || entry->minor != session->minor)
        return false;
    return !session_is_severed(session) || (statvfs(session->mount_point, &answer) < 0 && errno == ENOTCONN);
}

/* Takes the mount out of the tree, if it is still there and on top. False with *err set: it could not be
 * done. */
static bool session_detach(struct session *session, struct error *err)
{
    struct mount_entry entry;
    bool done = true;

    if (session->detached)
        return true;
    int found = mounts_find(session->mount_point, &entry, err);
    if (found > 0 && session_is_mounted(session, &entry)) {
        done = mounts_unmount(session->mount_point, true, err) == 0;
    } else if (found >= 0) {
        done = found == 0 || session_is_severed(session);
        if (!done)
            error_set(err, "%s: not unmounted: another mount lies over this one", session->mount_point);
    } else {
        done = false;
    }
    mounts_entry_clear(&entry);
    session->detached = done;
    return done;
}

/* A signal has asked for it. Where it cannot be done the mount ends all the same. */
static bool session_unmount(struct session *session)
{
    struct error err = {0};
    const bool done = session->mount_point && session_detach(session, &err);

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
    session->signalled = true;
    if (session_unmount(session)) {
        number = sigtimedwait(&set, NULL, &a_moment);
        if (number < 0 && !atomic_load(&session->finished))
            log_line(LOG_LEVEL_INFO,
                     "%s: unmounted, but still open somewhere: serving until it is closed; a second "
                     "signal ends it now",
                     session->mount_point);
        while (number < 0)
            number = sigwaitinfo(&set, NULL);
    }
    session_leave(session);
    return NULL;
}

static int session_loop(struct session *session)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct fuse_loop_config *config = fuse_loop_cfg_create();

    if (!config)
        return -ENOMEM;
    fuse_loop_cfg_set_max_threads(config, cores * 2 > THREADS_MIN ? (unsigned)cores * 2 : THREADS_MIN);
    int result = fuse_session_loop_mt(session->fuse, config);
    fuse_loop_cfg_destroy(config);
    return result;
}

int session_serve(struct session *session, void (*ready)(void *context), void *context, struct error *err)
{
    struct sigaction nudge = {.sa_handler = ignore_nudge}; /* no SA_RESTART: it is to interrupt */

    session->ready = ready;
    session->context = context;
    session->main_thread = pthread_self();
    sigaction(SIGUSR1, &nudge, NULL);
    int rc = pthread_create(&session->signal_thread, NULL, session_watch_signals, session);
    if (rc != 0) {
        fuse_session_unmount(session->fuse);
        return error_set(err, "starting a thread: %s", strerror(rc));
    }
    int result = session_loop(session);
    atomic_store(&session->finished, true);
    pthread_kill(session->signal_thread, SIGTERM);
    pthread_join(session->signal_thread, NULL);
    /* an aborted connection leaves a dead mount */
    if (session->mount_point && !session_detach(session, err) && !session->refusal)
        return -1;
    if (session->refusal)
        return error_set(err, "%s", session->refusal);
    if (result < 0 && result != -ECONNABORTED && !atomic_load(&session->was_ready))
        return error_set(err, "serving the mount: %s", strerror(-result));
    if (!atomic_load(&session->was_ready))
        return fail(err, session->signalled ? "ended by a signal before the mount was ready"
                                            : "the kernel ended the mount before it was ready");
    /* ECONNABORTED: the connection is gone, which the kernel mostly says by ENODEV, and libfuse then ends
     * well */
    if (result < 0 && result != -ECONNABORTED)
        return error_set(err, "serving the mount: %s", strerror(-result));
    return 0;
}

/* Sessions that libfuse could free only by unmounting a path where another mount may lie by now. Kept in
 * sight of leak checkers; the end of the process closes their descriptor. */
static struct fuse_session *volatile abandoned;

void session_free(struct session *session)
{
    if (!session)
        return;
    if (session->mount_point && session->left) {
        abandoned = session->fuse;
    } else if (session->fuse) {
        fuse_session_unmount(session->fuse);
        fuse_session_destroy(session->fuse);
    }
    passthrough_free(session->served.passthrough);
    buffer_pool_free(session->served.buffers);
    free(session->mount_point);
    free(session);
}
