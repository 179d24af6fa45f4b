/* Forking before the mount, and a pipe by which the child says how it went. */
#include "daemon.h"

#include "layout/base/memory.h"
#include "fs/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The first byte of a report; the error's text follows FAILED. */
enum report { REPORT_READY = 'R', REPORT_FAILED = 'F' };

void daemon_settle_process(void)
{
    int fd = open("/dev/null", O_RDWR);

    signal(SIGCHLD, SIG_DFL);
    signal(SIGXFSZ, SIG_IGN); /* a log file at its limit must not end a mount */
    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = open("/dev/null", O_RDWR);
    if (fd >= 0)
        close(fd);
}

int daemon_init(struct daemon *daemon, struct error *err)
{
    const char *own = "/proc/self/fd";
    DIR *directory = opendir(own);
    const struct dirent *entry;

    *daemon = (struct daemon){.report = -1, .log = -1};
    if (!directory)
        return error_set(err, "%s: %s", own, strerror(errno));
    while ((entry = readdir(directory))) {
        const int fd = atoi(entry->d_name); /* 0 for "." and ".." */
        if (fd <= STDERR_FILENO || fd == dirfd(directory))
            continue;
        daemon->inherited = xreallocarray(daemon->inherited, daemon->n_inherited + 1, sizeof fd);
        daemon->inherited[daemon->n_inherited++] = fd;
    }
    closedir(directory);
    return 0;
}

void daemon_clear(struct daemon *daemon)
{
    free(daemon->inherited);
    *daemon = (struct daemon){.report = -1, .log = -1};
}

int daemon_open_log(struct daemon *daemon, const char *file, int foreground, struct error *err)
{
    if (file) {
        /* of a pipe: neither opening it nor a write to it waits for who reads it */
        daemon->log = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
        if (daemon->log < 0 && errno == ENXIO)
            return error_set(err, "--log-file %s: a pipe that nobody has opened for reading", file);
        if (daemon->log < 0)
            return error_set(err, "--log-file %s: %s", file, strerror(errno));
        log_to_descriptor(daemon->log);
    } else if (!foreground) {
        log_to_syslog();
    }
    return 0;
}

static void redirect(int from, int to)
{
    if (from >= 0)
        dup2(from, to);
}

static enum daemon_role start_child(struct daemon *daemon, int report, int keep)
{
    for (size_t i = 0; i < daemon->n_inherited; i++)
        if (daemon->inherited[i] != keep)
            close(daemon->inherited[i]);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    daemon->report = report;
    setsid();
    if (chdir("/") < 0)
        log_line(LOG_LEVEL_WARNING, "chdir /: %s", strerror(errno));
    redirect(null, STDIN_FILENO);
    redirect(null, STDOUT_FILENO);
    if (null > STDERR_FILENO)
        close(null);
    signal(SIGPIPE, SIG_IGN); /* a parent that was interrupted must not kill a mounted daemon */
    return DAEMON_CHILD;
}

/* Reads until the child closes its end or dies; the text is the caller's. */
static char *read_report(int fd)
{
    char *text = xmalloc(1);
    size_t length = 0;

    for (;;) {
        text = xreallocarray(text, length + 4097, 1);
        ssize_t n = read(fd, text + length, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        length += (size_t)n;
    }
    text[length] = '\0';
    return text;
}

static enum daemon_role wait_for_child(struct daemon *daemon, int report, struct error *err)
{
    cleanup_free char *text = read_report(report);
    int status = 0;

    close(report);
    if (*text == REPORT_READY)
        return DAEMON_PARENT;
    pid_t ended = waitpid(daemon->pid, &status, 0);
    while (ended < 0 && errno == EINTR)
        ended = waitpid(daemon->pid, &status, 0);
    if (*text == REPORT_FAILED)
        error_relay(err, text + 1);
    else if (ended < 0)
        error_set(err, "the daemon ended before it was ready; how it ended is not known: %s",
                  strerror(errno));
    else if (WIFSIGNALED(status))
        error_set(err, "the daemon died before it was ready: %s", strsignal(WTERMSIG(status)));
    else
        error_set(err, "the daemon ended before it was ready, with exit status %d", WEXITSTATUS(status));
    return DAEMON_FAILED;
}

enum daemon_role daemon_fork(struct daemon *daemon, int keep, struct error *err)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return (enum daemon_role)error_set(err, "pipe: %s", strerror(errno));
    daemon->pid = fork();
    if (daemon->pid < 0) {
        error_set(err, "fork: %s", strerror(errno));
        close(ends[0]);
        close(ends[1]);
        return DAEMON_FAILED;
    }
    if (daemon->pid == 0) {
        close(ends[0]);
        return start_child(daemon, ends[1], keep);
    }
    close(ends[1]);
    return wait_for_child(daemon, ends[0], err);
}

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        const ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

/* Allocates nothing: the mount is up. */
static int report(struct daemon *daemon, enum report kind, const char *text)
{
    const char first = (char)kind;
    int result = write_all(daemon->report, &first, 1);

    if (result == 0)
        result = write_all(daemon->report, text, strlen(text));
    close(daemon->report);
    daemon->report = -1;
    return result;
}

int daemon_report_ready(struct daemon *daemon)
{
    if (daemon->report < 0)
        return 0;
    if (daemon->log >= 0) {
        dup2(daemon->log, STDERR_FILENO);
    } else {
        dup2(STDOUT_FILENO, STDERR_FILENO); /* /dev/null since the fork */
    }
    return report(daemon, REPORT_READY, "");
}

void daemon_report_failure(struct daemon *daemon, struct error *err)
{
    if (daemon->report < 0)
        return;
    report(daemon, REPORT_FAILED, err->text ? err->text : "failed without a message");
    error_free(err);
}
