"""`moefs verify` finds equal what numpy laid out in another layout, and names the place of every kind of damage."""

import fcntl
import hashlib
import itertools
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios

import numpy as np
import numpy_moe
import pytest
import raw
from headers import read_header
from numpy_moe import LAYOUTS, build, numbers

INNER, HIDDEN = 6, 6  # I == H: a transposed matrix has the same shape
BLOCK = "model.layers.1.mlp"
OTHER = "model.layers.0.input_layernorm.weight"


def verify(run_moefs, *arguments, status=0):
    done = run_moefs("verify", *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout) if status in (0, 3) else done.stderr


def read_digests(path):
    """Logical tensors: name -> (digest, dtype and shape); and files: name -> digest."""
    lines = dict(reversed(line.split("  ", 1)) for line in path.read_text().splitlines())
    return (
        {n: tuple(d.split(" ")) for n, d in lines.items() if not n.startswith("file:")},
        {n[5:]: d for n, d in lines.items() if n.startswith("file:")},
    )


def digests(run_moefs, path, src, *options):
    verify(run_moefs, src, *options, "--write-digests", path)
    return read_digests(path)


def xxhsum(path):
    if not shutil.which("xxhsum"):
        pytest.skip("xxhsum is not installed (Debian: xxhash)")
    line = subprocess.run(["xxhsum", "-H2", path], check=True, capture_output=True, text=True).stdout
    return re.search(r"\b[0-9a-f]{32}\b", line)[0]


def place_of(path, name):
    """The tensor's offset in the file and its length in bytes."""
    entry = read_header(path).tensors[name]
    return entry.begin, entry.end - entry.begin


def file_with(directory, name):
    return next(f for f in sorted(directory.glob("*.safetensors")) if name in read_header(f).tensors)


# ---- what is equal ----


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("to", ["v5", "per-expert", "stacked", "in-out", "up-first", "interleaved", "flat"])
def test_equal_in_every_layout(run_moefs, tmp_path, source, to):
    src = build(layout=source).write(tmp_path / "src")
    said = verify(run_moefs, src, "--to", to)
    assert said["verdict"] == "equal" and said["found"] == 0
    assert [b["skipped"] for b in said["function"]] == [None, None]
    assert all(b["tokens"] == 16 and b["max_abs"] <= 1e-5 for b in said["function"])


def odd_tensors(rng):
    """Names and shapes that a careless writer of lines gets wrong."""
    shapes = {
        'odd "quoted" \\ back/slash': ("U8", (3,)),
        "odd.tab\tnewline\nreturn\rbell\x07\x01\x1f\x7f": ("BOOL", (5,)),
        "odd.größe.ß.日本.\U0001f600.weight": ("F16", (2, 1)),
        "odd.scalar": ("F32", ()),
        "odd.empty": ("F32", (0, 3)),
        "odd.two  spaces": ("F8_E4M3", (4, 3)),
    }
    return {name: raw.random_tensor(rng, *of) for name, of in shapes.items()}


