/* /proc/self/cgroup and the mount table say where the limits of both versions stand. */
#include "memory_limit.h"

#include "layout/base/memory.h"
#include "layout/base/text.h"
#include "layout/base/checked.h"
#include "mount_table.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Version 1 says "no limit" by the largest number of bytes in whole pages. */
#define NO_LIMIT_FROM (UINT64_C(1) << 60)

/* One of the two versions' memory controllers, as far as /proc has told. */
struct hierarchy {
    const char *file;  /* the name of the limit's file */
    char *group;       /* this process's group, below the hierarchy's root */
    char *mount_point; /* where a part of the hierarchy is mounted */
    char *mount_root;  /* which group that part begins with */
};

struct hierarchies {
    struct hierarchy v1, v2;
};

static FILE *open_below(const char *root, const char *path)
{
    cleanup_free char *whole = xasprintf("%s%s", root, path);

    return fopen(whole, "re");
}

/* Whether a list separated by commas has this word. */
static bool list_has(const char *list, const char *word)
{
    const size_t length = strlen(word);

    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

static void replace(char **text, const char *by)
{
    free(*text);
    *text = xstrdup(by);
}

/* /proc/self/cgroup: "4:memory:/group" of version 1, "0::/group" of version 2. */
static void read_groups(const char *root, struct hierarchies *both)
{
    cleanup_close FILE *stream = open_below(root, "/proc/self/cgroup");
    cleanup_free char *line = NULL;
    size_t capacity = 0;

    while (stream && getline(&line, &capacity, stream) > 0) {
        char *rest = line;
        rest[strcspn(rest, "\n")] = '\0';
        const char *number = strsep(&rest, ":");
        const char *controllers = strsep(&rest, ":");
        if (!controllers || !rest)
            continue;
        if (strcmp(number, "0") == 0 && !*controllers)
            replace(&both->v2.group, rest);
        else if (list_has(controllers, "memory"))
            replace(&both->v1.group, rest);
    }
}

static void note_mount(void *context, const struct mount_line *mount)
{
    struct hierarchies *both = context;
    struct hierarchy *of = NULL;

    if (strcmp(mount->type, "cgroup2") == 0)
        of = &both->v2;
    else if (strcmp(mount->type, "cgroup") == 0 && list_has(mount->options, "memory"))
        of = &both->v1;
    /* several may be mounted, of which another group's says nothing of ours */
    if (!of || (of->mount_root && !(of->group && text_path_below(of->group, mount->root))))
        return;
    replace(&of->mount_root, mount->root);
    replace(&of->mount_point, mount->point);
}

/* The limit in one group's directory; no file (the root group has none) is no limit. */
static uint64_t read_limit(const char *root, const char *directory, const char *file)
{
    cleanup_free char *path = xasprintf("%s/%s", directory, file);
    cleanup_close FILE *stream = open_below(root, path);
    unsigned long long limit;

    if (!stream || fscanf(stream, "%llu", &limit) != 1 || limit >= NO_LIMIT_FROM)
        return MEMORY_LIMIT_NONE;
    return limit;
}

static uint64_t hierarchy_limit(const char *root, const struct hierarchy *hierarchy)
{
    uint64_t least = MEMORY_LIMIT_NONE;

    if (!hierarchy->group || !hierarchy->mount_point)
        return MEMORY_LIMIT_NONE;
    const char *below = text_path_below(hierarchy->group, hierarchy->mount_root);
    /* a group outside of what is mounted: in a container, what is mounted is its own */
    cleanup_free char *directory = xasprintf("%s%s", hierarchy->mount_point, below ? below : "");
    for (;;) {
        const uint64_t limit = read_limit(root, directory, hierarchy->file);
        least = min_u64(limit, least);
        char *slash = strrchr(directory, '/');
        if (!slash || strlen(directory) <= strlen(hierarchy->mount_point))
            return least;
        *slash = '\0';
    }
}

static void hierarchy_clear(struct hierarchy *hierarchy)
{
    free(hierarchy->group);
    free(hierarchy->mount_point);
    free(hierarchy->mount_root);
}

uint64_t memory_limit_find(const char *root)
{
    struct hierarchies both = {.v1 = {.file = "memory.limit_in_bytes"}, .v2 = {.file = "memory.max"}};

    read_groups(root, &both);
    mount_table_read(root, note_mount, &both); /* what cannot be read tells of no limit */
    const uint64_t first = hierarchy_limit(root, &both.v1), second = hierarchy_limit(root, &both.v2);
    hierarchy_clear(&both.v1);
    hierarchy_clear(&both.v2);
    return min_u64(first, second);
}
