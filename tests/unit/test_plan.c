/* The plan, element by element: random sizes, sources and targets, against the layouts' definitions written
 * out by hand here as index formulas. Each element of a source tensor holds the number of the weight that it
 * is. */
#include "layout/layouts.h"
#include "layout/plan.h"
#include "tests/support/plan_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { PER_EXPERT, STACKED, MERGED, IN_OUT, N_KINDS };
static const char *const kind_names[N_KINDS] = {"per-expert", "stacked", "merged", "in-out"};

struct sizes {
    uint64_t E, I, H;
};

/* Tensors of one block, as (name, shape, and the weight number of each element). A weight's number is
 * ((proj * E + e) * I + i) * H + h. */
struct model {
    struct safetensors_tensor tensors[64];
    uint32_t *elements[64];
    uint32_t n;
    struct arena arena;
};

static uint32_t weight_number(const struct sizes *s, unsigned proj, uint64_t e, uint64_t i, uint64_t h)
{
    return (uint32_t)(((proj * s->E + e) * s->I + i) * s->H + h);
}

/* Element (e, a, b) of the tensor that holds projections [proj, proj + n): what the definition says lies
 * there. */
static uint32_t definition(int kind, const struct sizes *s, unsigned proj, uint64_t e, uint64_t a, uint64_t b)
{
    bool down = proj == 2;
    uint64_t row = kind == IN_OUT ? b : a,
             column = kind == IN_OUT ? a : b; /* as nn.Linear stores it: out, in */
    if (down)
        return weight_number(s, 2, e, column, row);
    return weight_number(s, proj + (unsigned)(row / s->I), e, row % s->I, column);
}

static void model_add(struct model *m, const char *name, uint8_t n_dims, const uint64_t *shape, int kind,
                      const struct sizes *s, unsigned proj, uint64_t expert)
{
    const uint64_t *abc = n_dims == 3 ? shape : shape - 1;
    uint64_t first = n_dims == 3 ? 0 : expert, n = n_dims == 3 ? shape[0] : 1, at = 0;
    uint32_t *elements = arena_alloc(&m->arena, n * abc[1] * abc[2] * sizeof *elements);

    for (uint64_t e = first; e < first + n; e++)
        for (uint64_t a = 0; a < abc[1]; a++)
            for (uint64_t b = 0; b < abc[2]; b++)
                elements[at++] = definition(kind, s, proj, e, a, b);
    m->elements[m->n] = elements;
    m->tensors[m->n].info =
        (struct tensor_info){.name = arena_strdup(&m->arena, name),
                             .shape = arena_memdup(&m->arena, shape, n_dims * sizeof *shape),
                             .n_dims = n_dims,
                             .dtype = DTYPE_F32};
    m->n++;
}

static void model_make(struct model *m, int kind, const struct sizes *s)
{
    static const char *const projs[] = {"gate_proj", "up_proj", "down_proj"};
    char name[64];

    *m = (struct model){.n = 0};
    for (uint64_t e = 0; kind == PER_EXPERT && e < s->E; e++)
        for (unsigned p = 0; p < 3; p++) {
            snprintf(name, sizeof name, "l.0.mlp.experts.%u.%s.weight", (unsigned)e, projs[p]);
            model_add(m, name, 2, (uint64_t[]){p == 2 ? s->H : s->I, p == 2 ? s->I : s->H}, kind, s, p, e);
        }
    if (kind == PER_EXPERT)
        return;
    uint64_t out = kind == STACKED ? s->I : 2 * s->I;
    for (unsigned p = 0; p < (kind == STACKED ? 2U : 1U); p++) {
        snprintf(name, sizeof name, "l.0.mlp.experts.%s", kind == STACKED ? projs[p] : "gate_up_proj");
        model_add(m, name, 3, (uint64_t[]){s->E, kind == IN_OUT ? s->H : out, kind == IN_OUT ? out : s->H},
                  kind, s, p, 0);
    }
    model_add(m, "l.0.mlp.experts.down_proj", 3,
              (uint64_t[]){s->E, kind == IN_OUT ? s->I : s->H, kind == IN_OUT ? s->H : s->I}, kind, s, 2, 0);
}

