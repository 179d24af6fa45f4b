/* Level 2: what each block's experts compute. The fused reference runs on the exposed tensors, the eager path
 * on the source's; both while an expert's slabs are in memory, so that its bytes are read once. */
#include "forward.h"

#include "moe_eager.h"
#include "moe_reference.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Both paths sum the same products in FP32, in another order: docs/verify.md. */
#define TOLERANCE 1e-5

/* ---- an expert's matrices ---- */

static const struct logical_form *find_part(const struct function_run *run, const char *part, enum proj proj)
{
    for (unsigned f = 0; f < run->group->n_forms; f++)
        if (run->group->forms[f].proj == proj &&
            strcmp(run->verify->layouts->parts[run->group->forms[f].part], part) == 0)
            return &run->group->forms[f];
    return NULL;
}

/* The place of `inner` or `hidden` (in whatever grain) among the form's axes, or -1. */
static int find_axis(const struct function_run *run, const struct logical_form *form, const char *word,
                     uint64_t *grain)
{
    const struct axis_words *words = &run->verify->layouts->words;
    const uint8_t wanted = axis_find(words, word);

    for (unsigned i = 0; i < form->n_axes; i++) {
        const uint8_t axis = form->axis[i];
        *grain = axis == wanted ? 1 : words->number[axis];
        if (axis == wanted || words->base[axis] == wanted)
            return (int)i;
    }
    return -1;
}

/* Rows [first, first + n) of the form as a matrix of outputs by inputs, or (a bias) all of it as one row of
 * outputs. False where it is neither, or missing. */
static bool set_matrix(const struct function_run *run, const struct logical_form *form, unsigned side,
                       const struct worker_memory *memory, uint64_t expert, uint64_t first, uint64_t n,
                       struct moe_matrix *matrix)
{
    const bool down = form->proj == PROJ_DOWN;
    uint64_t row_grain = 1, column_grain = 1;
    const int row = find_axis(run, form, down ? "hidden" : "inner", &row_grain);
    const int column = find_axis(run, form, down ? "inner" : "hidden", &column_grain);
    struct logical_place place;

    if (row != 0 || form->n_axes != (column < 0 ? 1 : 2))
        return false;
    logical_locate(run->verify, run->group, form, side, expert, &place);
    if (!place.tensor)
        return false;
    const struct slab *slab = &memory->slabs[side][form->at[side > 0].form];
    const uint64_t size = dtype_bits(place.tensor->info.dtype) / 8;
    *matrix = (struct moe_matrix){.first = slab->bytes +
                                           (place.first + first * place.stride[0] - slab->begin) * size,
                                  .dtype = place.tensor->info.dtype,
                                  .rows = column < 0 ? 1 : n,
                                  .columns = column < 0 ? form->n[0] : form->n[column],
                                  .row_stride = column < 0 ? 0 : place.stride[0],
                                  .column_stride = column < 0 ? place.stride[0] : place.stride[column],
                                  .first_row = first,
                                  .row_grain = row_grain,
                                  .column_grain = column_grain};
    return true;
}

/* ---- one group ---- */

/* Why the group's function cannot be computed, or NULL. */
static const char *find_obstacle(const struct function_run *run)
{
    static const char *const parts[] = {"weight", "bias", "scale_inv"};

    if (run->function.unknown)
        return run->function.unknown;
    if (!find_part(run, "weight", PROJ_UP) || !find_part(run, "weight", PROJ_DOWN))
        return "its weights are not stored as such";
    for (unsigned f = 0; f < run->group->n_forms; f++) {
        const struct logical_form *form = &run->group->forms[f];
        const struct side_tensor *const *members = run->group->members[0][form->at[0].form];
        const char *part = run->verify->layouts->parts[form->part];
        bool known = false;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            known |= strcmp(part, parts[i]) == 0;
        if (!known || !moe_dtype_is_known(members[0]->info.dtype))
            return "its weights are of a type that is not computed with here";
        if (form->elements == 0)
            return "its weights are empty";
    }
    return run->group->group->n_companions > 0 ? "its weights have companions that are not known here" : NULL;
}

struct function_run *function_begin(struct verify *verify, const struct logical_group *group,
                                    struct block_result *result)
{
    struct function_run *run = xcalloc(1, sizeof *run);
    struct moe_functions functions;
    struct error err = {0};

    *run = (struct function_run){.verify = verify, .group = group, .result = result};
    *result = (struct block_result){.block = group->title};
    if (moe_functions_load(&functions, &err) < 0) {
        report_failure(&verify->report, "%s", err.text);
        error_free(&err);
        free(run);
        return NULL;
    }
    run->function = moe_function_of(&functions, &verify->checkpoint->config, group->group->block);
    const struct logical_form *up = find_part(run, "weight", PROJ_UP),
                              *down = find_part(run, "weight", PROJ_DOWN);
    const char *obstacle = find_obstacle(run); /* perhaps the functions' own text */
    result->skipped = obstacle ? arena_strdup(&verify->arena, obstacle) : NULL;
    if (!result->skipped) {
        const struct axis_words *words = &verify->layouts->words;
        run->n_experts = up->count < down->count ? up->count : down->count;
        run->inner = group->group->sizes[axis_find(words, "inner")];
        run->hidden = group->group->sizes[axis_find(words, "hidden")];
        function_fill_inputs(run); /* the router's names are the functions' */
    }
    moe_functions_free(&functions);
    if (!result->skipped)
        return run;
    free(run);
    return NULL;
}

