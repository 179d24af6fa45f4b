"""What has gone wrong in converters of MoE checkpoints, a test each: expert sets, neighbours of experts, companions.

The tensors are numpy's, spelled as the families' published checkpoints are; so are the expected ones.
"""

import json

import numpy as np
import pytest
import raw

H = 6
# model_type -> (block, the words of gate, up and down in per-expert names; "": no gate)
SPELLED = {
    "qwen3_moe": ("model.layers.1.mlp", ["{e}.gate_proj.weight", "{e}.up_proj.weight", "{e}.down_proj.weight"]),
    "mixtral": ("model.layers.1.block_sparse_moe", ["{e}.w1.weight", "{e}.w3.weight", "{e}.w2.weight"]),
    "deepseek_v4": ("layers.1.ffn", ["{e}.w1.weight", "{e}.w3.weight", "{e}.w2.weight"]),
    "mistral_large4": ("layers.1", ["{e}.w1.weight", "{e}.w3.weight", "{e}.w2.weight"]),
    "nemotron_h": ("backbone.layers.1.mixer", ["", "{e}.up_proj.weight", "{e}.down_proj.weight"]),
}


def per_expert(rng, model_type, experts, inner, *, block=None, hidden=H, dtype="BF16"):
    """(tensors, {gate: [E, I, H], up: [E, I, H], down: [E, H, I]}) of one block."""
    own, words = SPELLED[model_type]
    shapes = {"gate": (experts, inner, hidden), "up": (experts, inner, hidden), "down": (experts, hidden, inner)}
    whole = {p: raw.random_tensor(rng, dtype, shape).elements for (p, shape), word in zip(shapes.items(), words) if word}
    tensors = {f"{block or own}.experts.{word.format(e=e)}": raw.Tensor(dtype, whole[proj][e])
               for proj, word in zip(shapes, words) if word for e in range(experts)}
    return tensors, whole


def merged(block, whole, dtype="BF16"):
    """What transformers v5 wants of it."""
    down = {f"{block}.experts.down_proj": raw.Tensor(dtype, whole["down"])}
    if "gate" not in whole:
        return down | {f"{block}.experts.up_proj": raw.Tensor(dtype, whole["up"])}
    return down | {f"{block}.experts.gate_up_proj": raw.Tensor(dtype, np.concatenate([whole["gate"], whole["up"]], axis=1))}


def config_of(model_type, experts, inner):
    return {"model_type": model_type, "num_experts": experts, "moe_intermediate_size": inner}


def write(tmp_path, tensors, config, name="src", **how):
    return raw.make(tensors, config, **{"shards": 3, **how}).write(tmp_path / name)


def seen(mount, src, *options):
    with mount(src, *options) as m:
        return raw.read_directory(m.path)


def refusal(run_moefs, src, *options):
    done = run_moefs("plan", src, *options)
    assert done.returncode == 1, done.stdout
    return done.stderr


def assert_back(mount, run_moefs, tmp_path, converted, tensors, config, *options):
    src = write(tmp_path, converted, config, name="back", shards=2)
    assert seen(mount, src, "--to", "original", *options) == tensors


# ---- sets of experts ----


@pytest.mark.parametrize("gone", [0, 1, 10])
@pytest.mark.parametrize("model_type", SPELLED)
def test_missing_expert(run_moefs, tmp_path, model_type, gone):
    block, words = SPELLED[model_type]
    tensors, _ = per_expert(np.random.default_rng(1), model_type, 12, 5)
    name = f"{block}.experts.{words[1].format(e=gone)}"
    del tensors[name]
    src = write(tmp_path, tensors, config_of(model_type, 12, 5))
    said = refusal(run_moefs, src)
    assert f"expert {gone} is missing ({name})" in said


@pytest.mark.parametrize("model_type", SPELLED)
def test_last_expert_missing_everywhere(run_moefs, tmp_path, model_type):
    """The names cannot tell; config.json does."""
    tensors, _ = per_expert(np.random.default_rng(1), model_type, 3, 5)
    said = refusal(run_moefs, write(tmp_path, tensors, config_of(model_type, 4, 5)))
    assert "has 3 experts, but config.json says 4" in said


