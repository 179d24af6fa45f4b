/* How architectures spell their layouts: each family's names and shapes, companions among them, are recognised
 * by the architecture's entry. The expectations are the published checkpoints'. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/names.h"

/* One kind of tensor of a family: its name, with %u for the expert where there is one for each. */
struct kind {
    const char *name;
    unsigned experts; /* 0: one tensor */
    uint64_t shape[4];
    uint8_t n_dims;
};

struct expected_group {
    const char *block, *layout;
    uint64_t experts, inner, hidden;
};

static const struct family {
    const char *type, *config;
    struct kind kinds[6];
    struct expected_group groups[2];
} families[] = {
    {"mixtral",
     "{}",
     {{"l.1.block_sparse_moe.experts.%u.w1.weight", 11, {5, 6}, 2},
      {"l.1.block_sparse_moe.experts.%u.w3.weight", 11, {5, 6}, 2},
      {"l.1.block_sparse_moe.experts.%u.w2.weight", 11, {6, 5}, 2}},
     {{"l.1.block_sparse_moe", "per-expert", 11, 5, 6}}},
    /* numbered through: 0..2 text, 3..5 vision */
    {"ernie4_5_vl_moe",
     "{}",
     {{"l.1.mlp.experts.%u.gate_proj.weight", 6, {5, 6}, 2},
      {"l.1.mlp.experts.%u.up_proj.weight", 6, {5, 6}, 2},
      {"l.1.mlp.experts.%u.down_proj.weight", 6, {6, 5}, 2}},
     {{"l.1.mlp", "per-expert", 3, 5, 6}, {"l.1.mlp", "per-expert", 3, 5, 6}}},
    {"longcat_flash",
     "{}",
     {{"l.1.mlp.experts.%u.gate_proj.weight", 5, {7, 6}, 2},
      {"l.1.mlp.experts.%u.up_proj.weight", 5, {7, 6}, 2},
      {"l.1.mlp.experts.%u.down_proj.weight", 3, {6, 7}, 2}},
     {{"l.1.mlp", "per-expert", 5, 7, 6}}},
    {"step3p7",
     "{}",
     {{"l.1.moe.gate_proj.weight", 0, {3, 5, 6}, 3},
      {"l.1.moe.up_proj.weight", 0, {3, 5, 6}, 3},
      {"l.1.moe.down_proj.weight", 0, {3, 6, 5}, 3},
      {"l.1.moe.gate.weight", 0, {3, 6}, 2}},
     {{"l.1", "stacked", 3, 5, 6}}},
    /* companions of weights that an architecture names otherwise are named after these */
    {"step3p7",
     "{}",
     {{"l.1.moe.gate_proj.weight", 0, {3, 130, 256}, 3},
      {"l.1.moe.up_proj.weight", 0, {3, 130, 256}, 3},
      {"l.1.moe.down_proj.weight", 0, {3, 256, 130}, 3},
      {"l.1.moe.gate_proj.weight_scale_inv", 0, {3, 2, 2}, 3},
      {"l.1.moe.up_proj.weight_scale_inv", 0, {3, 2, 2}, 3},
      {"l.1.moe.down_proj.weight_scale_inv", 0, {3, 2, 2}, 3}},
     {{"l.1", "stacked", 3, 130, 256}}},
    {"granitemoe",
     "{}",
     {{"l.1.block_sparse_moe.input_linear.weight", 0, {3, 256, 64}, 3},
      {"l.1.block_sparse_moe.output_linear.weight", 0, {3, 64, 128}, 3},
      {"l.1.block_sparse_moe.input_linear.weight_scale_inv", 0, {3, 2, 1}, 3},
      {"l.1.block_sparse_moe.output_linear.weight_scale_inv", 0, {3, 1, 1}, 3}},
     {{"l.1.block_sparse_moe", "merged", 3, 128, 64}}},
    {"ernie4_5_vl_moe",
     "{}",
     {{"l.1.mlp.experts.%u.gate_proj.weight", 4, {5, 6}, 2},
      {"l.1.mlp.experts.%u.up_proj.weight", 4, {5, 6}, 2},
      {"l.1.mlp.experts.%u.down_proj.weight", 4, {6, 5}, 2},
      {"l.1.mlp.experts.%u.gate_proj.bias", 4, {5}, 1},
      {"l.1.mlp.experts.%u.up_proj.bias", 4, {5}, 1},
      {"l.1.mlp.experts.%u.down_proj.bias", 4, {6}, 1}},
     {{"l.1.mlp", "per-expert", 2, 5, 6}, {"l.1.mlp", "per-expert", 2, 5, 6}}},
    {"granitemoe",
     "{}",
     {{"l.1.block_sparse_moe.input_linear.weight", 0, {3, 10, 6}, 3},
      {"l.1.block_sparse_moe.output_linear.weight", 0, {3, 6, 5}, 3},
      {"l.1.shared_mlp.input_linear.weight", 0, {10, 6}, 2},
      {"l.1.shared_mlp.output_linear.weight", 0, {6, 5}, 2}},
     {{"l.1.block_sparse_moe", "merged", 3, 5, 6}}},
    {"jetmoe",
     "{\"hidden_size\": 6}",
     {{"l.1.mlp.input_linear.weight", 0, {3, 10, 6}, 3},
      {"l.1.mlp.output_linear.weight", 0, {3, 6, 5}, 3},
      {"l.1.self_attention.experts.input_linear.weight", 0, {3, 4, 6}, 3},
      {"l.1.self_attention.experts.output_linear.weight", 0, {3, 6, 4}, 3}},
     {{"l.1.mlp", "merged", 3, 5, 6}, {"l.1.self_attention", "merged", 3, 4, 6}}},
    {"aria",
     "{}",
     {{"l.1.mlp.experts.fc1.weight", 0, {3, 6, 10}, 3}, {"l.1.mlp.experts.fc2.weight", 0, {3, 5, 6}, 3}},
     {{"l.1.mlp", "in-out", 3, 5, 6}}},
    /* the shapes say 15 = experts * inner; config.json says 3 of them */
    {"dbrx",
     "{\"ffn_config\": {\"moe_num_experts\": 3}}",
     {{"l.1.ffn.experts.mlp.w1", 0, {15, 6}, 2},
      {"l.1.ffn.experts.mlp.v1", 0, {15, 6}, 2},
      {"l.1.ffn.experts.mlp.w2", 0, {15, 6}, 2}},
     {{"l.1.ffn", "flat", 3, 5, 6}}},
    {"switch_transformers",
     "{\"d_ff\": 5}",
     {{"l.1.mlp.experts.expert_%u.wi.weight", 11, {5, 6}, 2},
      {"l.1.mlp.experts.expert_%u.wo.weight", 11, {6, 5}, 2}},
     {{"l.1.mlp", "per-expert", 11, 5, 6}}},
    {"nllb-moe",
     "{\"encoder_ffn_dim\": 5, \"decoder_ffn_dim\": 7}",
     {{"l.1.ffn.experts.expert_%u.fc1.weight", 3, {7, 6}, 2},
      {"l.1.ffn.experts.expert_%u.fc2.weight", 3, {6, 7}, 2},
      {"l.1.ffn.experts.expert_%u.fc1.bias", 3, {7}, 1},
      {"l.1.ffn.experts.expert_%u.fc2.bias", 3, {6}, 1}},
     {{"l.1.ffn", "per-expert", 3, 7, 6}}},
    {"nemotron_h",
     "{\"moe_intermediate_size\": 5}",
     {{"l.1.mixer.experts.up_proj", 0, {3, 6, 5}, 3}, {"l.1.mixer.experts.down_proj", 0, {3, 5, 6}, 3}},
     {{"l.1.mixer", "in-out", 3, 5, 6}}},
    {"gpt_oss",
     "{}",
     {{"l.1.mlp.experts.gate_up_proj_blocks", 0, {3, 64, 2, 16}, 4},
      {"l.1.mlp.experts.down_proj_blocks", 0, {3, 64, 1, 16}, 4},
      {"l.1.mlp.experts.gate_up_proj_scales", 0, {3, 64, 2}, 3},
      {"l.1.mlp.experts.down_proj_scales", 0, {3, 64, 1}, 3},
      {"l.1.mlp.experts.gate_up_proj_bias", 0, {3, 64}, 2},
      {"l.1.mlp.experts.down_proj_bias", 0, {3, 64}, 2}},
     {{"l.1.mlp", "in-out-interleaved", 3, 32, 64}}},
    {"inkling2",
     "{}",
     {{"l.1.mlp.experts.w13_weight", 0, {3, 10, 64}, 3},
      {"l.1.mlp.experts.w2_weight", 0, {3, 64, 5}, 3},
      {"l.1.mlp.experts.w13_weight_scale", 0, {3, 10, 2}, 3},
      {"l.1.mlp.experts.w2_weight_scale", 0, {3, 64, 1}, 3}},
     {{"l.1.mlp", "interleaved", 3, 5, 64}}},
};