/* One expert in one thread: its tokens on their way through both sides. */
struct function_expert {
    struct function_run *run; /* NULL: no token is given to it */
    uint64_t number;
    struct moe_function fused_function;
    struct moe_assignment *tokens[2]; /* fused, eager */
    struct moe_pass passes[2];
    float *memory;
    size_t n_slots, memory_size;
    bool neurons; /* gate and up are through */
};

/* Room for the run's tokens, if all were this expert's. */
static void reserve(struct function_expert *expert, const struct function_run *run, size_t n)
{
    const size_t size = moe_pass_size(run->inner, run->hidden, n), n_slots = run->tokens * run->top_k;

    if (expert->n_slots < n_slots) {
        for (unsigned w = 0; w < 2; w++)
            expert->tokens[w] = xreallocarray(expert->tokens[w], n_slots, sizeof *expert->tokens[w]);
        expert->n_slots = n_slots;
    }
    if (expert->memory_size < 2 * size) {
        free(expert->memory);
        expert->memory = xreallocarray(NULL, 2 * size, sizeof *expert->memory);
        expert->memory_size = 2 * size;
    }
}

void function_open(struct function_run *run, struct worker_memory *memory, uint64_t number)
{
    size_t n = 0;

    if (!memory->function)
        memory->function = xcalloc(1, sizeof *memory->function);
    struct function_expert *expert = memory->function;
    expert->run = NULL;
    if (!run || number >= run->n_experts)
        return;
    for (uint64_t s = 0; s < run->tokens * run->top_k; s++)
        n += run->experts[s] == number;
    if (n == 0)
        return;
    reserve(expert, run, n);
    expert->run = run;
    expert->number = number;
    expert->neurons = false;
    expert->fused_function = run->function;
    if (run->verify->options->before_down && run->function.weighting == MOE_WEIGHT_OUTPUT)
        expert->fused_function.weighting = MOE_WEIGHT_BEFORE_DOWN;
    for (uint64_t s = 0, i = 0; s < run->tokens * run->top_k; s++)
        if (run->experts[s] == number) {
            const struct moe_assignment token = {run->x + s / run->top_k * run->hidden, run->weights[s],
                                                 NULL};
            expert->tokens[0][i] = expert->tokens[1][i] = token;
            expert->tokens[0][i].y = run->fused + s * run->hidden;
            expert->tokens[1][i++].y = run->eager + s * run->hidden;
        }
    for (unsigned w = 0; w < 2; w++) {
        expert->passes[w] = (struct moe_pass){.function = w ? &run->function : &expert->fused_function,
                                              .tokens = expert->tokens[w],
                                              .n = n,
                                              .inner = run->inner,
                                              .hidden = run->hidden,
                                              .has_gate = find_part(run, "weight", PROJ_GATE) != NULL};
        moe_pass_begin(&expert->passes[w], expert->memory + w * moe_pass_size(run->inner, run->hidden, n));
    }
}

/* The rows, their scale and their bias, of one side. */
struct side_rows {
    struct moe_matrix rows, scale, bias;
};

static bool set_rows(const struct function_expert *expert, const struct worker_memory *memory, unsigned side,
                     const struct logical_form *form, uint64_t first, uint64_t n, struct side_rows *result)
{
    const struct function_run *run = expert->run;
    const struct logical_form *bias = find_part(run, "bias", form->proj);
    const struct logical_form *scale = find_part(run, "scale_inv", form->proj);

    *result = (struct side_rows){0};
    if (!set_matrix(run, form, side, memory, expert->number, first, n, &result->rows) ||
        (bias && !set_matrix(run, bias, side, memory, expert->number, 0, bias->n[0], &result->bias)) ||
        (scale && !set_matrix(run, scale, side, memory, expert->number, 0, scale->n[0], &result->scale)))
        return false;
    if (scale) {
        result->rows.scale = &result->scale;
        result->rows.row_grain = result->scale.row_grain;
        result->rows.column_grain = result->scale.column_grain;
    }
    return true;
}

