"""A small qwen3_moe checkpoint in each of the usual layouts, without torch, and what its experts compute.

The experts' elements stand once, as numpy arrays in the order expert, inner, hidden (down: expert, hidden, inner); each
layout's tensors are laid out from there with transpose and reshape. Numbers are chosen as float32 and cut to the dtype.
"""

import copy
from dataclasses import dataclass, field

import numpy as np

import raw

LAYOUTS = {  # layout -> name of the tensor below "{block}.experts." -> (projections, axes)
    "per-expert": {
        "{expert}.gate_proj.weight": ("gate", "inner hidden"),
        "{expert}.up_proj.weight": ("up", "inner hidden"),
        "{expert}.down_proj.weight": ("down", "hidden inner"),
    },
    "stacked": {
        "gate_proj": ("gate", "expert inner hidden"),
        "up_proj": ("up", "expert inner hidden"),
        "down_proj": ("down", "expert hidden inner"),
    },
    "merged": {
        "gate_up_proj": ("gate up", "expert (proj inner) hidden"),
        "down_proj": ("down", "expert hidden inner"),
    },
    "in-out": {
        "gate_up_proj": ("gate up", "expert hidden (proj inner)"),
        "down_proj": ("down", "expert inner hidden"),
    },
}
PROJS = ("gate", "up", "down")
ORDER = {"gate": ["expert", "inner", "hidden"], "up": ["expert", "inner", "hidden"], "down": ["expert", "hidden", "inner"]}


def cut(values, dtype):
    """float32 numbers as elements of the dtype, rounded towards zero where it is shorter."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "F32":
        return values.view(np.uint32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    half = values.astype(np.float16).view(np.uint16)
    return half if dtype == "F16" else (half >> 8).astype(np.uint8)  # else F8_E5M2


def numbers(tensor):
    """The tensor's elements as float64."""
    elements, dtype = tensor.elements, tensor.dtype
    if dtype in ("F32", "BF16"):
        return (elements.astype(np.uint32) << (16 if dtype == "BF16" else 0)).view(np.float32).astype(np.float64)
    if dtype == "F8_E4M3":  # without the two NaN
        sign, exponent, mantissa = elements >> 7, (elements >> 3 & 15).astype(int), (elements & 7).astype(float)
        value = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
        return np.where(sign, -value, value)
    half = elements if dtype == "F16" else elements.astype(np.uint16) << 8
    return half.view(np.float16).astype(np.float64)


@dataclass
class Model:
    """A checkpoint that write() puts into a directory, in any layout."""

    config: dict
    others: dict  # name -> raw.Tensor
    experts: dict  # block -> projection -> elements, ordered as in ORDER
    dtype: str = "BF16"
    layout: str = "per-expert"
    companions: dict = field(default_factory=dict)  # further tensors of the experts, per-expert

    def copy(self):
        return copy.deepcopy(self)

    def block_tensors(self, block, layout):
        n, inner, hidden = self.experts[block]["gate"].shape
        sizes = {"expert": n, "inner": inner, "hidden": hidden, "proj": 2}
        found = {}
        for name, (projs, axes) in LAYOUTS[layout].items():
            parts = [self.experts[block][p] for p in projs.split()]
            order, values = ORDER[projs.split()[0]], parts[0]
            if len(parts) > 1:
                order, values = ["proj", *order], np.stack(parts)
            if layout == "per-expert":
                for e in range(n):
                    found[f"{block}.experts.{name.format(expert=e)}"] = raw.Tensor(self.dtype, values[e].copy())
            else:
                found[f"{block}.experts.{name}"] = raw.Tensor(self.dtype, raw.lay_out(values, order, axes, sizes))
        return found

    def tensors(self, layout=None):
        found = dict(self.others) | self.companions
        for block in self.experts:
            found |= self.block_tensors(block, layout or self.layout)
        return found

    def stored(self, layout=None, shards=3):
        """The raw.Checkpoint in that layout."""
        return raw.make(self.tensors(layout), self.config, shards=shards)

    def write(self, directory, layout=None, shards=3):
        return self.stored(layout, shards).write(directory)


def config_of(experts, inner, hidden, layers):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "moe_intermediate_size": inner,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "num_hidden_layers": layers,
        "rope_theta": 1000000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
    }


def build(seed=1, *, layers=2, experts=4, inner=6, hidden=6, dtype="BF16", layout="per-expert"):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return cut(rng.standard_normal(shape), dtype)

    others = {"model.embed_tokens.weight": (11, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (11, hidden)}
    blocks = [f"model.layers.{n}.mlp" for n in range(layers)]
    for block in blocks:
        layer = block.removesuffix(".mlp")
        others[f"{layer}.input_layernorm.weight"] = (hidden,)
        others[f"{layer}.self_attn.q_proj.weight"] = (2 * hidden, hidden)
        others[f"{block}.gate.weight"] = (experts, hidden)
        others[f"{block}.shared_expert.up_proj.weight"] = (inner, hidden)
    return Model(
        config_of(experts, inner, hidden, layers),
        {name: raw.Tensor(dtype, normal(*shape)) for name, shape in others.items()},
        {
            block: {
                "gate": normal(experts, inner, hidden),
                "up": normal(experts, inner, hidden),
                "down": normal(experts, hidden, inner),
            }
            for block in blocks
        },
        dtype,
        layout,
    )


def forward(given, weights):
    """The MoE layer in float64: given x, experts and weights of each token; weights[e] = gate, up, down."""
    x = numbers(given["x"])
    out = np.zeros_like(x)
    for t, (experts, shares) in enumerate(zip(given["experts"].elements, numbers(given["weights"]))):
        for e, w in zip(experts, shares):
            gate, up, down = weights[e]
            g = gate @ x[t]
            out[t] += w * (down @ (g / (1 + np.exp(-g)) * (up @ x[t])))
    return out
