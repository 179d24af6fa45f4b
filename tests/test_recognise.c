/* Recognition: what a group of names and shapes is taken for. The expectations are the layouts' definitions.
 */
#include "layout/recognise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct layouts layouts;
static struct arena arena;

struct names {
    struct tensor_info infos[256];
    const struct tensor_info *pointers[256];
    uint32_t n;
};

static int set_up(void **state)
{
    struct error err = {0};
    (void)state;

    if (layouts_load(&layouts, NULL, &err) < 0)
        fail_msg("%s", err.text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    layouts_free(&layouts);
    arena_free(&arena);
    return 0;
}

static void add(struct names *names, const char *name, uint8_t n_dims, uint64_t a, uint64_t b, uint64_t c)
{
    const uint64_t shape[3] = {a, b, c};

    names->infos[names->n] = (struct tensor_info){.name = arena_strdup(&arena, name),
                                                  .shape = arena_memdup(&arena, shape, sizeof shape),
                                                  .n_dims = n_dims,
                                                  .dtype = DTYPE_BF16};
    names->pointers[names->n] = &names->infos[names->n];
    names->n++;
}

/* One block in the given layout, E experts of I x H. */
static void add_block(struct names *names, const char *layout, const char *block, uint64_t E, uint64_t I,
                      uint64_t H)
{
    char name[128];

    if (strcmp(layout, "per-expert") == 0) {
        for (uint64_t e = 0; e < E; e++)
            for (unsigned p = 0; p < 3; p++) {
                static const char *const projs[] = {"gate_proj", "up_proj", "down_proj"};
                snprintf(name, sizeof name, "%s.experts.%u.%s.weight", block, (unsigned)e, projs[p]);
                add(names, name, 2, p < 2 ? I : H, p < 2 ? H : I, 0);
            }
        return;
    }
    bool transposed = strcmp(layout, "in-out") == 0;
    bool stacked = strcmp(layout, "stacked") == 0;
    uint64_t out = stacked ? I : 2 * I;
    for (unsigned p = 0; p < (stacked ? 2U : 1U); p++) {
        snprintf(name, sizeof name, "%s.experts.%s", block,
                 !stacked ? "gate_up_proj"
                 : p      ? "up_proj"
                          : "gate_proj");
        add(names, name, 3, E, transposed ? H : out, transposed ? out : H);
    }
    snprintf(name, sizeof name, "%s.experts.down_proj", block);
    add(names, name, 3, E, transposed ? I : H, transposed ? H : I);
}

static struct recognition run(const struct names *names, const char *type, const char *from)
{
    struct recognise_input input = {.layouts = &layouts,
                                    .architecture = layouts_architecture(&layouts, type),
                                    .tensors = names->pointers,
                                    .n_tensors = names->n,
                                    .from = from};
    struct recognition result;

    recognise(&input, &result);
    return result;
}

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

static void companions_are_counted_and_strays_are_not(void **state)
{
    (void)state;
    struct names names = {.n = 0};
    add_block(&names, "per-expert", "b", 2, 3, 4);
    add(&names, "b.experts.e_score_correction_bias", 1, 2, 0, 0);
    add(&names, "b.shared_experts.0.up_proj.weight", 2, 3, 4, 0);
    add(&names, "b.gate.weight", 2, 2, 4, 0);
    struct recognition r = run(&names, "qwen3_moe", NULL);
    assert_int_equal(r.n_groups, 1);
    assert_int_equal(r.groups[0].n_companions, 0);
    assert_int_equal(r.group_of[names.n - 1], NO_GROUP);
    recognition_free(&r);

    add(&names, "b.experts.0.up_proj.weight_scale_inv", 2, 1, 1, 0);
    add(&names, "b.experts.1.down_proj.bias", 1, 4, 0, 0);
    add(&names, "b.experts.1.act.alpha", 1, 4, 0, 0);
    r = run(&names, "qwen3_moe", NULL);
    assert_int_equal(r.groups[0].n_companions, 3);
    assert_string_equal(names.infos[r.groups[0].companion].name, "b.experts.0.up_proj.weight_scale_inv");
    recognition_free(&r);
}

static void expert_like_names_of_no_layout_are_reported_once(void **state)
{
    (void)state;
    struct names names = {.n = 0};
    add(&names, "b.experts.0.gate_proj.qweight", 2, 3, 4, 0);
    add(&names, "b.experts.1.gate_proj.qweight", 2, 3, 4, 0);
    struct recognition r = run(&names, "qwen3_moe", NULL);
    assert_int_equal(r.n_groups, 0);
    assert_int_equal(r.n_unfit, 1);
    assert_non_null(strstr(r.unfit[0].reason, "b.experts.0.gate_proj.qweight"));
    recognition_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(square_sizes_leave_no_doubt),
        cmocka_unit_test(an_unknown_architecture_hides_the_order_of_gate_and_up),
        cmocka_unit_test(says_why_nothing_fits),
        cmocka_unit_test(companions_are_counted_and_strays_are_not),
        cmocka_unit_test(expert_like_names_of_no_layout_are_reported_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
