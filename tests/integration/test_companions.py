"""What goes with a group's weights: FP8 scales, biases, packed blocks. Converted with them where the layouts describe it,
as numpy would; otherwise left as it is, or the group is refused."""

import itertools

import numpy as np
import pytest
import raw

BLOCKS = ("model.layers.0.mlp", "model.layers.1.mlp")
BOTH = f"{BLOCKS[0]}, {BLOCKS[1]} (2 MoE layers): "  # how a message begins that is about both
PROJS = ("gate", "up", "down")
E = 3


def blocks_of(n):
    return -(-n // 128)


def values_of(rng, dtype, inner, hidden, scale=None):
    """Of one block: gate and up [E, I, H], down [E, H, I]; scale: the dtype of grids of 128 x 128 blocks."""
    i, h = (blocks_of(inner), blocks_of(hidden)) if scale else (inner, hidden)
    shapes = {"gate": (E, i, h), "up": (E, i, h), "down": (E, h, i)}
    return {p: raw.random_tensor(rng, scale or dtype, s).elements for p, s in shapes.items()}


def biases_of(rng, dtype, inner, hidden):
    return {p: raw.random_tensor(rng, dtype, (E, n)).elements for p, n in zip(PROJS, (inner, inner, hidden))}


def lay_out(layout, block, dtype, values, *, suffix="", stacked_suffix=None):
    """numpy's own conversion: values are [E, out, in] (or [E, out] of biases)."""
    name = f"{block}.experts"
    gate, up, down = (values[p] for p in PROJS)
    ending = suffix if stacked_suffix is None else stacked_suffix
    if layout == "per-expert":
        out = {f"{name}.{e}.{p}_proj{suffix}": values[p][e] for p in PROJS for e in range(E)}
    elif layout == "stacked":
        out = {f"{name}.{p}_proj{ending}": values[p] for p in PROJS}
    else:
        both = {
            "merged": lambda: np.concatenate([gate, up], 1),
            "up-first": lambda: np.concatenate([up, gate], 1),
            "in-out": lambda: np.concatenate([gate, up], 1),
            "in-out-interleaved": lambda: np.stack([gate, up], 2).reshape(E, 2 * gate.shape[1], *gate.shape[2:]),
        }[layout]()
        if layout.startswith("in-out") and both.ndim == 3:
            both, down = both.transpose(0, 2, 1), down.transpose(0, 2, 1)
        out = {f"{name}.gate_up_proj{ending}": both, f"{name}.down_proj{ending}": down}
    return {n: raw.Tensor(dtype, v) for n, v in out.items()}


class Model:
    def __init__(self, seed, inner, hidden, *, dtype="BF16", scale=None, bias=None, config=None):
        rng = np.random.default_rng(seed)
        self.dtype, self.scale, self.bias = dtype, scale, bias
        self.weights = {b: values_of(rng, dtype, inner, hidden) for b in BLOCKS}
        self.scales = {b: values_of(rng, dtype, inner, hidden, scale) for b in BLOCKS} if scale else {}
        self.biases = {b: biases_of(rng, bias, inner, hidden) for b in BLOCKS} if bias else {}
        self.rest = {"model.norm.weight": raw.random_tensor(rng, "F32", (hidden,))}
        self.config = config or raw.config_of("qwen3_moe", E)

    def tensors(self, layout):
        out = dict(self.rest)
        for b in BLOCKS:
            out |= lay_out(layout, b, self.dtype, self.weights[b], suffix=".weight", stacked_suffix="")
            if self.scale:
                out |= lay_out(layout, b, self.scale, self.scales[b], suffix=".weight_scale_inv", stacked_suffix="_scale_inv")
            if self.bias:
                out |= lay_out(layout, b, self.bias, self.biases[b], suffix=".bias", stacked_suffix="_bias")
        return out

    def write(self, directory, layout, shards=2):
        return raw.make(self.tensors(layout), self.config, shards=shards).write(directory)


def mounted(mount, src, *options):
    with mount(src, *options) as m:
        return raw.read_directory(m.path)


def refused(run_moefs, src, *options):
    done = run_moefs("plan", src, *options)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    return done.stderr


FP8 = {"dtype": "F8_E4M3", "scale": "F32"}
WITH_SCALES = ("per-expert", "stacked", "merged", "up-first")


def from_options(layout):
    """The order of gate and up cannot be seen."""
    return ("--from", layout) if layout not in ("per-expert", "stacked", "merged") else ()


@pytest.mark.parametrize("source,to", [p for p in itertools.product(WITH_SCALES, WITH_SCALES) if p[0] != p[1]])
@pytest.mark.parametrize("inner,hidden", [(128, 128), (256, 384), (128, 200), (384, 64)], ids=str)
def test_fp8_kept(mount, tmp_path, source, to, inner, hidden):
    """H need not be a multiple of the block: its last block is a smaller one in every layout."""
    model = Model(inner + hidden, inner, hidden, **FP8)
    src = model.write(tmp_path / "src", source)
    assert mounted(mount, src, *from_options(source), "--to", to, "--fp8", "keep") == model.tensors(to)


@pytest.mark.parametrize("scale", ["BF16", "F8_E8M0"])
def test_fp8_scales_of_other_dtypes(mount, tmp_path, scale):
    model = Model(4, 256, 128, dtype="F8_E4M3", scale=scale)
    src = model.write(tmp_path / "src", "per-expert")
    assert mounted(mount, src, "--to", "v5", "--fp8", "keep") == model.tensors("merged")


def test_fp8_there_and_back(mount, tmp_path):
    """The way back to the hub's layout needs no --fp8: every loader takes it."""
    model = Model(5, 256, 384, **FP8)
    src = model.write(tmp_path / "src", "per-expert", 3)
    with mount(src, "--to", "v5", "--fp8", "keep") as there:
        assert mounted(mount, there.path, "--to", "original") == model.tensors("per-expert")


@pytest.mark.parametrize("source,to", [p for p in itertools.product(WITH_SCALES, WITH_SCALES[1:]) if p[0] != p[1]])
def test_fp8_is_refused_unless_asked_for(run_moefs, tmp_path, source, to):
    src = Model(6, 256, 384, **FP8).write(tmp_path / "src", source)
    said = refused(run_moefs, src, *from_options(source), "--to", to)
    assert f"{BOTH}quantised experts: {BLOCKS[0]}.experts." in said
    assert said.count("scale_inv in model-0000") == 1 and said.count("--fp8 keep") == 1
    assert said.count("compute capability below 8.9") == 1 and said.count(f"--to {source}") == 1


@pytest.mark.parametrize("layout", WITH_SCALES)
def test_fp8_passes_in_its_own_layout(mount, tmp_path, layout):
    model = Model(7, 192, 200, **FP8) if layout in ("per-expert", "stacked") else Model(7, 256, 200, **FP8)
    src = model.write(tmp_path / "src", layout)
    assert mounted(mount, src, *from_options(layout), "--to", layout) == model.tensors(layout)


@pytest.mark.parametrize("inner", [1, 64, 127, 129, 192])
@pytest.mark.parametrize("to", ["merged", "v5", "up-first"])
def test_fp8_inner_is_no_multiple_of_the_block(run_moefs, tmp_path, to, inner):
    src = Model(8, inner, 256, **FP8).write(tmp_path / "src", "per-expert")
    said = refused(run_moefs, src, "--to", to, "--fp8", "keep")
    assert f"{BOTH}inner is {inner}, no multiple of 128" in said


@pytest.mark.parametrize("inner", [1, 64, 192])
def test_fp8_stacked_takes_any_inner(mount, tmp_path, inner):
    model = Model(9, inner, 130, **FP8)
    src = model.write(tmp_path / "src", "per-expert")
    with mount(src, "--to", "stacked", "--fp8", "keep") as there:
        assert raw.read_directory(there.path) == model.tensors("stacked")
        assert mounted(mount, there.path, "--to", "original") == model.tensors("per-expert")


def test_fp8_has_no_place_in_in_out(run_moefs, tmp_path):
    src = Model(10, 256, 256, **FP8).write(tmp_path / "src", "per-expert")
    said = refused(run_moefs, src, "--to", "in-out", "--fp8", "keep")
    assert f"{BOTH}layout in-out has no place for its scale_inv" in said and "garbage" not in said


def test_fp8_grid_of_another_size(run_moefs, tmp_path):
    """Scales for blocks of another size are no grid of 128: they are not touched, so the group is refused."""
    model = Model(11, 256, 256, **FP8)
    tensors = model.tensors("per-expert")
    for name, tensor in tensors.items():
        if name.endswith("scale_inv"):
            tensors[name] = raw.Tensor("F32", np.zeros((4, 4), np.uint32))
    src = raw.make(tensors, model.config).write(tmp_path / "src")
    said = refused(run_moefs, src, "--to", "merged", "--fp8", "keep")
    assert f"{BOTH}quantised experts: {BLOCKS[0]}.experts." in said and "garbage" not in said
    assert run_moefs("plan", src, "--to", "original").returncode == 0


@pytest.mark.parametrize("missing", ["0.gate_proj.weight_scale_inv", "2.down_proj.weight_scale_inv"])
def test_fp8_scale_missing(run_moefs, tmp_path, missing):
    model = Model(12, 128, 128, **FP8)
    tensors = model.tensors("per-expert")
    del tensors[f"{BLOCKS[1]}.experts.{missing}"]
    src = raw.make(tensors, model.config).write(tmp_path / "src")
    said = refused(run_moefs, src, "--to", "merged", "--fp8", "keep")
    assert BLOCKS[1] in said and "quantised experts" in said


def test_fp8_keep_is_the_only_choice(run_moefs, tmp_path):
    assert run_moefs("plan", tmp_path, "--fp8", "drop").returncode == 2


# ---- biases ----

WITH_BIASES = ("per-expert", "stacked", "merged", "up-first", "in-out", "in-out-interleaved")


@pytest.mark.parametrize("source,to", [p for p in itertools.product(WITH_BIASES, WITH_BIASES) if p[0] != p[1]])
def test_biases_go_with_their_weights(mount, tmp_path, source, to):
    model = Model(20, 5, 7, bias="F32")
    src = model.write(tmp_path / "src", source, 3)
    assert mounted(mount, src, "--from", source, "--to", to) == model.tensors(to)


def test_bias_missing(run_moefs, tmp_path):
    model = Model(21, 5, 7, bias="BF16")
    tensors = model.tensors("per-expert")
    del tensors[f"{BLOCKS[0]}.experts.1.up_proj.bias"]
    src = raw.make(tensors, model.config).write(tmp_path / "src")
    said = refused(run_moefs, src, "--to", "merged")
    assert f"{BLOCKS[0]}: {BLOCKS[0]}.experts.0.down_proj.bias" in said and BLOCKS[1] not in said


def test_layout_without_biases(run_moefs, tmp_path):
    src = Model(22, 5, 7, bias="BF16").write(tmp_path / "src", "per-expert")
    said = refused(run_moefs, src, "--to", "torchtitan")
    assert f"{BOTH}layout torchtitan has no place for its bias" in said


# ---- what passes through, and nothing else ----


def mxfp4(rng, inner=32, hidden=64):
    out = {}
    for b in BLOCKS:
        rows = {"gate_up": (2 * inner, hidden), "down": (hidden, inner)}
        for p, (n, k) in rows.items():
            out[f"{b}.experts.{p}_proj_blocks"] = raw.random_tensor(rng, "U8", (E, n, k // 32, 16))
            out[f"{b}.experts.{p}_proj_scales"] = raw.random_tensor(rng, "U8", (E, n, k // 32))
            out[f"{b}.experts.{p}_proj_bias"] = raw.random_tensor(rng, "BF16", (E, n))
    return out, raw.config_of("gpt_oss", E)


def packed(rng, inner=32, hidden=64):
    out = {}
    for b, e, p in itertools.product(BLOCKS, range(E), PROJS):
        n, k = (hidden, inner) if p == "down" else (inner, hidden)
        name = f"{b}.experts.{e}.{p}_proj.weight"
        out[f"{name}_packed"] = raw.random_tensor(rng, "F32", (n, k // 8))
        out[f"{name}_scale"] = raw.random_tensor(rng, "BF16", (n, k // 32))
        out[f"{name}_shape"] = raw.random_tensor(rng, "I64", (2,))
    return out, raw.config_of("qwen3_moe", E)


def activation(rng, inner=16, hidden=24):
    out = {}
    for b, e, p in itertools.product(BLOCKS, range(E), PROJS):
        n, k = (hidden, inner) if p == "down" else (inner, hidden)
        name = f"{b}.experts.{e}.{p}_proj"
        out[f"{name}.weight"] = raw.random_tensor(rng, "F8_E4M3", (n, k))
        out[f"{name}.activation_scale"] = raw.random_tensor(rng, "BF16", ())
        out[f"{name}.weight_scale"] = raw.random_tensor(rng, "BF16", ())
    return out, raw.config_of("qwen3_moe", E)


def two_level(rng, inner=32, hidden=64):
    """FP4 with a scale for 16 and one for all."""
    out = {}
    for b, e, p in itertools.product(BLOCKS, range(E), PROJS):
        n, k = (hidden, inner) if p == "down" else (inner, hidden)
        name = f"{b}.experts.{e}.{p}_proj"
        out[f"{name}.weight"] = raw.random_tensor(rng, "U8", (n, k // 2))
        out[f"{name}.weight_scale"] = raw.random_tensor(rng, "F8_E4M3", (n, k // 16))
        out[f"{name}.weight_scale_2"] = raw.random_tensor(rng, "F32", ())
        out[f"{name}.input_scale"] = raw.random_tensor(rng, "F32", ())
    return out, raw.config_of("qwen3_moe", E)


def stacked_scales(rng, inner=16, hidden=24):
    out = {}
    for b in BLOCKS:
        for p, shape in {"gate_up": (E, hidden, 2 * inner), "down": (E, inner, hidden)}.items():
            out[f"{b}.experts.{p}_proj"] = raw.random_tensor(rng, "F8_E4M3", shape)
            out[f"{b}.experts.{p}_proj_scale"] = raw.random_tensor(rng, "F32", (E, 1, shape[2]))
    return out, raw.config_of("qwen3_vl_moe", E)


QUANTISED = {"mxfp4": (mxfp4, "in-out-interleaved"), "packed": (packed, "per-expert"), "activation scales": (activation, "per-expert"),
             "two-level": (two_level, "per-expert"), "scales of stacks": (stacked_scales, "in-out")}  # fmt: skip


@pytest.mark.parametrize("kind", QUANTISED)
def test_passes_through(mount, tmp_path, kind):
    make, layout = QUANTISED[kind]
    tensors, config = make(np.random.default_rng(30))
    tensors["lm_head.weight"] = raw.random_tensor(np.random.default_rng(1), "F32", (2, 3))
    checkpoint = raw.make(tensors, config, shards=2)
    src = checkpoint.write(tmp_path / "src")
    for to in ("original", layout):
        with mount(src, "--to", to) as m:
            for file in checkpoint.shards:
                assert (m / file).read_bytes() == (src / file).read_bytes()


@pytest.mark.parametrize("kind,to", [(k, t) for k in QUANTISED for t in ("merged", "stacked", "per-expert", "in-out")
                                     if t != QUANTISED[k][1]])
@pytest.mark.parametrize("keep", [(), ("--fp8", "keep")], ids=["", "keep"])
def test_is_not_converted(run_moefs, tmp_path, kind, to, keep):
    """One message for all blocks: what the codes are, what goes with them, and how they stay as they are."""
    tensors, config = QUANTISED[kind][0](np.random.default_rng(31))
    src = raw.make(tensors, config).write(tmp_path / "src")
    said = refused(run_moefs, src, "--to", to, *keep)
    assert said.count("\n") == 1 and said.startswith(f"moefs: error: {BOTH}"), said
    assert "--to " + QUANTISED[kind][1] in said and "garbage" not in said
