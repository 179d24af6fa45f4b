/* Level 2: what each block's experts compute. The fused reference runs on the exposed tensors, the eager path
 * on the source's; both while an expert's slabs are in memory, so that its bytes are read once. */
#include "verify.h"

#include "moe_eager.h"
#include "moe_function.h"
#include "moe_reference.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOKENS_DEFAULT 16
/* Both paths sum the same products in FP32, in another order: docs/verify.md. */
#define TOLERANCE 1e-5

struct function_run {
    struct verify *verify;
    const struct logical_group *group;
    struct block_result *result;
    struct moe_function function;
    uint64_t n_experts, tokens, top_k, inner, hidden;
    float *x;             /* [tokens, hidden] */
    uint32_t *experts;    /* [tokens, top_k] */
    float *weights;       /* [tokens, top_k] */
    float *fused, *eager; /* [tokens, top_k, hidden]: each expert's share */
    atomic_bool incomplete;
};

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

/* ---- inputs ---- */

/* SplitMix64: the same numbers everywhere. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Multiples of 1/64 between -2 and 2: exact in BF16 and F16 too. */
static void fill_hidden_states(struct function_run *run, uint64_t *state)
{
    for (uint64_t i = 0; i < run->tokens * run->hidden; i++)
        run->x[i] = (float)((int)(next_random(state) % 255) - 127) / 64;
}

/* So that every expert is visited: token t is given top_k experts in a row, the next token the next ones. The
 * weights are exact in BF16. */
static void override_routing(struct function_run *run, uint64_t *state)
{
    const uint64_t first = next_random(state) % run->n_experts;

    for (uint64_t s = 0; s < run->tokens * run->top_k; s++) {
        run->experts[s] = (uint32_t)((first + s) % run->n_experts);
        run->weights[s] = (float)(1 + next_random(state) % 128) / 128;
    }
}

/* One of the router's tensors as floats [n], malloc'd; NULL where the source has none of that name and shape.
 */
static float *load_router_tensor(const struct function_run *run, const char *name, uint64_t rows,
                                 uint64_t columns)
{
    static const char hole[] = "{block}";
    const struct side *side = &run->verify->sides[0];

    if (!name || strncmp(name, hole, strlen(hole)) != 0)
        return NULL;
    cleanup_free char *full = xasprintf("%s%s", run->group->group->block, name + strlen(hole));
    const struct side_tensor *tensor = side_find(side, full);
    if (!tensor || !moe_dtype_is_known(tensor->info.dtype) || tensor->info.n_dims == 0 ||
        tensor->length != rows * columns * (dtype_bits(tensor->info.dtype) / 8))
        return NULL;
    cleanup_free void *bytes = xmalloc(tensor->length);
    if (side_read(side, tensor->file, tensor->offset, bytes, tensor->length) != 0)
        return NULL;
    const struct moe_matrix matrix = {.first = bytes,
                                      .dtype = tensor->info.dtype,
                                      .rows = rows,
                                      .columns = columns,
                                      .row_stride = columns,
                                      .column_stride = 1};
    float *result = xreallocarray(NULL, rows * columns, sizeof *result);
    moe_matrix_rows(&matrix, 0, rows, result);
    return result;
}

static void score_token(const struct function_run *run, const float *logits, float *scores)
{
    float largest = -INFINITY, sum = 0;

    for (uint64_t e = 0; e < run->n_experts; e++)
        largest = logits[e] > largest ? logits[e] : largest;
    for (uint64_t e = 0; e < run->n_experts; e++) {
        scores[e] = run->function.router.scores == MOE_SCORES_SOFTMAX ? expf(logits[e] - largest)
                                                                      : 1 / (1 + expf(-logits[e]));
        sum += scores[e];
    }
    if (run->function.router.scores == MOE_SCORES_SOFTMAX)
        for (uint64_t e = 0; e < run->n_experts; e++)
            scores[e] /= sum;
}

/* The top_k experts by score (and correction); their scores are the weights. */
static void choose_experts(struct function_run *run, uint64_t token, const float *scores,
                           const float *correction)
{
    uint32_t *experts = run->experts + token * run->top_k;
    float *weights = run->weights + token * run->top_k, sum = 0;

    for (uint64_t k = 0; k < run->top_k; k++) {
        float best = -INFINITY;
        experts[k] = (uint32_t)k;
        for (uint32_t e = 0; e < run->n_experts; e++) {
            const float value = scores[e] + (correction ? correction[e] : 0);
            bool taken = false;
            for (uint64_t i = 0; i < k; i++)
                taken |= experts[i] == e;
            if (!taken && value > best) {
                best = value;
                experts[k] = e;
            }
        }
        weights[k] = scores[experts[k]];
        sum += weights[k];
    }
    for (uint64_t k = 0; k < run->top_k; k++)
        weights[k] =
            (run->function.router.normalize ? weights[k] / sum : weights[k]) * run->function.router.scale;
}

