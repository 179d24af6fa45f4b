/* Any bytes as a user's layout: what is accepted converts a group of experts into a plan that holds together,
 * or is refused with a reason. */
#include "layout/layouts.h"
#include "tests/support/plan_check.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPERTS 3
#define INNER 4
#define HIDDEN 6
#define BLOCK "model.layers.7.mlp"

static void make_checkpoint(struct checkpoint *checkpoint)
{
    static const uint64_t in[] = {INNER, HIDDEN}, out[] = {HIDDEN, INNER}, norm[] = {HIDDEN};
    struct safetensors_tensor tensors[EXPERTS * 3 + 2];
    struct safetensors_header header = {.tensors = tensors, .data_offset = 16};
    static const char *const projs[] = {"gate_proj", "up_proj", "down_proj"};
    uint64_t at = 0, bytes;

    for (unsigned e = 0; e < EXPERTS; e++)
        for (unsigned p = 0; p < 3; p++) {
            cleanup_free char *name = xasprintf(BLOCK ".experts.%u.%s.weight", e, projs[p]);
            tensors[header.n_tensors++].info =
                (struct tensor_info){.name = arena_strdup(&checkpoint->arena, name),
                                     .shape = p < 2 ? in : out,
                                     .n_dims = 2,
                                     .dtype = DTYPE_BF16};
        }
    tensors[header.n_tensors++].info =
        (struct tensor_info){.name = "model.norm.weight", .shape = norm, .n_dims = 1, .dtype = DTYPE_F32};
    tensors[header.n_tensors++].info = (struct tensor_info){
        .name = "model.layers.7.q.weight", .shape = out, .n_dims = 2, .dtype = DTYPE_F32};
    for (size_t t = 0; t < header.n_tensors; t++) {
        if (!safetensors_tensor_bytes(&tensors[t].info, &bytes))
            abort();
        tensors[t].begin = at;
        tensors[t].end = at += bytes;
    }
    checkpoint_add_shard(checkpoint, "model.safetensors", 16 + at, &header);
}

static void plan_with(const struct layout_text *user, const struct layouts *layouts)
{
    struct checkpoint checkpoint = {.index_name = "model.safetensors.index.json"};
    struct plan_options options = {.to = user->path, .layouts = layouts};
    struct error err = {0};
    struct plan plan;

    checkpoint.config.model_type = "qwen3_moe";
    make_checkpoint(&checkpoint);
    if (plan_build(&checkpoint, &options, &plan, &err) == 0) {
        plan_check(&checkpoint, &plan);
        plan_free(&plan);
    } else if (!err.text || !*err.text) {
        abort();
    }
    error_free(&err);
    checkpoint.config.model_type = NULL; /* a literal */
    checkpoint_free(&checkpoint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct layout_text users[LAYOUTS_USER_MAX] = {
        {.path = "fuzz.json", .text = (const char *)data, .length = size}};
    struct layouts layouts;
    struct error err = {0};

    if (layouts_load(&layouts, users, &err) == 0) {
        plan_with(&users[0], &layouts);
        layouts_free(&layouts);
    } else if (!err.text || strncmp(err.text, users[0].path, strlen(users[0].path)) != 0) {
        abort(); /* the message must name the file */
    }
    error_free(&err);
    return 0;
}
