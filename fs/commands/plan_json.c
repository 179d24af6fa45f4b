/* A plan for programs: what `moefs plan --json` prints. */
#include "plan_view.h"

#include "layout/format/json_write.h"

#include <stdio.h>
#include <stdlib.h>

static void json_piece(const struct plan_view *view, const struct plan_piece *piece, void *context)
{
    struct json_writer *w = context;

    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "tensor", piece->tensor->info.name);
    json_write_text_of(w, "file", view->checkpoint->shards[piece->tensor->shard].name);
    json_write_number_of(w, "offset", piece->offset);
    if (piece->length > 0)
        json_write_number_of(w, "length", piece->length);
    else
        json_write_bool_of(w, "computed", true);
    json_write_end(w);
}

static void json_type(struct json_writer *w, const struct tensor_info *info)
{
    json_write_text_of(w, "dtype", dtype_name(info->dtype));
    json_write_key(w, "shape");
    json_write_numbers(w, info->shape, info->n_dims);
}

/* The members that a virtual tensor has wherever it is printed. */
static void json_place(struct json_writer *w, const struct plan_view *view,
                       const struct planned_tensor *tensor)
{
    json_write_text_of(w, "name", tensor->info.name);
    json_type(w, &tensor->info);
    json_write_text_of(w, "file", view->plan->files[tensor->file].name);
    json_write_number_of(w, "offset", tensor->offset);
    json_write_number_of(w, "length", tensor->length);
    json_write_bool_of(w, "converted", tensor->group != UINT32_MAX);
}

static void json_tensor(struct json_writer *w, const struct plan_view *view,
                        const struct planned_tensor *tensor)
{
    json_write_object(w, JSON_ONE_LINE);
    json_place(w, view, tensor);
    json_write_key(w, "sources");
    json_write_array(w, JSON_ONE_LINE);
    plan_view_visit(view, tensor, json_piece, w);
    json_write_end(w);
    json_write_end(w);
}

static void json_file(struct json_writer *w, const struct plan_view *view, const struct planned_file *file)
{
    bool verbatim = file->verbatim_shard != PLAN_NO_SHARD;

    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "name", file->name);
    json_write_number_of(w, "size", file->size);
    json_write_number_of(w, "tensors", file->n_tensors);
    json_write_text_of(w, "verbatim", verbatim ? view->checkpoint->shards[file->verbatim_shard].name : NULL);
    json_write_end(w);
}

static void json_group(struct json_writer *w, const struct planned_group *group)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "block", group->block);
    json_write_text_of(w, "from", group->from);
    json_write_text_of(w, "to", group->to);
    json_write_number_of(w, "experts", group->experts);
    json_write_number_of(w, "inner", group->inner);
    json_write_number_of(w, "hidden", group->hidden);
    json_write_end(w);
}

static void json_loaders(const char *layout, const char *const *loaders, unsigned n, void *context)
{
    struct json_writer *w = context;

    json_write_key(w, layout);
    json_write_array(w, JSON_ONE_LINE);
    for (unsigned i = 0; i < n; i++)
        json_write_text(w, loaders[i]);
    json_write_end(w);
}

static void json_totals(struct json_writer *w, const struct plan_view *view)
{
    json_write_key(w, "totals");
    json_write_object(w, JSON_ONE_LINE);
    json_write_number_of(w, "tensors", view->plan->n_tensors);
    json_write_number_of(w, "bytes", view->plan->total_size);
    json_write_number_of(w, "weight_files", view->plan->n_weight_files);
    json_write_number_of(w, "source_tensors", view->checkpoint->n_tensors);
    json_write_number_of(w, "source_files", view->checkpoint->n_shards);
    json_write_end(w);
}

void plan_json_print(const struct plan_view *view)
{
    const struct plan *plan = view->plan;
    struct json_writer w;

    json_writer_init(&w, stdout);
    json_write_object(&w, JSON_LINES);
    json_write_text_of(&w, "model_type", view->checkpoint->config.model_type);
    json_write_key(&w, "files");
    json_write_array(&w, JSON_LINES);
    for (uint32_t f = 0; f < plan->n_files; f++)
        json_file(&w, view, &plan->files[f]);
    json_write_end(&w);
    json_write_key(&w, "tensors");
    json_write_array(&w, JSON_LINES);
    for (uint32_t t = 0; t < plan->n_tensors; t++)
        json_tensor(&w, view, &plan->tensors[t]);
    json_write_end(&w);
    json_write_key(&w, "groups");
    json_write_array(&w, JSON_LINES);
    for (uint32_t g = 0; g < plan->n_groups; g++)
        json_group(&w, &plan->groups[g]);
    json_write_end(&w);
    json_write_key(&w, "loaders");
    json_write_object(&w, JSON_ONE_LINE);
    plan_view_visit_loaders(view, json_loaders, &w);
    json_write_end(&w);
    json_totals(&w, view);
    json_write_end(&w);
    putchar('\n');
}

static void json_use(struct json_writer *w, const struct plan_view *view, const struct plan_use *use)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "tensor", use->tensor->info.name);
    json_type(w, &use->tensor->info);
    json_write_text_of(w, "file", view->checkpoint->shards[use->tensor->shard].name);
    json_write_text_of(w, "holds", use->holds);
    json_write_bool_of(w, "computed", use->computed);
    json_write_number_of(w, "runs", use->runs);
    json_write_number_of(w, "bytes", use->bytes);
    json_write_end(w);
}

void plan_json_print_tensor(const struct plan_view *view, const struct planned_tensor *tensor)
{
    uint32_t n;
    cleanup_free struct plan_use *uses = plan_view_uses(view, tensor, &n);
    struct json_writer w;

    json_writer_init(&w, stdout);
    json_write_object(&w, JSON_LINES);
    json_place(&w, view, tensor);
    json_write_text_of(&w, "holds", tensor->holds);
    json_write_key(&w, "group");
    if (tensor->group != UINT32_MAX)
        json_group(&w, &view->plan->groups[tensor->group]);
    else
        json_write_text(&w, NULL);
    json_write_key(&w, "sources");
    json_write_array(&w, JSON_LINES);
    for (uint32_t i = 0; i < n; i++)
        json_use(&w, view, &uses[i]);
    json_write_end(&w);
    json_write_end(&w);
    putchar('\n');
}
