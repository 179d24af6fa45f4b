/* What tests of recognition share: names and shapes without a file. Include it behind cmocka.h. */
#ifndef MOEFS_TESTS_NAMES_H
#define MOEFS_TESTS_NAMES_H

#include "layout/recognise.h"

#include <stdio.h>
#include <string.h>

static struct layouts layouts;
static struct arena arena;

struct names {
    struct tensor_info infos[256];
    const struct tensor_info *pointers[256];
    uint32_t n;
};

static int set_up(void **state)
{
    struct error err = {0};
    (void)state;

    if (layouts_load(&layouts, NULL, &err) < 0)
        fail_msg("%s", err.text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    layouts_free(&layouts);
    arena_free(&arena);
    return 0;
}

static inline void add_tensor(struct names *names, const char *name, enum dtype dtype, uint8_t n_dims,
                              const uint64_t shape[4])
{
    names->infos[names->n] = (struct tensor_info){.name = arena_strdup(&arena, name),
                                                  .shape = arena_memdup(&arena, shape, 4 * sizeof *shape),
                                                  .n_dims = n_dims,
                                                  .dtype = dtype};
    names->pointers[names->n] = &names->infos[names->n];
    names->n++;
}

static inline void add(struct names *names, const char *name, uint8_t n_dims, uint64_t a, uint64_t b,
                       uint64_t c)
{
    add_tensor(names, name, DTYPE_BF16, n_dims, (const uint64_t[4]){a, b, c});
}

/* One block in the given layout, E experts of I x H. */
static inline void add_block(struct names *names, const char *layout, const char *block, uint64_t E,
                             uint64_t I, uint64_t H)
{
    char name[128];

    if (strcmp(layout, "per-expert") == 0) {
        for (uint64_t e = 0; e < E; e++)
            for (unsigned p = 0; p < 3; p++) {
                static const char *const projs[] = {"gate_proj", "up_proj", "down_proj"};
                snprintf(name, sizeof name, "%s.experts.%u.%s.weight", block, (unsigned)e, projs[p]);
                add(names, name, 2, p < 2 ? I : H, p < 2 ? H : I, 0);
            }
        return;
    }
    bool transposed = strcmp(layout, "in-out") == 0;
    bool stacked = strcmp(layout, "stacked") == 0;
    uint64_t out = stacked ? I : 2 * I;
    for (unsigned p = 0; p < (stacked ? 2U : 1U); p++) {
        snprintf(name, sizeof name, "%s.experts.%s", block,
                 !stacked ? "gate_up_proj"
                 : p      ? "up_proj"
                          : "gate_proj");
        add(names, name, 3, E, transposed ? H : out, transposed ? out : H);
    }
    snprintf(name, sizeof name, "%s.experts.down_proj", block);
    add(names, name, 3, E, transposed ? I : H, transposed ? H : I);
}

static inline struct recognition run(const struct names *names, const char *type, const char *from)
{
    struct recognise_input input = {.layouts = &layouts,
                                    .architecture = layouts_architecture(&layouts, type),
                                    .tensors = names->pointers,
                                    .n_tensors = names->n,
                                    .from = from};
    struct recognition result;

    recognise(&input, &result);
    return result;
}

#endif
