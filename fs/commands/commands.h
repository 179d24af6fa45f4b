/* One command of `moefs`: each is a file that defines its row here. */
#ifndef MOEFS_FS_COMMANDS_H
#define MOEFS_FS_COMMANDS_H

#include "layout/base/error.h"

enum exit_status {
    EXIT_OK = 0,
    EXIT_REFUSED = 1, /* bad input, or a failure */
    EXIT_USAGE = 2,
    EXIT_DIFFERENT = 3 /* verify found a difference */
};

struct option_set;

struct command {
    const char *name;     /* "mount" */
    const char *purpose;  /* a line of `moefs --help` */
    const char *operands; /* "SRC MNT" */
    int n_operands;
    int n_optional;                   /* operands that may follow */
    const char *description;          /* a paragraph of `moefs mount --help` */
    const struct option_set *options; /* ends with an empty one; --help needs no row */
    /* argv[0] is the command's name. Prints its result to stdout; a failure is in *err, and main prints it.
     * Returns the exit status. */
    int (*run)(int argc, char **argv, struct error *err);
};

extern const struct command command_mount;
extern const struct command command_umount;
extern const struct command command_convert;
extern const struct command command_plan;
extern const struct command command_verify;
extern const struct command command_sample;
extern const struct command command_layouts;

#endif