@pytest.mark.parametrize("experts", [11, 101])
@pytest.mark.parametrize("model_type", SPELLED)
def test_experts_count_as_numbers(mount, run_moefs, tmp_path, model_type, experts):
    """0, 1, 10, 2: neither the order of names nor that of files or of the header is the experts'. The projections of
    one expert lie in several shards."""
    block = SPELLED[model_type][0]
    tensors, whole = per_expert(np.random.default_rng(experts), model_type, experts, 5)
    config = config_of(model_type, experts, 5)
    src = write(tmp_path, {n: tensors[n] for n in sorted(tensors)}, config, shards=4)
    got = seen(mount, src, "--to", "v5")
    assert got == merged(block, whole)
    assert_back(mount, run_moefs, tmp_path, got, tensors, config)


def test_two_sets_of_names_in_one_block(run_moefs, tmp_path):
    tensors, _ = per_expert(np.random.default_rng(1), "mixtral", 3, 5)
    other, _ = per_expert(np.random.default_rng(2), "qwen3_moe", 3, 5, block=SPELLED["mixtral"][0])
    said = refusal(run_moefs, write(tmp_path, tensors | other, config_of("mixtral", 3, 5)))
    assert SPELLED["mixtral"][0] in said


# ---- what stands beside experts ----

BESIDE = [
    ("qwen3_moe", "experts.e_score_correction_bias", (3,)),
    ("qwen3_moe", "experts.post_expert_norm.weight", (H,)),
    ("qwen3_moe", "moe_statics.e_score_correction_bias", (1, 3)),
    ("qwen3_moe", "shared_expert.gate_proj.weight", (5, H)),
    ("qwen3_moe", "shared_experts.up_proj.weight", (5, H)),
    ("qwen3_moe", "shared_experts.gate_up_proj", (2, 10, H)),
    ("qwen3_moe", "shared_expert_gate.weight", (1, H)),
    ("mixtral", "e_score_correction_bias", (3,)),
    ("mixtral", "gate.weight", (3, H)),
    ("deepseek_v4", "shared_experts.w1.weight", (5, H)),
    ("deepseek_v4", "shared_experts.w2.weight", (H, 5)),
    ("deepseek_v4", "gate.tid2eid", (7, 2)),
    ("mistral_large4", "shared_experts.w3.weight", (5, H)),
    ("nemotron_h", "shared_experts.up_proj.weight", (5, H)),
    ("nemotron_h", "fc1_latent_proj.weight", (5, H)),
]


@pytest.mark.parametrize("model_type,name,shape", BESIDE, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("dtype", ["F32", "I64"])
def test_neighbours_stay(mount, run_moefs, tmp_path, model_type, name, shape, dtype):
    """Shared experts, routers, 1-D keys under `experts.`; an F32 or I64 neighbour of BF16 experts is no mixture."""
    rng = np.random.default_rng(3)
    block = SPELLED[model_type][0]
    tensors, whole = per_expert(rng, model_type, 3, 5)
    beside = {f"{block}.{name}": raw.random_tensor(rng, dtype, shape)}
    config = config_of(model_type, 3, 5)
    got = seen(mount, write(tmp_path, tensors | beside, config), "--to", "v5")
    assert got == merged(block, whole) | beside
    assert_back(mount, run_moefs, tmp_path, got, tensors | beside, config)


def test_shared_experts_of_three_dimensions(mount, tmp_path):
    """Inkling's shared experts are stacked and interleaved like the routed ones, and are left as they are."""
    rng = np.random.default_rng(4)
    block = "model.llm.layers.0.mlp"
    w13, w2 = raw.random_tensor(rng, "BF16", (3, 10, H)), raw.random_tensor(rng, "BF16", (3, H, 5))
    shared = {f"{block}.shared_experts.shared_w13_weight": raw.random_tensor(rng, "BF16", (2, 10, H)),
              f"{block}.shared_experts.w13_weight": raw.random_tensor(rng, "BF16", (2, 10, H)),
              f"{block}.shared_experts.w2_weight": raw.random_tensor(rng, "BF16", (2, H, 5))}
    src = write(tmp_path, {f"{block}.experts.w13_weight": w13, f"{block}.experts.w2_weight": w2} | shared,
                config_of("inkling_mm_model", 3, 5))
    gate_up = np.concatenate([w13.elements[:, 0::2], w13.elements[:, 1::2]], axis=1)
    assert seen(mount, src, "--to", "v5") == shared | {
        f"{block}.experts.gate_up_proj": raw.Tensor("BF16", gate_up), f"{block}.experts.down_proj": w2}


# ---- layers that a loader ignores ----


def test_mtp_layer_behind_the_last(mount, run_moefs, tmp_path):
    """DeepSeek-V3's layer 61: a layer as any other, with a head of its own."""
    rng = np.random.default_rng(5)
    tensors, want = {}, {}
    for n in (3, 61):
        block = f"model.layers.{n}.mlp"
        experts, whole = per_expert(rng, "qwen3_moe", 4, 5, block=block)
        tensors |= experts
        want |= merged(block, whole)
    head = {"model.layers.61.shared_head.norm.weight": raw.random_tensor(rng, "BF16", (H,)),
            "model.layers.61.eh_proj.weight": raw.random_tensor(rng, "BF16", (H, 2 * H))}
    config = {"model_type": "deepseek_v3", "n_routed_experts": 4, "moe_intermediate_size": 5}
    got = seen(mount, write(tmp_path, tensors | head, config), "--to", "v5")
    assert got == want | head
    assert_back(mount, run_moefs, tmp_path, got, tensors | head, config)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "nemotron_h", "deepseek_v4"])
