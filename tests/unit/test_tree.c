#include "fs/base/log.h"
#include "fs/view/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A source directory and a plan as literals: two shards become two weight files and an index. */
static struct source_info files[] = {
    {.path = "a.safetensors", .mode = S_IFREG | 0640, .uid = 7, .gid = 8, .mtime = {100, 5}},
    {.path = "b.safetensors", .mode = S_IFREG | 0755, .uid = 7, .gid = 8, .mtime = {100, 9}},
    {.path = "config.json"},
};

/* Byte i of file f; file 4 cannot be read. */
static unsigned char byte_at(uint32_t file, uint64_t i)
{
    return (unsigned char)(file * 31 + i * 7 + (i >> 8));
}

static int made_up_pread(struct source *self, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    (void)self;
    if (file == 4)
        return EIO;
    for (size_t i = 0; i < length; i++)
        ((unsigned char *)buffer)[i] = byte_at(file, offset + i);
    return 0;
}

static const struct source_ops made_up_ops = {.pread = made_up_pread};
static struct source source = {.ops = &made_up_ops, .files = files, .n_files = sizeof files / sizeof *files};

static struct directory_entry entries[] = {
    {.info = {.path = "a", .mode = S_IFDIR | 0755}, .is_directory = true},
    {.info = {.path = "a.b", .mode = S_IFDIR | 0700, .uid = 3, .mtime = {50, 1}}, .is_directory = true},
    {.info = {.path = "a.b/x", .mode = S_IFREG | 0666}, .file = 4},
    {.info = {.path = "a/deep", .mode = S_IFDIR | 0755}, .is_directory = true},
    {.info = {.path = "a/deep/y", .mode = S_IFREG | 0644}, .file = 5},
    {.info = {.path = "a/x", .mode = S_IFREG | 0600}, .file = 3},
    {.info =
         {.path = "config.json", .mode = S_IFREG | 0755, .uid = 1, .gid = 2, .size = 513, .mtime = {70, 3}},
     .file = 2},
};

static struct planned_file planned[] = {
    {.name = "a.safetensors", .size = 4096},
    {.name = "b.safetensors", .size = UINT64_C(5) << 30, .verbatim_shard = 1},
    {.name = "model.safetensors.index.json",
     .size = 1,
     .verbatim_shard = PLAN_NO_SHARD,
     .head = "x",
     .head_length = 1},
};

struct fixture {
    struct directory directory;
    struct view view;
    struct tree tree;
};

static void make(struct fixture *fixture)
{
    *fixture = (struct fixture){
        .directory = {.top = {.mode = S_IFDIR | 0775, .uid = 11, .gid = 12, .mtime = {90, 2}},
                      .checkpoint = {.n_shards = 2},
                      .entries = entries,
                      .n_entries = sizeof entries / sizeof *entries,
                      .source = &source},
        .view = {.directory = &fixture->directory,
                 .plan = {.files = planned, .n_files = 3, .n_weight_files = 2}},
    };
}

static void build(struct fixture *fixture)
{
    struct error err = {0};

    make(fixture);
    assert_int_equal(tree_build(&fixture->view, 1, &fixture->tree, &err), 0);
    assert_null(err.text);
}

static const struct tree_inode *walk(const struct tree *tree, const char *path)
{
    char copy[128], *rest = copy;
    const struct tree_inode *inode = tree_get(tree, TREE_ROOT);

    snprintf(copy, sizeof copy, "%s", path);
    for (const char *name; inode && (name = strsep(&rest, "/")) && *name;)
        inode = tree_lookup(tree, inode, name);
    return inode;
}

/* By depth, then by path: "a.b/x" before "a/x", because '.' comes before '/'. */
static void numbers_follow_the_paths(void **state)
{
    static const char *const order[] = {
        "",
        "a",
        "a.b",
        "a.safetensors",
        "b.safetensors",
        "config.json",
        "model.safetensors.index.json",
        "a.b/x",
        "a/deep",
        "a/x",
        "a/deep/y",
    };
    struct fixture fixture;

    (void)state;
    build(&fixture);
    assert_int_equal(fixture.tree.n_inodes, sizeof order / sizeof *order);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const struct tree_inode *inode = tree_get(&fixture.tree, i + 1);
        assert_string_equal(inode->path, order[i]);
        assert_int_equal(inode->stat.st_ino, i + 1);
        assert_ptr_equal(walk(&fixture.tree, order[i]), inode);
    }
    assert_null(tree_get(&fixture.tree, 0));
    assert_null(tree_get(&fixture.tree, 12));
    assert_null(tree_get(&fixture.tree, UINT64_MAX));
    tree_free(&fixture.tree);
}

