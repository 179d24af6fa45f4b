/* Opening what lies below a directory that is held open, never through a symbolic link.
 *
 * A path that has been looked at can be another thing when it is opened: whoever may write to SRC can exchange
 * a directory for a link in between. So everything of SRC is opened by this function, which cannot leave the
 * held directory whatever is exchanged. */
#ifndef MOEFS_FS_BENEATH_H
#define MOEFS_FS_BENEATH_H

/* Opens path, which is relative to the directory `root` and has no "..": "" is the directory itself. flags as
 * for open(); O_CLOEXEC is added. The descriptor, or -1 with errno set: ELOOP or ENOTDIR where a component is
 * a symbolic link. */
int beneath_open(int root, const char *path, int flags);

/* What beneath_open() does where the kernel has no openat2 (Linux < 5.6): the same, a component at a time. */
int beneath_walk(int root, const char *path, int flags);

#endif
