"""What must be refused is refused, by `plan` and by `mount`, with the file, the tensor and the numbers in the message;
nothing is mounted then. Each case is one thing wrong in a checkpoint that is otherwise right."""
import os
import subprocess
from pathlib import Path

import pytest
import torch

import oracle
from checkpoints import (LAYOUTS, Block, build, expert_name, random_tensor, rng_of, shard)

B0, B1 = "model.layers.0.mlp", "model.layers.1.mlp"
BF16, F32, U8 = torch.bfloat16, torch.float32, torch.uint8


def is_mounted(path):
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def messages(done):
    return done.stdout + done.stderr


def assert_says(text, parts):
    missing = [p for p in parts if p not in text]
    assert missing == [], f"not said: {missing}\nsaid: {text}"


def refused(run_moefs, tmp_path, src, *options, says=(), status=1):
    """plan and mount both refuse with this status, and say all of that on stderr; nothing is left mounted."""
    mnt = tmp_path / "mnt"
    mnt.mkdir(exist_ok=True)
    for command in (["plan", src, *options], ["mount", src, mnt, *options]):
        done = run_moefs(*command)
        try:
            assert not is_mounted(mnt), "mounted in spite of it all"
        finally:
            if is_mounted(mnt):
                subprocess.run(["umount", "-l", mnt], check=False)
        assert done.returncode == status, (command[0], done.returncode, messages(done))
        assert_says(done.stderr, says)
        assert done.stdout == ""
    assert os.listdir(mnt) == []
    return done.stderr


def accepted(run_moefs, src, *options, says=()):
    done = run_moefs("plan", src, *options)
    assert done.returncode == 0, messages(done)
    assert_says(messages(done), says)
    return messages(done)


def write(checkpoint, tmp_path, shards=2):
    shard(checkpoint, shards, "natural")
    return checkpoint.write(tmp_path / "src")


def name_of(block, layout, proj, expert=None):
    return expert_name(block, layout, proj, expert)


def drop(*names):
    def change(c):
        for name in names:
            del c.tensors[name]
    return change


def add(**tensors):
    def change(c):
        for name, (dtype, shape) in tensors.items():
            c.tensors[name] = random_tensor(rng_of(3), dtype, shape)
    return change


def put(name, dtype, shape):
    return add(**{name: (dtype, shape)})


def rename(old, new):
    def change(c):
        c.tensors = {(n.replace(old, new)): t for n, t in c.tensors.items()}
    return change


def both(*changes):
    def change(c):
        for one in changes:
            one(c)
    return change


def merged_too(c):
    c.tensors |= Block(B1, "merged", 3, 5, 7).tensors(rng_of(9))


def last_expert_gone(block):
    return drop(*(name_of(block, "per-expert", p, 2) for p in ("gate", "up", "down")))