/* Number, and the same whatever the order in which the scan gave the entries. */
static void numbers_do_not_follow_the_scan(void **state)
{
    struct directory_entry reversed[sizeof entries / sizeof *entries];
    size_t n = sizeof entries / sizeof *entries;
    struct fixture fixture, other;
    struct error err = {0};

    (void)state;
    build(&fixture);
    make(&other);
    for (size_t i = 0; i < n; i++)
        reversed[i] = entries[n - 1 - i];
    other.directory.entries = reversed;
    assert_int_equal(tree_build(&other.view, 1, &other.tree, &err), 0);
    for (uint64_t i = 1; i <= fixture.tree.n_inodes; i++)
        assert_string_equal(tree_get(&fixture.tree, i)->path, tree_get(&other.tree, i)->path);
    tree_free(&fixture.tree);
    tree_free(&other.tree);
}

static void lookup_finds_what_is_there_only(void **state)
{
    static const struct {
        const char *directory, *name, *found; /* found: a path, or NULL */
    } cases[] = {
        {"", ".", ""},         {"", "..", ""},         {"a", ".", "a"},       {"a", "..", ""},
        {"a/deep", "..", "a"}, {"a", "x", "a/x"},      {"a.b", "x", "a.b/x"}, {"a", "deep", "a/deep"},
        {"", "a.b", "a.b"},    {"", "", NULL},         {"", "a.", NULL},      {"", "a.b/x", NULL},
        {"", "x", NULL},       {"a", "y", NULL},       {"a.b", "deep", NULL}, {"", "zzz", NULL},
        {"", "A", NULL},       {"a/deep", "yy", NULL}, {"", "...", NULL},     {"a/deep", "y", "a/deep/y"},
    };
    struct fixture fixture;

    (void)state;
    build(&fixture);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct tree_inode *directory = walk(&fixture.tree, cases[i].directory);
        const struct tree_inode *found = tree_lookup(&fixture.tree, directory, cases[i].name);
        if (cases[i].found)
            assert_string_equal(found->path, cases[i].found);
        else
            assert_null(found);
    }
    tree_free(&fixture.tree);
}

static void attributes(void **state)
{
    static const struct {
        const char *path;
        mode_t mode;
        uid_t uid;
        gid_t gid;
        nlink_t links;
        off_t size;
        blkcnt_t blocks; /* of 512 bytes */
        struct timespec mtime;
    } cases[] = {
        {"", S_IFDIR | 0755, 11, 12, 4, 4096, 8, {90, 2}},
        {"a", S_IFDIR | 0755, 0, 0, 3, 4096, 8, {0, 0}},
        {"a.b", S_IFDIR | 0700, 3, 0, 2, 4096, 8, {50, 1}},
        {"config.json", S_IFREG | 0644, 1, 2, 1, 513, 2, {70, 3}},
        {"a/x", S_IFREG | 0600, 0, 0, 1, 0, 0, {0, 0}},
        /* what both shards allow; the newer shard's time */
        {"a.safetensors", S_IFREG | 0640, 7, 8, 1, 4096, 8, {100, 9}},
        {"b.safetensors", S_IFREG | 0640, 7, 8, 1, INT64_C(5) << 30, INT64_C(5) << 21, {100, 9}},
        {"model.safetensors.index.json", S_IFREG | 0640, 7, 8, 1, 1, 1, {100, 9}},
    };
    struct fixture fixture;

    (void)state;
    build(&fixture);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct stat *stat = &walk(&fixture.tree, cases[i].path)->stat;
        assert_int_equal(stat->st_mode, cases[i].mode);
        assert_int_equal(stat->st_uid, cases[i].uid);
        assert_int_equal(stat->st_gid, cases[i].gid);
        assert_int_equal(stat->st_nlink, cases[i].links);
        assert_int_equal(stat->st_size, cases[i].size);
        assert_int_equal(stat->st_blocks, cases[i].blocks);
        assert_int_equal(stat->st_blksize, 1 << 20);
        assert_memory_equal(&stat->st_mtim, &cases[i].mtime, sizeof cases[i].mtime);
        assert_memory_equal(&stat->st_ctim, &cases[i].mtime, sizeof cases[i].mtime);
    }
    assert_int_equal(fixture.tree.total_size, 4096 + (UINT64_C(5) << 30) + 1 + 513);
    tree_free(&fixture.tree);
}

