/* Which file each planned tensor lies in: the files' names, headers and index. */
#include "placement.h"
#include "layout/base/array.h"
#include "layout/base/checked.h"
#include "layout/base/hash.h"
#include "layout/format/natural.h"
#include "layout/format/shards.h"

#include <string.h>

struct name_entry {
    const char *name;
    uint32_t tensor;
    UT_hash_handle hh;
};

struct placing {
    const struct checkpoint *checkpoint;
    struct plan *plan;
    struct planned_tensor *tensors; /* as compiled, then by home and place; .file is the home until then */
    uint32_t n_tensors;
    const struct extent *extents;
    const bool *passes;
    /* Homes: the source's shards, or the files that max_shard_size makes. */
    uint32_t n_homes;
    bool mirrors;     /* homes are shards */
    uint32_t *counts; /* for each home: tensors that live there now */
    bool *verbatim;   /* for each home: nothing in it changes */
};

/* The shard of the tensor's byte 0. An empty tensor has no extent and lies where it was. */
static uint32_t home_shard(const struct placing *p, const struct planned_tensor *tensor)
{
    return tensor->n_extents > 0 ? p->extents[tensor->first_extent].shard : tensor->file;
}

static int check_names(const struct placing *p, struct error *err)
{
    struct name_entry *entries = xmalloc(p->n_tensors * sizeof *entries);
    struct name_entry *by_name = NULL, *other;
    int result = 0;

    for (uint32_t i = 0; i < p->n_tensors && result == 0; i++) {
        const struct planned_tensor *tensor = &p->tensors[i];
        HASH_FIND_STR(by_name, tensor->info.name, other);
        if (other) {
            result = error_set(err, "%s: there would be two tensors of this name: one in %s, one in %s",
                               tensor->info.name, p->checkpoint->shards[home_shard(p, tensor)].name,
                               p->checkpoint->shards[home_shard(p, &p->tensors[other->tensor])].name);
            break;
        }
        entries[i].name = tensor->info.name;
        entries[i].tensor = i;
        HASH_ADD_KEYPTR(hh, by_name, entries[i].name, strlen(entries[i].name), &entries[i]);
    }
    HASH_CLEAR(hh, by_name);
    free(entries);
    return result;
}

static void make_homes(struct placing *p, uint32_t n)
{
    p->n_homes = n;
    p->counts = arena_alloc(&p->plan->arena, n * sizeof *p->counts);
    memset(p->counts, 0, n * sizeof *p->counts);
    p->verbatim = arena_alloc(&p->plan->arena, n * sizeof *p->verbatim);
    memset(p->verbatim, 0, n * sizeof *p->verbatim);
}

/* Every tensor to the shard of its byte 0. */
static void mirror_shards(struct placing *p)
{
    make_homes(p, p->checkpoint->n_shards);
    p->mirrors = true;
    for (uint32_t s = 0; s < p->n_homes; s++)
        p->verbatim[s] = !p->checkpoint->shards[s].incomplete;
    for (uint32_t t = 0; t < p->checkpoint->n_tensors; t++)
        if (!p->passes[t])
            p->verbatim[p->checkpoint->tensors[t].shard] = false;
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        p->tensors[i].file = home_shard(p, &p->tensors[i]);
        p->counts[p->tensors[i].file]++;
        if (p->tensors[i].group != UINT32_MAX)
            p->verbatim[p->tensors[i].file] = false;
    }
}

static int compare_natural(const void *a, const void *b)
{
    return natural_compare(((const struct planned_tensor *)a)->info.name,
                           ((const struct planned_tensor *)b)->info.name);
}

static void deal_out(struct placing *p, uint64_t limit)
{
    cleanup_free uint64_t *lengths = xreallocarray(NULL, p->n_tensors, sizeof *lengths);
    cleanup_free uint32_t *shard_of = xreallocarray(NULL, p->n_tensors, sizeof *shard_of);

    if (p->n_tensors > 0)
        qsort(p->tensors, p->n_tensors, sizeof *p->tensors, compare_natural);
    for (uint32_t i = 0; i < p->n_tensors; i++)
        lengths[i] = p->tensors[i].length;
    make_homes(p, shards_deal_out(lengths, p->n_tensors, limit, shard_of));
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        p->tensors[i].file = shard_of[i];
        p->counts[shard_of[i]]++;
    }
}

/* The one weight file that config.json names, which a loader will look for, or NULL. */
static const char *named_file(const struct checkpoint *checkpoint)
{
    return checkpoint->index_required ? NULL : checkpoint->config.transformers_weights;
}

