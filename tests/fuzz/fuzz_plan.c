/* Any bytes as a checkpoint's names and shapes: whatever is planned holds what must hold for every plan.
 *
 * The bytes choose: whole groups of experts in some layout, single tensors with names made of the words that
 * layouts use, tensors left out or changed, shards, the model type and the options. */
#include "layout/layouts.h"
#include "tests/support/plan_check.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TENSORS_MAX 200
#define SHARDS_MAX 3
#define ELEMENTS_MAX 4096 /* of one tensor: each is visited */

struct bytes {
    const uint8_t *at, *end;
    bool flaws; /* of groups: holes, odd shapes, mixed dtypes */
};

static unsigned choose(struct bytes *b, unsigned n)
{
    return b->at < b->end ? *b->at++ % n : 0;
}

#define CHOOSE(bytes, list) (list)[choose(bytes, sizeof(list) / sizeof *(list))]

/* clang-format off */
static const char *const blocks[] = {"model.layers.0.mlp", "model.layers.1.mlp", "mtp.layers.0.mlp",  "m",
                                     "a.self_attention",   "vision_encoder.0",   "x.block_sparse_moe"};
static const char *const words[] = {"gate_proj",  "up_proj", "down_proj", "gate_up_proj",  "w1",
                                    "w2",         "w3",      "fc1",       "fc2",           "experts",
                                    ".",          "_",       ".weight",   ".bias",         "_bias",
                                    "_scale_inv", "_blocks", "_scales",   "weight_packed", "0",
                                    "1",          "2",       "10",        "mlp",           "experts.0.",
                                    ".experts.",  "q",
                                    "4294967295", "4294967296", "18446744073709551614", "18446744073709551615", ""};
static const char *const types[] = {
    "qwen3_moe",       "qwen3_5_moe", "mixtral",    "gpt_oss",          "dbrx",     "longcat_flash",
    "ernie4_5_vl_moe", "nemotron_h",  "jetmoe",     "inkling2",         "nllb-moe", "switch_transformers",
    "step3p7",         "dots3_note",  "granitemoe", "vitpose_backbone", "unknown",  NULL};
static const char *const targets[] = {"v5",     "original", "per-expert", "merged",      "stacked",
                                      "in-out", "up-first", "torchtitan", "interleaved", "in-out-interleaved",
                                      "flat",   "nonsense", NULL};
/* clang-format on */
static const uint8_t dtypes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_U8, DTYPE_F8_E4M3, DTYPE_F4};
static const uint64_t extents[] = {1, 2, 3, 4, 5, 6, 8}, odd_extents[] = {0, 1, 2, 4, 12, 16, 128, 256};

static struct layouts layouts;

struct model {
    struct arena arena;
    struct tensor_info infos[TENSORS_MAX];
    uint8_t shard[TENSORS_MAX];
    unsigned n;
};

static void add(struct model *m, const char *name, const uint64_t *shape, uint8_t n_dims, uint8_t dtype,
                unsigned shard)
{
    struct tensor_info info = {.name = name,
                               .shape = arena_memdup(&m->arena, shape, n_dims * sizeof *shape),
                               .n_dims = n_dims,
                               .dtype = dtype};
    uint64_t bytes, elements = 1;

    for (uint8_t d = 0; d < n_dims; d++)
        elements *= shape[d];
    if (m->n == TENSORS_MAX || elements > ELEMENTS_MAX || !*name || !safetensors_tensor_bytes(&info, &bytes))
        return;
    for (unsigned i = 0; i < m->n; i++)
        if (m->shard[i] == shard && strcmp(m->infos[i].name, name) == 0)
            return;
    m->infos[m->n] = info;
    m->shard[m->n++] = (uint8_t)shard;
}

/* One tensor of a form, or one for each integer in its name. */
static void add_form(struct model *m, struct bytes *b, const struct form *form, const char *block,
                     const uint64_t sizes[AXIS_WORDS_MAX], uint8_t dtype)
{
    uint64_t shape[AXES_DIMS_MAX], values[TEMPLATE_HOLES_MAX] = {0};
    int hole = template_integer_hole(&form->name);
    uint64_t n = hole >= 0 ? sizes[form->name.holes[hole].axis] : 1;
    unsigned flaw = b->flaws ? choose(b, 16) : 0;

    if (!axes_shape(&form->axes, &layouts.words, sizes, form->n_projs, shape))
        return;
    for (uint64_t v = 0; v < n; v++) {
        if (hole >= 0)
            values[hole] = v;
        if (flaw == 1 && v == 1)
            continue; /* a hole */
        if (flaw == 2 && form->axes.n_dims > 0)
            shape[0] = CHOOSE(b, odd_extents);
        add(m, template_format(&form->name, block, values, &m->arena), shape, form->axes.n_dims,
            flaw == 3 ? CHOOSE(b, dtypes) : dtype, choose(b, SHARDS_MAX));
    }
}

static void add_group(struct model *m, struct bytes *b, const char *block,
                      const struct architecture *architecture)
{
    const struct block_rule *rule = architecture_rule(architecture, block);
    uint64_t sizes[AXIS_WORDS_MAX];
    uint8_t dtype = CHOOSE(b, dtypes);

    if (!rule)
        return;
    const struct bound_layout *bound = &rule->bound[choose(b, layouts.n_layouts)];
    for (unsigned a = 0; a < AXIS_WORDS_MAX; a++)
        sizes[a] =
            layouts.words.number[a] > 0 && layouts.words.base[a] == AXIS_NONE ? layouts.words.number[a] : 0;
    for (unsigned a = 1; a < layouts.words.n; a++)
        if (sizes[a] == 0 && layouts.words.base[a] == AXIS_NONE)
            sizes[a] = CHOOSE(b, extents);
    unsigned parts = choose(b, 256); /* which companions */
    for (unsigned f = 0; f < bound->n_forms; f++)
        if (layouts_is_main(&layouts, bound->forms[f].part) || (parts >> bound->forms[f].part & 1))
            add_form(m, b, &bound->forms[f], block, sizes, dtype);
}

