/* Which file each tensor goes to, and what no file can hold. Headers alone: the largest tensors exist nowhere. */
#include "layout/layouts.h"
#include "layout/plan.h"
#include "tests/support/plan_check.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define TENSORS_MAX 10

/* Tensor i: its name's number, its bytes, the shard that it is in. A row ends with 0 bytes. */
struct stored {
    unsigned number;
    uint64_t bytes;
    unsigned shard;
};

/* The names that the tensors of a row have. */
static const char *const names[] = {"t.0", "t.1", "t.2", "t.3", "t.4",  "t.5",
                                    "t.6", "t.7", "t.8", "t.9", "t.10", "t.11"};

static void make_checkpoint(const struct stored *stored, struct checkpoint *checkpoint)
{
    static const char *const files[] = {"a.safetensors", "b.safetensors", "c.safetensors",
                                        "d.safetensors", "e.safetensors", "f.safetensors"};

    *checkpoint = (struct checkpoint){.index_name = "model.safetensors.index.json"};
    for (unsigned s = 0; s < sizeof files / sizeof *files; s++) {
        struct safetensors_tensor tensors[TENSORS_MAX];
        struct safetensors_header header = {.tensors = tensors, .data_offset = 16};
        uint64_t at = 0;
        for (unsigned i = 0; i < TENSORS_MAX && stored[i].bytes > 0; i++) {
            if (stored[i].shard != s)
                continue;
            tensors[header.n_tensors++] = (struct safetensors_tensor){
                .info = {.name = names[stored[i].number],
                         .shape = arena_memdup(&checkpoint->arena, &stored[i].bytes, sizeof stored[i].bytes),
                         .n_dims = 1,
                         .dtype = DTYPE_U8},
                .begin = at,
                .end = at + stored[i].bytes};
            at += stored[i].bytes;
        }
        if (header.n_tensors > 0)
            checkpoint_add_shard(checkpoint, files[s], 16 + at, &header);
    }
}

/* Files as "t.0 t.1 | t.2": by name, and in each the writer's order of tensors. */
static void describe(const struct plan *plan, char *text)
{
    *text = '\0';
    for (uint32_t f = 0; f < plan->n_weight_files; f++) {
        strcat(text, f ? " |" : "");
        for (uint32_t t = 0; t < plan->files[f].n_tensors; t++) {
            strcat(text, f || t ? " " : "");
            strcat(text, plan->tensors[plan->files[f].first_tensor + t].info.name);
        }
    }
}

static void tensors_are_dealt_out(void **state)
{
    static const struct {
        uint64_t limit; /* 0: shards mirror the source */
        struct stored stored[TENSORS_MAX];
        const char *files;
        bool verbatim; /* the first file is the source's */
    } rows[] = {
        {0, {{0, 10, 0}, {1, 10, 1}, {2, 10, 0}}, "t.0 t.2 | t.1", true},
        {10, {{0, 10, 0}, {1, 10, 0}, {2, 10, 0}}, "t.0 | t.1 | t.2", false},
        {20, {{0, 10, 0}, {1, 10, 1}, {2, 10, 0}}, "t.0 t.1 | t.2", false},
        {29, {{0, 10, 0}, {1, 10, 1}, {2, 10, 2}}, "t.0 t.1 | t.2", false},
        {30, {{0, 10, 0}, {1, 10, 1}, {2, 10, 2}}, "t.0 t.1 t.2", false},
        /* in the order of numbers, whatever shard they come from */
        {10, {{10, 5, 0}, {2, 5, 0}, {1, 5, 1}, {9, 5, 1}}, "t.1 t.2 | t.10 t.9", false},
        /* one that is too large has a file of its own, and the file at hand goes on */
        {5, {{0, 1, 0}, {1, 9, 0}, {2, 1, 0}}, "t.1 | t.0 t.2", false},
        {1, {{0, 9, 0}}, "t.0", false},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_options options = {.max_shard_size = rows[i].limit};
        struct checkpoint checkpoint;
        struct plan plan;
        struct error err = {0};
        char text[256];
        make_checkpoint(rows[i].stored, &checkpoint);
        if (plan_build(&checkpoint, &options, &plan, &err) < 0)
            fail_msg("row %zu: %s", i, err.text);
        plan_check(&checkpoint, &plan);
        describe(&plan, text);
        if (strcmp(text, rows[i].files) != 0)
            fail_msg("row %zu: %s, expected %s", i, text, rows[i].files);
        for (uint32_t f = 0; f < plan.n_weight_files; f++)
            if ((plan.files[f].verbatim_shard != PLAN_NO_SHARD) != rows[i].verbatim)
                fail_msg("row %zu: file %u is%s the source's", i, f, rows[i].verbatim ? " not" : "");
        plan_free(&plan);
        checkpoint_free(&checkpoint);
    }
}

static void what_no_file_can_hold_is_refused(void **state)
{
    static const uint64_t most = (UINT64_C(1) << 61) - 8; /* bytes whose bits 64 bits count */
    static const struct {
        uint64_t limit;
        struct stored stored[TENSORS_MAX];
        const char *message; /* NULL: it fits */
    } rows[] = {
        {UINT64_MAX, {{0, most, 0}, {1, most, 1}, {2, most, 2}}, NULL},
        {UINT64_MAX,
         {{0, most, 0}, {1, most, 1}, {2, most, 2}, {3, most, 3}},
         "model.safetensors: would be larger than 2^63 bytes"},
        {UINT64_C(1) << 63,
         {{0, most, 0}, {1, most, 1}, {2, most, 2}, {3, most, 3}, {4, most, 4}},
         "model-00001-of-00002.safetensors: would be larger than 2^63 bytes"},
        {0,
         {{0, most, 0},
          {1, most, 0},
          {2, most, 1},
          {3, most, 1},
          {4, most, 2},
          {5, most, 2},
          {6, most, 3},
          {7, most, 3}},
         NULL},
        {0,
         {{0, most, 0},
          {1, most, 0},
          {2, most, 1},
          {3, most, 1},
          {4, most, 2},
          {5, most, 2},
          {6, most, 3},
          {7, most, 3},
          {8, most, 4}},
         "the tensors together hold more than 2^64 bytes"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_options options = {.max_shard_size = rows[i].limit};
        struct checkpoint checkpoint;
        struct plan plan;
        struct error err = {0};
        make_checkpoint(rows[i].stored, &checkpoint);
        int result = plan_build(&checkpoint, &options, &plan, &err);
        if (result < 0 && (!rows[i].message || strcmp(err.text, rows[i].message) != 0))
            fail_msg("row %zu: %s", i, err.text);
        assert_int_equal(result, rows[i].message ? -1 : 0);
        if (result == 0)
            plan_free(&plan);
        error_free(&err);
        checkpoint_free(&checkpoint);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_dealt_out),
        cmocka_unit_test(what_no_file_can_hold_is_refused),
    };
    mallopt(M_PERTURB, 0x5a); /* what is not initialised is not 0 by chance */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