@pytest.mark.parametrize("prefix", ["mtp", "model.mtp"])
def test_mtp_block(mount, tmp_path, model_type, prefix):
    """v5 leaves what transformers ignores; a layout that is named converts it, too."""
    rng = np.random.default_rng(6)
    block = SPELLED[model_type][0]
    tensors, whole = per_expert(rng, model_type, 4, 5)
    mtp, mtp_whole = per_expert(rng, model_type, 4, 5, block=f"{prefix}.layers.0.mlp")
    src = write(tmp_path, tensors | mtp, config_of(model_type, 4, 5))
    assert seen(mount, src, "--to", "v5") == merged(block, whole) | mtp
    assert seen(mount, src, "--to", "merged") == merged(block, whole) | merged(f"{prefix}.layers.0.mlp", mtp_whole)


# ---- dtypes ----


@pytest.mark.parametrize("model_type", SPELLED)
def test_one_expert_of_another_dtype(run_moefs, tmp_path, model_type):
    block, words = SPELLED[model_type]
    tensors, _ = per_expert(np.random.default_rng(7), model_type, 3, 5)
    name = f"{block}.experts.{words[2].format(e=1)}"
    tensors[name] = raw.random_tensor(np.random.default_rng(8), "F32", tensors[name].shape)
    said = refusal(run_moefs, write(tmp_path, tensors, config_of(model_type, 3, 5)))
    assert "mixed dtypes" in said and name in said


# ---- squares: I, H with 2I == H (OLMoE) or I == H (gpt-oss) ----


@pytest.mark.parametrize("inner", [3, 6])
@pytest.mark.parametrize("model_type", SPELLED)
@pytest.mark.parametrize("via", ["merged", "stacked"])
def test_squares_come_back(mount, run_moefs, tmp_path, model_type, inner, via):
    tensors, _ = per_expert(np.random.default_rng(9), model_type, 3, inner)
    config = config_of(model_type, 3, inner)
    got = seen(mount, write(tmp_path, tensors, config), "--to", via)
    assert_back(mount, run_moefs, tmp_path, got, tensors, config)


@pytest.mark.parametrize("inner,said", [(5, False), (6, True)])
def test_without_a_gate_a_square_cannot_be_told(mount, run_moefs, tmp_path, inner, said):
    """up and down alone: I == H fits both in-out and merged, so the copy needs --from; any other size does not."""
    tensors, _ = per_expert(np.random.default_rng(9), "nemotron_h", 3, inner)
    config = config_of("nemotron_h", 3, inner)
    src = write(tmp_path, tensors, config)
    done = run_moefs("plan", src, "--to", "in-out")
    assert done.returncode == 0 and ("--from in-out" in done.stdout + done.stderr) == said
    converted = seen(mount, src, "--to", "in-out")
    assert_back(mount, run_moefs, tmp_path, converted, tensors, config, *(["--from", "in-out"] if said else []))


# ---- counts in config.json ----