/* The model's tensors dealt out to shards, in memory: bytes[s] is shard s's file. */
struct memory_files {
    unsigned char *bytes[4];
};

static void deal_out(const struct model *m, unsigned n_shards, unsigned *seed, struct checkpoint *checkpoint,
                     struct memory_files *files)
{
    static const char *const names[] = {"a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"};
    unsigned char home[64];

    for (uint32_t t = 0; t < m->n; t++)
        home[t] = (unsigned char)(rand_r(seed) % n_shards);
    *checkpoint = (struct checkpoint){.index_name = "model.safetensors.index.json"};
    checkpoint->config.model_type = "qwen3_moe";
    for (unsigned s = 0; s < n_shards; s++) {
        struct safetensors_tensor tensors[64];
        struct safetensors_header header = {.tensors = tensors, .data_offset = 16};
        uint64_t at = 0;
        for (uint32_t t = 0; t < m->n; t++) {
            uint64_t bytes;
            if (home[t] != s)
                continue;
            assert_true(safetensors_tensor_bytes(&m->tensors[t].info, &bytes));
            tensors[header.n_tensors] = m->tensors[t];
            tensors[header.n_tensors].begin = at;
            at += bytes;
            tensors[header.n_tensors++].end = at;
        }
        files->bytes[s] = arena_alloc(&checkpoint->arena, 16 + at);
        for (uint32_t t = 0, i = 0; t < m->n; t++)
            if (home[t] == s) {
                memcpy(files->bytes[s] + 16 + tensors[i].begin, m->elements[t],
                       tensors[i].end - tensors[i].begin);
                i++;
            }
        checkpoint_add_shard(checkpoint, names[s], 16 + at, &header);
    }
}

struct copy {
    const unsigned char *from;
    unsigned char *to;
};

static void copy_element(uint64_t target, uint64_t source, void *context)
{
    const struct copy *copy = context;

    memcpy(copy->to + target, copy->from + source, sizeof(uint32_t));
}

static uint32_t *evaluate(const struct plan *plan, const struct planned_tensor *tensor,
                          const struct memory_files *files, struct arena *arena)
{
    unsigned char *bytes = arena_alloc(arena, tensor->length);

    for (uint32_t e = 0; e < tensor->n_extents; e++) {
        const struct extent *extent = &plan->extents[tensor->first_extent + e];
        if (extent->gather == PLAN_NO_GATHER) {
            memcpy(bytes + extent->begin, files->bytes[extent->shard] + extent->source, extent->length);
            continue;
        }
        const struct gather *gather = &plan->gathers[extent->gather];
        for (uint32_t b = 0; b < gather->n_boxes; b++) {
            const struct gather_box *box = &plan->boxes[gather->first_box + b];
            struct copy copy = {files->bytes[box->shard], bytes + extent->begin};
            check_visit_box(box, gather->element_size, copy_element, &copy);
        }
    }
    return (uint32_t *)(void *)bytes;
}

static void compare(const struct model *wanted, const struct plan *plan, const struct memory_files *files,
                    const char *what)
{
    struct arena arena = {0};

    assert_int_equal(plan->n_tensors, wanted->n);
    for (uint32_t w = 0; w < wanted->n; w++) {
        const struct planned_tensor *found = NULL;
        for (uint32_t t = 0; t < plan->n_tensors; t++)
            if (strcmp(plan->tensors[t].info.name, wanted->tensors[w].info.name) == 0)
                found = &plan->tensors[t];
        if (!found)
            fail_msg("%s: no %s", what, wanted->tensors[w].info.name);
        assert_int_equal(found->info.n_dims, wanted->tensors[w].info.n_dims);
        assert_memory_equal(found->info.shape, wanted->tensors[w].info.shape,
                            found->info.n_dims * sizeof(uint64_t));
        uint32_t *elements = evaluate(plan, found, files, &arena);
        if (memcmp(elements, wanted->elements[w], found->length) != 0)
            fail_msg("%s: %s has wrong elements", what, wanted->tensors[w].info.name);
    }
    arena_free(&arena);
}

