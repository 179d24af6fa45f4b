/* The command line of `moefs sample`. */
#ifndef MOEFS_FS_SAMPLE_OPTIONS_H
#define MOEFS_FS_SAMPLE_OPTIONS_H

#include "options.h"
#include "fs/sample/model.h"

#define SAMPLE_SIZE_OPTIONS 4 /* --layers --experts --hidden --intermediate */

struct sample_options {
    struct sample_request request;
    struct sample_size sizes[SAMPLE_SIZE_OPTIONS]; /* request.sizes */
    const char *directory;
    const char *layout; /* default "original" */
    uint64_t seed;
    bool sparse;
};

/* Texts point into argv. */
enum options_result sample_options_parse(int argc, char **argv, struct sample_options *options,
                                         struct error *err);

#endif
