/* A plan for people: what `moefs plan` prints. */
#include "plan_view.h"

#include "fs/base/messages.h"
#include "layout/base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Sources that an explanation lists; a merged tensor has hundreds alike. */
#define EXPLAINED_SOURCES 8

struct origin {
    const struct tensor *first, *last;
    uint64_t n; /* changes of source tensor along the virtual one */
    bool computed;
};

static void count_origin(const struct plan_view *view, const struct plan_piece *piece, void *context)
{
    struct origin *origin = context;

    (void)view;
    if (!origin->first)
        origin->first = piece->tensor;
    if (origin->last != piece->tensor)
        origin->n++;
    origin->last = piece->tensor;
    origin->computed |= piece->length == 0;
}

static void print_line(const struct plan_view *view, const struct planned_tensor *tensor)
{
    const struct shard *shards = view->checkpoint->shards;
    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);
    struct origin origin = {0};

    messages_printf("%s  %s %s  %s", tensor->info.name, dtype_name(tensor->info.dtype), shape,
                    view->plan->files[tensor->file].name);
    plan_view_visit(view, tensor, count_origin, &origin);
    if (!origin.first)
        printf("  <- empty\n");
    else if (tensor->group == UINT32_MAX)
        messages_printf("  <- %s, unchanged\n", shards[origin.first->shard].name);
    else if (origin.first == origin.last)
        messages_printf("  <- %s in %s%s\n", origin.first->info.name, shards[origin.first->shard].name,
                        origin.computed ? ", transposed or interleaved" : "");
    else
        messages_printf("  <- %" PRIu64 " parts%s, %s in %s to %s in %s\n", origin.n,
                        origin.computed ? ", transposed or interleaved" : "", origin.first->info.name,
                        shards[origin.first->shard].name, origin.last->info.name,
                        shards[origin.last->shard].name);
}

static void print_files(const struct plan_view *view)
{
    for (uint32_t f = 0; f < view->plan->n_files; f++) {
        const struct planned_file *file = &view->plan->files[f];
        messages_printf("%s  %" PRIu64 " bytes  %u tensors", file->name, file->size, file->n_tensors);
        if (file->verbatim_shard != PLAN_NO_SHARD)
            messages_printf("  = %s, verbatim", view->checkpoint->shards[file->verbatim_shard].name);
        else if (f >= view->plan->n_weight_files)
            printf("  (generated index)");
        putchar('\n');
    }
}

static void print_loaders(const char *layout, const char *const *loaders, unsigned n, void *context)
{
    (void)context;
    messages_printf("%s is read by: ", layout);
    for (unsigned i = 0; i < n; i++)
        messages_printf("%s%s", i ? "; " : "", loaders[i]);
    putchar('\n');
}

void plan_text_print(const struct plan_view *view)
{
    const struct plan *plan = view->plan;

    for (uint32_t t = 0; t < plan->n_tensors; t++)
        print_line(view, &plan->tensors[t]);
    putchar('\n');
    print_files(view);
    printf("\ntotal: %u tensors, %" PRIu64 " bytes in %u weight files (source: %u tensors in %u files)\n",
           plan->n_tensors, plan->total_size, plan->n_weight_files, view->checkpoint->n_tensors,
           view->checkpoint->n_shards);
    plan_view_visit_loaders(view, print_loaders, NULL);
}

static void print_use(const struct plan_view *view, const struct plan_use *use)
{
    const struct tensor *tensor = use->tensor;
    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);

    messages_printf("  %s %s %s, %s\n", tensor->info.name, dtype_name(tensor->info.dtype), shape,
                    view->checkpoint->shards[tensor->shard].name);
    messages_printf("    %s%s%s", use->holds ? "holds " : "", use->holds ? use->holds : "",
                    use->holds ? "; " : "");
    if (use->computed)
        printf("its elements are put into their places when they are read\n");
    else if (use->bytes == tensor->length)
        printf("all of it is copied, in %" PRIu64 " %s\n", use->runs, use->runs == 1 ? "run" : "runs");
    else
        printf("%" PRIu64 " of its %" PRIu64 " bytes are copied, in %" PRIu64 " %s\n", use->bytes,
               tensor->length, use->runs, use->runs == 1 ? "run" : "runs");
}

static void print_uses(const struct plan_view *view, const struct planned_tensor *tensor)
{
    uint32_t n;
    cleanup_free struct plan_use *uses = plan_view_uses(view, tensor, &n);

    printf("made of %u source %s, in the order of its bytes:\n", n, n == 1 ? "tensor" : "tensors");
    for (uint32_t i = 0; i < n && i < EXPLAINED_SOURCES; i++)
        print_use(view, &uses[i]);
    if (n > EXPLAINED_SOURCES)
        printf("  ... and %u more\n", n - EXPLAINED_SOURCES);
}

void plan_text_print_tensor(const struct plan_view *view, const struct planned_tensor *tensor)
{
    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);

    messages_printf("%s %s %s, %s, %" PRIu64 " bytes at %" PRIu64 "\n", tensor->info.name,
                    dtype_name(tensor->info.dtype), shape, view->plan->files[tensor->file].name,
                    tensor->length, tensor->offset);
    if (tensor->group == UINT32_MAX) {
        printf("passes through: it is not converted\n");
    } else {
        const struct planned_group *group = &view->plan->groups[tensor->group];
        messages_printf("holds %s\n", tensor->holds);
        messages_printf("of block %s: %" PRIu64 " experts, inner (I) %" PRIu64 ", hidden (H) %" PRIu64
                        ", stored as %s, wanted as %s\n",
                        group->block, group->experts, group->inner, group->hidden, group->from, group->to);
    }
    print_uses(view, tensor);
}
