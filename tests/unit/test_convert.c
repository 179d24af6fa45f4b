#include "fs/base/log.h"
#include "fs/convert/convert.h"
#include "fs/convert/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A tree by hand: two weight files, of which one is a shard as it is, an index, and what passes through. */
enum { LARGE = (17 << 20) + 5, HEAD = 40 };

static struct source_info files[] = {
    {.path = "a.safetensors", .size = LARGE, .mode = S_IFREG | 0644},
    {.path = "config.json", .size = 100, .mode = S_IFREG | 0644},
    {.path = "sub/deep/notes", .size = 7, .mode = S_IFREG | 0644},
    {.path = "sub/empty", .size = 0, .mode = S_IFREG | 0644},
};

static struct directory_entry entries[] = {
    {.info = {.path = "config.json", .size = 100, .mode = S_IFREG | 0644}, .file = 1},
    {.info = {.path = "sub", .mode = S_IFDIR | 0755}, .is_directory = true},
    {.info = {.path = "sub/deep", .mode = S_IFDIR | 0755}, .is_directory = true},
    {.info = {.path = "sub/deep/notes", .size = 7, .mode = S_IFREG | 0644}, .file = 2},
    {.info = {.path = "sub/empty", .mode = S_IFREG | 0644}, .file = 3},
};

static const char text[] = "the head of a file, which has no tensors";
static struct tensor tensors[] = {{.offset = HEAD, .length = LARGE - HEAD}};
static struct shard shards[] = {{.name = "a.safetensors", .size = LARGE, .n_tensors = 1}};
static struct planned_file planned[] = {
    {.name = "a.safetensors", .size = LARGE, .verbatim_shard = 0},
    {.name = "model.safetensors.index.json",
     .size = sizeof text,
     .verbatim_shard = PLAN_NO_SHARD,
     .head = text,
     .head_length = sizeof text},
};

/* A source whose reads of one file fail, or bring a signal. */
struct made_up {
    struct source source;
    uint32_t bad_file; /* UINT32_MAX: none */
    int error, signal;
    const char *watched; /* a directory whose entries are counted when config.json is read, or NULL */
    int entries;
};

static int count_entries(const char *path);

static unsigned char byte_at(uint32_t file, uint64_t i)
{
    return (unsigned char)(1 + (file * 31 + i * 7 + (i >> 9)) % 255);
}

static int made_up_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    struct made_up *self = (struct made_up *)source;

    for (size_t i = 0; i < length; i++)
        ((unsigned char *)buffer)[i] = byte_at(file, offset + i);
    if (file == 1 && self->watched)
        self->entries = count_entries(self->watched);
    if (file != self->bad_file)
        return 0;
    if (self->signal)
        raise(self->signal);
    return self->error;
}

static const struct source_ops made_up_ops = {.pread = made_up_pread};

struct fixture {
    struct made_up source;
    struct directory directory;
    struct view view;
    struct tree tree;
    char folder[64], path[96];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct error err = {0};

    assert_non_null(f);
    f->source = (struct made_up){
        .source = {.ops = &made_up_ops, .files = files, .n_files = sizeof files / sizeof *files},
        .bad_file = UINT32_MAX};
    f->directory = (struct directory){
        .top = {.mode = S_IFDIR | 0755},
        .source = &f->source.source,
        .entries = entries,
        .n_entries = sizeof entries / sizeof *entries,
        .checkpoint = {.shards = shards, .n_shards = 1, .tensors = tensors, .n_tensors = 1}};
    f->view = (struct view){.directory = &f->directory,
                            .plan = {.files = planned, .n_files = 2, .n_weight_files = 1}};
    assert_int_equal(view_start(&f->view, READER_CACHE_MIN, &err), 0);
    assert_int_equal(tree_build(&f->view, 1, &f->tree, &err), 0);
    strcpy(f->folder, "/tmp/moefs-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof f->path, "%s/out", f->folder);
    *state = f;
    return 0;
}

static void remove_all(const char *path)
{
    char command[160];

    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    remove_all(f->folder);
    tree_free(&f->tree);
    reader_free(f->view.reader);
    free(f);
    return 0;
}

/* The whole file, in memory of its own. */
static unsigned char *load(const struct fixture *f, const char *name, size_t *length)
{
    char path[256];
    struct stat stat;

    snprintf(path, sizeof path, "%s/%s", f->path, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &stat), 0);
    unsigned char *bytes = malloc((size_t)stat.st_size + 1);
    *length = (size_t)stat.st_size;
    for (size_t at = 0; at < *length;) {
        ssize_t n = read(fd, bytes + at, *length - at);
        assert_true(n > 0);
        at += (size_t)n;
    }
    close(fd);
    return bytes;
}

/* Entries of a directory, "." and ".." among them; -1: there is none. */
static int count_entries(const char *path)
{
    DIR *stream = opendir(path);
    int n = 0;

    if (!stream)
        return -1;
    while (readdir(stream))
        n++;
    closedir(stream);
    return n;
}