static void add_kind(struct names *names, const struct kind *kind)
{
    for (unsigned e = 0; e < (kind->experts ? kind->experts : 1); e++) {
        const char *number = strstr(kind->name, "%u");
        char name[128];
        if (number)
            snprintf(name, sizeof name, "%.*s%u%s", (int)(number - kind->name), kind->name, e, number + 2);
        add_tensor(names, number ? name : kind->name, DTYPE_U8, kind->n_dims, kind->shape);
    }
}

static void check_family(const struct family *family, const struct recognition *r)
{
    unsigned n = family->groups[1].block ? 2 : 1;

    if (r->n_unfit > 0)
        fail_msg("%s: %s", family->type, r->unfit[0].reason);
    assert_int_equal(r->n_groups, n);
    for (unsigned g = 0; g < n; g++) {
        const struct expected_group *expected = &family->groups[g];
        assert_string_equal(r->groups[g].block, expected->block);
        assert_string_equal(r->groups[g].bound->layout->name, expected->layout);
        assert_int_equal(r->groups[g].n_companions, 0);
        assert_int_equal(r->groups[g].sizes[axis_find(&layouts.words, "expert")], expected->experts);
        assert_int_equal(r->groups[g].sizes[axis_find(&layouts.words, "inner")], expected->inner);
        assert_int_equal(r->groups[g].sizes[axis_find(&layouts.words, "hidden")], expected->hidden);
    }
}

/* Every spelling that is not the default, with its companions: all belong to the group. */
static void families_are_known_by_their_spelling(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *family = &families[i];
        struct names names = {.n = 0};
        struct config config;
        struct error err = {0};
        assert_int_equal(config_parse("config.json", family->config, strlen(family->config), &config, &err),
                         0);
        for (unsigned k = 0; k < 6 && family->kinds[k].name; k++)
            add_kind(&names, &family->kinds[k]);
        struct recognise_input input = {.layouts = &layouts,
                                        .architecture = layouts_architecture(&layouts, family->type),
                                        .config = &config,
                                        .tensors = names.pointers,
                                        .n_tensors = names.n};
        struct recognition r;
        recognise(&input, &r);
        check_family(family, &r);
        recognition_free(&r);
        config_free(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_known_by_their_spelling),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
