#include "fs/source/weight_names.h"
#include "fs/source/weights.h"
#include "tests/support/memory_source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FILES_MAX 6
#define INDEX WEIGHTS_INDEX_DEFAULT
#define INDEX_OF(file) "{\"weight_map\": {\"t\": \"" file "\"}}"

/* Names of files, what an index among them says, and which are the weights. */
static const struct {
    const char *files[FILES_MAX]; /* in no order */
    const char *index;            /* the text of every *.index.json */
    const char *transformers_weights;
    const char *weights[FILES_MAX]; /* in this order; none: refused */
    const char *said;               /* in the message of a refusal */
} cases[] = {
    {{"model.safetensors", "extra.safetensors"}, NULL, NULL, {"model.safetensors"}, NULL},
    {{"b.safetensors", "a.safetensors"}, NULL, NULL, {"a.safetensors", "b.safetensors"}, NULL},
    {{"b.safetensors", "consolidated.safetensors", "adapter_model.safetensors", "sub/a.safetensors"},
     NULL,
     NULL,
     {"b.safetensors"},
     NULL},
    {{"b.safetensors", "a.safetensors", INDEX}, INDEX_OF("b.safetensors"), NULL, {"b.safetensors"}, NULL},
    {{"a.safetensors", INDEX},
     INDEX_OF("b.safetensors"),
     NULL,
     {NULL},
     "names b.safetensors, which is not in"},
    {{"model.safetensors", INDEX}, INDEX_OF("model.safetensors"), NULL, {"model.safetensors"}, NULL},
    {{"model.safetensors", "a.safetensors", INDEX}, INDEX_OF("a.safetensors"), NULL, {NULL}, "holds both"},
    {{"model.safetensors", "a.safetensors", INDEX},
     INDEX_OF("a.safetensors"),
     "a.safetensors",
     {"a.safetensors"},
     NULL},
    {{"model.safetensors", "a.safetensors", "x.safetensors.index.json"},
     INDEX_OF("a.safetensors"),
     "x.safetensors.index.json",
     {"a.safetensors"},
     NULL},
    {{"model.safetensors"}, NULL, "gone.safetensors", {NULL}, "names gone.safetensors, which is not in"},
    {{"model.safetensors"}, NULL, "sub/x.safetensors", {NULL}, "must name a file directly in"},
    {{"model.safetensors"}, NULL, "", {NULL}, "must name a file directly in"},
    {{"model.bin"}, NULL, "model.bin", {NULL}, "safetensors only"},
    {{"model.bin"}, NULL, NULL, {NULL}, "PyTorch"},
    {{"model.gguf"}, NULL, NULL, {NULL}, "GGUF"},
    {{"sub/a.safetensors"}, NULL, NULL, {NULL}, "mount it separately: sub/a.safetensors"},
    {{"consolidated.00.pth"}, NULL, NULL, {NULL}, "consolidated"},
    {{"adapter_model.safetensors"}, NULL, NULL, {NULL}, "an adapter"},
    {{"\xff.safetensors"}, NULL, NULL, {NULL}, "not UTF-8"},
    {{"optimizer.pt"}, NULL, NULL, {NULL}, "memory holds no safetensors weights"},
};

static struct source *list_case(size_t number, struct listing *listing)
{
    struct memory_file files[FILES_MAX] = {0};
    uint32_t n = 0;

    for (; n < FILES_MAX && cases[number].files[n]; n++) {
        files[n] = (struct memory_file){.path = cases[number].files[n], .bytes = "", .size = 0};
        if (name_is_index(files[n].path)) {
            files[n].bytes = cases[number].index;
            files[n].size = strlen(cases[number].index);
        }
    }
    return memory_source_open("memory", files, n, listing);
}

static void chosen(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct listing listing;
        struct source *source = list_case(i, &listing);
        struct weights weights;
        struct error err = {0};
        const struct config config = {.transformers_weights = cases[i].transformers_weights};
        const int result = weights_choose(&listing, source, &config, &weights, &err);
        if (cases[i].weights[0]) {
            if (result != 0)
                fail_msg("case %zu: %s", i, err.text);
            size_t n = 0;
            for (; n < FILES_MAX && cases[i].weights[n]; n++) {
                assert_true(n < weights.n_files);
                assert_string_equal(weights.files[n]->info.path, cases[i].weights[n]);
                assert_int_equal(weights.roles[weights.files[n] - listing.list], ROLE_WEIGHT);
            }
            assert_int_equal(weights.n_files, n);
            assert_int_equal(weights.has_index, weights.index_file != NULL);
            weights_free(&weights);
        } else {
            assert_int_equal(result, -1);
            if (!strstr(err.text, cases[i].said))
                fail_msg("case %zu: %s", i, err.text);
        }
        error_free(&err);
        source_close(source);
        listing_free(&listing);
    }
}

static void names(void **state)
{
    static const struct {
        const char *path;
        bool pickle, consolidated, adapter, gguf, numbered;
    } names[] = {
        {"model.safetensors", false, false, false, false, false},
        {"model-00001-of-00002.safetensors", false, false, false, false, true},
        {"model-00001-of-00002.bin", true, false, false, false, false},
        {"model-0001-of-00002.safetensors", false, false, false, false, false},
        {"pytorch_model.bin", true, false, false, false, false},
        {"sub/model.pt", true, false, false, false, false},
        {"consolidated.00.pth", false, true, false, false, false},
        {"sub/consolidated.safetensors", false, true, false, false, false},
        {"consolidated.json", false, false, false, false, false},
        {"adapter_model.bin", false, false, true, false, false},
        {"sub/adapter_model.bin", true, false, false, false, false},
        {"model.gguf", false, false, false, true, false},
        {"optimizer.pt", false, false, false, false, false},
        {"sub/optimizer.bin", false, false, false, false, false},
        {"optimizer/model.bin", true, false, false, false, false},
        {"rng_state_3.pth", false, false, false, false, false},
        {"training_args.bin", false, false, false, false, false},
        {"mp_rank_00_optim_states.pt", false, false, false, false, false},
        {"mp_rank_00_model_states.pt", true, false, false, false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct listed listed = {.info = {.path = names[i].path}, .kind = LISTED_FILE};
        if (listed_is_pickle(&listed) != names[i].pickle ||
            listed_is_consolidated(&listed) != names[i].consolidated ||
            listed_is_adapter(&listed) != names[i].adapter || listed_is_gguf(&listed) != names[i].gguf ||
            name_is_numbered(names[i].path) != names[i].numbered)
            fail_msg("%s", names[i].path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(chosen), cmocka_unit_test(names)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