# case: (layout of the source, what is wrong, target, what the message must say). E=3, I=5, H=7, two layers.
EXPERT_SETS = {
    "one projection of one expert": ("per-expert", drop(name_of(B1, "per-expert", "up", 1)), "v5",
                                     [B1, name_of(B1, "per-expert", "up", 1), "missing"]),
    "an expert in the middle": ("per-expert", drop(*(name_of(B1, "per-expert", p, 1) for p in ("gate", "up", "down"))),
                                "v5", [B1, "expert 1", "missing"]),
    "the first expert": ("per-expert", drop(*(name_of(B0, "per-expert", p, 0) for p in ("gate", "up", "down"))),
                         "stacked", [B0, "expert 0", "missing"]),
    "the last expert's down": ("per-expert", drop(name_of(B1, "per-expert", "down", 2)), "v5",
                               [B1, name_of(B1, "per-expert", "down", 2), "missing"]),
    "the last expert": ("per-expert", last_expert_gone(B1), "v5", [B1, "2 experts", "3", "config.json"]),
    "all of gate": ("per-expert", drop(*(name_of(B1, "per-expert", "gate", e) for e in range(3))), "v5",
                    [B1, "gate_proj", "missing"]),
    "an index with a leading zero": ("per-expert", rename(f"{B1}.experts.2.", f"{B1}.experts.02."), "v5", [B1, "2"]),
    "down of merged": ("merged", drop(name_of(B1, "merged", "down")), "per-expert",
                       [B1, name_of(B1, "merged", "down"), "missing"]),
    "gate_up of in-out": ("in-out", drop(name_of(B1, "in-out", "gate")), "v5",
                          [B1, name_of(B1, "in-out", "gate"), "missing"]),
    "up of stacked": ("stacked", drop(name_of(B1, "stacked", "up")), "v5",
                      [B1, name_of(B1, "stacked", "up"), "missing"]),
    "one dtype more, in one expert": ("per-expert", put(name_of(B1, "per-expert", "up", 1), F32, (5, 7)), "v5",
                                      [B1, name_of(B1, "per-expert", "up", 1), "F32", "BF16"]),
    "gate and up of two dtypes": ("stacked", put(name_of(B1, "stacked", "up"), F32, (3, 5, 7)), "v5",
                                  [B1, name_of(B1, "stacked", "up"), "F32", "BF16"]),
    "one expert of another shape": ("per-expert", put(name_of(B1, "per-expert", "up", 1), BF16, (6, 7)), "v5",
                                    [B1, name_of(B1, "per-expert", "up", 1), "6", "5"]),
    "down of another shape": ("merged", put(name_of(B1, "merged", "down"), BF16, (3, 7, 6)), "per-expert",
                              [B1, name_of(B1, "merged", "down")]),
    "gate_up with an odd number of rows": ("merged", put(name_of(B1, "merged", "gate"), BF16, (3, 11, 7)), "per-expert",
                                           [B1, name_of(B1, "merged", "gate"), "11"]),
    "a matrix where three axes belong": ("merged", put(name_of(B1, "merged", "gate"), BF16, (30, 7)), "per-expert",
                                         [B1, name_of(B1, "merged", "gate"), "30"]),
    "an expert of no size": ("merged", put(name_of(B1, "merged", "gate"), BF16, (3, 0, 7)), "per-expert",
                             [B1, name_of(B1, "merged", "gate"), "[3, 0, 7]"]),
    "per-expert and merged in one block": ("per-expert", merged_too, "v5", [B1, "per-expert", "merged"]),
    "a target's key exists: down": ("per-expert", put(f"{B1}.experts.down_proj", BF16, (3, 7, 5)), "v5",
                                    [B1, f"{B1}.experts.down_proj"]),
    "a target's key exists: gate_up": ("per-expert", put(f"{B1}.experts.gate_up_proj", U8, (1,)), "merged",
                                       [B1, f"{B1}.experts.gate_up_proj"]),
    "a target's key exists: one expert": ("merged", put(f"{B1}.experts.1.up_proj.weight", BF16, (5, 7)), "per-expert",
                                          [B1, f"{B1}.experts.1.up_proj.weight"]),
}


@pytest.mark.parametrize("case", EXPERT_SETS)
def test_expert_sets(run_moefs, tmp_path, case):
    layout, change, to, says = EXPERT_SETS[case]
    checkpoint = build(1, layout=layout)
    change(checkpoint)
    refused(run_moefs, tmp_path, write(checkpoint, tmp_path), "--to", to, says=says)


COMPANIONS = {
    "block scales": ("per-expert", ".experts.{e}.{p}_proj.weight_scale_inv", "scale"),
    "packed integers": ("per-expert", ".experts.{e}.{p}_proj.weight_packed", "packed"),
    "biases": ("per-expert", ".experts.{e}.{p}_proj.bias", "bias"),
    "scales of merged": ("merged", ".experts.gate_up_proj_scale_inv", "scale"),
    "biases of merged": ("merged", ".experts.down_proj_bias", "bias"),
    "scales of in-out": ("in-out", ".experts.down_proj_scales", "scale"),
}


