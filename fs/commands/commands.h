/* One function per subcommand, one file each. argv[0] is the subcommand's name. They print their own results
 * to stdout; a failure is returned in *err and printed by main. The result is the exit status. */
#ifndef MOEFS_FS_COMMANDS_H
#define MOEFS_FS_COMMANDS_H

#include "layout/base/error.h"

enum exit_status {
    EXIT_OK = 0,
    EXIT_REFUSED = 1, /* bad input, or a failure */
    EXIT_USAGE = 2,
    EXIT_DIFFERENT = 3 /* verify found a difference */
};

int command_mount(int argc, char **argv, struct error *err);
int command_umount(int argc, char **argv, struct error *err);
int command_plan(int argc, char **argv, struct error *err);
int command_sample(int argc, char **argv, struct error *err);
int command_verify(int argc, char **argv, struct error *err);
int command_layouts(int argc, char **argv, struct error *err);

#endif
