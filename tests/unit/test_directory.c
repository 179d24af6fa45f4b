#include "fs/view/tree.h"
#include "tests/support/memory_source.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"
#define BLOCK "model.layers.0.mlp.experts."
#define CACHE_SIZE ((size_t)64 << 20)

enum { EXPERTS = 2, HIDDEN = 2, INNER = 3, MATRIX = HIDDEN * INNER * 2 /* bytes of BF16 */ };

static const char config[] = "{\"model_type\": \"qwen3_moe\", \"num_experts\": 2, \"hidden_size\": 2, "
                             "\"moe_intermediate_size\": 3, \"decoder_sparse_step\": 1}";

static const struct {
    const char *name;
    unsigned rows, columns;
} projections[] = {{"gate_proj", INNER, HIDDEN}, {"up_proj", INNER, HIDDEN}, {"down_proj", HIDDEN, INNER}};

/* Byte i of projection p of expert e: no two are the same. */
static unsigned char byte_of(unsigned e, unsigned p, unsigned i)
{
    return (unsigned char)(1 + (e * 3 + p) * MATRIX + i);
}

/* A shard that has one expert and a tensor that stays. */
struct shard_text {
    unsigned char bytes[1024];
    size_t size;
};

static struct shard_text make_shard(unsigned expert)
{
    struct shard_text shard = {.size = 8};
    char *header = (char *)shard.bytes + 8;
    unsigned at = 0;

    header += sprintf(header, "{");
    for (unsigned p = 0; p < 3; p++, at += MATRIX)
        header += sprintf(header,
                          "\"" BLOCK "%u.%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%u,%u],"
                          "\"data_offsets\":[%u,%u]},",
                          expert, projections[p].name, projections[p].rows, projections[p].columns, at,
                          at + MATRIX);
    header += sprintf(header, "\"other.%u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[%u,%u]}}",
                      expert, at, at + 4);
    const uint64_t length = (uint64_t)((unsigned char *)header - shard.bytes) - 8;
    for (unsigned i = 0; i < 8; i++)
        shard.bytes[i] = (unsigned char)(length >> 8 * i);
    shard.size += length;
    for (unsigned p = 0; p < 3; p++)
        for (unsigned i = 0; i < MATRIX; i++)
            shard.bytes[shard.size++] = byte_of(expert, p, i);
    for (unsigned i = 0; i < 4; i++)
        shard.bytes[shard.size++] = (unsigned char)(200 + 4 * expert + i);
    return shard;
}

static char *make_index(void)
{
    char *index = calloc(1, 4096), *at = index;

    at += sprintf(at, "{\"metadata\": {\"total_size\": 80}, \"weight_map\": {");
    for (unsigned e = 0; e < EXPERTS; e++)
        for (unsigned p = 0; p < 3; p++)
            at += sprintf(at, "\"" BLOCK "%u.%s.weight\": \"%s\", ", e, projections[p].name, e ? TWO : ONE);
    sprintf(at, "\"other.0\": \"" ONE "\", \"other.1\": \"" TWO "\"}}");
    return index;
}

/* What the memory source lists, in no order; a test may change it before it opens. */
struct fixture {
    struct shard_text shards[EXPERTS];
    char *index;
    struct memory_file files[6];
    uint32_t n_files;
    struct directory directory;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    for (unsigned e = 0; e < EXPERTS; e++)
        f->shards[e] = make_shard(e);
    f->index = make_index();
    const struct memory_file files[] = {
        {.path = "tokenizer.json", .bytes = "{}", .size = 2, .info = {.uid = 5, .mtime = {70, 1}}},
        {.path = TWO, .bytes = f->shards[1].bytes, .size = f->shards[1].size, .info = {.mtime = {90, 0}}},
        {.path = INDEX, .bytes = f->index, .size = strlen(f->index)},
        {.path = ONE, .bytes = f->shards[0].bytes, .size = f->shards[0].size, .info = {.mtime = {80, 0}}},
        {.path = "sub/notes.txt", .bytes = "notes", .size = 5},
        {.path = "config.json", .bytes = config, .size = sizeof config - 1},
    };
    memcpy(f->files, files, sizeof files);
    f->n_files = sizeof files / sizeof *files;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    directory_close(&f->directory);
    free(f->index);
    free(f);
    return 0;
}

static int open_directory(struct fixture *f, struct error *err)
{
    struct listing listing;
    struct source *source = memory_source_open("memory", f->files, f->n_files, &listing);

    return directory_read(&listing, source, &f->directory, err);
}

static void opened_from_memory(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};

    assert_int_equal(open_directory(f, &err), 0);
    const struct directory *d = &f->directory;
    assert_string_equal(d->path, "memory");
    assert_int_equal(d->checkpoint.n_shards, 2);
    assert_int_equal(d->checkpoint.n_tensors, 8);
    /* the shards, what passes through, the index */
    static const char *const files[] = {ONE, TWO, "config.json", "sub/notes.txt", "tokenizer.json", INDEX};
    assert_int_equal(d->source->n_files, sizeof files / sizeof *files);
    for (uint32_t i = 0; i < d->source->n_files; i++)
        assert_string_equal(source_name(d->source, i), files[i]);
    assert_int_equal(d->index_file, 5);
    static const char *const entries[] = {"config.json", "sub", "sub/notes.txt", "tokenizer.json"};
    assert_int_equal(d->n_entries, sizeof entries / sizeof *entries);
    for (uint32_t i = 0; i < d->n_entries; i++) {
        assert_string_equal(d->entries[i].info.path, entries[i]);
        if (!d->entries[i].is_directory)
            assert_string_equal(source_name(d->source, d->entries[i].file), entries[i]);
    }
}

