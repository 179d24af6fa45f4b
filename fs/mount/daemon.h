/* Going into the background without losing the caller: the fork comes before the mount, and the parent waits
 * until the child says that it is ready or why it is not. */
#ifndef MOEFS_FS_DAEMON_H
#define MOEFS_FS_DAEMON_H

#include "layout/base/error.h"

#include <stddef.h>
#include <sys/types.h>

struct daemon {
    pid_t pid;      /* in the parent: the child's */
    int report;     /* in the child: where it reports; -1: nowhere (any more) */
    int log;        /* descriptor of the log file, or -1 */
    int *inherited; /* the descriptors above 2 that the caller had open */
    size_t n_inherited;
};

enum daemon_role {
    DAEMON_FAILED =
        -1, /* *err is set: the fork failed, or the child reported a failure or died; it is reaped */
    DAEMON_CHILD,
    DAEMON_PARENT /* the child is ready */
};

/* The first thing that a process does, against what its caller may have left. Opens /dev/null for each of the
 * descriptors 0 to 2 that is closed, lest a file of ours become stdin or stderr. SIGCHLD gets its default action:
 * who ignores it cannot wait for a child's exit status. SIGXFSZ is ignored: a file at its size limit is a failed
 * write (EFBIG). */
void daemon_settle_process(void);

/* Before anything is opened: notes what the caller had open. -1 with *err set. */
int daemon_init(struct daemon *daemon, struct error *err);
void daemon_clear(struct daemon *daemon);

/* Where the log goes: to the file where one is named, else to stderr (foreground) or to syslog. A pipe must have
 * a reader, and loses the lines that it has no room for. -1 with *err set. */
int daemon_open_log(struct daemon *daemon, const char *file, int foreground, struct error *err);

/* Forks. The child has its own session, / as its directory, /dev/null as stdin and stdout, still the caller's
 * stderr, and of what else the caller had open only the descriptor `keep` (-1: nothing). */
enum daemon_role daemon_fork(struct daemon *daemon, int keep, struct error *err);

/* In the child, once: the parent returns; stderr becomes the log file or /dev/null. -1: nobody waits any
 * more. Does nothing in a process that was not forked. */
int daemon_report_ready(struct daemon *daemon);

/* In the child, before it is ready: hands the error to the parent, which has it as its own; *err is empty
 * then. */
void daemon_report_failure(struct daemon *daemon, struct error *err);

#endif