/* Every file, whole or sparse, and every directory. */
static void everything_is_written(void **state)
{
    static const struct {
        const char *name;
        uint32_t file;      /* of the source; UINT32_MAX: the index */
        size_t size, shown; /* shown: bytes of a sparse output that are not zero */
    } cases[] = {
        {"a.safetensors", 0, LARGE, HEAD},
        {"config.json", 1, 100, 100},
        {"sub/deep/notes", 2, 7, 7},
        {"sub/empty", 3, 0, 0},
        {"model.safetensors.index.json", UINT32_MAX, sizeof text, sizeof text},
    };
    struct fixture *f = *state;

    for (unsigned run = 0; run < 8; run++) {
        static const unsigned jobs[] = {0, 1, 3, 16};
        const bool sparse = run % 2;
        const struct convert_options options = {.sparse = sparse, .sync = run % 4 < 2, .jobs = jobs[run / 2]};
        struct error err = {0};
        assert_int_equal(convert_tree(&f->tree, f->path, &options, &err), 0);
        assert_int_equal(count_entries(f->path), 2 + 4);
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            size_t length;
            unsigned char *bytes = load(f, cases[k].name, &length);
            assert_int_equal(length, cases[k].size);
            for (size_t i = 0; i < length; i++) {
                const unsigned char whole =
                    cases[k].file == UINT32_MAX ? (unsigned char)text[i] : byte_at(cases[k].file, i);
                if (bytes[i] != (sparse && i >= cases[k].shown ? 0 : whole))
                    fail_msg("%s, sparse %d: byte %zu", cases[k].name, sparse, i);
            }
            free(bytes);
        }
        remove_all(f->path);
    }
}

/* Whatever ends it: what is said, and the directory is as it was, absent or empty. */
static void nothing_is_left_of_a_failure(void **state)
{
    static const struct {
        uint32_t bad_file;
        int error, signal;
        const char *said;
    } cases[] = {
        {0, EIO, 0, "a.safetensors: cannot compute bytes 0 to 4194304: Input/output error"},
        {2, ENOMEM, 0, "sub/deep/notes: cannot compute bytes 0 to 7: Cannot allocate memory"},
        {0, 0, SIGTERM, "interrupted: "},
        {0, 0, SIGINT, "interrupted: "},
        {0, 0, SIGHUP, "interrupted: "},
    };
    const struct convert_options options = {0};
    struct fixture *f = *state;
    int null = open("/dev/null", O_WRONLY);

    log_to_descriptor(null);
    for (size_t k = 0; k < 2 * sizeof cases / sizeof *cases; k++) {
        const bool there = k % 2;
        struct error err = {0};
        struct sigaction before = {0};
        f->source.bad_file = cases[k / 2].bad_file;
        f->source.error = cases[k / 2].error;
        f->source.signal = cases[k / 2].signal;
        if (there)
            assert_int_equal(mkdir(f->path, 0755), 0);
        assert_int_equal(convert_tree(&f->tree, f->path, &options, &err), -1);
        if (!strstr(err.text, cases[k / 2].said))
            fail_msg("case %zu: %s", k, err.text);
        assert_int_equal(count_entries(f->path), there ? 2 : -1);
        assert_int_equal(sigaction(SIGTERM, NULL, &before), 0);
        assert_true(before.sa_handler == SIG_DFL);
        error_free(&err);
        if (there)
            rmdir(f->path);
    }
    log_to_descriptor(STDERR_FILENO);
    close(null);
    /* What came before is forgotten. */
    f->source.bad_file = UINT32_MAX;
    assert_int_equal(convert_tree(&f->tree, f->path, &options, &(struct error){0}), 0);
}

/* Of several threads some are at work elsewhere when one fails. */
static void nothing_is_left_of_several_threads(void **state)
{
    const struct convert_options options = {.jobs = 4, .sync = true};
    struct fixture *f = *state;
    int null = open("/dev/null", O_WRONLY);

    log_to_descriptor(null);
    f->source.error = EIO;
    for (uint32_t bad_file = 0; bad_file < 3; bad_file++) {
        struct error err = {0};
        f->source.bad_file = bad_file;
        assert_int_equal(convert_tree(&f->tree, f->path, &options, &err), -1);
        assert_non_null(strstr(err.text, files[bad_file].path));
        assert_non_null(strstr(err.text, "Input/output error"));
        assert_int_equal(count_entries(f->path), -1);
        error_free(&err);
    }
    log_to_descriptor(STDERR_FILENO);
    close(null);
}

/* Whoever finds config.json finds all that it speaks of. */
static void config_comes_last(void **state)
{
    const struct convert_options options = {.jobs = 4, .sync = true};
    struct fixture *f = *state;

    f->source.watched = f->path;
    assert_int_equal(convert_tree(&f->tree, f->path, &options, &(struct error){0}), 0);
    /* the weights, the directory, and config.json by its temporary name: the index comes after it */
    assert_int_equal(f->source.entries, 2 + 3);
    assert_int_equal(count_entries(f->path), 2 + 4);
}