COUNTS = [
    ({"num_experts": 4}, "quiet"),
    ({"num_local_experts": 4}, "quiet"),
    ({"num_experts": 4, "num_local_experts": 4}, "quiet"),
    ({"num_experts": 128, "num_local_experts": 4}, "quiet"),
    ({"n_routed_experts": 4, "n_shared_experts": 1}, "quiet"),
    ({"text_config": {"moe_num_experts": 4}}, "quiet"),
    ({"num_experts": 3}, "warned"),
    ({"num_experts": 5, "num_local_experts": 8}, "refused"),
    ({}, "quiet"),
]


@pytest.mark.parametrize("counts,verdict", COUNTS)
def test_counts_in_config(run_moefs, tmp_path, counts, verdict):
    """transformers 5.23 writes num_local_experts where the hub's older files have num_experts."""
    tensors, _ = per_expert(np.random.default_rng(10), "mixtral", 4, 5)
    done = run_moefs("plan", write(tmp_path, tensors, {"model_type": "mixtral", **counts}))
    if verdict == "refused":
        assert done.returncode == 1 and "has 4 experts, but config.json says 5" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert ("a number that config.json does not hold" in done.stdout + done.stderr) == (verdict == "warned")


# ---- sizes in config.json ----

# what config.json says, and whether matrices [in, out] are seen by it
SIZES = [
    ({"hidden_size": H, "moe_intermediate_size": 5}, True),
    ({"hidden_size": H, "moe_intermediate_size": 5, "intermediate_size": 20}, True),
    ({"text_config": {"hidden_size": H, "moe_intermediate_size": [5, 9]}}, True),
    ({"hidden_size": H}, True),
    ({"moe_intermediate_size": 5}, True),
    ({}, False),
    ({"hidden_size": H, "vision_config": {"hidden_size": 5}}, False),  # another model's may be 5
    ({"hidden_size": 11, "moe_intermediate_size": 12}, False),  # the experts' are not told
]


@pytest.mark.parametrize("sizes,seen_by_config", SIZES)
@pytest.mark.parametrize("layout", ["per-expert", "stacked"])
def test_transposed_matrices(mount, run_moefs, tmp_path, sizes, seen_by_config, layout):
    """Gate, up and down [in, out] fit with inner and hidden exchanged; a layout of one's own says what they are."""
    block = SPELLED["qwen3_moe"][0]
    tensors, whole = per_expert(np.random.default_rng(18), "qwen3_moe", 4, 5)
    if layout == "per-expert":
        flipped = {n: raw.Tensor("BF16", t.elements.T) for n, t in tensors.items()}
        mine = {"name": "{experts}.{expert}.{proj}.weight", "gate": "hidden inner", "up": "hidden inner", "down": "inner hidden"}
    else:
        flipped = {f"{block}.experts.{p}_proj": raw.Tensor("BF16", t.transpose(0, 2, 1)) for p, t in whole.items()}
        mine = {"name": "{experts}.{proj}", "gate": "expert hidden inner", "up": "expert hidden inner", "down": "expert inner hidden"}
    config = {"model_type": "qwen3_moe", "num_experts": 4, **sizes}
    src = write(tmp_path, flipped, config)
    if seen_by_config:
        assert (f"{layout}: inner would be {H} and hidden 5, which config.json has the other way round"
                in refusal(run_moefs, src, "--to", "merged"))
    else:
        assert run_moefs("plan", src, "--to", "merged").returncode == 0
    (tmp_path / "mine.json").write_text(json.dumps({"weight": mine}))
    assert seen(mount, src, "--from", tmp_path / "mine.json", "--to", "merged") == merged(block, whole)
    assert seen(mount, write(tmp_path, tensors, config, name="right"), "--to", "merged") == merged(block, whole)


def longcat(rng, routed, zero):
    """Zero experts: gate and up of routed + zero experts, down of the routed ones alone."""
    tensors, whole = per_expert(rng, "qwen3_moe", routed + zero, 5)
    down = {n for n in tensors if ".down_proj" in n and int(n.split(".")[-3]) >= routed}
    whole["down"] = whole["down"][:routed]
    return {n: t for n, t in tensors.items() if n not in down}, whole


