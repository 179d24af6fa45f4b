#include "commands.h"
#include "layout/base/memory.h"
#include "fs/mount/mount_table.h"
#include "options.h"

#include <string.h>

static const struct options_command umount_command = {
    .name = "umount",
    .operands = "MNT",
    .n_operands = 1,
    .sets = OPTIONS_LAZY,
    .purpose = "Unmounts what `moefs mount` mounted at MNT, also when its daemon is dead.",
};

static int unmount(const char *given, bool lazy, struct error *err)
{
    struct mount_entry entry;
    cleanup_free char *path = mounts_resolve(given, err);

    if (!path)
        return -1;
    int found = mounts_find(path, &entry, err);
    if (found == 0)
        error_set(err, "%s: nothing is mounted there", path);
    if (found > 0 && strcmp(entry.type, MOUNTS_TYPE) != 0)
        found = error_set(err, "%s: a mount of %s (type %s), not of moefs", path, entry.source, entry.type);
    mounts_entry_clear(&entry);
    return found > 0 ? mounts_unmount(path, lazy, err) : -1;
}

int command_umount(int argc, char **argv, struct error *err)
{
    struct options options;
    int status = EXIT_REFUSED;

    switch (options_parse(&umount_command, argc, argv, &options, err)) {
    case OPTIONS_ERROR:
        status = EXIT_USAGE;
        break;
    case OPTIONS_DONE:
        status = EXIT_OK;
        break;
    case OPTIONS_GO:
        if (unmount(options.operands[0], options.lazy, err) == 0)
            status = EXIT_OK;
        break;
    }
    options_free(&options);
    return status;
}
