/* What refuses a checkpoint, and what is only said: by names, shapes and config.json alone. */
#include "layout/layouts.h"
#include "layout/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define KINDS_MAX 4
#define TENSORS_MAX 64

static struct layouts layouts;

static int set_up(void **state)
{
    struct error err = {0};
    (void)state;

    return layouts_load(&layouts, NULL, &err);
}

static int tear_down(void **state)
{
    (void)state;
    layouts_free(&layouts);
    return 0;
}

/* Tensors of one kind: the name with %u for the expert's number, where there are several. */
struct kind {
    const char *name;
    unsigned experts; /* 0: one tensor */
    uint64_t shape[3];
    uint8_t n_dims;
};

#define PER_EXPERT(block, n)                                                                                 \
    {                                                                                                        \
        {block ".experts.%u.gate_proj.weight", n, {5, 6}, 2},                                                \
            {block ".experts.%u.up_proj.weight", n, {5, 6}, 2},                                              \
            {block ".experts.%u.down_proj.weight", n, {6, 5}, 2},                                            \
    }
/* Zero experts have gate and up alone. */
#define LONGCAT(n, routed)                                                                                   \
    {                                                                                                        \
        {"l.1.mlp.experts.%u.gate_proj.weight", n, {5, 6}, 2},                                               \
            {"l.1.mlp.experts.%u.up_proj.weight", n, {5, 6}, 2},                                             \
            {"l.1.mlp.experts.%u.down_proj.weight", routed, {6, 5}, 2},                                      \
    }

static const struct {
    const char *config, *to, *from;
    struct kind kinds[KINDS_MAX];
    const char *refusal; /* a part of the error, or NULL */
    const char *note;    /* a part of a note, or NULL: there is no warning */
} rows[] = {
    {"{\"model_type\": \"qwen3_moe\", \"num_experts\": 3}", "v5", NULL, PER_EXPERT("l.1.mlp", 3), NULL, NULL},
    /* counts that an architecture adds up */
    {"{\"model_type\": \"longcat_flash\", \"n_routed_experts\": 4, \"zero_expert_num\": 2}", "v5", NULL,
     LONGCAT(6, 4), NULL, NULL},
    {"{\"model_type\": \"longcat_flash\", \"n_routed_experts\": 4, \"zero_expert_num\": 2}", "v5", NULL,
     LONGCAT(4, 4), NULL,
     "l.1.mlp: has 4 along 'expert', and config.json's n_routed_experts zero_expert_num add up to 6"},
    {"{\"model_type\": \"longcat_flash\", \"n_routed_experts\": 4, \"zero_expert_num\": 2}", "v5", NULL,
     LONGCAT(3, 3), "has 3 along 'expert', but config.json says 4 (n_routed_experts zero_expert_num)", NULL},
    {"{\"model_type\": \"longcat_flash\", \"n_routed_experts\": 4, \"zero_expert_num\": 2}", "v5", NULL,
     LONGCAT(6, 3), "has 3 along 'routed', but config.json says 4 (n_routed_experts)", NULL},
    /* the first path says nothing: nothing is compared by it, and the experts by any count in the file */
    {"{\"model_type\": \"longcat_flash\", \"zero_expert_num\": 2, \"num_experts\": 6}", "v5", NULL,
     LONGCAT(6, 4), NULL, NULL},
    {"{\"model_type\": \"longcat_flash\", \"n_routed_experts\": 0, \"num_experts\": 8}", "v5", NULL,
     LONGCAT(6, 4), NULL, NULL},
    {"{\"model_type\": \"longcat_flash\"}", "v5", NULL, LONGCAT(6, 4), NULL, NULL},
    /* the most that one path can say, twice */
    {"{\"model_type\": \"longcat_flash\", \"n_routed_experts\": 9007199254740992, \"zero_expert_num\": "
     "9007199254740992}",
     "v5", NULL, LONGCAT(6, 4), "has 6 along 'expert', but config.json says 9007199254740992", NULL},
    /* --from that fits nothing */
    {"{\"model_type\": \"qwen3_moe\"}", "v5", "stacked", PER_EXPERT("l.1.mlp", 3),
     "--from stacked: fits no MoE layer (l.1.mlp is per-expert)", NULL},
    {"{\"model_type\": \"qwen3_moe\"}",
     "v5",
     "stacked",
     {{"l.1.mlp.experts.%u.gate_proj.weight", 3, {5, 6}, 2}},
     "--from stacked: fits no MoE layer (l.1.mlp: ",
     NULL},
    {"{\"model_type\": \"qwen3_moe\"}",
     "v5",
     "stacked",
     {{"l.1.attention.weight", 0, {5, 6}, 2}},
     "--from stacked: fits no MoE layer: there is none",
     NULL},
    /* types that have experts and are never converted */
    {"{\"model_type\": \"vitpose_backbone\", \"num_experts\": 3}", "v5", NULL, PER_EXPERT("l.1.mlp", 3), NULL,
     "model_type vitpose_backbone has experts that are never converted"},
};