@pytest.mark.parametrize("stored,zero,verdict", [(4, 2, "quiet"), (4, 0, "warned"), (3, 2, "refused"), (3, 0, "refused")])
def test_zero_experts(mount, run_moefs, tmp_path, stored, zero, verdict):
    """LongCat-Flash, 4 routed experts and 2 zero experts: their weights may be left out, those of others may not."""
    tensors, whole = longcat(np.random.default_rng(16), stored, zero)
    config = {"model_type": "longcat_flash", "n_routed_experts": 4, "zero_expert_num": 2}
    src = write(tmp_path, tensors, config)
    done = run_moefs("plan", src)
    assert done.returncode == (verdict == "refused"), done.stderr
    assert ("add up to 6" in done.stdout + done.stderr) == (verdict == "warned")
    if verdict == "refused":
        assert "has 3 along 'routed', but config.json says 4" in done.stderr
        return
    got = seen(mount, src, "--to", "v5")
    assert got == merged(SPELLED["qwen3_moe"][0], whole)
    assert_back(mount, run_moefs, tmp_path, got, tensors, config)


# ---- two kinds of experts, numbered through ----


def ernie(rng, experts, sizes):
    """(tensors, {kind: whole}): text experts 0..E-1, vision experts behind them."""
    block, tensors, wholes, first = "model.layers.1.mlp", {}, {}, 0
    for kind, n, inner in zip(("text", "vision"), experts, sizes):
        _, wholes[kind] = per_expert(rng, "qwen3_moe", n, inner)
        for proj, values in wholes[kind].items():
            tensors |= {f"{block}.experts.{first + e}.{proj}_proj.weight": raw.Tensor("BF16", values[e]) for e in range(n)}
        first += n
    return tensors, wholes


@pytest.mark.parametrize("sizes", [(7, 5), (5, 5)])
def test_two_kinds_of_experts(mount, run_moefs, tmp_path, sizes):
    """Ernie's experts 0..10 are text, 11..21 vision; the routers, which the loader transposes, stay as they are."""
    rng = np.random.default_rng(11)
    tensors, wholes = ernie(rng, (11, 11), sizes)
    routers = {f"model.layers.1.mlp.gate.weight{end}": raw.random_tensor(rng, "F32", (H, 11)) for end in ("", "_1")}
    config = {"model_type": "ernie4_5_vl_moe", "text_config": {"moe_num_experts": 11, "moe_intermediate_size": list(sizes)}}
    got = seen(mount, write(tmp_path, tensors | routers, config), "--to", "v5")
    want = {}
    for kind, whole in wholes.items():
        want |= {n.replace(".experts.", f".{kind}_moe.experts."): t for n, t in merged("model.layers.1.mlp", whole).items()}
    assert got == want | routers
    assert_back(mount, run_moefs, tmp_path, got, tensors | routers, config)


def test_two_kinds_of_different_number(run_moefs, tmp_path):
    """Nothing tells where text ends: an odd number cannot be halved, and an even one is halved into unequal shapes."""
    for experts in ((4, 3), (5, 3)):
        tensors, _ = ernie(np.random.default_rng(12), experts, (7, 5))
        said = refusal(run_moefs, write(tmp_path, tensors, {"model_type": "ernie4_5_vl_moe"}, name=f"src{experts[0]}"))
        assert "model.layers.1.mlp" in said


# ---- companions ----


