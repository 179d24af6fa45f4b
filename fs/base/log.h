/* The daemon's log: one line an event, to stderr, to a file, or to syslog. Thread-safe. */
#ifndef MOEFS_FS_LOG_H
#define MOEFS_FS_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO };

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A read that failed, as an error. A trainer retries, and has many workers: of such lines at most ten are
 * written in ten seconds, and how many more there were is said later. */
void log_failed_read(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Until one of these is called, lines go to stderr as "moefs: ...". */
void log_to_syslog(void);
/* Lines go to this descriptor (kept open), each with a UTC time stamp before it. */
void log_to_descriptor(int fd);

#endif