static void every_layout_becomes_every_other(void **state)
{
    unsigned seed = 20260101;
    char what[128];
    (void)state;

    for (unsigned round = 0; round < 40; round++)
        for (int from = 0; from < N_KINDS; from++)
            for (int to = 0; to < N_KINDS; to++) {
                struct sizes s = {1 + (uint64_t)rand_r(&seed) % 5, 1 + (uint64_t)rand_r(&seed) % 9,
                                  1 + (uint64_t)rand_r(&seed) % 9};
                struct model source, wanted;
                struct checkpoint checkpoint;
                struct memory_files files;
                struct plan plan;
                struct error err = {0};
                snprintf(what, sizeof what, "round %u, %s to %s, E=%u I=%u H=%u", round, kind_names[from],
                         kind_names[to], (unsigned)s.E, (unsigned)s.I, (unsigned)s.H);
                model_make(&source, from, &s);
                model_make(&wanted, to, &s);
                deal_out(&source, 1 + (unsigned)rand_r(&seed) % 4, &seed, &checkpoint, &files);
                struct plan_options options = {.to = kind_names[to]};
                if (plan_build(&checkpoint, &options, &plan, &err) < 0)
                    fail_msg("%s: %s", what, err.text);
                plan_check(&checkpoint, &plan);
                compare(&wanted, &plan, &files, what);
                plan_free(&plan);
                checkpoint.config.model_type = NULL; /* a literal: not the config's to free */
                checkpoint_free(&checkpoint);
                arena_free(&source.arena);
                arena_free(&wanted.arena);
            }
}

/* Compact: what is contiguous on both sides is one extent, and a transpose is one gather an expert. */
static void plans_are_small(void **state)
{
    static const struct {
        int from, to;
        uint32_t extents, gathers;
    } rows[] = {
        {PER_EXPERT, MERGED, 12,
         0},                     /* down, gate, up lie in this order in one file: 4 x (gate+up) + 4 x down */
        {MERGED, STACKED, 9, 0}, /* 4 gate, 4 up, and down passes through as one */
        {IN_OUT, MERGED, 8, 8},
        {MERGED, IN_OUT, 8, 8},
    };
    struct sizes s = {4, 3, 5};
    unsigned seed = 1;
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model source;
        struct checkpoint checkpoint;
        struct memory_files files;
        struct plan plan;
        struct error err = {0};
        model_make(&source, rows[i].from, &s);
        deal_out(&source, 1, &seed, &checkpoint, &files);
        struct plan_options options = {.to = kind_names[rows[i].to]};
        assert_int_equal(plan_build(&checkpoint, &options, &plan, &err), 0);
        if (plan.n_extents > rows[i].extents || plan.n_gathers != rows[i].gathers)
            fail_msg("%s to %s: %u extents, %u gathers", kind_names[rows[i].from], kind_names[rows[i].to],
                     plan.n_extents, plan.n_gathers);
        plan_free(&plan);
        checkpoint.config.model_type = NULL;
        checkpoint_free(&checkpoint);
        arena_free(&source.arena);
    }
}

/* One per-expert block of `experts` experts in one file, which nobody reads: I x H elements of the dtype, and
 * scales of blocks of 128. */