/* What a planned tensor must hold, put together by hand. */
static size_t expect(const char *name, unsigned char *bytes)
{
    static const unsigned parts[2][2] = {{0, 1}, {2, 3}}; /* gate and up, down */
    const unsigned *of = strcmp(name, BLOCK "gate_up_proj") == 0 ? parts[0] : parts[1];
    size_t n = 0;

    if (strncmp(name, "other.", 6) == 0) {
        for (unsigned i = 0; i < 4; i++)
            bytes[n++] = (unsigned char)(200 + 4 * (unsigned)(name[6] - '0') + i);
        return n;
    }
    if (of == parts[1])
        assert_string_equal(name, BLOCK "down_proj");
    for (unsigned e = 0; e < EXPERTS; e++)
        for (unsigned p = of[0]; p <= of[1] && p < 3; p++)
            for (unsigned i = 0; i < MATRIX; i++)
                bytes[n++] = byte_of(e, p, i);
    return n;
}

static const struct tree_inode *find(const struct tree *tree, const char *name)
{
    const struct tree_inode *inode = tree_lookup(tree, tree_get(tree, TREE_ROOT), name);

    assert_non_null(inode);
    return inode;
}

static void read_tensors(const struct tree *tree, const struct plan *plan)
{
    unsigned char want[256], got[256];

    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        const struct planned_tensor *tensor = &plan->tensors[t];
        const size_t length = expect(tensor->info.name, want);
        assert_int_equal(tensor->length, length);
        const struct tree_inode *inode = find(tree, plan->files[tensor->file].name);
        struct reader_loan loan = {0};
        assert_int_equal(tree_read(inode, tensor->offset, length, got, &loan), 0);
        assert_memory_equal(loan.bytes ? loan.bytes : got, want, length);
        reader_take_back(&loan);
    }
}

static void planned_and_read_from_memory(void **state)
{
    const struct plan_options options = {0};
    struct fixture *f = *state;
    struct error err = {0};
    struct view view = {0};
    struct tree tree;
    struct reader_loan loan = {0};
    char text[sizeof config];

    assert_int_equal(open_directory(f, &err), 0);
    assert_int_equal(view_open(&view, &f->directory, &options, &err), 0);
    assert_int_equal(view_start(&view, CACHE_SIZE, &err), 0);
    assert_int_equal(tree_build(&view, 1, &tree, &err), 0);
    assert_int_equal(view.plan.n_tensors, 4);
    read_tensors(&tree, &view.plan);
    const struct tree_inode *passed = find(&tree, "config.json");
    assert_int_equal(passed->stat.st_size, sizeof config - 1);
    assert_int_equal(tree_read(passed, 0, sizeof config - 1, text, &loan), 0);
    assert_memory_equal(text, config, sizeof config - 1);
    /* what the source says of its files is what the tree shows */
    assert_int_equal(find(&tree, "tokenizer.json")->stat.st_uid, 5);
    assert_int_equal(find(&tree, "tokenizer.json")->stat.st_mtim.tv_sec, 70);
    assert_int_equal(find(&tree, ONE)->stat.st_mtim.tv_sec, 90);
    tree_free(&tree);
    view_close(&view);
}

/* What is wrong with one of the files, and what is said. */
static void refused(void **state)
{
    static const struct {
        const char *path;
        struct memory_file instead; /* size 0 and no bytes: as long as it was */
        const char *said;
    } cases[] = {
        {"config.json", {.path = "other.json", .bytes = "{}", .size = 2}, "memory has no config.json"},
        {"config.json", {.path = "config.json", .kind = LISTED_EXCLUDED}, "cannot be hidden with --exclude"},
        {"config.json", {.path = "config.json", .kind = LISTED_DIRECTORY}, "is a directory and not a file"},
        {"config.json", {.path = "config.json", .bytes = "{", .size = 1}, "config.json"},
        {ONE, {.path = "gone", .bytes = "", .size = 0}, INDEX " names " ONE},
        {ONE, {.path = ONE, .bytes = "short", .size = 5}, ONE},
        {ONE, {.path = ONE, .kind = LISTED_SPECIAL, .info = {.mode = 0010644}}, "is a fifo and not a file"},
        {INDEX, {.path = INDEX, .bytes = "[]", .size = 2}, INDEX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        void *fresh;
        set_up(&fresh);
        struct fixture *f = fresh;
        for (uint32_t k = 0; k < f->n_files; k++)
            if (strcmp(f->files[k].path, cases[i].path) == 0)
                f->files[k] = cases[i].instead;
        assert_int_equal(open_directory(f, &err), -1);
        if (!strstr(err.text, cases[i].said))
            fail_msg("case %zu: %s", i, err.text);
        error_free(&err);
        tear_down(&fresh);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(opened_from_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(planned_and_read_from_memory, set_up, tear_down),
        cmocka_unit_test(refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
