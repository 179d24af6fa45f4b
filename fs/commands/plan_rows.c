/* The rows of the options that change a plan. */
#include "plan_rows.h"

#include "fs/read/reader.h"
#include "layout/base/checked.h"
#include "layout/layouts.h"

#include <stdlib.h>
#include <string.h>

int option_layout(const struct option_use *use, void *field, struct error *err)
{
    if (!layouts_is_file(use->text) && layouts_check_built_in_name(use->name, use->text, err) < 0)
        return -1;
    return option_text(use, field, err);
}

int option_cache_size(const struct option_use *use, void *field, struct error *err)
{
    size_t *bytes = field;

    if (!option_parse_size(use->text, bytes))
        return option_refuse(use, err, "not a size (examples: 64M, 1G, 268435456)");
    if (*bytes < READER_CACHE_MIN)
        return option_refuse(use, err, "at least %zu bytes (1M) are needed", READER_CACHE_MIN);
    return 0;
}

static int parse_fp8(const struct option_use *use, void *field, struct error *err)
{
    static const char *const words[] = {"keep", NULL};

    if (option_parse_choice(use, words, err) < 0)
        return -1;
    *(bool *)field = true;
    return 0;
}

/* "5GB", "500MB" or a number of bytes: powers of 1000, as transformers' max_shard_size. */
static bool parse_shard_size(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *unit;
        uint64_t scale;
    } units[] = {{"", 1}, {"KB", 1000}, {"MB", 1000000}, {"GB", 1000000000}, {"TB", UINT64_C(1000000000000)}};
    size_t digits = strspn(text, "0123456789");
    uint64_t value = 0;

    for (size_t i = 0; i < digits; i++)
        if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(text[i] - '0'), &value))
            return false;
    for (size_t u = 0; u < sizeof units / sizeof *units; u++)
        if (value > 0 && strcasecmp(text + digits, units[u].unit) == 0)
            return checked_mul(value, units[u].scale, bytes);
    return false;
}

static int parse_max_shard_size(const struct option_use *use, void *field, struct error *err)
{
    if (!parse_shard_size(use->text, field))
        return option_refuse(use, err, "not a size (examples: 5GB, 500MB, 1000000)");
    return 0;
}

/* The field is the whole struct: a longer list may lie elsewhere. */
static int parse_exclude(const struct option_use *use, void *field, struct error *err)
{
    struct plan_arguments *arguments = field;

    if (option_list(use, &arguments->exclude, err) < 0)
        return -1;
    arguments->directory.exclude = arguments->exclude;
    return 0;
}

#define FIELD(member) offsetof(struct plan_arguments, member)

const struct option_row plan_rows[] = {
    {"to", 0, "LAYOUT", option_layout, FIELD(plan.to),
     "show the experts in this layout; v5 (default) and original mean the architecture's own (`moefs "
     "layouts` "
     "lists them); a file of your own: ./mine.json"},
    {"from", 0, "LAYOUT", option_layout, FIELD(plan.from),
     "read the experts of every MoE layer that fits this layout (or file) as that layout"},
    {"exclude", 0, "GLOB", parse_exclude, 0, "hide files by their names relative to SRC; may be repeated"},
    {"fp8", 0, "keep", parse_fp8, FIELD(plan.fp8_keep),
     "convert FP8 experts with their scales, although a loader that dequantises reads merged FP8 as garbage "
     "without an error"},
    {"max-shard-size", 0, "SIZE", parse_max_shard_size, FIELD(plan.max_shard_size),
     "deal the tensors out anew to weight files of at most SIZE: 5GB, 500MB (powers of 1000)"},
    {"follow-symlinks", 0, NULL, option_flag, FIELD(directory.follow_symlinks),
     "follow links that leave SRC and its Hugging Face cache"},
    {0},
};

void plan_arguments_free(struct plan_arguments *arguments)
{
    free(arguments->exclude);
    arguments->exclude = NULL;
    arguments->directory.exclude = NULL;
}
