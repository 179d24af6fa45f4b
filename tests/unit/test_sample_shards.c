/* A sample is cut into the shards that save_pretrained would write (huggingface_hub's split). */
#include "fs/sample/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* names: of each file's tensors, files one after another with '|' between. */
static const struct {
    uint64_t sizes[4], n, n_shards, limit;
    const char *names;
} CUTS[] = {
    {{1, 9, 1}, 3, 0, 5, "b|ac"}, {{2, 3, 1}, 3, 0, 5, "ab|c"},     {{9, 1, 9}, 3, 0, 5, "a|c|b"},
    {{9}, 1, 0, 5, "a"},          {{4, 4, 4, 4}, 4, 2, 0, "ab|cd"}, {{9, 1, 1, 1}, 4, 3, 0, "a|bc|d"},
};

static void model_init(struct sample_model *model, const uint64_t *sizes, uint64_t n)
{
    static const char *const names[] = {"a", "b", "c", "d"};

    *model = (struct sample_model){.n_tensors = (uint32_t)n};
    model->tensors = arena_alloc(&model->arena, n * sizeof *model->tensors);
    for (uint64_t i = 0; i < n; i++) {
        model->tensors[i] = (struct sample_tensor){
            .info = {.name = names[i], .shape = &sizes[i], .n_dims = 1, .dtype = DTYPE_U8},
            .length = sizes[i]};
        model->total_size += sizes[i];
    }
}

static void tensors_are_cut_as_the_hub_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(CUTS); i++) {
        struct sample_model model;
        struct error err = {0};
        char got[16] = "";
        model_init(&model, CUTS[i].sizes, CUTS[i].n);
        assert_int_equal(sample_shards_cut(&model, CUTS[i].n_shards, CUTS[i].limit, &err), 0);
        for (uint32_t s = 0; s < model.n_shards; s++) {
            const struct sample_shard *shard = &model.shards[s];
            uint64_t end = shard->head_length;
            strcat(got, s ? "|" : "");
            for (uint32_t k = 0; k < shard->n_tensors; k++) {
                const struct sample_tensor *tensor = &model.tensors[shard->first_tensor + k];
                strcat(got, tensor->info.name);
                assert_int_equal(tensor->offset, end);
                end += tensor->length;
            }
            assert_int_equal(shard->size, end);
        }
        assert_string_equal(got, CUTS[i].names);
        sample_model_free(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tensors_are_cut_as_the_hub_does)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
