"""`moefs verify` finds equal what the oracle converted, and names the place of every kind of damage."""
import hashlib
import json
import re
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file

import oracle
from checkpoints import LAYOUTS, dump_index, make, tensor_bytes
from test_plan import header_of

EXPERTS, INNER, HIDDEN = 4, 6, 6  # I == H: a transposed matrix has the same shape
BLOCK = "model.layers.1.mlp"
OTHER = "model.layers.0.input_layernorm.weight"


def finite(checkpoint, seed):
    """Numbers in place of random bytes, so that what the experts compute is finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            checkpoint.tensors[name] = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    return checkpoint


def build(seed=1, **keywords):
    keywords = {"shards": 3, "experts": EXPERTS, "inner": INNER, "hidden": HIDDEN, **keywords}
    return finite(make(seed, **keywords), seed)


def verify(run_moefs, *arguments, status=0):
    done = run_moefs("verify", *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout) if status in (0, 3) else done.stderr


def digests(run_moefs, path, src, *options):
    verify(run_moefs, src, *options, "--write-digests", path)
    lines = dict(reversed(line.split("  ", 1)) for line in path.read_text().splitlines())
    return ({n: d for n, d in lines.items() if not n.startswith("file:")},
            {n[5:]: d for n, d in lines.items() if n.startswith("file:")})


def xxhsum(path):
    if not shutil.which("xxhsum"):
        pytest.skip("xxhsum is not installed (Debian: xxhash)")
    line = subprocess.run(["xxhsum", "-H2", path], check=True, capture_output=True, text=True).stdout
    return re.search(r"\b[0-9a-f]{32}\b", line)[0]


# ---- what is equal ----

@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("to", ["v5", "per-expert", "stacked", "in-out", "up-first", "interleaved", "flat"])
def test_equal_in_every_layout(run_moefs, tmp_path, source, to):
    src = build(layout=source, how="random").write(tmp_path / "src")
    said = verify(run_moefs, src, "--to", to)
    assert said["verdict"] == "equal" and said["found"] == 0
    assert [b["skipped"] for b in said["function"]] == [None, None]
    assert all(b["tokens"] == 16 and b["max_abs"] <= 1e-5 for b in said["function"])


def test_random_bytes_and_odd_names(run_moefs, tmp_path):
    checkpoint = make(3, shards=4, how="random", odd=True)
    src = checkpoint.write(tmp_path / "src")
    tensors, _ = digests(run_moefs, tmp_path / "digests", src)
    escaped = {n.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for n in checkpoint.tensors}
    assert set(tensors) == escaped  # a logical tensor has its per-expert name, which it has here
    verify(run_moefs, src, "--check-digests", tmp_path / "digests")


def test_bytes_counts_every_byte(run_moefs, tmp_path):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    said = verify(run_moefs, src)
    assert said["bytes"] == sum(len(tensor_bytes(t)) for t in checkpoint.tensors.values())
    assert said["tensors"] == len(checkpoint.tensors)


@pytest.mark.parametrize("to", LAYOUTS)
def test_a_mount_and_a_copy(run_moefs, mount, tmp_path, to):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    copy = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / "copy")
    with mount(src, "--to", to) as m:
        verify(run_moefs, src, m.path, "--to", to)
    verify(run_moefs, src, copy, "--to", to)


def test_layers(run_moefs, tmp_path):
    checkpoint = build(layers=4)
    src = checkpoint.write(tmp_path / "src")
    said = verify(run_moefs, src, "--layers", "0,2-3")
    assert [b["block"] for b in said["function"]] == [f"model.layers.{n}.mlp" for n in (0, 2, 3)]
    assert said["tensors"] == sum(bool(re.match(r"model\.layers\.[023]\.", n)) for n in checkpoint.tensors)
    assert "no tensor" in verify(run_moefs, src, "--layers", "7", status=1)


# ---- digests ----

def test_digests_are_the_same_in_every_layout(run_moefs, tmp_path):
    hub = build()
    src = hub.write(tmp_path / "src")
    want, _ = digests(run_moefs, tmp_path / "hub", src)
    assert set(want) == set(hub.tensors)
    for to in ("merged", "stacked", "in-out"):
        copy = oracle.write(oracle.convert(hub, to), src, tmp_path / to)
        got, _ = digests(run_moefs, tmp_path / f"digests-{to}", copy)
        assert got == want, to
        verify(run_moefs, copy, "--check-digests", tmp_path / "hub")


def test_xxhsum_agrees(run_moefs, tmp_path):
    hub = build()
    src = hub.write(tmp_path / "src")
    tensors, files = digests(run_moefs, tmp_path / "digests", src, "--to", "original")
    assert set(files) == {*hub.shards, hub.index_name}
    assert files == {f: xxhsum(src / f) for f in files}
    for name in (f"{BLOCK}.experts.2.up_proj.weight", OTHER):
        (tmp_path / "tensor").write_bytes(tensor_bytes(hub.tensors[name]))
        assert tensors[name] == xxhsum(tmp_path / "tensor")


def test_digests_that_differ(run_moefs, tmp_path):
    hub = build()
    src = hub.write(tmp_path / "src")
    digests(run_moefs, tmp_path / "digests", src)
    name = f"{BLOCK}.experts.1.down_proj.weight"
    hub.tensors[name] = hub.tensors[name] * 2
    gone = "lm_head.weight"
    for names in hub.shards.values():
        names[:] = [n for n in names if n != gone]
    hub.index["weight_map"].pop(gone)
    hub.write(tmp_path / "changed")
    said = verify(run_moefs, tmp_path / "changed", "--check-digests", tmp_path / "digests", status=3)
    assert {d["tensor"] for d in said["differences"] if not d["tensor"].startswith("file:")} == {name, gone}


def test_a_bad_digest_file(run_moefs, tmp_path):
    src = build().write(tmp_path / "src")
    (tmp_path / "digests").write_text("no digest here\n")
    assert "digests:1: not a line" in verify(run_moefs, src, "--check-digests", tmp_path / "digests", status=1)


# ---- damage ----

def swap_experts(gate_up, down):
    gate_up[[1, 3]], down[[1, 3]] = gate_up[[3, 1]], down[[3, 1]]


def swap_gate_and_up(gate_up, down):
    gate_up[2] = torch.cat([gate_up[2, INNER:], gate_up[2, :INNER]])


def transpose_down(gate_up, down):
    down[1] = down[1].T.clone()


def transpose_gate(gate_up, down):
    gate_up[3, :INNER] = gate_up[3, :INNER].T.clone().reshape(INNER, -1)


def shift_expert(gate_up, down):
    gate_up[1, 1:INNER] = gate_up[1, :INNER - 1].clone()


def flip_bit(gate_up, down):
    down[0].view(torch.int16)[4, 2] ^= 1 << 6


# damage -> (logical tensor, what is said of it)
DAMAGES = {
    swap_experts: ("experts.1.gate_proj.weight", f"{BLOCK}.experts.3.gate_proj.weight"),
    swap_gate_and_up: ("experts.2.gate_proj.weight", f"{BLOCK}.experts.2.up_proj.weight"),
    transpose_down: ("experts.1.down_proj.weight", "the matrix is transposed"),
    transpose_gate: ("experts.3.gate_proj.weight", "the matrix is transposed"),
    shift_expert: ("experts.1.gate_proj.weight", "the matrix is shifted by a row"),
    flip_bit: ("experts.0.down_proj.weight", ""),
}


def damaged(checkpoint, src, directory, damage):
    """A merged copy, damaged behind the oracle's back; with the two tensors as they should be."""
    expected = oracle.convert(checkpoint, "merged")
    file = next(f for f, tensors in expected.files.items() if f"{BLOCK}.experts.gate_up_proj" in tensors)
    down_file = next(f for f, tensors in expected.files.items() if f"{BLOCK}.experts.down_proj" in tensors)
    gate_up = expected.files[file][f"{BLOCK}.experts.gate_up_proj"]
    down = expected.files[down_file][f"{BLOCK}.experts.down_proj"]
    damage(gate_up, down)
    return oracle.write(expected, src, directory)


