"""Codes and what goes with them: published forms of quantised experts, adapters, and broken ones. They stay as they are
in the layout whose names they have, and are refused, with the right tensor named, in every other."""

import itertools

import numpy as np
import pytest
import raw
from mounting import refused
from test_companions import mounted

E, I, H = 4, 32, 64
BLOCK = "model.layers.1.mlp"
PROJS = {"gate_proj": (I, H), "up_proj": (I, H), "down_proj": (H, I)}
rng = np.random.default_rng(50)


def random(dtype, *shape):
    return raw.random_tensor(rng, dtype, shape)


def each(parts, *, experts=E, stem="{block}.experts.{e}.{proj}", block=BLOCK):
    """parts: suffix -> function of (rows, columns) that makes the tensor."""
    return {stem.format(block=block, e=e, proj=proj) + suffix: make(*shape)
            for e, (proj, shape) in itertools.product(range(experts), PROJS.items()) for suffix, make in parts.items()}  # fmt: skip


def stacked(parts, names, block=BLOCK):
    """The same for stacks of experts: names: word -> (rows, columns)."""
    return {f"{block}{name}{suffix}": make(*shape) for name, shape in names.items() for suffix, make in parts.items()}


FP8 = {".weight": lambda r, c: random("F8_E4M3", r, c)}
BF16 = {".weight": lambda r, c: random("BF16", r, c)}
NVFP4 = {
    ".input_scale": lambda r, c: random("F32"),
    ".weight": lambda r, c: random("U8", r, c // 2),
    ".weight_scale": lambda r, c: random("F8_E4M3", r, c // 16),
    ".weight_scale_2": lambda r, c: random("F32"),
}
BNB = {
    ".weight": lambda r, c: random("U8", r * c // 2, 1),
    ".weight.absmax": lambda r, c: random("U8", r * c // 64),
    ".weight.quant_map": lambda r, c: random("F32", 16),
    ".weight.quant_state.bitsandbytes__nf4": lambda r, c: random("U8", 80),
}
MXFP4 = {".weight": lambda r, c: random("I8", r, c // 2), ".scale": lambda r, c: random("F8_E8M0", r, c // 32)}
GPTQ = {
    ".g_idx": lambda r, c: random("I32", c),
    ".qweight": lambda r, c: random("I32", c // 8, r),
    ".qzeros": lambda r, c: random("I32", 1, r // 8),
    ".scales": lambda r, c: random("F16", 1, r),
}
AWQ = {
    ".qweight": lambda r, c: random("I32", c, r // 8),
    ".qzeros": lambda r, c: random("I32", 1, r // 8),
    ".scales": lambda r, c: random("F16", 1, r),
}
ADAPTER = {
    ".base_layer.weight": lambda r, c: random("BF16", r, c),
    ".lora_A.default.weight": lambda r, c: random("BF16", 2, c),
    ".lora_B.default.weight": lambda r, c: random("BF16", r, 2),
}
DYNAMIC = {".weight": FP8[".weight"], ".weight_scale": lambda r, c: random("BF16", r, 1)}
INT4 = {
    ".weight_packed": lambda r, c: random("I32", r, c // 8),
    ".weight_scale": lambda r, c: random("BF16", r, c // 32),
    ".weight_shape": lambda r, c: random("I64", 2),
}

# name -> (parts, what the message says of the codes, of what goes with them)
FORMS = {
    "NVFP4": (NVFP4, ".experts.0.gate_proj.weight in model.safetensors is U8", ".experts.0.gate_proj.input_scale"),
    "bnb 4 bit": (BNB, ".experts.0.gate_proj.weight in model.safetensors is U8", ".experts.0.gate_proj.weight."),
    "MXFP4": (MXFP4, ".experts.0.gate_proj.weight in model.safetensors is I8", ".experts.0.gate_proj.scale"),
    "GPTQ": (GPTQ, ".experts.0.gate_proj.qweight in model.safetensors is I32", ".experts.0.gate_proj.g_idx"),
    "AWQ": (AWQ, ".experts.0.gate_proj.qweight in model.safetensors is I32", ".experts.0.gate_proj.qzeros"),
    "FP8 rows": (DYNAMIC, "is F8_E4M3", ".weight_scale"),
    "INT4": (INT4, "is I32", ".weight_s"),
    "an adapter": (ADAPTER, "", ".experts.0.gate_proj.lora_"),
}


def write(tmp_path, tensors, model_type="qwen3_moe", experts=E, name="src", **more):
    return raw.make(tensors, raw.config_of(model_type, experts) | more, shards=0).write(tmp_path / name)


@pytest.mark.parametrize("form", FORMS)
def test_stays_in_its_own_layout(mount, tmp_path, form):
    tensors = each(FORMS[form][0]) | {"model.norm.weight": random("F32", H)}
    src = write(tmp_path, tensors)
    for to in ("original", "per-expert"):
        assert mounted(mount, src, "--to", to) == tensors


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("to", ["v5", "stacked", "in-out", "torchtitan"])
@pytest.mark.parametrize("keep", [(), ("--fp8", "keep")], ids=["", "keep"])
def test_is_refused_in_another(run_moefs, tmp_path, form, to, keep):
    parts, codes, beside = FORMS[form]
    text = refused(run_moefs, "plan", write(tmp_path, each(parts)), "--to", to, *keep)
    assert text.startswith(f"moefs: error: {BLOCK}: ") and text.count("\n") == 0
    assert codes in text and beside in text and "--to per-expert" in text and "garbage" not in text
    assert ("quantised experts" in text) == (form != "an adapter")


@pytest.mark.parametrize("form", FORMS)
def test_one_cause_is_one_message(run_moefs, tmp_path, form):
    blocks = [f"model.layers.{n}.mlp" for n in range(11)]
    tensors = {n: t for b in blocks for n, t in each(FORMS[form][0], block=b).items()}
    text = refused(run_moefs, "plan", write(tmp_path, tensors))
    assert text.count("\n") == 0 and f"{blocks[0]}, ..., {sorted(blocks)[-1]} (11 MoE layers): " in text


@pytest.mark.parametrize("form", ["NVFP4", "GPTQ", "bnb 4 bit", "INT4"])
@pytest.mark.parametrize("to", ["original", "v5"])
def test_experts_that_are_missing(run_moefs, tmp_path, form, to):
    """The last ones are missed by config.json's count, one in the middle by its number."""
    text = refused(run_moefs, "plan", write(tmp_path, each(FORMS[form][0], experts=3)), "--to", to)
    assert to == "v5" or "has 3 experts, but config.json says 4" in text
    tensors = {n: t for n, t in each(FORMS[form][0]).items() if ".1.down_proj" not in n}
    text = refused(run_moefs, "plan", write(tmp_path, tensors, name="hole"), "--to", to)
    assert "expert 1 is missing (model.layers.1.mlp.experts.1.down_proj" in text


@pytest.mark.parametrize("form,part", [("GPTQ", "qweight"), ("AWQ", "qweight"), ("NVFP4", "weight"), ("bnb 4 bit", "weight")])
@pytest.mark.parametrize("to", ["original", "v5"])
def test_zeros_and_scales_of_a_weight_that_is_missing(run_moefs, tmp_path, form, part, to):
    """They have its stem, and stand for no weight."""
    tensors = each(FORMS[form][0])
    del tensors[f"{BLOCK}.experts.2.up_proj.{part}"]
    text = refused(run_moefs, "plan", write(tmp_path, tensors), "--to", to)
    assert to == "v5" or f"{BLOCK}.experts.2.up_proj" in text


# ---- scales under names that no layout describes ----

SIDE = {"gate_proj": (E, I, H), "up_proj": (E, I, H), "down_proj": (E, H, I)}
GRANITE = {".input_linear": (E, 2 * I, H), ".output_linear": (E, H, I)}
MERGED = {".experts.gate_up_proj": (E, 2 * I, H), ".experts.down_proj": (E, H, I)}
STACKED_FP8 = {".weight": lambda *shape: random("F8_E4M3", *shape)}
ROWS = {".weight_scale": lambda e, r, c: random("F32", e, r, 1)}
MOE = {f".moe.{word}": shape for word, shape in SIDE.items()}

# model_type, tensors, --to that converts, --to that leaves, text
ELSEWHERE = {
    "step3p7": ("step3p7", stacked(STACKED_FP8 | ROWS, MOE, "model.layers.1"), "v5", "original", "_proj.weight_scale in model"),
    "granitemoe": ("granitemoe", stacked(STACKED_FP8 | ROWS, GRANITE, "model.layers.1.block_sparse_moe"), "per-expert", "original",
                   "_linear.weight_scale in model"),
    "jetmoe": ("jetmoe", stacked(STACKED_FP8 | ROWS, GRANITE), "stacked", "v5", "_linear.weight_scale in model"),
    "no separator": ("qwen3_moe", stacked({"": lambda *s: random("BF16", *s), "@scale": lambda *s: random("F32", s[0])}, MERGED),
                     "original", "v5", "_proj@scale in model"),
    "another form's word": ("qwen3_moe", stacked({"": lambda *s: random("BF16", *s)}, MERGED)
                            | {f"{BLOCK}.experts.up_proj_bias": random("BF16", E, I)}, "original", "v5", "experts.up_proj_bias"),
    "an adapter of the stack": ("qwen3_moe", stacked({"": lambda *s: random("BF16", *s)}, MERGED)
                                | {f"{BLOCK}.experts.lora_A.weight": random("BF16", 2, H)}, "original", "v5", "experts.lora_A.weight"),
    "an adapter of the experts": ("qwen3_moe", each(BF16) | {f"{BLOCK}.experts.lora_A.weight": random("BF16", 2, H)}, "v5", "original",
                                  "experts.lora_A.weight"),
    "a stem without .weight": ("step3p7", stacked({".weight": lambda *s: random("BF16", *s)}, MOE, "model.layers.1")
                               | {"model.layers.1.moe.up_proj": random("F32", 3)}, "v5", "original", "model.layers.1.moe.up_proj"),
}  # fmt: skip


@pytest.mark.parametrize("case", ELSEWHERE)
@pytest.mark.parametrize("keep", [(), ("--fp8", "keep")], ids=["", "keep"])
def test_what_shares_a_stem_goes_along_or_nothing_does(run_moefs, mount, tmp_path, case, keep):
    model_type, tensors, to, stays, said = ELSEWHERE[case]
    src = write(tmp_path, tensors, model_type, hidden_size=H)
    assert said in refused(run_moefs, "plan", src, "--to", to, *keep)
    assert mounted(mount, src, "--to", stays, *keep) == tensors


def test_a_router_among_the_parts_of_a_module_is_none_of_its_experts(mount, tmp_path):
    """jetmoe's attention: experts.input_linear, experts.output_linear and experts.router are modules side by side."""
    block = "model.layers.1.self_attention"
    gate, down = random("BF16", E, I, H), random("BF16", E, H, I)
    router = {f"{block}.experts.router.layer.weight": random("BF16", E, H)}
    tensors = {f"{block}.experts.input_linear.weight": gate, f"{block}.experts.output_linear.weight": down} | router
    src = write(tmp_path, tensors, "jetmoe", hidden_size=H)
    split = {f"{block}.experts.{e}.{p}_proj.weight": raw.Tensor("BF16", t.elements[e])
             for p, t in (("up", gate), ("down", down)) for e in range(E)}  # fmt: skip
    assert mounted(mount, src, "--to", "per-expert") == split | router
    back = write(tmp_path, split | router, "jetmoe", name="back", hidden_size=H)
    assert mounted(mount, back, "--to", "original") == tensors


BARE = {
    "none": {},
    "one for all": {f"{BLOCK}.experts.scale": random("F32", E)},
    "one for all, another name": {f"{BLOCK}.experts.weight_scale": random("F32", E)},
    "the block's": {f"{BLOCK}.gate_proj_scale": random("F32", E, 1)},
}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL", "I16", "I32", "I64"])
@pytest.mark.parametrize("beside", BARE)
@pytest.mark.parametrize("keep", [(), ("--fp8", "keep")], ids=["", "keep"])
def test_codes_without_scales(run_moefs, mount, tmp_path, dtype, beside, keep):
    tensors = each({".weight": lambda r, c: random(dtype, r, c)}) | BARE[beside]
    src = write(tmp_path, tensors)
    text = refused(run_moefs, "plan", src, *keep)
    assert f"is {dtype}, and there are no scales of it that a layout describes" in text
    assert mounted(mount, src, "--to", "original", *keep) == tensors


def test_scales_in_a_file_that_the_index_does_not_name(run_moefs, tmp_path):
    src = raw.make(each(FP8), raw.config_of("qwen3_moe", E), shards=2).write(tmp_path / "src")
    scales = each({".weight_scale_inv": lambda r, c: random("F32", 1, 1)})
    raw.write_file(src / "model-scales.safetensors", scales)
    assert "no scales of it that a layout describes" in refused(run_moefs, "plan", src, "--fp8", "keep")


def test_a_companion_that_only_the_index_has(run_moefs, tmp_path):
    tensors = each(DYNAMIC)
    gone = f"{BLOCK}.experts.2.up_proj.weight_scale"
    checkpoint = raw.make(tensors, raw.config_of("qwen3_moe", E), shards=2)
    src = checkpoint.write(tmp_path / "src")
    file = next(f for f, names in checkpoint.shards.items() if gone in names)
    raw.write_file(src / file, {n: tensors[n] for n in checkpoint.shards[file] if n != gone})
    assert f"the index names {gone}, but no file has it" in refused(run_moefs, "plan", src, "--to", "original")


# ---- broken experts are not quantised ----

BROKEN = {
    "one of another size": lambda t: t | {f"{BLOCK}.experts.2.up_proj.weight": random("BF16", I, H + 1)},
    "down transposed": lambda t: t | {f"{BLOCK}.experts.{e}.down_proj.weight": random("BF16", I, H) for e in range(E)},
    "a dimension of 0": lambda t: t | {f"{BLOCK}.experts.{e}.up_proj.weight": random("BF16", 0, H) for e in range(E)},
    "with biases": lambda t: t | {f"{BLOCK}.experts.2.up_proj.weight": random("BF16", I, H + 1)}
    | each({".bias": lambda r, c: random("BF16", r)}),
    "with scales": lambda t: t | {f"{BLOCK}.experts.2.up_proj.weight": random("BF16", I, H + 1)}
    | each({".weight_scale_inv": lambda r, c: random("F32", 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("to", ["original", "v5", "per-expert"])
def test_broken_shapes_are_refused_everywhere(run_moefs, tmp_path, case, to):
    text = refused(run_moefs, "plan", write(tmp_path, BROKEN[case](each(BF16))), "--to", to)
    assert "quantised" not in text and BLOCK in text and "per-expert: " in text


def test_broken_shapes_and_missing_experts(run_moefs, tmp_path):
    tensors = each({".weight": lambda r, c: random("BF16", r, c + r)}, experts=3)
    assert "quantised" not in refused(run_moefs, "plan", write(tmp_path, tensors, experts=8), "--to", "original")


# ---- what the hub has, where its quantised checkpoints are stored otherwise ----

SCALED = {".weight": FP8[".weight"], ".weight_scale_inv": lambda r, c: random("F32", 1, 1)}
HUB = {
    "qwen3_5_moe": ("model.language_model.layers.1.mlp", [SCALED, DYNAMIC, NVFP4]),
    "llama4": ("language_model.model.layers.1.feed_forward", [DYNAMIC, NVFP4, INT4]),
    "qwen3_vl_moe": ("model.language_model.layers.1.mlp", [SCALED, DYNAMIC, INT4]),
}


@pytest.mark.parametrize("model_type,form", [(t, f) for t, (_, forms) in HUB.items() for f in range(len(forms))])
def test_original_of_a_quantised_twin(mount, tmp_path, model_type, form):
    """The hub has the 16-bit twin in stacks and the quantised one per expert: both are originals."""
    block, forms = HUB[model_type]
    tensors = each(forms[form], block=block)
    assert mounted(mount, write(tmp_path, tensors, model_type), "--to", "original") == tensors


def test_original_of_whole_weights_is_as_ever(mount, tmp_path):
    block = HUB["qwen3_5_moe"][0]
    tensors = each(BF16, block=block)
    gate, up, down = (np.stack([tensors[f"{block}.experts.{e}.{p}.weight"].elements for e in range(E)]) for p in PROJS)
    want = {f"{block}.experts.gate_up_proj": raw.Tensor("BF16", np.concatenate([gate, up], 1)),
            f"{block}.experts.down_proj": raw.Tensor("BF16", down)}  # fmt: skip
    assert mounted(mount, write(tmp_path, tensors, "qwen3_5_moe"), "--to", "original") == want


# ---- dense models of types that have experts ----

DENSE = {
    "jamba": ("jamba", {"num_experts": 1}, "model.layers.{}.feed_forward"),
    "no experts": ("granitemoehybrid", {"num_local_experts": 0}, "model.layers.{}.shared_mlp"),
    "layers listed": ("qwen3_moe", {"num_experts": 8, "num_hidden_layers": 2, "mlp_only_layers": [0, 1]}, "model.layers.{}.mlp"),
    "the first ones": ("deepseek_v3", {"n_routed_experts": 8, "num_hidden_layers": 2, "first_k_dense_replace": 3}, "model.layers.{}.mlp"),
}  # fmt: skip


@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize("to", ["v5", "original", "merged"])
def test_a_dense_model_of_a_type_with_experts(mount, tmp_path, case, to):
    model_type, config, mlp = DENSE[case]
    tensors = {f"{mlp.format(n)}.{p}.weight": random("BF16", *shape) for n in range(2) for p, shape in PROJS.items()}
    src = raw.make(tensors, {"model_type": model_type} | config, shards=2).write(tmp_path / "src")
    assert mounted(mount, src, "--to", to) == tensors


def test_a_sparse_model_without_its_experts(run_moefs, tmp_path):
    tensors = {f"model.layers.{n}.mlp.{p}.weight": random("BF16", *shape) for n in range(2) for p, shape in PROJS.items()}
    config = {"model_type": "qwen3_moe", "num_experts": 8, "num_hidden_layers": 3, "mlp_only_layers": [0, 1]}
    src = raw.make(tensors, config, shards=0).write(tmp_path / "src")
    text = refused(run_moefs, "plan", src)
    assert "no experts found" in text and "no tensor looks like theirs" in text


STACKS = {"gate": (E, I, H), "up": (E, I, H), "down": (E, H, I)}
TITAN = dict(zip((".experts.w1", ".experts.w3", ".experts.w2"), STACKS.values()))
# model_type, block, names: what the message names, and what it advises
FOREIGN = {
    "torchtitan": ("layers.1.moe", TITAN, "layers.1.moe.experts.w", "--from torchtitan"),
    "mlx": ("model.layers.1.mlp", {f".switch_mlp.{p}_proj.weight": s for p, s in STACKS.items()}, ".switch_mlp.", "--from FILE.json"),
    "Step3": ("model.layers.1", {f".moe.{p}_proj.weight": s for p, s in STACKS.items()}, ".moe.", "--from FILE.json"),
    "NeMo": ("model.layers.1.mlp", {".experts.gate_and_up_projs": (E, H, 2 * I), ".experts.down_projs": (E, I, H)},
             "_projs", "--from FILE.json"),
    "NeMo, .weight": ("model.layers.1.mlp", {".experts.gate_up_proj.weight": (E, H, 2 * I), ".experts.down_proj.weight": (E, I, H)},
                      "_proj.weight begins as a weight of layout", "--from FILE.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("to", ["v5", "original", "per-expert"])
def test_experts_under_names_of_others(run_moefs, tmp_path, case, to):
    block, names, named, hint = FOREIGN[case]
    tensors = stacked({"": lambda *s: random("BF16", *s)}, names, block) | {
        f"{block}.gate.weight": random("BF16", E, H), "lm_head.weight": random("BF16", E, H)}  # fmt: skip
    text = refused(run_moefs, "plan", write(tmp_path, tensors), "--to", to)
    assert named in text and hint in text and ".gate.weight" not in text and text.count("\n") == 0


def test_advice_is_right(mount, tmp_path):
    """What the message about torchtitan's names says is what reads them."""
    block, names, _, _ = FOREIGN["torchtitan"]
    tensors = stacked({"": lambda *s: random("BF16", *s)}, names, block)
    split = {f"{block}.experts.{e}.{p}_proj.weight": raw.Tensor("BF16", t.elements[e])
             for p, t in zip(STACKS, tensors.values()) for e in range(E)}  # fmt: skip
    assert mounted(mount, write(tmp_path, tensors), "--from", "torchtitan", "--to", "per-expert") == split


# ---- two sets of experts in one block ----

SETS = {
    "merged": stacked({"": lambda *s: random("BF16", *s)}, MERGED),
    "stacked": stacked({"": lambda *s: random("BF16", *s)}, {f".experts.{word}": s for word, s in SIDE.items()}),
    "per-expert": each(BF16),
}


@pytest.mark.parametrize("a,b", [("per-expert", "merged"), ("merged", "stacked"), ("per-expert", "stacked")])
@pytest.mark.parametrize("options", [(), ("--to", "original"), ("--from", "merged")], ids=" ".join)
def test_two_sets_of_experts_in_one_block(run_moefs, tmp_path, a, b, options):
    if "--from" in options and "merged" not in (a, b):
        options = ("--from", b)
    text = refused(run_moefs, "plan", write(tmp_path, SETS[a] | SETS[b]), *options)
    assert "two sets of experts in one block" in text and "say --from" not in text and "quantised" not in text
    assert text.count("\n") == 0 and "experts." in text
