#include "layout/format/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const uint64_t SHAPE[] = {4};

/* A shard of 4-byte tensors whose names are the letters of `letters`. */
static void add_shard(struct checkpoint *checkpoint, const char *name, const char *letters)
{
    struct safetensors_header header = {.n_tensors = strlen(letters), .data_offset = 100};

    header.tensors = arena_alloc(&checkpoint->arena, (header.n_tensors + 1) * sizeof *header.tensors);
    for (size_t i = 0; i < header.n_tensors; i++)
        header.tensors[i] = (struct safetensors_tensor){
            .info = {.name = arena_strndup(&checkpoint->arena, letters + i, 1),
                     .shape = SHAPE,
                     .n_dims = 1,
                     .dtype = DTYPE_U8},
            .begin = 4 * i,
            .end = 4 * i + 4,
        };
    checkpoint_add_shard(checkpoint, name, 100 + 4 * header.n_tensors, &header);
}

/* What the checkpoint holds, as "letters@offset ..." per shard; an incomplete shard ends in !. */
static void describe(const struct checkpoint *checkpoint, char *text, size_t size)
{
    size_t at = 0;

    text[0] = '\0';
    for (uint32_t s = 0; s < checkpoint->n_shards; s++) {
        const struct shard *shard = &checkpoint->shards[s];
        at += (size_t)snprintf(text + at, size - at, "%s%s:", s ? " " : "", shard->name);
        for (uint32_t i = 0; i < shard->n_tensors; i++) {
            const struct tensor *tensor = &checkpoint->tensors[shard->first_tensor + i];
            assert_int_equal(tensor->shard, s);
            assert_int_equal(tensor->length, 4);
            at += (size_t)snprintf(text + at, size - at, "%s%d", tensor->info.name, (int)tensor->offset);
        }
        at += (size_t)snprintf(text + at, size - at, "%s", shard->incomplete ? "!" : "");
    }
}

struct settle_case {
    const char *shards[3];  /* the tensors of 1, 2, 3 */
    const char *weight_map; /* or NULL: no index */
    const char *result;     /* as describe(), or NULL: refused with the message */
    const char *message;    /* of the error, or of the only note, or NULL: no note */
    const char *absent;
};

static const struct settle_case CASES[] = {
    {{"ab", "c"}, NULL, "1:a100b104 2:c100", NULL, ""},
    {{"ab", "c"}, "{\"a\":\"1\",\"b\":\"1\",\"c\":\"2\"}", "1:a100b104 2:c100", NULL, ""},
    {{"ab", "c"}, "{\"c\":\"2\"}", "1:a100b104 2:c100", NULL, ""}, /* not in the index: kept */
    {{"abc", "bd"},
     "{\"b\":\"2\"}",
     "1:a100c108! 2:b100d104",
     "tensor 'b' is in 1 and in 2: the index names 2, the other is dropped",
     ""},
    {{"abc", "bd"},
     "{\"b\":\"1\"}",
     "1:a100b104c108 2:d104!",
     "tensor 'b' is in 2 and in 1: the index names 1, the other is dropped",
     ""},
    {{"a", "a", ""}, "{\"a\":\"2\"}", "1:! 2:a100 3:", "the index names 2", ""},
    {{"ab", "b"},
     NULL,
     NULL,
     "tensor 'b' is in 1 and in 2, and there is no index to decide between them (--exclude hides a file)",
     NULL},
    {{"ab", "b"}, "{\"a\":\"1\"}", NULL, "tensor 'b' is in 1 and in 2, and the index does not name it", NULL},
    {{"ab", "b", "c"},
     "{\"b\":\"3\"}",
     NULL,
     "tensor 'b' is in 1 and in 2, and the index names a third file: 3",
     NULL},
    {{"ab", "b"},
     "{\"b\":\"9\"}",
     NULL,
     "tensor 'b' is in 1 and in 2, and the index names a third file: 9",
     NULL},
    {{"b"},
     "{\"c\":\"1\",\"b\":\"1\"}",
     "1:b100",
     "tensor 'c': the index names 1, but no file has it: it is left out",
     "c"},
    {{"b"}, "{\"a\":\"1\",\"b\":\"1\"}", "1:b100", "tensor 'a': the index names 1, but no file has it", "a"},
    {{"a", "b"},
     "{\"a\":\"2\",\"b\":\"2\"}",
     "1:a100 2:b100",
     "tensor 'a': the index names 2, but only 1 has it: it is taken from there",
     ""},
    {{""}, NULL, "1:", NULL, ""},
};

