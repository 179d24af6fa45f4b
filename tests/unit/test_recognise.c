/* Recognition: what a group of names and shapes is taken for. The expectations are the
 * layouts' definitions. */
#include "layout/recognise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/names.h"

/* All four layouts, all sizes up to 6, square ones among them: always the one that it was made in. */
static void square_sizes_leave_no_doubt(void **state)
{
    static const char *const kinds[] = {"per-expert", "stacked", "merged", "in-out"};
    (void)state;

    for (size_t k = 0; k < 4; k++)
        for (uint64_t I = 1; I <= 6; I++)
            for (uint64_t H = 1; H <= 6; H++) {
                struct names names = {.n = 0};
                add_block(&names, kinds[k], "model.layers.0.mlp", 3, I, H);
                struct recognition r = run(&names, "qwen3_moe", NULL);
                assert_int_equal(r.n_groups, 1);
                assert_int_equal(r.n_unfit, 0);
                assert_string_equal(r.groups[0].bound->layout->name, kinds[k]);
                assert_string_equal(r.groups[0].block, "model.layers.0.mlp");
                assert_int_equal(r.groups[0].n_experts, 3);
                recognition_free(&r);
            }
}

static void an_unknown_architecture_hides_the_order_of_gate_and_up(void **state)
{
    (void)state;
    struct names names = {.n = 0};
    add_block(&names, "merged", "m", 2, 3, 4);
    struct recognition r = run(&names, "nobody_knows", NULL);
    assert_true(r.groups[0].ambiguous);
    recognition_free(&r);
    r = run(&names, "nobody_knows", "merged");
    assert_false(r.groups[0].ambiguous);
    assert_true(r.groups[0].from_option);
    recognition_free(&r);
    names.n = 0;
    add_block(&names, "stacked", "m", 2, 3, 4);
    r = run(&names, "nobody_knows", NULL);
    assert_false(r.groups[0].ambiguous);
    recognition_free(&r);
}