/* Two shards of different owners: the virtual file is the first one's, who must not read the second's through
 * it. */
static void modes_of_shards_with_different_owners(void **state)
{
    static const struct {
        mode_t first, second;
        uid_t uid;
        gid_t gid;
        mode_t expected;
    } cases[] = {
        {0400, 0400, 7, 8, 0400}, {0400, 0400, 9, 8, 0000}, {0444, 0440, 9, 8, 0040},
        {0444, 0440, 7, 9, 0400}, {0444, 0444, 9, 9, 0444}, {0640, 0644, 9, 8, 0440},
        {0644, 0640, 9, 9, 0000}, {0777, 0755, 7, 8, 0644}, {0644, 0644, 7, 9, 0644},
        {0666, 0600, 7, 8, 0600}, {0644, 0444, 7, 8, 0444}, {0666, 0666, 9, 9, 0444},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture fixture;
        struct source_info shards[2] = {files[0], files[1]};
        struct error err = {0};
        struct source other = {.files = shards, .n_files = 2};
        make(&fixture);
        shards[0].mode = S_IFREG | cases[i].first;
        shards[1].mode = S_IFREG | cases[i].second;
        shards[1].uid = cases[i].uid;
        shards[1].gid = cases[i].gid;
        fixture.directory.source = &other;
        assert_int_equal(tree_build(&fixture.view, 1, &fixture.tree, &err), 0);
        assert_int_equal(walk(&fixture.tree, "a.safetensors")->stat.st_mode, S_IFREG | cases[i].expected);
        tree_free(&fixture.tree);
    }
}

static void kinds_and_files(void **state)
{
    static const struct {
        const char *path;
        enum tree_kind kind;
        uint32_t file;
    } cases[] = {
        {"a.safetensors", TREE_PLANNED, 0},
        {"b.safetensors", TREE_PLANNED, 1},
        {"model.safetensors.index.json", TREE_PLANNED, 2},
        {"config.json", TREE_PASSED, 2},
        {"a/x", TREE_PASSED, 3},
        {"a/deep/y", TREE_PASSED, 5},
    };
    struct fixture fixture;

    (void)state;
    build(&fixture);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct tree_inode *inode = walk(&fixture.tree, cases[i].path);
        assert_int_equal(inode->kind, cases[i].kind);
        assert_int_equal(inode->file, cases[i].file);
    }
    tree_free(&fixture.tree);
}

static void refuse(struct directory_entry entry, const char *name)
{
    struct fixture fixture;
    struct error err = {0};

    make(&fixture);
    fixture.directory.entries = &entry;
    fixture.directory.n_entries = 1;
    assert_int_equal(tree_build(&fixture.view, 1, &fixture.tree, &err), -1);
    assert_non_null(strstr(err.text, name));
    assert_null(fixture.tree.inodes);
    error_free(&err);
}

static void one_name_for_two_files_is_refused(void **state)
{
    (void)state;
    refuse((struct directory_entry){.info.path = "b.safetensors", .file = 3}, "b.safetensors");
    refuse((struct directory_entry){.info.path = "b.safetensors", .is_directory = true}, "--exclude");
    /* a file in what is a weight file, and a file in nothing */
    refuse((struct directory_entry){.info.path = "b.safetensors/x", .file = 3}, "b.safetensors/x");
    refuse((struct directory_entry){.info.path = "nowhere/x", .file = 3}, "nowhere/x");
}

/* Only a plan that says so puts its file in the place of one that would pass through. */
static void a_planned_file_may_replace_another(void **state)
{
    struct planned_file with_config[] = {
        planned[0], planned[1], planned[2], {.name = "config.json", .size = 99, .replaces = true}};
    struct fixture fixture;
    struct error err = {0};

    (void)state;
    make(&fixture);
    fixture.view.plan.files = with_config;
    fixture.view.plan.n_files = 4;
    assert_int_equal(tree_build(&fixture.view, 1, &fixture.tree, &err), 0);
    assert_int_equal(fixture.tree.n_inodes, 11);
    const struct tree_inode *config = walk(&fixture.tree, "config.json");
    assert_int_equal(config->kind, TREE_PLANNED);
    assert_int_equal(config->file, 3);
    assert_int_equal(config->stat.st_size, 99);
    tree_free(&fixture.tree);
    with_config[3].replaces = false;
    assert_int_equal(tree_build(&fixture.view, 1, &fixture.tree, &err), -1);
    assert_non_null(strstr(err.text, "config.json"));
    error_free(&err);
}

