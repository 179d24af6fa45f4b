"""What `moefs verify` computes is what transformers' own experts modules compute, for every activation and layout.

The model is saved by transformers; moefs writes what it gave each block's experts (hidden states, routing) and what came
out; the model's own module, eager, is given the same. In FP32 the outputs agree to 1e-5 of the largest; in BF16 within
the bound that docs/verify.md derives, computed here in float64 for every element.
"""
import json
import re

import pytest
import torch
from safetensors.torch import load_file

import family_models
from checkpoints import natural_key

U = 2.0**-8  # BF16's unit roundoff

# model type -> fields of its configuration that bring a limit into play
TYPES = {
    "qwen3_moe": {},  # SiLU, per-expert
    "mixtral": {},  # SiLU, w1 w3 w2
    "qwen3_vl_moe": {},  # SiLU; saved merged
    "gemma4": {},  # GELU, merged
    "nemotron_h": {},  # ReLU^2 without gate
    "gpt_oss": {"swiglu_limit": 0.5},  # interleaved, transposed, biases, clamped
    "openai_privacy_filter": {"swiglu_limit": 0.5},  # concatenated, transposed, biases, clamped
    "deepseek_v4": {"swiglu_limit": 0.5},
    "llama4_text": {},  # transposed; the weight multiplies the input
    "aria_text": {},  # transposed
    "dbrx": {},  # flat
    "granitemoe": {},  # merged under other names
    "longcat_flash": {},  # fewer down than gate and up
    "inkling_mm_model": {},  # interleaved rows
    "step3p7": {"text_config": {"swiglu_limits": [0.5, 0.5]}},  # stacked; clamped behind the activation
}
CASES = [(t, o) for t in TYPES for o in ("after", "before-down") if o == "after" or t in ("qwen3_moe", "gpt_oss")]


def saved(model_type, directory, dtype, fields=None):
    fields = TYPES[model_type] if fields is None else fields
    model = family_models.random_model(model_type, **fields).to(dtype).eval()
    model.config.dtype = dtype
    model.save_pretrained(directory)
    if hasattr(model, "set_experts_implementation"):
        try:
            model.set_experts_implementation("eager")
        except ValueError:
            pass  # a class with a forward of its own
    return model


def experts_modules(model):
    return [m for n, m in model.named_modules() if re.search(r"(?<!Shared)Experts$", type(m).__name__)
            and any(hasattr(m, p) for p in ("down_proj", "mlp", "output_linear"))]


def forward(module, x, experts, weights):
    """As the model's own MoE layer calls it."""
    if type(module).__name__ == "Llama4TextExperts":
        scores = torch.zeros(len(x), module.num_experts, dtype=x.dtype).scatter_(1, experts, weights)
        routed = x.repeat(module.num_experts, 1) * scores.T.reshape(-1, 1)
        return module(routed).reshape(module.num_experts, len(x), -1).sum(dim=0)
    return module(x, experts, weights).reshape(len(x), -1)


def compute(run_moefs, tmp_path, *options, routed=False):
    done = run_moefs("verify", tmp_path / "model", *options, "--write-outputs", tmp_path / "outputs", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = [b for b in json.loads(done.stdout)["function"] if not b["skipped"]]
    assert blocks and all(b["max_rel"] <= 1e-5 and b["not_finite"] == 0 for b in blocks)
    assert all(b["routed"] == routed for b in blocks)
    outputs = load_file(tmp_path / "outputs")
    return [{k: outputs[f"{b['block']}.{k}"] for k in ("x", "experts", "weights", "output")}
            for b in sorted(blocks, key=lambda b: natural_key(b["block"]))]


@pytest.mark.parametrize("to", ["v5", "original"])
@pytest.mark.parametrize("model_type,order", CASES)
def test_fp32(run_moefs, tmp_path, model_type, order, to):
    model = saved(model_type, tmp_path / "model", torch.float32)
    blocks, modules = compute(run_moefs, tmp_path, "--to", to, "--order", order), experts_modules(model)
    assert len(blocks) == len(modules)
    for block, module in zip(blocks, modules):
        assert set(block["experts"].flatten().tolist()) >= set(range(block["experts"].max() + 1))
        with torch.no_grad():
            want = forward(module, block["x"], block["experts"].long(), block["weights"])
        assert want.abs().max() > 0
        assert (block["output"] - want).abs().max() <= 1e-5 * want.abs().max()


# ---- the router ----

@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3", "glm4_moe", "dots1", "olmoe",
                                        "qwen3_next", "qwen3_5_moe_text", "flex_olmo", "llama4_text"])
def test_the_router(run_moefs, tmp_path, model_type):
    model = saved(model_type, tmp_path / "model", torch.float32, {})
    blocks = compute(run_moefs, tmp_path, "--tokens", "50", routed=True)
    routers = [m for m in model.modules() if re.search(r"(TopKRouter|TopkRouter|Llama4Router)$", type(m).__name__)]
    assert len(blocks) == len(routers)
    for block, router in zip(blocks, routers):
        with torch.no_grad():
            said = router(block["x"])
        want = torch.zeros(len(block["x"]), len(router.weight))
        if model_type == "llama4_text":
            want = said[0]
        else:
            want.scatter_(1, said[2], said[1])
        got = torch.zeros_like(want).scatter_(1, block["experts"].long(), block["weights"])
        assert ((got != 0) == (want != 0)).all()
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-7)