static void make_unread(struct checkpoint *checkpoint, struct arena *arena, unsigned experts, uint64_t I,
                        uint64_t H, uint8_t dtype, bool scales)
{
    static const char *const projs[] = {"gate_proj", "up_proj", "down_proj"};
    struct safetensors_tensor tensors[64];
    struct safetensors_header header = {.tensors = tensors, .data_offset = 16};
    uint64_t at = 0, bytes;
    char name[96];

    *checkpoint = (struct checkpoint){.index_name = "model.safetensors.index.json"};
    checkpoint->config.model_type = "qwen3_moe";
    for (unsigned i = 0; i < experts * (scales ? 6 : 3); i++) {
        unsigned p = i % 3;
        bool scale = i >= experts * 3;
        uint64_t rows = p == 2 ? H : I, columns = p == 2 ? I : H;
        uint64_t shape[] = {scale ? (rows + 127) / 128 : rows, scale ? (columns + 127) / 128 : columns};
        snprintf(name, sizeof name, "l.0.mlp.experts.%u.%s.weight%s", i / 3 % experts, projs[p],
                 scale ? "_scale_inv" : "");
        tensors[i] = (struct safetensors_tensor){.info = {.name = arena_strdup(arena, name),
                                                          .shape = arena_memdup(arena, shape, sizeof shape),
                                                          .n_dims = 2,
                                                          .dtype = scale ? DTYPE_F32 : dtype}};
        assert_true(safetensors_tensor_bytes(&tensors[i].info, &bytes));
        tensors[i].begin = at;
        at += bytes;
        tensors[i].end = at;
        header.n_tensors++;
    }
    checkpoint_add_shard(checkpoint, "a.safetensors", 16 + at, &header);
}

static void what_cannot_be_computed_is_refused(void **state)
{
    static const struct {
        unsigned experts;
        uint64_t I, H;
        uint8_t dtype;
        bool scales;
        const char *message; /* NULL: it can */
    } rows[] = {
        {2, 128, 256, DTYPE_F8_E4M3, true, NULL},
        {2, 128, 256, DTYPE_F4, true, "is F4, whose elements do not fill whole bytes"},
        {2, 128, 256, DTYPE_F6_E2M3, true, "is F6_E2M3, whose elements do not fill whole bytes"},
        {2, 128, 256, DTYPE_F4, false, "is F4, and there are no scales of it that a layout describes"},
        {2, UINT64_C(1) << 20, UINT64_C(1) << 20, DTYPE_F64, false, NULL},
        /* each tensor has 2^59 bytes: sixteen of them still fit into a file, a merged one has 2^64 */
        {8, UINT64_C(1) << 28, UINT64_C(1) << 29, DTYPE_F32, false, "the sizes of layout merged overflow"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct checkpoint checkpoint;
        struct arena arena = {0};
        struct plan plan;
        struct error err = {0};
        make_unread(&checkpoint, &arena, rows[i].experts, rows[i].I, rows[i].H, rows[i].dtype,
                    rows[i].scales);
        struct plan_options options = {.to = "merged", .fp8_keep = true};
        int result = plan_build(&checkpoint, &options, &plan, &err);
        if (result != (rows[i].message ? -1 : 0) || (rows[i].message && !strstr(err.text, rows[i].message)))
            fail_msg("row %zu: %s", i, err.text ? err.text : "planned");
        if (result == 0)
            plan_free(&plan);
        error_free(&err);
        checkpoint.config.model_type = NULL;
        checkpoint_free(&checkpoint);
        arena_free(&arena);
    }
}

static void layout_names_are_checked(void **state)
{
    static const struct {
        const char *name, *message; /* NULL: known */
    } rows[] = {
        {"merged", NULL},
        {"v5", NULL},
        {"original", NULL},
        {"in-out", NULL},
        {"merge", "did you mean merged?"},
        {"per_expert", "did you mean per-expert?"},
        {"in_out", "did you mean in-out?"},
        {"orignal", "did you mean original?"},
        {"v6", "did you mean v5?"},
        {"", "unknown layout"},
        {"something-else-entirely", "unknown layout. Known: per-expert, merged, stacked, in-out, "},
    };
    struct layouts layouts;
    struct error err = {0};
    (void)state;

    assert_int_equal(layouts_load(&layouts, NULL, &err), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int result = layouts_check_name(&layouts, "--to", rows[i].name, &err);
        assert_int_equal(result, rows[i].message ? -1 : 0);
        if (rows[i].message && !strstr(err.text, rows[i].message))
            fail_msg("'%s': got \"%s\"", rows[i].name, err.text);
        error_free(&err);
    }
    layouts_free(&layouts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_becomes_every_other),
        cmocka_unit_test(plans_are_small),
        cmocka_unit_test(what_cannot_be_computed_is_refused),
        cmocka_unit_test(layout_names_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
