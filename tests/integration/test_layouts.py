"""Which layout a group of experts is in, and what the index and config.json have to say about it.

A group recognised as the wrong layout gives wrong bytes, so each test compares bytes with the oracle."""

import pytest
import torch

import oracle
from checkpoints import (LAYOUTS, PREFIX, Block, build, make, random_tensor, rng_of, shard,
                         write_shard)

# experts, inner, hidden: sizes at which single tensors look alike in two layouts
SQUARES = [(3, 4, 8), (3, 6, 6), (2, 1, 2), (4, 2, 4), (2, 2, 2), (8, 4, 8), (1, 1, 1)]


def check(mount, checkpoint, src, tmp_path, *options, to, expected=None):
    want = oracle.write(expected or oracle.convert(checkpoint, to), src, tmp_path / f"want-{to}")
    with mount(src, "--to", to, *options) as m:
        oracle.assert_same_directory(m.path, want)


def said(run_moefs, src, *options):
    done = run_moefs("plan", src, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("size", SQUARES, ids=lambda s: "E{}-I{}-H{}".format(*s))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model_type", PREFIX)
def test_squares(mount, tmp_path, model_type, layout, size):
    """gate_up and down together decide, whatever is square."""
    e, i, h = size
    checkpoint = make(1, model_type=model_type, layout=layout, experts=e, inner=i, hidden=h, shards=2, layers=1)
    src = checkpoint.write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to="per-expert" if layout != "per-expert" else "in-out")


@pytest.mark.parametrize("to", ["v5", "original", *LAYOUTS])
@pytest.mark.parametrize("mtp", ["per-expert", "merged", "stacked"])
@pytest.mark.parametrize("model_type,prefix", [("qwen3_5_moe", "mtp"), ("qwen3_5_moe", "model.mtp"), ("qwen3_moe", "mtp")])
def test_mtp_beside_merged(mount, tmp_path, model_type, prefix, mtp, to):
    """Rules are per group. v5 leaves MTP blocks alone; original leaves them where the hub has both forms."""
    checkpoint = build(2, model_type=model_type, layout="merged")
    block = Block(f"{prefix}.layers.0.mlp", mtp, 3, 5, 7)
    checkpoint.blocks.append(block)
    checkpoint.tensors |= block.tensors(rng_of(5))
    src = shard(checkpoint, 3, "random").write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to=to)


@pytest.mark.parametrize("to", LAYOUTS)
def test_every_block_its_own_layout(mount, tmp_path, to):
    checkpoint = build(3, layers=0)
    for n, layout in enumerate(LAYOUTS):
        block = Block(f"model.layers.{n}.mlp", layout, 3, 4 + n, 7 + n, [torch.bfloat16, torch.float32][n % 2])
        checkpoint.blocks.append(block)
        checkpoint.tensors |= block.tensors(rng_of(n))
    src = shard(checkpoint, 3, "random").write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to=to)


@pytest.mark.parametrize("name", ["experts.e_score_correction_bias", "experts.post_expert_norm.weight",
                                  "experts.gate.weight", "shared_experts.0.gate_proj.weight",
                                  "shared_experts.gate_up_proj", "myexperts.0.gate_proj.weight",
                                  "experts.gate_projection", "gate.e_score_correction_bias"])
@pytest.mark.parametrize("layout,to", [("per-expert", "merged"), ("merged", "per-expert"), ("in-out", "stacked")])
def test_what_is_no_expert(mount, tmp_path, name, layout, to):
    checkpoint = build(3, layout=layout, companions=False)
    checkpoint.tensors[f"model.layers.0.mlp.{name}"] = random_tensor(rng_of(1), torch.float32, (3,))
    src = shard(checkpoint, 2).write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to=to)


@pytest.mark.parametrize("layout,to", [("merged", "original"), ("in-out", "v5"), ("merged", "in-out")])
def test_target_that_needs_no_from_on_the_way_back(run_moefs, tmp_path, layout, to):
    """in-out and merged are told apart by their shapes: nothing to say when mounting."""
    src = make(1, model_type="qwen3_vl_moe", layout=layout).write(tmp_path / "src")
    assert "--from" not in said(run_moefs, src, "--to", to)


def test_unknown_model_type_leaves_merged_open(mount, run_moefs, tmp_path):
    """Which of gate and up comes first is nothing that a shape tells; an unknown model type does not tell either."""
    checkpoint = build(1, layout="merged")
    checkpoint.config["model_type"] = "made_up_moe"
    src = shard(checkpoint, 2).write(tmp_path / "src")
    done = run_moefs("plan", src, "--to", "per-expert")
    assert done.returncode == 1 and "--from" in done.stderr and "model.layers.0.mlp" in done.stderr
    check(mount, checkpoint, src, tmp_path, "--from", "merged", to="per-expert")


# ---- the index ----