static void add_stray(struct model *m, struct bytes *b)
{
    char name[128] = "";
    uint64_t shape[4];
    uint8_t n_dims = (uint8_t)choose(b, 5);

    strcat(name, CHOOSE(b, blocks));
    for (unsigned n = choose(b, 6); n > 0; n--)
        strcat(name, CHOOSE(b, words));
    for (uint8_t d = 0; d < n_dims; d++)
        shape[d] = CHOOSE(b, odd_extents);
    add(m, arena_strdup(&m->arena, name), shape, n_dims, CHOOSE(b, dtypes), choose(b, SHARDS_MAX));
}

static void make_checkpoint(const struct model *m, struct checkpoint *checkpoint)
{
    static const char *const names[SHARDS_MAX] = {"a.safetensors", "b.safetensors", "c.safetensors"};

    for (unsigned s = 0; s < SHARDS_MAX; s++) {
        struct safetensors_tensor tensors[TENSORS_MAX];
        struct safetensors_header header = {.tensors = tensors, .data_offset = 16};
        uint64_t at = 0, bytes;
        for (unsigned t = 0; t < m->n; t++) {
            if (m->shard[t] != s || !safetensors_tensor_bytes(&m->infos[t], &bytes))
                continue;
            tensors[header.n_tensors++] =
                (struct safetensors_tensor){.info = m->infos[t], .begin = at, .end = at + bytes};
            at += bytes;
        }
        if (header.n_tensors > 0)
            checkpoint_add_shard(checkpoint, names[s], 16 + at, &header);
    }
}

/* An index of the tensors: mostly right, but it may name another file, none of the shards, or no tensor that
 * there is. */
static void make_index(struct model *m, struct bytes *b, struct index *index)
{
    static const char *files[] = {"a.safetensors", "b.safetensors", "c.safetensors", "gone.safetensors"};

    *index = (struct index){.files = files, .n_files = sizeof files / sizeof *files};
    index->entries = arena_alloc(&m->arena, (m->n + 1) * sizeof *index->entries);
    for (unsigned t = 0; t < m->n; t++) {
        bool twice = false;
        for (unsigned u = 0; u < t; u++)
            twice |= strcmp(m->infos[u].name, m->infos[t].name) == 0;
        if (!twice && choose(b, 16) != 1)
            index->entries[index->n_entries++] = (struct index_entry){
                m->infos[t].name, choose(b, 16) == 1 ? choose(b, (unsigned)index->n_files) : m->shard[t]};
    }
    if (choose(b, 4) == 1)
        index->entries[index->n_entries++] = (struct index_entry){CHOOSE(b, blocks), choose(b, SHARDS_MAX)};
}

static void plan(struct checkpoint *checkpoint, const struct index *index, const struct plan_options *options)
{
    struct notes notes = {0};
    struct error err = {0};
    struct plan result;

    if (checkpoint_settle(checkpoint, index, &notes, &err) == 0) {
        if (plan_build(checkpoint, options, &result, &err) == 0) {
            plan_check(checkpoint, &result);
            plan_free(&result);
        } else if (!err.text || !*err.text) {
            abort(); /* refused without a reason */
        }
    }
    error_free(&err);
    notes_free(&notes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const configs[] = {"{}", "{\"num_experts\": 3}",
                                          "{\"moe_intermediate_size\": 4, \"d_ff\": 4, \"hidden_size\": 8}",
                                          "{\"ffn_config\": {\"moe_num_experts\": 2}}"};
    struct bytes b = {.at = data, .end = data + size};
    struct model m = {.n = 0};
    struct index index;
    struct checkpoint checkpoint = {.index_name = "model.safetensors.index.json"};
    struct error err = {0};

    if (layouts.n_layouts == 0 && layouts_load(&layouts, NULL, &err) < 0)
        abort();
    const char *type = CHOOSE(&b, types), *text = CHOOSE(&b, configs);
    struct plan_options options = {
        .to = CHOOSE(&b, targets), .from = choose(&b, 4) ? NULL : CHOOSE(&b, targets), .layouts = &layouts};
    options.fp8_keep = choose(&b, 2);
    options.max_shard_size = choose(&b, 4) ? 0 : 1 + choose(&b, 256) * 16;
    if (config_parse("config.json", text, strlen(text), &checkpoint.config, &err) < 0)
        abort();
    checkpoint.config.model_type = type;
    b.flaws = choose(&b, 3) == 2;
    for (unsigned n = 1 + choose(&b, 3); n > 0; n--)
        add_group(&m, &b, b.flaws ? CHOOSE(&b, blocks) : blocks[n], layouts_architecture(&layouts, type));
    for (unsigned n = choose(&b, 4); n > 0; n--)
        add_stray(&m, &b);
    make_checkpoint(&m, &checkpoint);
    bool has_index = choose(&b, 2);
    if (has_index)
        make_index(&m, &b, &index);
    plan(&checkpoint, has_index ? &index : NULL, &options);
    checkpoint.config.model_type = NULL;
    checkpoint_free(&checkpoint);
    arena_free(&m.arena);
    return 0;
}