static bool route(struct function_run *run)
{
    const uint64_t n = run->n_experts;

    if (run->function.router.scores == MOE_SCORES_GIVEN)
        return false;
    cleanup_free float *weight = load_router_tensor(run, run->function.router.weight, n, run->hidden);
    cleanup_free float *bias = load_router_tensor(run, run->function.router.bias, 1, n);
    cleanup_free float *correction = load_router_tensor(run, run->function.router.correction, 1, n);
    if (!weight || (run->function.router.bias && !bias) || (run->function.router.correction && !correction))
        return false;
    cleanup_free float *logits = xreallocarray(NULL, 2 * n, sizeof *logits);
    for (uint64_t t = 0; t < run->tokens; t++) {
        for (uint64_t e = 0; e < n; e++)
            logits[e] = moe_dot(run->x + t * run->hidden, weight + e * run->hidden, run->hidden) +
                        (bias ? bias[e] : 0);
        score_token(run, logits, logits + n);
        choose_experts(run, t, logits + n, correction);
    }
    return true;
}

static void *new_floats(uint64_t a, uint64_t b, uint64_t c)
{
    return xcalloc(a * b * c, sizeof(float));
}

static void fill_inputs(struct function_run *run)
{
    const uint64_t wanted = run->verify->options->tokens;
    uint64_t state = run->verify->options->seed;
    const uint64_t needed = (run->n_experts + TOKENS_DEFAULT - 1) / TOKENS_DEFAULT;

    run->tokens = wanted > 0 ? wanted : TOKENS_DEFAULT;
    run->top_k = run->function.router.top_k;
    if (wanted == 0 && run->top_k < needed)
        run->top_k = needed;
    if (run->top_k > run->n_experts)
        run->top_k = run->n_experts;
    run->x = new_floats(run->tokens, run->hidden, 1);
    run->experts = xcalloc(run->tokens * run->top_k, sizeof *run->experts);
    run->weights = new_floats(run->tokens, run->top_k, 1);
    run->fused = new_floats(run->tokens, run->top_k, run->hidden);
    run->eager = new_floats(run->tokens, run->top_k, run->hidden);
    fill_hidden_states(run, &state);
    run->result->routed = wanted > 0 && route(run);
    if (!run->result->routed)
        override_routing(run, &state);
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
    result->skipped = find_obstacle(run);
    if (!result->skipped) {
        const struct axis_words *words = &verify->layouts->words;
        run->n_experts = up->count < down->count ? up->count : down->count;
        run->inner = group->group->sizes[axis_find(words, "inner")];
        run->hidden = group->group->sizes[axis_find(words, "hidden")];
        fill_inputs(run); /* the router's names are the functions' */
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

/* ---- --write-outputs ---- */

#define ARRAYS 4 /* of each block */

struct output_tensor {
    struct tensor_info info;
    const void *bytes;
    uint64_t length;
};

static int compare_tensors(const void *a, const void *b)
{
    return safetensors_writer_compare(&((const struct output_tensor *)a)->info,
                                      &((const struct output_tensor *)b)->info);
}

static void add_output(struct output_tensor *tensor, struct arena *arena, const char *block, const char *what,
                       enum dtype dtype, uint64_t rows, uint64_t columns, const void *bytes)
{
    cleanup_free char *name = xasprintf("%s.%s", block, what);
    const uint64_t shape[] = {rows, columns};

    *tensor = (struct output_tensor){.info = {.name = arena_strdup(arena, name),
                                              .shape = arena_memdup(arena, shape, sizeof shape),
                                              .n_dims = 2,
                                              .dtype = (uint8_t)dtype},
                                     .bytes = bytes,
                                     .length = rows * columns * 4};
}

static int write_tensors(const char *path, const struct output_tensor *tensors, size_t n, struct error *err)
{
    const struct tensor_info **infos = xcalloc(n + 1, sizeof *infos);
    uint64_t length;

    for (size_t i = 0; i < n; i++)
        infos[i] = &tensors[i].info;
    cleanup_free char *head = safetensors_write_header(path, infos, n, &length, err);
    free(infos);
    if (!head)
        return -1;
    FILE *file = fopen(path, "we");
    if (!file)
        return error_set(err, "%s: %m", path);
    fwrite(head, 1, length, file);
    for (size_t i = 0; i < n; i++)
        fwrite(tensors[i].bytes, 1, tensors[i].length, file);
    const bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? error_set(err, "%s: %m", path) : 0;
}

int function_write(const struct verify *verify, struct error *err)
{
    struct output_tensor *tensors = xcalloc((size_t)verify->n_outputs * ARRAYS + 1, sizeof *tensors);
    struct arena arena = {0};
    size_t n = 0;

    for (uint32_t i = 0; i < verify->n_outputs; i++) {
        const struct block_output *o = &verify->outputs[i];
        add_output(&tensors[n++], &arena, o->block, "x", DTYPE_F32, o->tokens, o->hidden, o->x);
        add_output(&tensors[n++], &arena, o->block, "experts", DTYPE_I32, o->tokens, o->top_k, o->experts);
        add_output(&tensors[n++], &arena, o->block, "weights", DTYPE_F32, o->tokens, o->top_k, o->weights);
        add_output(&tensors[n++], &arena, o->block, "output", DTYPE_F32, o->tokens, o->hidden, o->output);
    }
    qsort(tensors, n, sizeof *tensors, compare_tensors);
    int result = write_tensors(verify->options->write_outputs, tensors, n, err);
    arena_free(&arena);
    free(tensors);
    return result;
}
