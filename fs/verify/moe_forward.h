/* What an architecture's experts compute, apart from the weights: activation, gate, where the routing weight
 * goes, and the router. It is read from layout/data/functions.json and the checkpoint's config.json; no
 * architecture's name is in the code. */
#ifndef MOEFS_FS_VERIFY_MOE_FORWARD_H
#define MOEFS_FS_VERIFY_MOE_FORWARD_H

#include "layout/format/config.h"
#include "layout/base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;

enum moe_activation { MOE_SILU, MOE_GELU, MOE_GELU_TANH, MOE_RELU, MOE_RELU2 };

enum moe_gate {
    MOE_GATE_PRODUCT, /* act(gate) * up */
    MOE_GATE_SHIFTED  /* gate * sigmoid(alpha * gate) * (up + 1) */
};

/* What the routing weight multiplies. */
enum moe_weighting { MOE_WEIGHT_OUTPUT, MOE_WEIGHT_INPUT, MOE_WEIGHT_BEFORE_DOWN };

enum moe_scores { MOE_SCORES_GIVEN, MOE_SCORES_SOFTMAX, MOE_SCORES_SIGMOID };

struct moe_router {
    enum moe_scores scores; /* GIVEN: this router is not known here */
    uint64_t top_k;
    bool normalize; /* the chosen weights are divided by their sum */
    float scale;
    const char *weight, *bias, *correction; /* names with {block}; or NULL. correction: for choosing */
};

struct moe_forward {
    enum moe_activation activation;
    enum moe_gate gate;
    float alpha;
    float limit;      /* gate <= limit, |up| <= limit; INFINITY: no limit */
    bool limit_after; /* the gate's limit applies behind the activation */
    enum moe_weighting weighting;
    const char *unknown; /* why it cannot be computed here, or NULL */
    struct moe_router router;
};

/* The data; every struct moe_forward points into it. */
struct moe_forwards {
    struct cJSON *json;
};

int moe_forwards_load(struct moe_forwards *forwards, struct error *err);
void moe_forwards_free(struct moe_forwards *forwards);

/* What the experts of one block compute. */
struct moe_forward moe_forward_of(const struct moe_forwards *forwards, const struct config *config,
                                  const char *block);

/* What goes into `down` from one neuron. has_gate false: gate is ignored and the activation is up's. */
float moe_neuron(const struct moe_forward *forward, bool has_gate, float gate, float up);

#endif
