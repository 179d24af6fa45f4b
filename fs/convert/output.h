/* The directory that is written into: it must be absent or empty, and a file has its name there only once it
 * is whole. Thread-safe, but for opening and closing. */
#ifndef MOEFS_FS_OUTPUT_H
#define MOEFS_FS_OUTPUT_H

#include "layout/base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <utarray.h>

struct output {
    const char *path; /* the caller's */
    int directory;
    bool created; /* the directory itself */
    bool sync;    /* a file is on the disk before it has its name */
    pthread_mutex_t lock;
    UT_array *names; /* char *: what is whole, and directories, as they were made; under lock */
};

/* A file being written. */
struct output_file {
    struct output *output;
    int fd;
    char *name;      /* relative to the output; the file's when it is whole */
    char *temporary; /* its name until then */
};

/* Whether the directory is there and empty. */
int output_check_empty(const char *path, struct error *err);

/* Makes the directory, or takes an empty one. mode: as mkdir() takes it, here and below. */
int output_open(const char *path, mode_t mode, bool sync, struct output *output, struct error *err);
/* Brings to the disk what the directories say by now: names. */
int output_sync_names(struct output *output, struct error *err);
/* Closes; with discard, everything that was written is removed first, and the directory if it was made here.
 * No file may be left unfinished. */
void output_close(struct output *output, bool discard);

/* name: relative to the output; the directory above it is there already. */
int output_make_directory(struct output *output, const char *name, mode_t mode, struct error *err);

/* Begins a file. What was begun ends with output_finish() or output_abandon(). */
int output_begin(struct output *output, const char *name, mode_t mode, struct output_file *file,
                 struct error *err);
int output_write(struct output_file *file, uint64_t offset, const void *bytes, size_t length,
                 struct error *err);
/* Makes the file `size` bytes long: what was not written is zeros that take no space. */
int output_set_size(struct output_file *file, uint64_t size, struct error *err);
/* Gives it its name. On failure it is abandoned. */
int output_finish(struct output_file *file, struct error *err);
void output_abandon(struct output_file *file);

#endif