static void load(struct checkpoint *checkpoint, const struct settle_case *settle_case)
{
    static const char *const NAMES[] = {"1", "2", "3"};

    *checkpoint = (struct checkpoint){0};
    for (size_t i = 0; i < LENGTH(NAMES); i++)
        if (settle_case->shards[i])
            add_shard(checkpoint, NAMES[i], settle_case->shards[i]);
}

static int settle(struct checkpoint *checkpoint, const char *weight_map, struct notes *notes,
                  struct error *err)
{
    cleanup_free char *text = NULL;
    struct index index;

    if (!weight_map)
        return checkpoint_settle(checkpoint, NULL, notes, err);
    text = xasprintf("{\"metadata\":{\"k\":1},\"weight_map\":%s}", weight_map);
    assert_int_equal(index_parse("i", text, strlen(text), &checkpoint->arena, &index, err), 0);
    return checkpoint_settle(checkpoint, &index, notes, err);
}

static void names_are_settled(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        struct checkpoint checkpoint;
        struct notes notes = {0};
        struct error err = {0};
        char text[256];
        load(&checkpoint, &CASES[i]);
        int failed = settle(&checkpoint, CASES[i].weight_map, &notes, &err);
        if (!CASES[i].result) {
            assert_int_equal(failed, -1);
            assert_string_equal(err.text, CASES[i].message);
        } else {
            assert_int_equal(failed, 0);
            describe(&checkpoint, text, sizeof text);
            assert_string_equal(text, CASES[i].result);
            assert_int_equal(notes.n, CASES[i].message ? 1 : 0);
            if (CASES[i].message)
                assert_non_null(strstr(notes.list[0].text, CASES[i].message));
            assert_int_equal(checkpoint.n_absent, strlen(CASES[i].absent));
            if (checkpoint.n_absent)
                assert_string_equal(checkpoint.absent[0], CASES[i].absent);
        }
        error_free(&err);
        notes_free(&notes);
        checkpoint_free(&checkpoint);
        assert_null(checkpoint.tensors);
    }
}

/* The index and its text end before the checkpoint does. */
static void the_metadata_is_kept(void **state)
{
    struct checkpoint checkpoint;
    struct notes notes = {0};
    struct error err = {0};

    (void)state;
    load(&checkpoint, &CASES[0]);
    assert_int_equal(settle(&checkpoint, CASES[1].weight_map, &notes, &err), 0);
    assert_int_equal(checkpoint.metadata_length, 7);
    assert_memory_equal(checkpoint.metadata, "{\"k\":1}", 7);
    checkpoint_free(&checkpoint);
    load(&checkpoint, &CASES[0]);
    assert_int_equal(settle(&checkpoint, NULL, &notes, &err), 0);
    assert_null(checkpoint.metadata);
    checkpoint_free(&checkpoint);
}

static void many_notes_are_counted(void **state)
{
    static const struct settle_case MANY_COPIES = {.shards = {"abcdefgh", "abcdefgh"}};
    struct checkpoint checkpoint;
    struct notes notes = {0};
    struct error err = {0};
    char text[256];

    (void)state;
    load(&checkpoint, &MANY_COPIES);
    assert_int_equal(
        settle(&checkpoint,
               "{\"a\":\"1\",\"b\":\"1\",\"c\":\"1\",\"d\":\"1\",\"e\":\"1\",\"f\":\"1\",\"g\":\"1\","
               "\"h\":\"1\"}",
               &notes, &err),
        0);
    describe(&checkpoint, text, sizeof text);
    assert_string_equal(text, "1:a100b104c108d112e116f120g124h128 2:!");
    assert_int_equal(notes.n, 6);
    assert_non_null(strstr(notes.list[5].text, "3 more tensors are in two files"));
    notes_free(&notes);
    checkpoint_free(&checkpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_settled),
        cmocka_unit_test(the_metadata_is_kept),
        cmocka_unit_test(many_notes_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