void function_rows(struct worker_memory *memory, const struct logical_form *form, uint64_t first, uint64_t n)
{
    struct function_expert *expert = memory->function;
    struct side_rows original, exposed;

    if (!expert->run || form != find_part(expert->run, "weight", form->proj))
        return;
    if (!set_rows(expert, memory, 0, form, first, n, &original) ||
        !set_rows(expert, memory, expert->run->verify->n_sides - 1, form, first, n, &exposed)) {
        atomic_store(&expert->run->incomplete, true);
        return;
    }
    struct moe_pass *fused = &expert->passes[0], *eager = &expert->passes[1];
    if (form->proj == PROJ_DOWN && !expert->neurons) {
        moe_reference_neurons(fused);
        moe_eager_neurons(eager);
        expert->neurons = true;
    }
    if (form->proj == PROJ_DOWN) {
        moe_reference_rows(fused, &exposed.rows, first, fused->hidden, &exposed.bias, fused->up, fused->y);
        moe_eager_rows(eager, &original.rows, first, eager->hidden, &original.bias, eager->up, eager->y);
        return;
    }
    const bool gate = form->proj == PROJ_GATE;
    moe_reference_rows(fused, &exposed.rows, first, fused->inner, &exposed.bias, fused->x,
                       gate ? fused->gate : fused->up);
    moe_eager_rows(eager, &original.rows, first, eager->inner, &original.bias, eager->x,
                   gate ? eager->gate : eager->up);
}

void function_close(struct worker_memory *memory)
{
    struct function_expert *expert = memory->function;

    if (!expert->run)
        return;
    if (!expert->neurons) { /* rows of it were missing */
        atomic_store(&expert->run->incomplete, true);
        return;
    }
    moe_reference_end(&expert->passes[0]);
    moe_eager_end(&expert->passes[1]);
}

void function_free(struct worker_memory *memory)
{
    if (!memory->function)
        return;
    free(memory->function->tokens[0]);
    free(memory->function->tokens[1]);
    free(memory->function->memory);
    free(memory->function);
    memory->function = NULL;
}

/* Sums each token's shares into the first one's place. */
static void sum_shares(const struct function_run *run, float *shares)
{
    for (uint64_t t = 0; t < run->tokens; t++)
        for (uint64_t c = 0; c < run->hidden; c++) {
            float sum = 0;
            for (uint64_t k = 0; k < run->top_k; k++)
                sum += shares[(t * run->top_k + k) * run->hidden + c];
            shares[t * run->hidden + c] = sum; /* no share of a later token lies there */
        }
}

static void compare_outputs(const struct function_run *run)
{
    struct block_result *result = run->result;
    double largest = 0;

    result->tokens = run->tokens;
    result->top_k = run->top_k;
    for (uint64_t i = 0; i < run->tokens * run->hidden; i++) {
        const double got = (double)run->fused[i], want = (double)run->eager[i];
        if (!isfinite(got) && !isfinite(want)) {
            result->not_finite++;
            continue;
        }
        const double distance = isfinite(got) && isfinite(want) ? fabs(got - want) : INFINITY;
        if (isfinite(want) && fabs(want) > largest)
            largest = fabs(want);
        if (distance > result->max_abs) {
            result->max_abs = distance;
            result->token = i / run->hidden;
            result->column = i % run->hidden;
        }
    }
    result->max_rel = result->max_abs > 0 ? result->max_abs / largest : 0;
    if (result->max_abs <= TOLERANCE * largest)
        return;
    struct difference place = report_place(run->group->order + UINT32_MAX, "function");
    place.row = result->token;
    place.column = result->column;
    report_difference(&run->verify->report, &place, run->group->title,
                      "token %" PRIu64 ", column %" PRIu64 ": the original tensors give %.9g, %s gives %.9g "
                      "(largest output %.9g)",
                      result->token, result->column,
                      (double)run->eager[result->token * run->hidden + result->column],
                      run->verify->sides[run->verify->n_sides - 1].title,
                      (double)run->fused[result->token * run->hidden + result->column], largest);
}

/* Hands over what --write-outputs writes. */
static void keep_outputs(struct function_run *run)
{
    struct verify *verify = run->verify;

    verify->outputs = xreallocarray(verify->outputs, verify->n_outputs + 1, sizeof *verify->outputs);
    verify->outputs[verify->n_outputs++] = (struct block_output){.block = run->group->title,
                                                                 .tokens = run->tokens,
                                                                 .top_k = run->top_k,
                                                                 .hidden = run->hidden,
                                                                 .x = run->x,
                                                                 .weights = run->weights,
                                                                 .output = run->fused,
                                                                 .experts = run->experts};
    run->x = run->weights = run->fused = NULL;
    run->experts = NULL;
}

int function_end(struct function_run *run)
{
    if (!run)
        return 0;
    if (atomic_load(&run->incomplete)) {
        run->result->skipped = "tensors of it are missing";
    } else if (!run->verify->report.failure.text) {
        sum_shares(run, run->fused);
        sum_shares(run, run->eager);
        compare_outputs(run);
        if (run->verify->options->write_outputs)
            keep_outputs(run);
    }
    free(run->x);
    free(run->experts);
    free(run->weights);
    free(run->fused);
    free(run->eager);
    free(run);
    return 0;
}