static void make_checkpoint(const char *config, const struct kind *kinds, struct checkpoint *checkpoint)
{
    struct safetensors_tensor tensors[TENSORS_MAX];
    struct safetensors_header header = {.tensors = tensors, .data_offset = 16};
    struct error err = {0};
    uint64_t at = 0, bytes;
    char name[128];

    *checkpoint = (struct checkpoint){.index_name = "model.safetensors.index.json"};
    assert_int_equal(config_parse("config.json", config, strlen(config), &checkpoint->config, &err), 0);
    for (unsigned k = 0; k < KINDS_MAX && kinds[k].name; k++)
        for (unsigned e = 0; e < (kinds[k].experts ? kinds[k].experts : 1); e++) {
            const char *number = strstr(kinds[k].name, "%u");
            int before = number ? (int)(number - kinds[k].name) : (int)strlen(kinds[k].name);
            snprintf(name, sizeof name, "%.*s", before, kinds[k].name);
            if (number)
                snprintf(name + before, sizeof name - (size_t)before, "%u%s", e, number + 2);
            struct safetensors_tensor *tensor = &tensors[header.n_tensors++];
            tensor->info = (struct tensor_info){.name = arena_strdup(&checkpoint->arena, name),
                                                .shape = kinds[k].shape,
                                                .n_dims = kinds[k].n_dims,
                                                .dtype = DTYPE_BF16};
            assert_true(safetensors_tensor_bytes(&tensor->info, &bytes));
            tensor->begin = at;
            tensor->end = at += bytes;
        }
    checkpoint_add_shard(checkpoint, "model.safetensors", 16 + at, &header);
}

static void check_notes(const struct notes *notes, size_t row)
{
    bool found = false;

    for (size_t i = 0; i < notes->n; i++) {
        bool wanted = rows[row].note && strstr(notes->list[i].text, rows[row].note);
        found |= wanted;
        if (notes->list[i].kind == NOTE_WARNING && !wanted)
            fail_msg("row %zu: warned: %s", row, notes->list[i].text);
    }
    if (rows[row].note && !found)
        fail_msg("row %zu: nothing said of \"%s\"", row, rows[row].note);
}

static void refusals_and_notes(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_options options = {.to = rows[i].to, .from = rows[i].from, .layouts = &layouts};
        struct checkpoint checkpoint;
        struct plan plan;
        struct error err = {0};
        make_checkpoint(rows[i].config, rows[i].kinds, &checkpoint);
        int result = plan_build(&checkpoint, &options, &plan, &err);
        if (result < 0 && (!rows[i].refusal || !strstr(err.text, rows[i].refusal)))
            fail_msg("row %zu: %s", i, err.text);
        if (result == 0 && rows[i].refusal)
            fail_msg("row %zu: not refused", i);
        if (result == 0) {
            check_notes(&plan.notes, i);
            plan_free(&plan);
        }
        error_free(&err);
        checkpoint_free(&checkpoint);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals_and_notes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