def test_index_without_metadata(mount, tmp_path):
    checkpoint = make(1, shards=3)
    del checkpoint.index["metadata"]
    src = checkpoint.write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to="v5")


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.experts.1.up_proj.weight"])
def test_tensor_that_the_index_does_not_name(mount, tmp_path, name):
    """Loaders take it, so it is kept and indexed."""
    checkpoint = make(1, shards=3)
    del checkpoint.index["weight_map"][name]
    src = checkpoint.write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to="v5")


def test_index_names_a_tensor_that_no_file_has(mount, run_moefs, tmp_path):
    checkpoint = make(1, shards=3)
    checkpoint.index["weight_map"]["model.rotary.inv_freq"] = next(iter(checkpoint.shards))
    src = checkpoint.write(tmp_path / "src")
    assert "model.rotary.inv_freq" in said(run_moefs, src)
    check(mount, checkpoint, src, tmp_path, to="v5")


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.experts.1.up_proj.weight"])
@pytest.mark.parametrize("to", ["per-expert", "merged"])
def test_one_name_in_two_shards(mount, run_moefs, tmp_path, name, to):
    """The index decides; the other copy is dropped, and its shard is rewritten even where nothing else changes."""
    checkpoint = make(1, shards=3, how="natural")
    src = checkpoint.write(tmp_path / "src")
    home = checkpoint.index["weight_map"][name]
    other = next(f for f in checkpoint.shards if f != home)
    twice = {t: checkpoint.tensors[t] for t in checkpoint.shards[other]}
    twice[name] = random_tensor(rng_of(77), torch.bfloat16, checkpoint.tensors[name].shape)
    write_shard(src / other, twice, metadata={"format": "pt"})
    text = said(run_moefs, src, "--to", to)
    assert name in text and home in text and other in text
    expected = oracle.convert(checkpoint, to)
    assert other in expected.files, "a case in which the names stay"
    if isinstance(expected.files[other], str):
        expected.files[other] = {t: checkpoint.tensors[t] for t in checkpoint.shards[other]}
    check(mount, checkpoint, src, tmp_path, to=to, expected=expected)


def test_files_that_no_index_names(mount, run_moefs, tmp_path):
    """Listed once as not converted, never merged in; --exclude hides them."""
    checkpoint = make(1, shards=2)
    other = Block("model.layers.0.mlp", "per-expert", 3, 5, 7)
    src = checkpoint.write(tmp_path / "src")
    write_shard(src / "consolidated.00.safetensors", other.tensors(rng_of(3)))
    (src / "original").mkdir()
    write_shard(src / "original" / "model.safetensors", other.tensors(rng_of(4)))
    text = said(run_moefs, src)
    assert text.count("consolidated.00.safetensors") == 1
    for path in ("consolidated.00.safetensors", "original/model.safetensors"):
        checkpoint.files[path] = (src / path).read_bytes()
    check(mount, checkpoint, src, tmp_path, to="v5")
    hidden = dict(checkpoint.files)
    del checkpoint.files["consolidated.00.safetensors"]
    check(mount, checkpoint, src, tmp_path, "--exclude", "consolidated*", to="merged")
    checkpoint.files = hidden


# ---- transformers_weights ----


def test_transformers_weights_names_a_file(mount, tmp_path):
    checkpoint = build(1)
    checkpoint.config["transformers_weights"] = "mine.safetensors"
    checkpoint.shards = {"mine.safetensors": list(checkpoint.tensors)}
    src = checkpoint.write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to="v5")


@pytest.mark.parametrize("layers", [1, 3])
def test_transformers_weights_names_an_index(mount, tmp_path, layers):
    """The generated index keeps that name, also where one file remains, and the shards are renamed as ever."""
    checkpoint = build(1, layers=layers, companions=False)
    if layers == 1:
        checkpoint.tensors = checkpoint.blocks[0].tensors(rng_of(1))
    shard(checkpoint, 4, "by-proj" if layers > 1 else "natural")
    checkpoint.index_name = "mine.safetensors.index.json"
    checkpoint.config["transformers_weights"] = checkpoint.index_name
    src = checkpoint.write(tmp_path / "src")
    check(mount, checkpoint, src, tmp_path, to="v5")


def test_transformers_weights_before_the_usual_names(mount, tmp_path):
    """What it names is the weights; model.safetensors beside it passes through."""
    checkpoint = build(1)
    checkpoint.config["transformers_weights"] = "mine.safetensors.index.json"
    checkpoint.index_name = "mine.safetensors.index.json"
    shard(checkpoint, 2, template="mine-{}-of-{}.safetensors")
    src = checkpoint.write(tmp_path / "src")
    write_shard(src / "model.safetensors", {"x": torch.zeros(1)})
    checkpoint.files["model.safetensors"] = (src / "model.safetensors").read_bytes()
    check(mount, checkpoint, src, tmp_path, to="v5")