/* ulimit -f: an error like another, and no signal that kills. */
static void a_limit_of_file_sizes_is_an_error(void **state)
{
    const struct convert_options options = {.jobs = 2, .sync = true};
    struct fixture *f = *state;
    struct error err = {0};
    struct rlimit before, limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 5 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const int result = convert_tree(&f->tree, f->path, &options, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(result, -1);
    assert_non_null(strstr(err.text, "a.safetensors: cannot write: File too large"));
    assert_int_equal(count_entries(f->path), -1);
    error_free(&err);
}

/* The tree's modes less the umask, or those of any new file. */
static void modes_are_the_trees_where_asked_for(void **state)
{
    static const struct {
        bool keep;
        const char *name;
        mode_t mode;
    } cases[] = {{true, "config.json", 0640},    {true, "sub", 0750},  {true, "", 0750},
                 {false, "config.json", 0640},   {false, "sub", 0750}, {true, "sub/deep/notes", 0400},
                 {false, "sub/deep/notes", 0640}};
    struct fixture *f = *state;
    const mode_t umask_before = umask(0027);

    files[2].mode = entries[3].info.mode = S_IFREG | 0400;
    tree_free(&f->tree);
    assert_int_equal(tree_build(&f->view, 1, &f->tree, &(struct error){0}), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct convert_options options = {.keep_modes = cases[i].keep};
        char path[160];
        struct stat stat_;
        assert_int_equal(convert_tree(&f->tree, f->path, &options, &(struct error){0}), 0);
        snprintf(path, sizeof path, "%s/%s", f->path, cases[i].name);
        assert_int_equal(stat(path, &stat_), 0);
        assert_int_equal(stat_.st_mode & 07777, cases[i].mode);
        remove_all(f->path);
    }
    files[2].mode = entries[3].info.mode = S_IFREG | 0644;
    umask(umask_before);
}

static void only_an_empty_directory_is_taken(void **state)
{
    const struct convert_options options = {0};
    struct fixture *f = *state;
    struct error err = {0};

    assert_int_equal(convert_tree(&f->tree, f->path, &options, &err), 0);
    assert_int_equal(convert_tree(&f->tree, f->path, &options, &err), -1);
    assert_non_null(strstr(err.text, "is not empty (it holds "));
    assert_int_equal(count_entries(f->path), 2 + 4);
    error_free(&err);
    err = (struct error){0};
    assert_int_equal(convert_tree(&f->tree, "/dev/null", &options, &err), -1);
    assert_non_null(strstr(err.text, "/dev/null: Not a directory"));
    error_free(&err);
}

/* Several files at once, at any offset; each appears when it is whole, or not at all. */
static void files_appear_whole(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct output output;
    struct output_file one, two, three;
    size_t length;

    assert_int_equal(output_open(f->path, 0777, true, &output, &err), 0);
    assert_int_equal(output_make_directory(&output, "sub", 0777, &err), 0);
    assert_int_equal(output_begin(&output, "sub/one", 0666, &one, &err), 0);
    assert_int_equal(output_begin(&output, "two", 0666, &two, &err), 0);
    assert_int_equal(output_begin(&output, "three", 0666, &three, &err), 0);
    assert_int_equal(output_write(&one, 4, "efgh", 4, &err), 0);
    assert_int_equal(output_write(&two, 0, "2", 1, &err), 0);
    assert_int_equal(output_write(&one, 0, "abcd", 4, &err), 0);
    assert_int_equal(output_set_size(&two, 3, &err), 0);
    assert_int_equal(output_finish(&one, &err), 0);
    assert_int_equal(output_finish(&two, &err), 0);
    output_abandon(&three);
    unsigned char *bytes = load(f, "sub/one", &length);
    assert_int_equal(length, 8);
    assert_memory_equal(bytes, "abcdefgh", 8);
    free(bytes);
    bytes = load(f, "two", &length);
    assert_int_equal(length, 3);
    assert_memory_equal(bytes, "2\0\0", 3);
    free(bytes);
    assert_int_equal(count_entries(f->path), 2 + 2);
    /* What cannot be: a directory that is there, a file in none, more than a file can have. */
    assert_int_equal(output_make_directory(&output, "sub", 0777, &err), -1);
    assert_int_equal(output_begin(&output, "none/x", 0666, &three, &err), -1);
    assert_int_equal(output_begin(&output, "three", 0666, &three, &err), 0);
    assert_int_equal(output_set_size(&three, UINT64_MAX, &err), -1);
    output_abandon(&three);
    output_close(&output, true);
    assert_int_equal(count_entries(f->path), -1);
    error_free(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_is_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_left_of_a_failure, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_left_of_several_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(config_comes_last, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_limit_of_file_sizes_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(modes_are_the_trees_where_asked_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_an_empty_directory_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_appear_whole, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