/* Two views of one directory, each below its own. */
static void several_views(void **state)
{
    static const char *const order[] = {
        "", "original", "v5", "original/a", "original/a.b", "original/a.safetensors",
    };
    struct fixture fixture;
    struct error err = {0};

    (void)state;
    make(&fixture);
    struct view views[2] = {fixture.view, fixture.view};
    views[0].name = "v5";
    views[1].name = "original";
    assert_int_equal(tree_build(views, 2, &fixture.tree, &err), 0);
    assert_int_equal(fixture.tree.n_inodes, 1 + 2 * 11);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        assert_string_equal(tree_get(&fixture.tree, i + 1)->path, order[i]);
    assert_int_equal(tree_get(&fixture.tree, TREE_ROOT)->stat.st_nlink, 4);
    for (int v = 0; v < 2; v++) {
        char path[64];
        snprintf(path, sizeof path, "%s/a/deep/y", views[v].name);
        assert_ptr_equal(walk(&fixture.tree, path)->view, &views[v]);
        snprintf(path, sizeof path, "%s/b.safetensors", views[v].name);
        assert_ptr_equal(walk(&fixture.tree, path)->view, &views[v]);
        assert_int_equal(walk(&fixture.tree, path)->kind, TREE_PLANNED);
    }
    tree_free(&fixture.tree);
}

/* Every kind of file through one call, and which file of the source each is. */
static void reading(void **state)
{
    static const struct {
        const char *path;
        bool is_source;
        uint32_t file; /* of the source, if it is one */
        uint64_t offset;
        size_t length;
        int error;
    } cases[] = {
        {"a.safetensors", true, 0, 0, 4096, 0},
        {"b.safetensors", true, 1, (UINT64_C(5) << 30) - 300, 300, 0},
        {"model.safetensors.index.json", false, 0, 0, 1, 0},
        {"config.json", true, 2, 500, 13, 0},
        {"a/deep/y", true, 5, 7, 100, 0},
        {"a/x", true, 3, 0, 0, 0},
        {"a.b/x", true, 4, 20, 30, EIO},
    };
    struct fixture fixture;
    struct error err = {0};
    char line[256] = "";
    int log[2];

    (void)state;
    build(&fixture);
    assert_int_equal(view_start(&fixture.view, READER_CACHE_MIN, &err), 0);
    assert_int_equal(pipe2(log, O_CLOEXEC), 0);
    log_to_descriptor(log[1]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct tree_inode *inode = walk(&fixture.tree, cases[i].path);
        unsigned char buffer[4096];
        struct reader_loan loan;
        uint32_t file;
        assert_int_equal(tree_source_file(inode, &file), cases[i].is_source);
        assert_true(!cases[i].is_source || file == cases[i].file);
        assert_int_equal(tree_read(inode, cases[i].offset, cases[i].length, buffer, &loan), cases[i].error);
        if (cases[i].error)
            continue;
        assert_int_equal(loan.length, cases[i].length);
        for (size_t k = 0; k < cases[i].length; k++)
            assert_int_equal(((const unsigned char *)loan.bytes)[k],
                             cases[i].is_source ? byte_at(file, cases[i].offset + k) : 'x');
        reader_take_back(&loan);
    }
    log_to_descriptor(STDERR_FILENO);
    assert_true(read(log[0], line, sizeof line - 1) > 0);
    assert_non_null(strstr(line, "a.b/x: reading 30 bytes at 20: "));
    close(log[0]);
    close(log[1]);
    assert_false(tree_source_file(walk(&fixture.tree, "a"), &(uint32_t){0}));
    tree_free(&fixture.tree);
    reader_free(fixture.view.reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_follow_the_paths),
        cmocka_unit_test(numbers_do_not_follow_the_scan),
        cmocka_unit_test(lookup_finds_what_is_there_only),
        cmocka_unit_test(attributes),
        cmocka_unit_test(modes_of_shards_with_different_owners),
        cmocka_unit_test(kinds_and_files),
        cmocka_unit_test(one_name_for_two_files_is_refused),
        cmocka_unit_test(a_planned_file_may_replace_another),
        cmocka_unit_test(several_views),
        cmocka_unit_test(reading),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