@pytest.mark.parametrize("case", COMPANIONS)
def test_companions(run_moefs, mount, tmp_path, case):
    """Refused in every target but the present layout, where the group passes through with them."""
    layout, pattern, word = COMPANIONS[case]
    checkpoint = build(1, layout=layout)
    names = sorted({B1 + pattern.format(e=e, p=p) for e in range(3) for p in ("gate", "up", "down")})
    for name in names:
        checkpoint.tensors[name] = random_tensor(rng_of(4), F32, (2,))
    src = write(checkpoint, tmp_path)
    for to in LAYOUTS:
        if to != layout:
            refused(run_moefs, tmp_path, src, "--to", to, says=[B1, names[0][len(B1):].split("_")[0], word, layout])
    want = oracle.write(oracle.convert(checkpoint, layout), src, tmp_path / "want")
    with mount(src, "--to", layout) as m:
        oracle.assert_same_directory(m.path, want)


def test_all_reasons_at_once(run_moefs, tmp_path):
    """One refused group refuses the mount, and every refused group is in the message."""
    checkpoint = build(1, layers=4)
    drop("model.layers.0.mlp.experts.1.up_proj.weight")(checkpoint)
    put("model.layers.1.mlp.experts.0.down_proj.weight_scale_inv", F32, (1, 1))(checkpoint)
    put("model.layers.3.mlp.experts.2.gate_proj.weight", F32, (5, 7))(checkpoint)
    text = refused(run_moefs, tmp_path, write(checkpoint, tmp_path), "--to", "v5",
                   says=["model.layers.0.mlp", "experts.1.up_proj.weight", "model.layers.1.mlp", "scale"])
    assert "model.layers.2.mlp" not in text


# ---- expert counts of config.json ----


@pytest.mark.parametrize("counts,experts,verdict", [
    ({"num_experts": 3}, 3, "silent"),
    ({"num_local_experts": 3}, 3, "silent"),
    ({"num_experts": 8, "text_config": {"thinker": {"n_routed_experts": 3}}}, 3, "silent"),
    ({"moe_num_experts": 3, "num_experts": 9}, 3, "silent"),
    ({}, 3, "silent"),
    ({"num_experts": 4}, 3, "refused"),
    ({"num_experts": 8, "text_config": {"num_local_experts": 4}}, 3, "refused"),
    ({"num_experts": 2}, 3, "warned"),
    ({"num_experts": 8, "text_config": {"num_local_experts": 2}}, 3, "warned"),
])
@pytest.mark.parametrize("layout", ["per-expert", "merged"])
def test_expert_counts(run_moefs, tmp_path, counts, experts, verdict, layout):
    checkpoint = build(1, layout=layout, experts=experts)
    del checkpoint.config["num_experts"]
    checkpoint.config |= counts
    src = write(checkpoint, tmp_path)
    to = "merged" if layout == "per-expert" else "per-expert"
    if verdict == "refused":
        refused(run_moefs, tmp_path, src, "--to", to, says=[B0, str(experts), "4", "config.json"])
        return
    text = accepted(run_moefs, src, "--to", to)
    assert ("number that config.json" in text or "warning" in text.lower()) == (verdict == "warned"), text


def test_mtp_is_exempt_from_the_count(mount, run_moefs, tmp_path):
    """An MTP block may have fewer experts than the model."""
    checkpoint = build(1)
    mtp = Block("mtp.layers.0.mlp", "per-expert", 2, 5, 7)
    checkpoint.blocks.append(mtp)
    checkpoint.tensors |= mtp.tensors(rng_of(2))
    src = write(checkpoint, tmp_path)
    want = oracle.write(oracle.convert(checkpoint, "stacked"), src, tmp_path / "want")
    with mount(src, "--to", "stacked") as m:
        oracle.assert_same_directory(m.path, want)


def test_config_of_any_size(run_moefs, tmp_path):
    """Its tree takes 40 times the file's memory: more than 4 MiB is refused, as docs/mount.md says."""
    src = write(build(1), tmp_path)
    config = (src / "config.json").read_bytes()
    for size, accepted in ((4 << 20, True), ((4 << 20) + 1, False), (1 << 40, False)):
        with open(src / "config.json", "wb") as file:
            if size < 1 << 30:
                file.write(config.ljust(size))
            file.truncate(size)
        done = run_moefs("plan", src)
        assert done.returncode == (0 if accepted else 1)
        assert accepted or f"config.json has {size} bytes, more than the 4194304 that such a file may have" in done.stderr


