/* The directory that a sample is written into: it must be absent or empty, and holds a file only once the
 * file is whole. */
#ifndef MOEFS_FS_SAMPLE_OUTPUT_H
#define MOEFS_FS_SAMPLE_OUTPUT_H

#include "layout/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <utarray.h>

struct sample_output {
    const char *path; /* the caller's */
    int directory;
    bool created;
    UT_array *names; /* char *: the files that are whole */
    int fd;          /* the file being written, or -1 */
    char *name;      /* its name when it is whole */
    char *temporary; /* its name until then */
};

/* Makes the directory, or takes an empty one. */
int sample_output_open(const char *path, struct sample_output *output, struct error *err);

/* One file at a time: begin, write or extend in any number, finish. */
int sample_output_begin(struct sample_output *output, const char *name, struct error *err);
int sample_output_write(struct sample_output *output, const void *bytes, size_t length, struct error *err);
/* Makes the file `size` bytes long without writing: zeros that take no space. */
int sample_output_extend(struct sample_output *output, uint64_t size, struct error *err);
int sample_output_finish(struct sample_output *output, struct error *err);

/* Closes; with discard, everything that was written is removed first, and the directory if it was made here.
 */
void sample_output_close(struct sample_output *output, bool discard);

#endif