/* Which homes are kept, and under which names. */
static int name_files(struct placing *p, struct error *err)
{
    struct plan *plan = p->plan;
    const char *named = named_file(p->checkpoint);
    uint32_t n = 0;

    for (uint32_t h = 0; h < p->n_homes; h++)
        n += p->counts[h] > 0 || p->verbatim[h];
    if (named && n > 1)
        return error_set(
            err,
            "config.json's transformers_weights names one file, %s, and would not find the %u that "
            "--max-shard-size makes: leave that out, or remove transformers_weights",
            named, n);
    plan->n_weight_files = n;
    plan->files = arena_alloc(&plan->arena, (n + 1) * sizeof *plan->files);
    for (uint32_t h = 0, f = 0; h < p->n_homes; h++) {
        if (p->counts[h] == 0 && !p->verbatim[h])
            continue;
        char name[SHARD_NAME_SIZE];
        struct planned_file *file = &plan->files[f++];
        *file = (struct planned_file){.verbatim_shard = p->verbatim[h] ? h : PLAN_NO_SHARD};
        if (p->mirrors && n == p->n_homes) {
            file->name = p->checkpoint->shards[h].name;
            continue;
        }
        shards_name(f - 1, n, name);
        file->name = arena_strdup(&plan->arena, named ? named : name);
    }
    return 0;
}

/* By home; inside a verbatim one by place, else in the writer's order. */
static int place_compare(const void *a, const void *b, void *context)
{
    const struct placing *p = context;
    const struct planned_tensor *x = a, *y = b;

    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (p->verbatim[x->file])
        return (x->offset > y->offset) - (x->offset < y->offset);
    return safetensors_writer_compare(&x->info, &y->info);
}

static int lay_out_file(struct placing *p, struct planned_file *file, uint32_t shard, uint32_t first,
                        struct error *err)
{
    uint32_t n = p->counts[shard];
    struct plan *plan = p->plan;

    file->first_tensor = first;
    file->n_tensors = n;
    if (file->verbatim_shard != PLAN_NO_SHARD) {
        file->size = p->checkpoint->shards[shard].size;
        return 0;
    }
    const struct tensor_info **infos = xmalloc(n * sizeof *infos);
    for (uint32_t i = 0; i < n; i++)
        infos[i] = &p->tensors[first + i].info;
    char *head = safetensors_write_header(file->name, infos, n, &file->head_length, err);
    free(infos);
    if (!head)
        return -1;
    file->head = arena_memdup(&plan->arena, head, file->head_length);
    free(head);
    file->size = file->head_length;
    for (uint32_t i = 0; i < n; i++) {
        struct planned_tensor *tensor = &p->tensors[first + i];
        tensor->offset = file->size;
        if (!checked_add(file->size, tensor->length, &file->size) || file->size > INT64_MAX)
            return error_set(err, "%s: would be larger than 2^63 bytes", file->name);
    }
    return 0;
}

static int lay_out_files(struct placing *p, struct error *err)
{
    struct plan *plan = p->plan;
    uint32_t first = 0, f = 0;

    if (p->n_tensors > 0)
        qsort_r(p->tensors, p->n_tensors, sizeof *p->tensors, place_compare, p);
    for (uint32_t s = 0; s < p->n_homes; s++) {
        if (p->counts[s] == 0 && !p->verbatim[s])
            continue;
        if (lay_out_file(p, &plan->files[f], s, first, err) < 0)
            return -1;
        for (uint32_t i = 0; i < p->counts[s]; i++) {
            p->tensors[first + i].file = f;
            if (!checked_add(plan->total_size, p->tensors[first + i].length, &plan->total_size))
                return error_set(err, "the tensors together hold more than 2^64 bytes");
        }
        first += p->counts[s];
        f++;
    }
    return 0;
}

static void add_index(struct placing *p)
{
    struct plan *plan = p->plan;
    const struct checkpoint *checkpoint = p->checkpoint;

    plan->n_files = plan->n_weight_files;
    if (!checkpoint->index_required && plan->n_weight_files == 1 &&
        strcmp(plan->files[0].name, "model.safetensors") == 0)
        return;
    const char **names = xmalloc(p->n_tensors * sizeof *names);
    const char **files = xmalloc(p->n_tensors * sizeof *files);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        names[i] = p->tensors[i].info.name;
        files[i] = plan->files[p->tensors[i].file].name;
    }
    uint64_t length;
    char *text = index_write(checkpoint->metadata, checkpoint->metadata_length, plan->total_size, names,
                             files, p->n_tensors, &length);
    plan->files[plan->n_files++] = (struct planned_file){.name = checkpoint->index_name,
                                                         .size = length,
                                                         .verbatim_shard = PLAN_NO_SHARD,
                                                         .head = arena_memdup(&plan->arena, text, length),
                                                         .head_length = length,
                                                         .first_tensor = p->n_tensors};
    free(text);
    free(names);
    free(files);
}

int placement_build(const struct checkpoint *checkpoint, const struct plan_options *options,
                    const struct compile_output *output, const bool *passes, struct plan *plan,
                    struct error *err)
{
    struct placing p = {.checkpoint = checkpoint, .plan = plan, .extents = plan->extents, .passes = passes};

    p.tensors = array_take(output->tensors, &plan->arena, &p.n_tensors);
    plan->tensors = p.tensors;
    plan->n_tensors = p.n_tensors;
    if (check_names(&p, err) < 0)
        return -1;
    if (options->max_shard_size > 0)
        deal_out(&p, options->max_shard_size);
    else
        mirror_shards(&p);
    if (name_files(&p, err) < 0 || lay_out_files(&p, err) < 0)
        return -1;
    add_index(&p);
    return 0;
}