# ---- the index ----


def test_index_names_an_expert_that_no_file_has(run_moefs, tmp_path):
    checkpoint = build(1)
    shard(checkpoint, 2)
    name = f"{B1}.experts.3.gate_proj.weight"
    checkpoint.index["weight_map"][name] = next(iter(checkpoint.shards))
    refused(run_moefs, tmp_path, checkpoint.write(tmp_path / "src"), says=[B1, name])


def test_index_names_a_tensor_of_an_incomplete_set(run_moefs, tmp_path):
    checkpoint = build(1)
    shard(checkpoint, 2)
    name = f"{B1}.experts.1.gate_proj.weight"
    for names in checkpoint.shards.values():
        if name in names:
            names.remove(name)
    refused(run_moefs, tmp_path, checkpoint.write(tmp_path / "src"), says=[B1, name])


@pytest.mark.parametrize("file,says", [
    ("model-00009-of-00009.safetensors", ["model-00009-of-00009.safetensors"]),
    ("../../etc/passwd", ["../../etc/passwd"]),
    ("/etc/passwd", ["/etc/passwd"]),
    ("sub/model.safetensors", ["sub/model.safetensors"]),
    ("..", [".."]), (".", ["."]), ("", []),
])
def test_index_names_a_file_that_is_not_there(run_moefs, tmp_path, file, says):
    checkpoint = build(1)
    shard(checkpoint, 2)
    checkpoint.index["weight_map"]["lm_head.weight"] = file
    refused(run_moefs, tmp_path, checkpoint.write(tmp_path / "src"), says=["model.safetensors.index.json", *says])


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"metadata": {}}', '{"weight_map": []}',
                                  '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "b"}} x',
                                  '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "\xff"])
def test_malformed_index(run_moefs, tmp_path, text):
    checkpoint = build(1)
    src = write(checkpoint, tmp_path)
    (src / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    refused(run_moefs, tmp_path, src, says=["model.safetensors.index.json"])


def test_single_file_beside_an_index(run_moefs, tmp_path):
    checkpoint = build(1)
    src = write(checkpoint, tmp_path)
    (src / "model.safetensors").write_bytes((src / next(iter(checkpoint.shards))).read_bytes())
    refused(run_moefs, tmp_path, src, says=["model.safetensors", "model.safetensors.index.json"])


# ---- config.json and model types ----


@pytest.mark.parametrize("text", [None, "", "[]", "null", "{", '{"model_type": }', "{'model_type': 'qwen3_moe'}"])
def test_config_missing_or_malformed(run_moefs, tmp_path, text):
    src = write(build(1), tmp_path)
    (src / "config.json").unlink()
    if text is not None:
        (src / "config.json").write_text(text)
    refused(run_moefs, tmp_path, src, says=["config.json"])


def test_config_with_nan(run_moefs, tmp_path):
    checkpoint = build(1)
    checkpoint.config |= {"time_step_limit": [0.0, float("inf")], "x": float("-inf"), "y": float("nan")}
    src = write(checkpoint, tmp_path)
    assert "Infinity" in (src / "config.json").read_text()
    accepted(run_moefs, src)


@pytest.mark.parametrize("to", ["v5", "original", None])
@pytest.mark.parametrize("model_type", ["made_up_moe", None])
def test_unknown_model_type(run_moefs, tmp_path, model_type, to):
    checkpoint = build(1)
    checkpoint.config["model_type"] = model_type
    if model_type is None:
        del checkpoint.config["model_type"]
    refused(run_moefs, tmp_path, write(checkpoint, tmp_path), *(["--to", to] if to else []),
            says=["config.json", "model_type", model_type or "", to or "v5"])


@pytest.mark.parametrize("to", LAYOUTS)
def test_unknown_model_type_takes_explicit_targets(mount, tmp_path, to):
    checkpoint = build(1)
    checkpoint.config["model_type"] = "made_up_moe"
    src = write(checkpoint, tmp_path)
    want = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / "want")
    with mount(src, "--to", to) as m:
        oracle.assert_same_directory(m.path, want)