def test_fp8_scales_are_named_as_their_weights(mount, tmp_path):
    """Step-3.7-Flash-FP8: on the hub a scale's name is its weight's with _scale_inv behind it."""
    rng = np.random.default_rng(17)
    block, inner, hidden = "model.layers.1", 128, 200
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    weights = {p: raw.random_tensor(rng, "F8_E4M3", (2, *s)).elements for p, s in shapes.items()}
    scales = {p: raw.random_tensor(rng, "F32", (2, *(-(-n // 128) for n in s))).elements for p, s in shapes.items()}
    hub = {f"{block}.moe.{p}_proj.weight": raw.Tensor("F8_E4M3", weights[p]) for p in shapes}
    hub |= {f"{block}.moe.{p}_proj.weight_scale_inv": raw.Tensor("F32", scales[p]) for p in shapes}
    want = {f"{block}.mlp.experts.{name}{end}": raw.Tensor(dtype, values)
            for end, dtype, t in (("", "F8_E4M3", weights), ("_scale_inv", "F32", scales))
            for name, values in (("gate_up_proj", np.concatenate([t["gate"], t["up"]], axis=1)), ("down_proj", t["down"]))}
    config = config_of("step3p7", 2, inner)
    src = write(tmp_path, hub, config)
    assert seen(mount, src, "--to", "original") == hub
    assert seen(mount, src, "--to", "v5", "--fp8", "keep") == want
    merged_src = write(tmp_path, want, config, name="merged")
    assert seen(mount, merged_src, "--to", "original", "--fp8", "keep") == hub


def test_mxfp4_stays_in_its_own_layout(mount, run_moefs, tmp_path):
    rng = np.random.default_rng(13)
    block, inner, hidden = "model.layers.0.mlp.experts", 32, 64
    tensors = {
        f"{block}.gate_up_proj_blocks": raw.random_tensor(rng, "U8", (3, 2 * inner, hidden // 32, 16)),
        f"{block}.gate_up_proj_scales": raw.random_tensor(rng, "U8", (3, 2 * inner, hidden // 32)),
        f"{block}.gate_up_proj_bias": raw.random_tensor(rng, "BF16", (3, 2 * inner)),
        f"{block}.down_proj_blocks": raw.random_tensor(rng, "U8", (3, hidden, inner // 32, 16)),
        f"{block}.down_proj_scales": raw.random_tensor(rng, "U8", (3, hidden, inner // 32)),
        f"{block}.down_proj_bias": raw.random_tensor(rng, "BF16", (3, hidden)),
    }
    src = write(tmp_path, tensors, {"model_type": "gpt_oss", "num_local_experts": 3})
    for to in ("v5", "original", "in-out-interleaved"):
        assert seen(mount, src, "--to", to) == tensors
    for to in ("merged", "per-expert", "in-out", "stacked"):
        assert "model.layers.0.mlp" in refusal(run_moefs, src, "--to", to)


def test_int4_stays_per_expert(mount, run_moefs, tmp_path):
    """Kimi K2.5: packed weights, scales, and two numbers for each shape that nobody may stack."""
    rng = np.random.default_rng(14)
    tensors = {}
    for e in range(3):
        for proj, (rows, columns) in {"gate": (32, 64), "up": (32, 64), "down": (64, 32)}.items():
            stem = f"language_model.model.layers.1.mlp.experts.{e}.{proj}_proj.weight"
            tensors |= {f"{stem}_packed": raw.random_tensor(rng, "I16", (rows, columns // 8)),
                        f"{stem}_scale": raw.random_tensor(rng, "BF16", (rows, columns // 32)),
                        f"{stem}_shape": raw.random_tensor(rng, "I64", (2,))}
    src = write(tmp_path, tensors, {"model_type": "kimi_k25", "text_config": {"n_routed_experts": 3}})
    assert "language_model.model.layers.1.mlp" in refusal(run_moefs, src, "--to", "v5")
    assert seen(mount, src, "--to", "original") == tensors


def test_mxfp8_of_interleaved_experts(mount, run_moefs, tmp_path):
    """inkling2: scales of 32 along H, rows of gate and up in turn, under names of their own."""
    rng = np.random.default_rng(15)
    block, hidden = "model.llm.layers.0.mlp.experts", 64
    w13, w2 = raw.random_tensor(rng, "F8_E4M3", (3, 64, hidden)), raw.random_tensor(rng, "F8_E4M3", (3, hidden, 32))
    s13, s2 = raw.random_tensor(rng, "U8", (3, 64, 2)), raw.random_tensor(rng, "U8", (3, hidden, 1))
    tensors = {f"{block}.w13_weight": w13, f"{block}.w13_weight_scale": s13,
               f"{block}.w2_weight": w2, f"{block}.w2_weight_scale": s2}
    config = {"model_type": "inkling2", "text_config": {"n_routed_experts": 3}}
    src = write(tmp_path, tensors, config)
    assert "--fp8 keep" in refusal(run_moefs, src, "--to", "v5")

    def halves(t):
        return raw.Tensor(t.dtype, np.concatenate([t.elements[:, 0::2], t.elements[:, 1::2]], axis=1))

    got = seen(mount, src, "--to", "v5", "--fp8", "keep")
    assert got == {f"{block}.gate_up_proj": halves(w13), f"{block}.gate_up_proj_scale_inv": halves(s13),
                   f"{block}.down_proj": w2, f"{block}.down_proj_scale_inv": s2}
    back = write(tmp_path, got, config, name="back")
    assert seen(mount, back, "--to", "original", "--fp8", "keep") == tensors
