/* `moefs umount`: ends mounts of moefs and of nobody else. */
#include "options.h"

#include "fs/mount/mount_table.h"
#include "layout/base/memory.h"

#include <string.h>

struct umount_command {
    bool lazy;
};

static const struct option_row umount_rows[] = {
    {"lazy", 0, NULL, option_flag, offsetof(struct umount_command, lazy),
     "unmount although it is in use: readers go on until they close"},
    {0},
};

static int unmount(const char *given, bool lazy, struct error *err)
{
    struct mount_entry entry;
    cleanup_free char *path = mount_table_resolve(given, err);

    if (!path)
        return -1;
    int found = mount_table_find(path, &entry, err);
    if (found == 0)
        error_set(err, "%s: nothing is mounted there", path);
    if (found > 0 && strcmp(entry.type, MOUNT_TABLE_MOEFS) != 0)
        found = error_set(err, "%s: a mount of %s (type %s), not of moefs", path, entry.source, entry.type);
    mount_entry_clear(&entry);
    return found > 0 ? mount_table_unmount(path, lazy, err) : -1;
}

static int run_umount(int argc, char **argv, struct error *err)
{
    struct umount_command umount = {0};
    struct operands operands;
    const int parsed = options_parse(&command_umount, argc, argv, &umount, &operands, err);

    if (parsed != OPTIONS_GO)
        return parsed;
    return unmount(operands.list[0], umount.lazy, err) == 0 ? EXIT_OK : EXIT_REFUSED;
}

const struct command command_umount = {
    .name = "umount",
    .purpose = "unmount it",
    .operands = "MNT",
    .n_operands = 1,
    .description = "Unmounts what `moefs mount` mounted at MNT, also when its daemon is dead.",
    .options = (const struct option_set[]){{umount_rows, 0}, {0}},
    .run = run_umount,
};