@pytest.mark.parametrize("option,word,near", [("--to", "mergd", "merged"), ("--to", "perexpert", "per-expert"),
                                              ("--to", "in_out", "in-out"), ("--from", "staked", "stacked"),
                                              ("--to", "V5", "v5"), ("--to", "orignal", "original"), ("--to", "", "")])
def test_unknown_layout(run_moefs, tmp_path, option, word, near):
    src = write(build(1), tmp_path)
    refused(run_moefs, tmp_path, src, option, word, says=[option, near], status=2)


@pytest.mark.parametrize("to", ["v5", "original", *LAYOUTS])
@pytest.mark.parametrize("model_type", ["qwen3_moe", "llama", None])
def test_dense_model(mount, run_moefs, tmp_path, model_type, to):
    """No expert anywhere, in names or in config.json: the mount is the directory itself, and one line says so."""
    checkpoint = build(1, companions=False)
    checkpoint.blocks = []
    checkpoint.tensors = {n: t for n, t in checkpoint.tensors.items() if "expert" not in n}
    checkpoint.config = {"model_type": model_type, "hidden_size": 7}
    if model_type is None:
        del checkpoint.config["model_type"]
    src = write(checkpoint, tmp_path)
    text = accepted(run_moefs, src, "--to", to, says=["dense"])
    assert sum("dense" in line for line in text.splitlines()) == 1
    with mount(src, "--to", to) as m:
        oracle.assert_same_directory(m.path, src)


@pytest.mark.parametrize("extra", [{"num_experts": 8}, {"text_config": {"n_routed_experts": 8}}])
def test_no_experts_where_config_has_some(run_moefs, tmp_path, extra):
    checkpoint = build(1, companions=False)
    checkpoint.tensors = {n: t for n, t in checkpoint.tensors.items() if "expert" not in n}
    checkpoint.config = {"model_type": "qwen3_moe", **extra}
    refused(run_moefs, tmp_path, write(checkpoint, tmp_path), says=["no experts"])


def test_experts_under_unknown_names(run_moefs, tmp_path):
    checkpoint = build(1, companions=False)
    rename("gate_proj", "w1")(checkpoint)
    rename("up_proj", "w3")(checkpoint)
    rename("down_proj", "w2")(checkpoint)
    refused(run_moefs, tmp_path, write(checkpoint, tmp_path), "--to", "merged", says=["expert"])


# ---- --from ----


@pytest.mark.parametrize("layout,said", [(a, b) for a in LAYOUTS for b in LAYOUTS if a != b])
def test_from_that_fits_nothing(run_moefs, tmp_path, layout, said):
    src = write(build(1, layout=layout), tmp_path)
    refused(run_moefs, tmp_path, src, "--from", said, "--to", "per-expert", says=["--from", said])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(3, 5, 7), (3, 4, 8), (3, 6, 6)], ids=str)
def test_from_that_fits(mount, tmp_path, layout, size):
    checkpoint = build(1, layout=layout, experts=size[0], inner=size[1], hidden=size[2])
    src = write(checkpoint, tmp_path)
    to = "stacked" if layout != "stacked" else "merged"
    want = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / "want")
    with mount(src, "--from", layout, "--to", to) as m:
        oracle.assert_same_directory(m.path, want)


@pytest.mark.parametrize("said,fits", [("v5", "merged"), ("original", "in-out")])
def test_from_by_role(run_moefs, tmp_path, said, fits):
    """v5 and original mean the architecture's own."""
    for layout in ("merged", "in-out"):
        src = write(build(1, layout=layout, model_type="qwen3_vl_moe"), tmp_path / layout)
        if layout == fits:
            accepted(run_moefs, src, "--from", said, "--to", "per-expert")
        else:
            (tmp_path / layout).mkdir(exist_ok=True)
            refused(run_moefs, tmp_path / layout, src, "--from", said, "--to", "per-expert", says=["--from", said])
