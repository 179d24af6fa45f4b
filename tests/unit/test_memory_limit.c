/* The limit that applies, on made-up trees: /proc/self/cgroup, /proc/self/mountinfo and the groups' files. */
#include "fs/mount/memory_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Lines as kernels write them. */
#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNT "35 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
#define V1_CPU_MOUNT "36 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"

static const struct {
    const char *what, *cgroup, *mountinfo;
    struct {
        const char *path, *text;
    } files[4];
    uint64_t limit;
} CASES[] = {
    {"no /proc", NULL, NULL, {{NULL, NULL}}, MEMORY_LIMIT_NONE},
    {"version 2, own group",
     "0::/a/b\n",
     V2_MOUNT,
     {{"/sys/fs/cgroup/a/b/memory.max", "268435456\n"}, {"/sys/fs/cgroup/a/memory.max", "max\n"}},
     268435456},
    {"version 2, a group above has less",
     "0::/a/b\n",
     V2_MOUNT,
     {{"/sys/fs/cgroup/a/b/memory.max", "2000\n"}, {"/sys/fs/cgroup/a/memory.max", "1000\n"}},
     1000},
    {"version 2, no limit",
     "0::/a\n",
     V2_MOUNT,
     {{"/sys/fs/cgroup/a/memory.max", "max\n"}},
     MEMORY_LIMIT_NONE},
    {"version 2, the root group", "0::/\n", V2_MOUNT, {{NULL, NULL}}, MEMORY_LIMIT_NONE},
    {"version 2, a namespace: the container's group is the root",
     "0::/\n",
     V2_MOUNT,
     {{"/sys/fs/cgroup/memory.max", "4096000\n"}},
     4096000},
    {"version 2, a part is mounted",
     "0::/pod/c/x\n",
     "30 23 0:26 /pod/c /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
     {{"/sys/fs/cgroup/x/memory.max", "77\n"}, {"/sys/fs/cgroup/memory.max", "99\n"}},
     77},
    {"version 2, the group is outside of what is mounted",
     "0::/host/pod\n",
     "30 23 0:26 /other /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
     {{"/sys/fs/cgroup/memory.max", "55\n"}},
     55},
    {"version 2, another group is mounted beside it",
     "0::/a\n",
     V2_MOUNT "40 25 0:26 /machine.slice/x /srv/x rw - cgroup2 cgroup2 rw\n",
     {{"/sys/fs/cgroup/a/memory.max", "300\n"}, {"/srv/x/memory.max", "1\n"}},
     300},
    {"version 2, another group is mounted before it",
     "0::/a\n",
     "40 25 0:26 /machine.slice/x /srv/x rw - cgroup2 cgroup2 rw\n" V2_MOUNT,
     {{"/sys/fs/cgroup/a/memory.max", "300\n"}, {"/srv/x/memory.max", "1\n"}},
     300},
    {"version 2, names with spaces and backslashes",
     "0::/my group/a\\b\n",
     "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
     "41 25 0:26 /my\\040group /srv/my\\040mount rw - cgroup2 my\\040source rw\n",
     {{"/srv/my mount/a\\b/memory.max", "4096\n"}, {"/sys/fs/cgroup/memory.max", "9\n"}},
     4096},
    {"version 1",
     "5:cpu,cpuacct:/c\n4:memory:/m/n\n0::/\n",
     V1_CPU_MOUNT V1_MOUNT,
     {{"/sys/fs/cgroup/memory/m/n/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "123456\n"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/sys/fs/cgroup/cpu/c/memory.limit_in_bytes", "1\n"}},
     123456},
    {"version 1, no limit",
     "4:memory:/m\n",
     V1_MOUNT,
     {{"/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "9223372036854771712\n"}},
     MEMORY_LIMIT_NONE},
    {"both: the lesser one",
     "4:memory:/m\n0::/a\n",
     V1_MOUNT "40 25 0:40 / /cg2 rw - cgroup2 cgroup2 rw\n",
     {{"/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "500\n"}, {"/cg2/a/memory.max", "400\n"}},
     400},
    {"lines that are none", "x\n\n4:memory\n", "garbage\n\n1 2 3 - \n", {{NULL, NULL}}, MEMORY_LIMIT_NONE},
};

/* Writes root + path, with the directories above. */
static void put(const char *root, const char *path, const char *text)
{
    char whole[512];

    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *at = whole + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(whole, 0755);
        *at = '/';
    }
    FILE *stream = fopen(whole, "w");
    assert_non_null(stream);
    fputs(text, stream);
    fclose(stream);
}

static void the_least_limit_applies(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        char root[] = "/tmp/test_memory_limit.XXXXXX", remove[64];
        assert_non_null(mkdtemp(root));
        if (CASES[i].cgroup)
            put(root, "/proc/self/cgroup", CASES[i].cgroup);
        if (CASES[i].mountinfo)
            put(root, "/proc/self/mountinfo", CASES[i].mountinfo);
        for (size_t f = 0; f < LENGTH(CASES[i].files) && CASES[i].files[f].path; f++)
            put(root, CASES[i].files[f].path, CASES[i].files[f].text);
        const uint64_t limit = memory_limit_find(root);
        snprintf(remove, sizeof remove, "rm -r %s", root);
        assert_int_equal(system(remove), 0);
        if (limit != CASES[i].limit)
            fail_msg("%s: %llu", CASES[i].what, (unsigned long long)limit);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_least_limit_applies)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
