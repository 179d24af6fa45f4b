/* Names of weight files, and of files that are none although they end as some do. */
#include "weight_names.h"

#include <fnmatch.h>
#include <string.h>

bool name_is_safetensors(const char *path)
{
    return listing_ends_with(path, ".safetensors");
}

bool name_is_index(const char *path)
{
    return strstr(path, ".safetensors.index.") != NULL && listing_ends_with(path, ".json");
}

bool name_is_numbered(const char *path)
{
    return fnmatch("*-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors", path, 0) == 0;
}

static const char *last_component(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

bool listed_is_consolidated(const struct listed *listed)
{
    const char *name = last_component(listed->info.path);

    return listed->kind == LISTED_FILE && strncmp(name, "consolidated", 12) == 0 &&
           (name_is_safetensors(name) || listing_ends_with(name, ".pth"));
}

bool listed_is_adapter(const struct listed *listed)
{
    return listed->kind == LISTED_FILE && listing_is_top(listed) &&
           strncmp(listed->info.path, "adapter", 7) == 0 &&
           (name_is_safetensors(listed->info.path) || listing_ends_with(listed->info.path, ".bin"));
}

bool listed_is_gguf(const struct listed *listed)
{
    return listed->kind == LISTED_FILE && listing_ends_with(listed->info.path, ".gguf");
}

/* What the trainers of transformers, Accelerate and DeepSpeed save beside the weights. */
static bool is_training_state(const char *name)
{
    static const char *const globs[] = {"optimizer*", "scheduler*",        "scaler*",
                                        "sampler*",   "rng_state*",        "random_states*",
                                        "training_*", "*_optim_states.pt", "dl_state*"};

    for (size_t i = 0; i < sizeof globs / sizeof *globs; i++)
        if (fnmatch(globs[i], name, 0) == 0)
            return true;
    return false;
}

bool listed_is_pickle(const struct listed *listed)
{
    static const char *const ends[] = {".bin", ".pth", ".pt", ".ckpt"};

    if (listed->kind != LISTED_FILE || is_training_state(last_component(listed->info.path)))
        return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (listing_ends_with(listed->info.path, ends[i]))
            return !listed_is_consolidated(listed) && !listed_is_adapter(listed);
    return false;
}

bool listed_is_weight_format(const struct listed *listed)
{
    return name_is_safetensors(listed->info.path) || listed_is_pickle(listed) || listed_is_gguf(listed) ||
           listed_is_consolidated(listed) || listed_is_adapter(listed);
}
