/* The command lines of mount, plan and umount: one table of options, one meaning each. */
#ifndef MOEFS_FS_OPTIONS_H
#define MOEFS_FS_OPTIONS_H

#include "fs/source/directory.h"
#include "layout/base/error.h"
#include "layout/plan.h"

#include <stdbool.h>
#include <stddef.h>

/* Which options a command takes. */
enum option_set {
    OPTIONS_PLAN =
        1, /* what changes the plan: --to --from --fp8 --max-shard-size --exclude --follow-symlinks */
    OPTIONS_MOUNT = 2, /* how it is served: --cache-size --source-cache --readahead --kernel-read-ahead
                          --passthrough and more */
    OPTIONS_JSON = 4,  /* how the plan is printed: --json --explain */
    OPTIONS_LAZY = 8,
    OPTIONS_VERIFY = 16, /* what is verified: --layers --tokens --seed --order --source and the files */
    OPTIONS_REPORT = 32  /* --json alone */
};

struct options_command {
    const char *name;     /* "mount" */
    const char *operands; /* "SRC MNT" */
    int n_operands;
    int n_optional;      /* operands that may follow */
    unsigned sets;       /* enum option_set, or-ed */
    const char *purpose; /* the paragraph of --help */
};

struct options {
    const char *const *operands;
    struct plan_options plan;
    struct directory_options directory;
    size_t cache_size;        /* bytes */
    size_t kernel_read_ahead; /* bytes; 0: left alone */
    size_t readahead;         /* bytes ahead of one reader; 0: off */
    bool passthrough;
    bool drop_source_cache;
    bool foreground;
    const char *log_file; /* or NULL */
    char *fuse;           /* what all -o say, joined by commas, or NULL */
    bool json;
    const char *explain; /* a virtual tensor's name, or NULL */
    bool lazy;
    const char *layers;        /* "0,3-5", checked, or NULL: all */
    const char *write_digests; /* or NULL, like the next two */
    const char *check_digests;
    const char *write_outputs;
    uint64_t tokens; /* 0: not said */
    uint64_t seed;
    bool before_down; /* --order before-down */
    bool source;
    int n_operands;
    const char **exclude; /* directory.exclude; owned */
};

enum options_result {
    OPTIONS_ERROR = -1, /* *err is set: exit with EXIT_USAGE */
    OPTIONS_GO,
    OPTIONS_DONE /* --help was asked for and printed: exit with EXIT_OK */
};

/* Texts point into argv. options_free() is to be called whatever the result. */
enum options_result options_parse(const struct options_command *command, int argc, char **argv,
                                  struct options *options, struct error *err);
void options_free(struct options *options);

/* "64K", "256M", "2G" or a number of bytes: powers of 1024. False for anything else. */
bool options_parse_size(const char *text, size_t *bytes);

#endif