def test_odd_names(run_moefs, tmp_path):
    model = build()
    model.others |= odd_tensors(np.random.default_rng(1))
    src = model.write(tmp_path / "src")
    tensors, _ = digests(run_moefs, tmp_path / "digests", src)
    escaped = {n.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r"): t for n, t in model.tensors().items()}
    # a logical tensor has its per-expert name and shape, which it has here
    assert {n: d[1] for n, d in tensors.items()} == {n: repr(t).replace(" ", "") for n, t in escaped.items()}
    verify(run_moefs, src, "--check-digests", tmp_path / "digests")


def test_bytes_counts_every_byte(run_moefs, tmp_path):
    model = build()
    said = verify(run_moefs, model.write(tmp_path / "src"))
    assert said["bytes"] == sum(t.nbytes for t in model.tensors().values())
    assert said["tensors"] == len(model.tensors())


@pytest.mark.parametrize("to", LAYOUTS)
def test_a_mount_and_a_copy(run_moefs, mount, tmp_path, to):
    model = build()
    src, copy = model.write(tmp_path / "src"), model.write(tmp_path / "copy", to, shards=2)
    with mount(src, "--to", to) as m:
        verify(run_moefs, src, m.path, "--to", to)
    verify(run_moefs, src, copy, "--to", to)


def test_layers(run_moefs, tmp_path):
    model = build(layers=4)
    src = model.write(tmp_path / "src")
    said = verify(run_moefs, src, "--layers", "0,2-3")
    assert [b["block"] for b in said["function"]] == [f"model.layers.{n}.mlp" for n in (0, 2, 3)]
    assert said["tensors"] == sum(bool(re.match(r"model\.layers\.[023]\.", n)) for n in model.tensors())
    assert "no tensor" in verify(run_moefs, src, "--layers", "7", status=1)


# ---- digests ----


def test_digests_are_the_same_in_every_layout(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    want, _ = digests(run_moefs, tmp_path / "hub", src)
    assert {n: d[1] for n, d in want.items()} == {n: repr(t).replace(" ", "") for n, t in model.tensors().items()}
    lines = (tmp_path / "hub").read_text().splitlines(keepends=True)
    (tmp_path / "tensors").write_text("".join(line for line in lines if "  file:" not in line))
    for to in ("merged", "stacked", "in-out"):
        copy = model.write(tmp_path / to, to, shards=2)
        got, _ = digests(run_moefs, tmp_path / f"digests-{to}", copy)
        assert got == want, to
        verify(run_moefs, copy, "--check-digests", tmp_path / "tensors")


def test_xxhsum_agrees(run_moefs, tmp_path):
    model = build()
    stored = model.stored()
    src = stored.write(tmp_path / "src")
    tensors, files = digests(run_moefs, tmp_path / "digests", src, "--to", "original")
    assert set(files) == {*stored.shards, raw.INDEX}
    assert files == {f: xxhsum(src / f) for f in files}
    for name in (f"{BLOCK}.experts.2.up_proj.weight", OTHER):
        (tmp_path / "tensor").write_bytes(stored.tensors[name].elements.tobytes())
        assert tensors[name][0] == xxhsum(tmp_path / "tensor")


def test_digests_that_differ(run_moefs, tmp_path):
    model = build()
    digests(run_moefs, tmp_path / "digests", model.write(tmp_path / "src"))
    model.experts[BLOCK]["down"][1] ^= 0x80
    model.others.pop("lm_head.weight")
    changed = model.write(tmp_path / "changed")
    said = verify(run_moefs, changed, "--check-digests", tmp_path / "digests", status=3)
    assert {d["tensor"] for d in said["differences"] if not d["tensor"].startswith("file:")} == {
        f"{BLOCK}.experts.1.down_proj.weight",
        "lm_head.weight",
    }


SAME_BYTES = [("BF16", (16, 8), "F16", (16, 8)), ("I8", (16, 8), "I8", (8, 16)), ("F32", (4,), "I32", (2, 2))]


@pytest.mark.parametrize("dtype,shape,other,reshaped", SAME_BYTES, ids=lambda v: str(v).replace(" ", ""))
def test_digests_tell_dtype_and_shape(run_moefs, tmp_path, dtype, shape, other, reshaped):
    model = build()
    model.others[OTHER] = raw.random_tensor(np.random.default_rng(0), dtype, shape)
    digests(run_moefs, tmp_path / "digests", model.write(tmp_path / "src"))
    model.others[OTHER] = raw.Tensor(other, model.others[OTHER].elements.reshape(reshaped))
    said = verify(run_moefs, model.write(tmp_path / "other"), "--check-digests", tmp_path / "digests", status=3)
    [found] = [d for d in said["differences"] if not d["tensor"].startswith("file:")]
    want, got = (repr(raw.Tensor(*t)).replace(" ", "") for t in ((dtype, np.empty(shape)), (other, np.empty(reshaped))))
    assert found["tensor"] == OTHER and f"as {want}, here it is {got}" in found["text"]


def test_digests_tell_the_experts_dtype(run_moefs, tmp_path):
    model = build()
    digests(run_moefs, tmp_path / "digests", model.write(tmp_path / "src"))
    model.dtype = "F16"
    model.write(tmp_path / "other", "merged")
    said = verify(run_moefs, tmp_path / "other", "--check-digests", tmp_path / "digests", status=3)
    assert {d["kind"] for d in said["differences"]} == {"digest"}
    assert any("BF16[6,6], here it is F16[6,6]" in d["text"] for d in said["differences"])


def test_digests_with_other_ends_of_lines(run_moefs, tmp_path):
    src = build().write(tmp_path / "src")
    digests(run_moefs, tmp_path / "digests", src)
    (tmp_path / "crlf").write_bytes((tmp_path / "digests").read_bytes().replace(b"\n", b"\r\n"))
    assert verify(run_moefs, src, "--check-digests", tmp_path / "crlf")["found"] == 0


def test_digests_without_dtype_and_shape(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    digests(run_moefs, tmp_path / "digests", src)
    (tmp_path / "old").write_text(re.sub(r"(?m)^(\S+) \S+  ", r"\1  ", (tmp_path / "digests").read_text()))
    done = run_moefs("verify", src, "--check-digests", tmp_path / "old")
    assert done.returncode == 0 and f"{len(model.tensors())} lines have no dtype and shape" in done.stderr


@pytest.mark.parametrize("text", ["no digest here", "0" * 32, f"{'0' * 32} BF16[3 name", f"{'0' * 32} BF16[3] name"])
def test_a_bad_digest_file(run_moefs, tmp_path, text):
    src = build().write(tmp_path / "src")
    (tmp_path / "digests").write_text(text + "\n")
    assert "digests:1: not a line" in verify(run_moefs, src, "--check-digests", tmp_path / "digests", status=1)


def test_a_list_that_lacks_a_tensor(run_moefs, tmp_path):
    src = build().write(tmp_path / "src")
    digests(run_moefs, tmp_path / "digests", src)
    lines = (tmp_path / "digests").read_text().splitlines(keepends=True)
    (tmp_path / "shorter").write_text("".join(line for line in lines if not line.endswith(f"  {OTHER}\n")))
    [found] = verify(run_moefs, src, "--check-digests", tmp_path / "shorter", status=3)["differences"]
    assert found["tensor"] == OTHER and "does not name it" in found["text"]


@pytest.mark.parametrize("option", ["--write-digests", "--check-digests", "--write-outputs"])
def test_a_file_that_cannot_be_opened(run_moefs, tmp_path, option):
    src = build().write(tmp_path / "src")
    path = tmp_path / "absent" / "file"
    assert f"{path}: No such file or directory" in verify(run_moefs, src, option, path, status=1)


# ---- damage ----


def swap_experts(experts):
    for proj in experts.values():
        proj[[1, 3]] = proj[[3, 1]]


def swap_gate_and_up(experts):
    experts["gate"][2], experts["up"][2] = experts["up"][2].copy(), experts["gate"][2].copy()


def transpose(matrix):
    matrix[:] = matrix.T.copy().reshape(matrix.shape)


def transpose_down(experts):
    transpose(experts["down"][1])


def transpose_gate(experts):
    transpose(experts["gate"][3])


def shift_expert(experts):
    experts["gate"][1, 1:] = experts["gate"][1, :-1].copy()


def flip_bit(experts):
    experts["down"][0, 4, 2] ^= 1 << 6


# damage -> (logical tensor, what is said of it)
DAMAGES = {
    swap_experts: ("experts.1.gate_proj.weight", f"{BLOCK}.experts.3.gate_proj.weight"),
    swap_gate_and_up: ("experts.2.gate_proj.weight", f"{BLOCK}.experts.2.up_proj.weight"),
    transpose_down: ("experts.1.down_proj.weight", "the matrix is transposed"),
    transpose_gate: ("experts.3.gate_proj.weight", "the matrix is transposed"),
    shift_expert: ("experts.1.gate_proj.weight", "the matrix is shifted by a row"),
    flip_bit: ("experts.0.down_proj.weight", ""),
}


def damaged(model, directory, damage, layout="merged"):
    other = model.copy()
    damage(other.experts[BLOCK])
    return other.write(directory, layout)


@pytest.mark.parametrize("hidden", [HIDDEN, 9], ids=["square", "oblong"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_is_named(run_moefs, tmp_path, damage, hidden):
    model = build(hidden=hidden)
    src = model.write(tmp_path / "src")
    copy = damaged(model, tmp_path / "copy", damage)
    said = verify(run_moefs, src, copy, "--to", "merged", status=3)
    first = said["differences"][0]
    tensor, what = DAMAGES[damage]
    assert (first["kind"], first["tensor"]) == ("bytes", f"{BLOCK}.{tensor}")
    assert what in (first["holds"] or "") + first["text"]

    # the row, the column and both offsets, worked out from the files themselves
    name, expert, proj = first["tensor"], int(tensor.split(".")[1]), tensor.split(".")[2]
    stored = f"{BLOCK}.experts." + ("down_proj" if proj == "down_proj" else "gate_up_proj")
    source_file, copy_file = file_with(src, name), file_with(copy, stored)
    source_at, length = place_of(source_file, name)
    columns = INNER if proj == "down_proj" else hidden
    copy_at = place_of(copy_file, stored)[0]
    copy_at += expert * (1 if proj == "down_proj" else 2) * length + (length if proj == "up_proj" else 0)
    want = source_file.read_bytes()[source_at : source_at + length]
    got = copy_file.read_bytes()[copy_at : copy_at + length]
    at = next(i for i in range(0, length, 2) if want[i : i + 2] != got[i : i + 2])
    assert (first["row"], first["column"]) == divmod(at // 2, columns)
    assert f"({source_file.name}, byte {source_at + at})" in first["text"]
    assert f"({copy_file.name}, byte {copy_at + at} of" in first["text"]
    assert any(d["kind"] == "function" for d in said["differences"]) or damage is flip_bit


def test_the_verdict_is_one_line(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    assert run_moefs("verify", src).stdout.splitlines()[-1].startswith("EQUAL: ")
    copy = damaged(model, tmp_path / "copy", swap_experts)
    done = run_moefs("verify", src, copy, "--to", "merged")
    assert done.returncode == 3
    last = done.stdout.splitlines()[-1]
    assert last.startswith("DIFFERENT (") and f"{BLOCK}.experts.1.gate_proj.weight" in last
    assert "\r" not in done.stderr  # no progress bar where there is no terminal


def test_the_list_has_the_first_difference_too(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    copy = damaged(model, tmp_path / "copy", flip_bit)
    *before, last = run_moefs("verify", src, copy, "--to", "merged").stdout.splitlines()
    found = [line for line in before if line.startswith("bytes: ")]
    assert len(found) == 1 and re.fullmatch(r"DIFFERENT \(\d+\): (.*)", last)[1] == found[0]


def test_more_differences_than_are_listed(run_moefs, tmp_path):
    model = build(experts=20)
    src = model.write(tmp_path / "src")
    model.experts[BLOCK]["down"] ^= 1
    model.experts[BLOCK]["up"] ^= 1
    lines = run_moefs("verify", src, model.write(tmp_path / "copy", "merged")).stdout.splitlines()
    assert sum(line.startswith("bytes: ") for line in lines) == 20
    assert lines[-2] == "... and 21 more" and lines[-1].startswith("DIFFERENT (41): bytes: ")


def flip_byte(path, at, bit=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_a_flipped_bit_beside_the_experts(run_moefs, tmp_path):
    model = build()
    src, copy = model.write(tmp_path / "src"), model.write(tmp_path / "copy", "merged")
    file = file_with(copy, OTHER)
    at = place_of(file, OTHER)[0] + 5
    flip_byte(file, at)
    first = verify(run_moefs, src, copy, "--to", "merged", status=3)["differences"][0]
    assert first["tensor"] == OTHER and (first["row"], first["column"]) == (0, 2)
    assert f"({file.name}, byte {at})" in first["text"]


def relabel(tensor):
    return raw.Tensor("F16", tensor.elements)


def flatten(tensor):
    return raw.Tensor(tensor.dtype, tensor.elements.reshape(-1))


def shorten(tensor):
    return raw.Tensor(tensor.dtype, tensor.elements[:5])


# (what is done, to which tensor of the copy, what is said)
RESHAPED = [
    (relabel, OTHER, "has it as F16 [6]"),
    (flatten, "lm_head.weight", "has it as BF16 [66]"),
    (shorten, "lm_head.weight", "has it as BF16 [5, 6]"),
    (relabel, f"{BLOCK}.experts.down_proj", "has it as F16 [4, 6, 6]"),
    (flatten, f"{BLOCK}.experts.gate_up_proj", "has it as BF16 [288]"),
]


@pytest.mark.parametrize("change,name,text", RESHAPED, ids=lambda v: getattr(v, "__name__", None))
def test_another_dtype_or_shape(run_moefs, tmp_path, change, name, text):
    model = build()
    src = model.write(tmp_path / "src")
    stored = model.stored("merged")
    stored.tensors[name] = change(stored.tensors[name])
    copy = stored.write(tmp_path / "copy")
    said = verify(run_moefs, src, copy, "--to", "merged", status=3)
    [found] = [d for d in said["differences"] if d["kind"] == "shape"]
    assert found["tensor"] == name and text in found["text"]


@pytest.mark.parametrize("stale", ["wrong file", "name that is gone", "name that is missing"])
def test_a_stale_index(run_moefs, tmp_path, stale):
    model = build()
    src, copy = model.write(tmp_path / "src"), model.write(tmp_path / "copy", "merged")
    index = json.loads((copy / raw.INDEX).read_text())
    weight_map = index["weight_map"]
    if stale == "wrong file":
        name, word = OTHER, "and it is in"
        weight_map[name] = next(f for f in weight_map.values() if f != weight_map[name])
    elif stale == "name that is gone":
        name, word = "model.layers.0.gone.weight", "no file has it"
        weight_map[name] = weight_map[OTHER]
    else:
        name, word = OTHER, "does not name it"
        del weight_map[name]
    (copy / raw.INDEX).write_text(json.dumps(index))
    first = verify(run_moefs, src, copy, "--to", "merged", status=3)["differences"][0]
    assert (first["kind"], first["tensor"]) == ("index", name) and word in first["text"]


def test_a_copy_in_another_layout(run_moefs, tmp_path):
    model = build()
    src, copy = model.write(tmp_path / "src"), model.write(tmp_path / "copy", "stacked")
    kinds = {d["kind"] for d in verify(run_moefs, src, copy, "--to", "merged", status=3)["differences"]}
    assert kinds == {"missing", "unexpected"}


# ---- without --to, what is there says what it was made with ----


@pytest.mark.parametrize("to", ["original", "stacked", "in-out", "flat", "torchtitan"])
def test_a_mount_in_another_layout(run_moefs, mount, tmp_path, to):
    src = build().write(tmp_path / "src")
    with mount(src, "--to", to) as m:
        said = verify(run_moefs, src, m.path)
    assert said["verdict"] == "equal" and said["to"] == to


def test_a_source_in_a_layout_with_renames(run_moefs, mount, tmp_path):
    """--from takes the names of the tensors beside the experts back, too."""
    layout = tmp_path / "mine.json"
    weight = {"name": "{block}.experts.{proj}.weight{expert}", "gate up": "(proj inner) hidden", "down": "hidden inner"}
    spell = {"gate up": "fc1", "down": "fc2"}
    layout.write_text(json.dumps({"spell": spell, "weight": weight, "rename": [["lm_head.weight", "output.weight"]]}))
    model = build()
    copy = model.write(tmp_path / "copy")
    with mount(model.write(tmp_path / "src"), "--to", layout) as m:
        assert "output.weight" in raw.read_directory(m.path)
        verify(run_moefs, m.path, copy, "--from", layout, "--to", "per-expert")
        assert verify(run_moefs, m.path, copy, "--from", layout)["to"] == "original"


@pytest.mark.parametrize("to", ["up-first", "interleaved"])
def test_a_layout_that_names_and_shapes_do_not_tell(run_moefs, mount, tmp_path, to):
    src = build().write(tmp_path / "src")
    with mount(src, "--to", to) as m:
        done = run_moefs("verify", src, m.path)
        verify(run_moefs, src, m.path, "--to", to)
    assert done.returncode == 3 and done.stdout.splitlines()[-1].startswith("DIFFERENT")
    assert "up-first" in done.stderr and "interleaved" in done.stderr and "--to" in done.stderr


@pytest.mark.parametrize("source,layout,to", [("per-expert", "stacked", "stacked"), ("in-out", "per-expert", "original")])
def test_a_copy_without_to(run_moefs, tmp_path, source, layout, to):
    model = build(layout=source)
    src, copy = model.write(tmp_path / "src"), model.write(tmp_path / "copy", layout)
    assert verify(run_moefs, src, copy)["to"] == to
    assert verify(run_moefs, src)["to"] == "v5"


def test_damage_without_to(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    copy = damaged(model, tmp_path / "copy", transpose_down, "stacked")
    file = file_with(copy, OTHER)
    flip_byte(file, place_of(file, OTHER)[0])
    said = verify(run_moefs, src, copy, status=3)
    assert said["to"] == "stacked"
    assert [d["tensor"] for d in said["differences"] if d["kind"] == "bytes"] == [
        f"{BLOCK}.experts.1.down_proj.weight",
        OTHER,
    ]


# ---- whether a loader finds the weights and builds the same model ----


def change(**keys):
    return lambda config: config.update(keys)


def remove(key):
    return lambda config: config.pop(key)


def respell(config):
    """As transformers 5 writes what transformers 4 wrote."""
    config["dtype"] = config.pop("torch_dtype")
    config["num_local_experts"] = config.pop("num_experts")
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    config["transformers_version"] = "5.0.0"


# what is done to the copy's config.json -> the key that is named
CHANGED = {
    "activation": (change(hidden_act="gelu"), "hidden_act"),
    "top-k": (change(num_experts_per_tok=1), "num_experts_per_tok"),
    "model_type": (change(model_type="qwen2_moe"), "model_type"),
    "theta": (change(rope_theta=10000.0), "rope_theta"),
    "a list": (change(architectures=["MixtralForCausalLM"]), "architectures"),
    "nested": (change(text_config={"model_type": "x"}), "text_config.model_type"),
    "gone": (remove("norm_topk_prob"), "norm_topk_prob"),
    "quantised": (change(quantization_config={"quant_method": "fp8"}), "quantization_config.quant_method"),
    "both spellings": (change(num_local_experts=8), "num_local_experts"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_another_config(run_moefs, tmp_path, case):
    model = build()
    src = model.write(tmp_path / "src")
    changing, key = CHANGED[case]
    changing(model.config)
    copy = model.write(tmp_path / "copy", "merged")
    said = verify(run_moefs, src, copy, "--to", "merged", status=3)
    assert ("config", key) in {(d["kind"], d["tensor"]) for d in said["differences"]}


@pytest.mark.parametrize("changing", [respell, change(use_cache=False), change(rope_theta=1000000), change(pad=None)])
def test_the_same_config(run_moefs, tmp_path, changing):
    model = build()
    src = model.write(tmp_path / "src")
    changing(model.config)
    said = verify(run_moefs, src, model.write(tmp_path / "copy", "merged"))
    assert said["verdict"] == "equal" and said["notes"] == []


def test_an_added_key_is_named(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    model.config["attention_bias"] = True
    copy = model.write(tmp_path / "copy", "merged")
    [note] = verify(run_moefs, src, copy)["notes"]
    assert "attention_bias (true)" in note
    assert "attention_bias (true)" in run_moefs("verify", src, copy).stderr


def test_many_added_keys(run_moefs, tmp_path):
    model = build()
    src = model.write(tmp_path / "src")
    model.config |= {f"added_{i}": i for i in range(10)}
    [note] = verify(run_moefs, src, model.write(tmp_path / "copy", "merged"))["notes"]
    assert "added_7 (7) and 2 more" in note and "added_8" not in note


def test_an_added_key_that_changes_what_experts_compute(run_moefs, tmp_path):
    model = build()
    del model.config["hidden_act"]
    src = model.write(tmp_path / "src")
    model.config["hidden_act"] = "silu"  # what a loader assumes without it
    verify(run_moefs, src, model.write(tmp_path / "same", "merged"))
    model.config["hidden_act"] = "gelu"
    said = verify(run_moefs, src, model.write(tmp_path / "gelu", "merged"), status=3)
    assert {d["kind"] for d in said["differences"]} == {"function"}


def test_an_added_key_that_changes_the_router(run_moefs, tmp_path):
    model = build()
    del model.config["num_experts_per_tok"]
    src = model.write(tmp_path / "src")
    model.config["num_experts_per_tok"] = 4
    first = verify(run_moefs, src, model.write(tmp_path / "copy", "merged"), status=3)["differences"][0]
    assert first["kind"] == "function" and "its router is another one: 4 experts a token" in first["text"]


@pytest.mark.parametrize("shards,found", [(0, False), (1, True), (3, True)])
def test_a_copy_without_an_index(run_moefs, tmp_path, shards, found):
    model = build()
    src = model.write(tmp_path / "src")
    copy = model.write(tmp_path / "copy", "merged", shards=shards)
    (copy / raw.INDEX).unlink(missing_ok=True)
    said = verify(run_moefs, src, copy, status=3 if found else 0)
    assert [(d["kind"], d["tensor"]) for d in said["differences"]] == [("index", raw.INDEX)] * found


def test_a_source_without_an_index(run_moefs, tmp_path):
    src = build().write(tmp_path / "src")
    (src / raw.INDEX).unlink()
    verify(run_moefs, src, "--source")


# ---- failures ----


def test_a_side_that_cannot_be_read(run_moefs, mount, tmp_path):
    src = build().write(tmp_path / "src")
    with mount(src, "--to", "in-out", env={"MOEFS_FAULT": "error:file=0,every=1"}) as m:
        said = verify(run_moefs, src, m.path, "--to", "in-out", status=1)
    assert re.search(r"model-0000\d-of-00003\.safetensors.*Input/output error", said)


def test_the_progress_line_fits_the_terminal(moefs, mount, tmp_path):
    columns = 40
    src = build(inner=512, hidden=512).write(tmp_path / "src")  # more than the kernel reads ahead with the headers
    with mount(src, "--to", "in-out", env={"MOEFS_FAULT": "delay:ms=100"}) as m:
        reader, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [moefs, "verify", src, m.path, "--to", "in-out"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal)
        os.close(terminal)
        said = b""
        while piece := read_terminal(reader):
            said += piece
        os.close(reader)
        assert process.wait() == 0
    lines = re.findall(rb"\r(\[[^\r\n\x1b]*)", said)
    assert lines and all(len(line) < columns for line in lines), said


def read_terminal(reader):
    try:
        return os.read(reader, 4096)
    except OSError:  # EIO: nobody has the terminal open any more
        return b""


# ---- the source ----


def hf_cache(model, directory):
    """The layout of a Hugging Face cache: links in snapshots/, blobs named by the sha256 of what LFS delivered."""
    plain = model.write(directory / "plain")
    blobs, snapshot = directory / "models--a--b" / "blobs", directory / "models--a--b" / "snapshots" / "0"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in plain.iterdir():
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(blob)
    return snapshot


def test_source_blobs(run_moefs, tmp_path):
    model = build()
    snapshot = hf_cache(model, tmp_path)
    done = run_moefs("verify", snapshot, "--source")
    if "built with libcrypto" in done.stderr:
        pytest.skip("this moefs was built without libcrypto")
    assert done.returncode == 0 and "are named by their sha256 and were checked" in done.stdout, done.stdout + done.stderr
    shard = snapshot / next(iter(model.stored().shards))
    flip_byte(shard.resolve(), -1)
    first = verify(run_moefs, snapshot, "--source", status=3)["differences"][0]
    assert first["kind"] == "blob" and first["tensor"].endswith(shard.name)
    assert hashlib.sha256(shard.read_bytes()).hexdigest() in first["text"]


def test_a_truncated_source_is_refused(run_moefs, tmp_path):
    src = build().write(tmp_path / "src")
    shard = next(src.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-3])
    assert shard.name in verify(run_moefs, src, "--source", status=1)


# ---- usage ----


@pytest.mark.parametrize(
    "options",
    [
        ["--layers", "a"],
        ["--layers", "3-"],
        ["--layers", ""],
        ["--tokens", "0"],
        ["--tokens", "99999"],
        ["--seed", "-1"],
        ["--order", "x"],
    ],
    ids=" ".join,
)
def test_usage(run_moefs, tmp_path, options):
    src = build().write(tmp_path / "src")
    assert options[0] in verify(run_moefs, src, *options, status=2)


# ---- what the experts compute ----


@pytest.mark.parametrize("options", [["--tokens", "5"], ["--tokens", "40", "--order", "before-down"], ["--seed", "9"]])
def test_options_of_the_function(run_moefs, tmp_path, options):
    src = build(experts=40).write(tmp_path / "src")
    block = verify(run_moefs, src, *options)["function"][0]
    assert block["routed"] == ("--tokens" in options)
    assert block["max_rel"] <= 1e-5
    assert block["tokens"] * block["top_k"] >= (1 if "--tokens" in options else 40)


def test_a_function_that_is_not_known(run_moefs, tmp_path):
    model = build(layout="merged")
    model.config["model_type"] = "muse_spark_text"
    src = model.write(tmp_path / "src")
    assert {b["skipped"] for b in verify(run_moefs, src)["function"]} == {"its experts end in a norm of their own"}
    assert f"function: {BLOCK}: not computed: its experts end in a norm" in run_moefs("verify", src).stdout


def test_outputs_that_are_not_finite(run_moefs, tmp_path):
    model = build()
    model.experts[BLOCK]["down"][0, 0, 0] = 0x7F80  # infinity
    src = model.write(tmp_path / "src")
    finite, infinite = verify(run_moefs, src)["function"]
    assert finite["not_finite"] == 0 and infinite["not_finite"] > 0
    assert "are not finite on both sides" in run_moefs("verify", src).stdout


def assert_outputs(run_moefs, model, src, to, stored, *options):
    """What moefs writes is the layer of these weights: stored(block, proj, expert) gives one of them as numbers."""
    outputs = src.parent / "outputs"
    said = verify(run_moefs, src, "--to", to, *options, "--write-outputs", outputs)
    assert [b["skipped"] for b in said["function"]] == [None, None]
    written = raw.read_file(outputs)
    for block, experts in model.experts.items():
        weights = [[stored(block, p, e) for p in numpy_moe.PROJS] for e in range(len(experts["gate"]))]
        given = {k: written[f"{block}.{k}"] for k in ("x", "experts", "weights", "output")}
        want = numpy_moe.forward(given, weights)
        assert np.abs(want).max() > 0
        assert np.abs(numbers(given["output"]) - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("dtype,to", [*itertools.product(["F16", "F32", "BF16"], ["per-expert", "merged", "in-out"]),
                                      ("F8_E5M2", "per-expert")])  # fmt: skip
def test_the_function_of_every_type(run_moefs, tmp_path, dtype, to):
    model = build(hidden=70, dtype=dtype)
    if dtype == "F16":  # subnormal numbers too
        gate = model.experts[BLOCK]["gate"]
        gate[1] = numpy_moe.cut(numbers(raw.Tensor(dtype, gate[1])) * 2.0**-14, dtype)

    def stored(block, proj, expert):
        return numbers(raw.Tensor(dtype, model.experts[block][proj][expert]))

    assert_outputs(run_moefs, model, model.write(tmp_path / "src"), to, stored)


def quantise(model, block=128):
    """Random FP8 experts with a scale for each 128 x 128 block; (block, projection, expert) -> the scales, spread out."""
    rng, scales = np.random.default_rng(0), {}
    model.dtype = "F8_E4M3"
    for name, experts in model.experts.items():
        for proj, elements in experts.items():
            shape = elements.shape
            experts[proj] = rng.integers(0, 2, shape, np.uint8) << 7 | rng.integers(0, 64, shape, np.uint8)
            for e in range(shape[0]):
                scale = rng.random([n // block for n in shape[1:]], np.float32) / 64
                scales[name, proj, e] = scale.astype(np.float64).repeat(block, 0).repeat(block, 1)
                stored = f"{name}.experts.{e}.{proj}_proj.weight_scale_inv"
                model.companions[stored] = raw.Tensor("F32", scale.view(np.uint32))
    return scales


@pytest.mark.parametrize("to", ["per-expert", "merged"])
def test_fp8_with_scales(run_moefs, tmp_path, to):
    model = build(inner=256, hidden=384)
    scales = quantise(model)

    def stored(block, proj, expert):
        return numbers(raw.Tensor("F8_E4M3", model.experts[block][proj][expert])) * scales[block, proj, expert]

    assert_outputs(run_moefs, model, model.write(tmp_path / "src"), to, stored, "--fp8", "keep")


def test_a_mount_of_fp8_without_to(run_moefs, mount, tmp_path):
    model = build(inner=128, hidden=128)
    quantise(model)
    src = model.write(tmp_path / "src")
    with mount(src, "--fp8", "keep") as m:
        assert verify(run_moefs, src, m.path, "--fp8", "keep")["to"] == "v5"
        assert "--fp8 keep" in verify(run_moefs, src, m.path, status=1)