# ---- BF16 ----

def matrices(module, e):
    """gate [I, H], up [I, H], down [H, I] and their biases of one expert, in float64."""
    def double(name):
        value = getattr(module, name, None)
        return None if value is None else value[e].detach().double()

    both, bias, down = double("gate_up_proj"), double("gate_up_proj_bias"), double("down_proj")
    if not module.has_gate:
        both = double("up_proj")
    if module.is_transposed:
        both, down = both.T, down.T
    if not module.has_gate:
        return None, both, down, None, None, None
    halves = (lambda t: (t[0::2], t[1::2])) if not module.is_concatenated else (lambda t: t.chunk(2))
    return *halves(both), down, *(halves(bias) if bias is not None else (None, None)), double("down_proj_bias")


def product(x, matrix, bias):
    """x W^T + b and the first-order bound of its error in BF16: one rounding of the product, one of the sum."""
    plain = x @ matrix.T
    value = plain if bias is None else plain + bias
    return value, U * (plain.abs() + (value.abs() if bias is not None else 0))


def neuron(module, gate, up, d_gate, d_up):
    """h and the bound of its error: from its inputs' errors through the derivatives, and each step's rounding."""
    if gate is None:
        up = up.clone().requires_grad_()
        h = module.act_fn(up)
        slope, = torch.autograd.grad(h.sum(), up)
        return h.detach(), slope.abs() * d_up + 2 * U * h.detach().abs()
    limit = getattr(module, "limit", float("inf"))
    d_gate, d_up = d_gate * (gate <= limit), d_up * (up.abs() <= limit)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    if hasattr(module, "alpha"):
        s = torch.sigmoid(module.alpha * gate)
        curve = (module.alpha * gate**2 * s * (1 - s)).abs()
        glu, d_glu = gate * s, (s + module.alpha * gate * s * (1 - s)).abs() * d_gate + U * (2 * (gate * s).abs() + curve)
        h = (up + 1) * glu
        return h, (up + 1).abs() * d_glu + glu.abs() * (d_up + U * (up + 1).abs()) + U * h.abs()
    gate = gate.clone().requires_grad_()
    a = module.act_fn(gate)
    slope, = torch.autograd.grad(a.sum(), gate)
    a = a.detach()
    h = a * up
    return h, up.abs() * (slope.abs() * d_gate + U * a.abs()) + a.abs() * d_up + U * h.abs()


def bf16_bound(module, x, experts, weights):
    """The bound of the layer's error for every element of its output."""
    shares = torch.zeros(*experts.shape, x.shape[1], dtype=torch.float64)
    errors = torch.zeros_like(shares)
    for e in experts.unique().tolist():
        gate, up, down, gate_bias, up_bias, down_bias = matrices(module, e)
        t, k = torch.where(experts == e)
        g, d_g = product(x[t], gate, gate_bias) if gate is not None else (None, None)
        u, d_u = product(x[t], up, up_bias)
        h, d_h = neuron(module, g, u, d_g, d_u)
        y, d_y = product(h, down, down_bias)
        w = weights[t, k, None]
        shares[t, k] = w * y
        errors[t, k] = w * (d_h @ down.abs().T + d_y + U * y.abs())
    return 1.05 * (errors.sum(1) + U * experts.shape[1] * shares.abs().sum(1)), shares.sum(1)


BF16_TYPES = ["qwen3_moe", "mixtral", "gemma4", "nemotron_h", "gpt_oss", "openai_privacy_filter", "deepseek_v4",
              "aria_text", "granitemoe"]


@pytest.mark.parametrize("model_type", BF16_TYPES)
def test_bf16(run_moefs, tmp_path, model_type):
    model = saved(model_type, tmp_path / "model", torch.bfloat16)
    blocks, modules = compute(run_moefs, tmp_path), experts_modules(model)
    assert len(blocks) == len(modules)
    for block, module in zip(blocks, modules):
        with torch.no_grad():
            got = forward(module, block["x"].bfloat16(), block["experts"].long(), block["weights"].bfloat16())
        bound, exact = bf16_bound(module, block["x"].double(), block["experts"].long(), block["weights"].double())
        assert (block["output"] - exact).abs().max() <= 1e-5 * exact.abs().max()
        assert ((got.double() - block["output"]).abs() <= bound + 1e-5 * exact.abs().max()).all()
        # a bound that everything passes would show nothing
        assert bound.max() < 0.25 * exact.abs().max()


def test_the_outputs_see_a_wrong_layout(run_moefs, tmp_path):
    """This file's own check: read as up-first, gate and up change places, and the module's output is another."""
    model = saved("qwen3_moe", tmp_path / "model", torch.float32)
    block, module = compute(run_moefs, tmp_path)[0], experts_modules(model)[0]
    with torch.no_grad():
        module.gate_up_proj.copy_(torch.cat(module.gate_up_proj.chunk(2, dim=1)[::-1], dim=1))
        other = forward(module, block["x"], block["experts"].long(), block["weights"])
    assert (block["output"] - other).abs().max() > 1e-2 * other.abs().max()