@pytest.mark.parametrize("hidden", [HIDDEN, 9], ids=["square", "oblong"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_is_named(run_moefs, tmp_path, damage, hidden):
    if hidden != HIDDEN and damage is transpose_down:
        damage_here = lambda gate_up, down: down[1].copy_(down[1].T.reshape(down[1].shape).clone())  # noqa: E731
    else:
        damage_here = damage
    checkpoint = build(hidden=hidden)
    src = checkpoint.write(tmp_path / "src")
    copy = damaged(checkpoint, src, tmp_path / "copy", damage_here)
    said = verify(run_moefs, src, copy, "--to", "merged", status=3)
    first = said["differences"][0]
    tensor, what = DAMAGES[damage]
    assert (first["kind"], first["tensor"]) == ("bytes", f"{BLOCK}.{tensor}")
    assert what in (first["holds"] or "") + first["text"]

    # the row, the column and both offsets, worked out from the files themselves
    name, expert, proj = first["tensor"], int(tensor.split(".")[1]), tensor.split(".")[2]
    stored = "down_proj" if proj == "down_proj" else "gate_up_proj"
    source_file = next(f for f, names in checkpoint.shards.items() if name in names)
    copy_file = next(f for f in copy.glob("*.safetensors") if f"{BLOCK}.experts.{stored}" in header_of(f))
    _, shape, source_at, length = header_of(src / source_file)[name]
    copy_at = header_of(copy_file)[f"{BLOCK}.experts.{stored}"][2]
    rows = 1 if stored == "down_proj" else 2
    copy_at += expert * rows * length + (length if proj == "up_proj" else 0)
    want = (src / source_file).read_bytes()[source_at:source_at + length]
    got = copy_file.read_bytes()[copy_at:copy_at + length]
    at = next(i for i in range(0, length, 2) if want[i:i + 2] != got[i:i + 2])
    assert (first["row"], first["column"]) == divmod(at // 2, shape[1])
    assert f"({source_file}, byte {source_at + at})" in first["text"]
    assert f"({copy_file.name}, byte {copy_at + at} of" in first["text"]
    assert any(d["kind"] == "function" for d in said["differences"]) or damage is flip_bit


def test_the_verdict_is_one_line(run_moefs, tmp_path):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    assert run_moefs("verify", src).stdout.splitlines()[-1].startswith("EQUAL: ")
    copy = damaged(checkpoint, src, tmp_path / "copy", swap_experts)
    done = run_moefs("verify", src, copy, "--to", "merged")
    assert done.returncode == 3
    last = done.stdout.splitlines()[-1]
    assert last.startswith("DIFFERENT (") and f"{BLOCK}.experts.1.gate_proj.weight" in last
    assert "\r" not in done.stderr  # no progress bar where there is no terminal


def test_a_flipped_bit_beside_the_experts(run_moefs, tmp_path):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    copy = oracle.write(oracle.convert(checkpoint, "merged"), src, tmp_path / "copy")
    file = next(f for f in copy.glob("*.safetensors") if OTHER in header_of(f))
    at = header_of(file)[OTHER][2] + 5
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)
    first = verify(run_moefs, src, copy, "--to", "merged", status=3)["differences"][0]
    assert first["tensor"] == OTHER and (first["row"], first["column"]) == (0, 2)
    assert f"({file.name}, byte {at})" in first["text"]


@pytest.mark.parametrize("stale", ["wrong file", "name that is gone", "name that is missing"])
def test_a_stale_index(run_moefs, tmp_path, stale):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    expected = oracle.convert(checkpoint, "merged")
    copy = oracle.write(expected, src, tmp_path / "copy")
    weight_map = expected.index["weight_map"]
    if stale == "wrong file":
        name, word = OTHER, "and it is in"
        weight_map[name] = next(f for f in expected.files if f != weight_map[name])
    elif stale == "name that is gone":
        name, word = "model.layers.0.gone.weight", "no file has it"
        weight_map[name] = next(iter(expected.files))
    else:
        name, word = OTHER, "does not name it"
        del weight_map[name]
    (copy / expected.index_name).write_text(dump_index(expected.index))
    first = verify(run_moefs, src, copy, "--to", "merged", status=3)["differences"][0]
    assert (first["kind"], first["tensor"]) == ("index", name) and word in first["text"]


def test_a_copy_in_another_layout(run_moefs, tmp_path):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    copy = oracle.write(oracle.convert(checkpoint, "stacked"), src, tmp_path / "copy")
    kinds = {d["kind"] for d in verify(run_moefs, src, copy, "--to", "merged", status=3)["differences"]}
    assert kinds == {"missing", "unexpected"}


# ---- the source ----

def hf_cache(checkpoint, directory):
    """The layout of a Hugging Face cache: links in snapshots/, blobs named by the sha256 of what LFS delivered."""
    plain = checkpoint.write(directory / "plain")
    blobs, snapshot = directory / "models--a--b" / "blobs", directory / "models--a--b" / "snapshots" / "0"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in plain.iterdir():
        if not path.is_file():
            continue
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(blob)
    return snapshot


def test_source_blobs(run_moefs, tmp_path):
    checkpoint = build()
    snapshot = hf_cache(checkpoint, tmp_path)
    done = run_moefs("verify", snapshot, "--source")
    if "built with libcrypto" in done.stderr:
        pytest.skip("this moefs was built without libcrypto")
    assert done.returncode == 0 and "are named by their sha256 and were checked" in done.stdout, done.stdout + done.stderr
    shard = snapshot / next(iter(checkpoint.shards))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.resolve().write_bytes(raw)
    first = verify_source_json(run_moefs, snapshot)
    assert first["kind"] == "blob" and first["tensor"].endswith(shard.name)
    assert hashlib.sha256(raw).hexdigest() in first["text"]


def verify_source_json(run_moefs, src):
    return verify(run_moefs, src, "--source", status=3)["differences"][0]


def test_a_truncated_source_is_refused(run_moefs, tmp_path):
    checkpoint = build()
    src = checkpoint.write(tmp_path / "src")
    shard = src / next(iter(checkpoint.shards))
    shard.write_bytes(shard.read_bytes()[:-3])
    assert shard.name in verify(run_moefs, src, "--source", status=1)


# ---- usage ----

@pytest.mark.parametrize("options", [["--layers", "a"], ["--layers", "3-"], ["--layers", ""], ["--tokens", "0"],
                                     ["--tokens", "99999"], ["--seed", "-1"], ["--order", "x"]])
def test_usage(run_moefs, tmp_path, options):
    src = build().write(tmp_path / "src")
    assert options[0] in verify(run_moefs, src, *options, status=2)


@pytest.mark.parametrize("options", [["--tokens", "5"], ["--tokens", "40", "--order", "before-down"], ["--seed", "9"]])
def test_options_of_the_function(run_moefs, tmp_path, options):
    src = build(experts=40).write(tmp_path / "src")
    block = verify(run_moefs, src, *options)["function"][0]
    assert block["routed"] == ("--tokens" in options)
    assert block["max_rel"] <= 1e-5
    assert block["tokens"] * block["top_k"] >= (1 if "--tokens" in options else 40)


def test_a_function_that_is_not_known(run_moefs, tmp_path):
    checkpoint = build(layout="merged")
    checkpoint.config["model_type"] = "muse_spark_text"
    said = verify(run_moefs, checkpoint.write(tmp_path / "src"))
    assert {b["skipped"] for b in said["function"]} == {"its experts end in a norm of their own"}


def layer(given, weights):
    """The layer in float64: weights[e] = gate, up, down."""
    x, out = given["x"].double(), torch.zeros_like(given["output"], dtype=torch.float64)
    for t, (experts, shares) in enumerate(zip(given["experts"].tolist(), given["weights"].double())):
        for e, w in zip(experts, shares):
            gate, up, down = weights[e]
            out[t] += w * (down @ (torch.nn.functional.silu(gate @ x[t]) * (up @ x[t])))
    return out


def assert_outputs(run_moefs, checkpoint, src, to, stored, *options):
    """What moefs writes is the layer of these weights: stored(name) gives one of them as numbers."""
    said = verify(run_moefs, src, "--to", to, *options, "--write-outputs", src.parent / "outputs")
    assert [b["skipped"] for b in said["function"]] == [None, None]
    outputs = load_file(src.parent / "outputs")
    for block in checkpoint.blocks:
        weights = [[stored(f"{block.name}.experts.{e}.{p}_proj.weight").double() for p in ("gate", "up", "down")]
                   for e in range(block.experts)]
        given = {k: outputs[f"{block.name}.{k}"] for k in ("x", "experts", "weights", "output")}
        want = layer(given, weights)
        assert want.abs().max() > 0
        assert (given["output"] - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("to", ["per-expert", "merged", "in-out"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_the_function_of_every_type(run_moefs, tmp_path, dtype, to):
    checkpoint = build(companions=False, hidden=70)
    for name, tensor in checkpoint.tensors.items():
        if ".experts." in name:
            checkpoint.tensors[name] = (tensor.float() / 8).to(dtype)
    if dtype == torch.float16:  # subnormal numbers too
        name = f"{BLOCK}.experts.1.gate_proj.weight"
        checkpoint.tensors[name] = (checkpoint.tensors[name].float() * 2.0**-14).half()
    src = checkpoint.write(tmp_path / "src")
    assert_outputs(run_moefs, checkpoint, src, to, lambda name: checkpoint.tensors[name])


def test_fp8_with_scales(run_moefs, tmp_path):
    checkpoint = build(inner=256, hidden=384, companions=False)
    generator = torch.Generator().manual_seed(0)
    scales = {}
    for name in [n for n in checkpoint.tensors if ".experts." in n]:
        weight = torch.randn(checkpoint.tensors[name].shape, generator=generator)
        checkpoint.tensors[name] = weight.to(torch.float8_e4m3fn)
        scales[name + "_scale_inv"] = torch.rand([n // 128 for n in weight.shape], generator=generator) / 64
    checkpoint.tensors |= scales
    checkpoint.shards["model-00001-of-00003.safetensors"] += scales
    checkpoint.index = None
    src = checkpoint.write(tmp_path / "src")

    def stored(name):
        scale = checkpoint.tensors[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
        return checkpoint.tensors[name].double() * scale

    for to in ("per-expert", "merged"):
        assert_outputs(run_moefs, checkpoint, src, to, stored, "--fp8", "keep")
