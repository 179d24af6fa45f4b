/* What is said of a model with experts of which none was found: a tensor that may be theirs, and what reads it. */
#include "layout/base/text.h"
#include "planning.h"

#include <string.h>

/* How much a tensor looks like experts' weights: 0 is not at all. */
static unsigned rate_tensor(const struct planning *p, const struct tensor_info *info)
{
    bool named = strcasestr(info->name, "expert") || strcasestr(info->name, "moe");
    bool counted = info->n_dims > 0 && config_set_has(&p->checkpoint->config.expert_counts, info->shape[0]);

    if (info->n_dims < 2)
        return 0;
    if (info->n_dims >= 3)
        return counted ? 4 : named ? 3 : 0;
    return named ? counted ? 1 : 2 : 0; /* a router is [experts, hidden] */
}

/* The tensor that looks most like experts' weights, or NULL. */
static const struct tensor *find_likely(const struct planning *p)
{
    const struct tensor *likely = NULL;
    unsigned best = 0;

    for (uint32_t t = 0; t < p->checkpoint->n_tensors; t++) {
        const struct tensor *tensor = &p->checkpoint->tensors[t];
        unsigned rate = rate_tensor(p, &tensor->info);
        if (rate > best) {
            likely = tensor;
            best = rate;
        }
    }
    return likely;
}

/* Whether the layout, were it named with --from, would read the experts beyond doubt: what tells gate from up
 * must be in names. */
static bool would_read(const struct planning *p, const struct layout *layout)
{
    const struct tensor_info **infos = xreallocarray(NULL, p->checkpoint->n_tensors, sizeof *infos);
    struct recognise_input input = {.layouts = p->layouts,
                                    .architecture = p->architecture,
                                    .config = &p->checkpoint->config,
                                    .tensors = infos,
                                    .n_tensors = p->checkpoint->n_tensors,
                                    .from = layout->name};
    struct recognition result;

    for (uint32_t t = 0; t < p->checkpoint->n_tensors; t++)
        infos[t] = &p->checkpoint->tensors[t].info;
    recognise(&input, &result);
    bool reads = result.n_groups > 0 && result.n_unfit == 0;
    for (uint32_t g = 0; g < result.n_groups; g++)
        reads &= result.groups[g].bound->layout == layout && !result.groups[g].bound->fused;
    recognition_free(&result);
    free(infos);
    return reads;
}

static const struct layout *find_reader(const struct planning *p)
{
    for (unsigned l = 0; l < p->layouts->n_layouts; l++)
        if (!p->layouts->layouts[l].generic && !p->layouts->layouts[l].user &&
            would_read(p, &p->layouts->layouts[l]))
            return &p->layouts->layouts[l];
    return NULL;
}

int plan_refuse_unknown(struct planning *p)
{
    const struct tensor *likely = find_likely(p);
    const struct layout *reader = find_reader(p);

    if (!likely)
        return error_set(
            p->err,
            "no experts found, though config.json tells of some (model_type %s): no tensor looks "
            "like theirs by its name or shape (incomplete download?)",
            planning_model_type(p));
    cleanup_free char *shape = text_of_shape(likely->info.shape, likely->info.n_dims);
    cleanup_free char *hint =
        reader
            ? xasprintf("Its names are those of layout %s: --from %s", reader->name, reader->name)
            : xstrdup("If it is, describe its layout in a file (docs/layouts.md, \"A layout of one's own\") "
                      "and name that: --from FILE.json");
    return error_set(
        p->err,
        "no experts found in any known layout, though this is no dense model (model_type %s). %s "
        "%s in %s may be experts' weights. %s",
        planning_model_type(p), likely->info.name, shape, p->checkpoint->shards[likely->shard].name, hint);
}
