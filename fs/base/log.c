/* Writing lines of the log: each whole and with the time, and failed reads in bounded number. */
#include "log.h"

#include "layout/base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

/* Longer lines are cut: a line leaves in one write, so that lines of several threads never mix. */
#define LINE_MAX_BYTES 2048

/* Failed reads that are written in a period. */
#define FAILURES_MOST 10
#define FAILURES_SECONDS 10

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum { TO_STDERR, TO_DESCRIPTOR, TO_SYSLOG } where = TO_STDERR;
static int descriptor = STDERR_FILENO;
static struct failures {
    time_t period;
    unsigned written;
    uint64_t suppressed;
} failures; /* reset when the log is redirected */

static const int syslog_priority[] = {
    [LOG_LEVEL_ERROR] = LOG_ERR,
    [LOG_LEVEL_WARNING] = LOG_WARNING,
    [LOG_LEVEL_INFO] = LOG_INFO,
};

static const char *const level_prefix[] = {
    [LOG_LEVEL_ERROR] = "error: ",
    [LOG_LEVEL_WARNING] = "warning: ",
    [LOG_LEVEL_INFO] = "",
};

static void write_line(int fd, const char *line, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, line, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nowhere to report that the log cannot be written */
        line += n;
        length -= (size_t)n;
    }
}

static size_t write_stamp(char *line, size_t size)
{
    struct timespec now;
    struct tm utc;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
    return n + (size_t)snprintf(line + n, size - n, ".%03ldZ ", now.tv_nsec / 1000000);
}

__attribute__((format(printf, 2, 0))) static void log_list(enum log_level level, const char *format,
                                                           va_list args)
{
    char line[LINE_MAX_BYTES], text[LINE_MAX_BYTES];
    size_t n = 0;
    int saved_errno = errno;

    pthread_mutex_lock(&lock);
    if (where == TO_DESCRIPTOR)
        n = write_stamp(line, sizeof line);
    else if (where == TO_STDERR)
        n = (size_t)snprintf(line, sizeof line, "moefs: ");
    n += (size_t)snprintf(line + n, sizeof line - n, "%s", level_prefix[level]);
    vsnprintf(text, sizeof text, format, args);
    text_escape(line + n, sizeof line - 1 - n, text); /* one byte is for the line break */
    n += strlen(line + n);
    if (where == TO_SYSLOG) {
        syslog(syslog_priority[level], "%s", line);
    } else {
        line[n++] = '\n';
        write_line(descriptor, line, n);
    }
    pthread_mutex_unlock(&lock);
    errno = saved_errno;
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_list(level, format, args);
    va_end(args);
}

/* Whether one more may be written now; *unsaid: how many were not, and are now to be told. */
static bool failures_pass(uint64_t *unsaid)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    *unsaid = 0;
    pthread_mutex_lock(&lock);
    if (failures.written == 0 || now.tv_sec - failures.period >= FAILURES_SECONDS) {
        *unsaid = failures.suppressed;
        failures = (struct failures){.period = now.tv_sec};
    }
    const bool may = failures.written < FAILURES_MOST;
    if (may)
        failures.written++;
    else
        failures.suppressed++;
    pthread_mutex_unlock(&lock);
    return may;
}

void log_failed_read(const char *format, ...)
{
    uint64_t unsaid;
    va_list args;

    if (!failures_pass(&unsaid))
        return;
    if (unsaid > 0)
        log_line(LOG_LEVEL_ERROR, "%" PRIu64 " more failed reads were not logged", unsaid);
    va_start(args, format);
    log_list(LOG_LEVEL_ERROR, format, args);
    va_end(args);
}

void log_to_syslog(void)
{
    pthread_mutex_lock(&lock);
    openlog("moefs", LOG_PID, LOG_DAEMON);
    where = TO_SYSLOG;
    failures = (struct failures){0};
    pthread_mutex_unlock(&lock);
}

void log_to_descriptor(int fd)
{
    pthread_mutex_lock(&lock);
    descriptor = fd;
    where = TO_DESCRIPTOR;
    failures = (struct failures){0};
    pthread_mutex_unlock(&lock);
}