static void says_why_nothing_fits(void **state)
{
    static const struct {
        const char *remove; /* a tensor to leave out, or NULL */
        const char *add;    /* a tensor to add, or NULL */
        const char *reason;
    } rows[] = {
        {"b.experts.1.up_proj.weight", NULL, "per-expert: expert 1 is missing (b.experts.1.up_proj.weight)"},
        {"b.experts.2.down_proj.weight", NULL,
         "per-expert: expert 2 is missing (b.experts.2.down_proj.weight)"},
        {"b.experts.1.up_proj.weight", "b.experts.01.up_proj.weight", "per-expert: expert 1 is missing"},
        {NULL, "b.experts.down_proj", "two sets of experts in one block"},
        {NULL, "b.experts.gate_up_proj", "two sets of experts in one block"},
        {NULL, "b.experts.4.gate_proj.weight",
         "per-expert: expert 3 is missing (b.experts.3.gate_proj.weight)"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct names all = {.n = 0}, names = {.n = 0};
        add_block(&all, "per-expert", "b", 3, 5, 7);
        for (uint32_t t = 0; t < all.n; t++)
            if (!rows[i].remove || strcmp(all.infos[t].name, rows[i].remove) != 0)
                add(&names, all.infos[t].name, 2, all.infos[t].shape[0], all.infos[t].shape[1], 0);
        if (rows[i].add)
            add(&names, rows[i].add, 2, 5, 7, 0);
        struct recognition r = run(&names, "qwen3_moe", NULL);
        assert_true(r.n_unfit >= 1);
        if (!strstr(r.unfit[0].reason, rows[i].reason))
            fail_msg("row %zu: got \"%s\", expected \"%s\"", i, r.unfit[0].reason, rows[i].reason);
        recognition_free(&r);
    }
}

/* Whichever expert and projection it is, the first and the last too. */
static void all_experts_have_one_shape(void **state)
{
    (void)state;
    for (uint32_t odd = 0; odd < 12; odd++) {
        struct names names = {.n = 0};
        add_block(&names, "per-expert", "b", 4, 5, 7);
        uint64_t *shape = arena_memdup(&arena, names.infos[odd].shape, 2 * sizeof *shape);
        shape[odd % 2] += 1;
        names.infos[odd].shape = shape;
        struct recognition r = run(&names, "qwen3_moe", NULL);
        assert_int_equal(r.n_groups, 0);
        assert_int_equal(r.n_unfit, 1);
        /* expert 0 is what the others are compared with */
        if (odd >= 3 && !strstr(r.unfit[0].reason, names.infos[odd].name))
            fail_msg("%s: %s", names.infos[odd].name, r.unfit[0].reason);
        assert_false(r.unfit[0].companion != NO_TENSOR || r.unfit[0].codes != NO_TENSOR);
        recognition_free(&r);
    }
}

/* gate and up count another axis than down: without any down nothing tells how many there should be. */
static void a_projection_with_an_axis_of_its_own_is_missed(void **state)
{
    char name[64];

    (void)state;
    struct names names = {.n = 0};
    for (unsigned e = 0; e < 3; e++)
        for (unsigned p = 0; p < 2; p++) {
            snprintf(name, sizeof name, "b.experts.%u.%s_proj.weight", e, p ? "up" : "gate");
            add(&names, name, 2, 5, 7, 0);
        }
    struct recognition r = run(&names, "longcat_flash", NULL);
    assert_int_equal(r.n_groups, 0);
    assert_non_null(strstr(r.unfit[0].reason, "b.experts.0.down_proj.weight is missing"));
    recognition_free(&r);
}

/* A lone expert's number, also where {modality expert} makes two coordinates of it. */
static void a_lone_large_number_is_refused(void **state)
{
    static const char *const types[] = {"qwen3_moe", "ernie4_5_vl_moe", "nllb-moe"};
    static const struct {
        const char *number, *reason; /* reason: of the composite number */
    } rows[] = {
        {"4294967295", "b.experts.0.gate_proj.weight is missing"},
        {"4294967296", "4294967297 experts cannot be numbered through 2 kinds"},
        {"18446744073709551614", "18446744073709551615 experts cannot be numbered through 2 kinds"},
        {"18446744073709551615", "experts cannot be numbered up to 18446744073709551615"},
        {"18446744073709551616", NULL}, /* no 64-bit integer: no layout's name */
    };
    (void)state;

    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct names names = {.n = 0};
            char name[128];
            snprintf(name, sizeof name, "b.experts.%s%s.%s.weight", t == 2 ? "expert_" : "", rows[i].number,
                     t == 2 ? "fc1" : "gate_proj");
            add(&names, name, 2, 5, 7, 0);
            struct recognition r = run(&names, types[t], NULL);
            assert_int_equal(r.n_groups, 0);
            assert_int_equal(r.n_unfit, t == 2 && !rows[i].reason ? 0 : 1);
            if (t == 1 && rows[i].reason && !strstr(r.unfit[0].reason, rows[i].reason))
                fail_msg("%s: got \"%s\"", name, r.unfit[0].reason);
            recognition_free(&r);
        }
}

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
        names->infos[names->n] =
            (struct tensor_info){.name = arena_strdup(&arena, number ? name : kind->name),
                                 .shape = arena_memdup(&arena, kind->shape, sizeof kind->shape),
                                 .n_dims = kind->n_dims,
                                 .dtype = DTYPE_U8};
        names->pointers[names->n] = &names->infos[names->n];
        names->n++;
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
        cmocka_unit_test(square_sizes_leave_no_doubt),
        cmocka_unit_test(an_unknown_architecture_hides_the_order_of_gate_and_up),
        cmocka_unit_test(says_why_nothing_fits),
        cmocka_unit_test(all_experts_have_one_shape),
        cmocka_unit_test(a_projection_with_an_axis_of_its_own_is_missed),
        cmocka_unit_test(a_lone_large_number_is_refused),
        cmocka_unit_test(families_are_known_by_their_spelling),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
