"""Targets beside the architectures' own: what they hold, what is said of the way back, what an explanation says."""

import json

import numpy as np
import pytest
import raw
from test_companions import BLOCKS, BOTH, E, Model, lay_out, mounted, refused

I, H = 5, 7


def model(model_type="qwen3_moe", **keywords):
    return Model(1, I, H, config=raw.config_of(model_type, E), **keywords)


def said(run_moefs, src, *options):
    done = run_moefs("plan", src, *options)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("model_type,source,to,seen", [
    ("qwen3_moe", "per-expert", "up-first", "merged"), ("mixtral", "merged", "up-first", "merged"),
    ("gpt_oss", "in-out-interleaved", "in-out", "in-out-interleaved"), ("qwen3_vl_moe", "in-out", "up-first", "merged"),
    ("qwen3_vl_moe", "in-out", "in-out-interleaved", "in-out"), ("gpt_oss", "in-out-interleaved", "up-first", "merged")])  # fmt: skip
def test_way_back_needs_from(run_moefs, mount, tmp_path, model_type, source, to, seen):
    """The bytes are numpy's; it is said what the copy will be taken for; --from then gives the source again."""
    m = model(model_type, bias="BF16")
    src = m.write(tmp_path / "src", source)
    warning = f"warning: {BLOCKS[0]}: as {to} it will be taken for {seen}, without an error, by whoever loads that; reading it back needs --from {to}"
    with mount(src, "--to", to) as there:
        assert raw.read_directory(there.path) == m.tensors(to)
        assert warning in there.log.read_text()
        assert mounted(mount, there.path, "--from", to, "--to", source) == m.tensors(source)
        if source == "in-out-interleaved":
            assert mounted(mount, there.path, "--from", to, "--to", "original") == m.tensors(source)


@pytest.mark.parametrize("model_type,source,to", [
    ("qwen3_moe", "per-expert", "merged"), ("qwen3_moe", "per-expert", "stacked"), ("qwen3_moe", "per-expert", "in-out"),
    ("gpt_oss", "in-out-interleaved", "merged"), ("gpt_oss", "in-out-interleaved", "per-expert"), ("qwen3_vl_moe", "in-out", "v5")])  # fmt: skip
def test_nothing_is_said_where_the_way_back_is_seen(run_moefs, mount, tmp_path, model_type, source, to):
    m = model(model_type)
    src = m.write(tmp_path / "src", source)
    assert "warning" not in said(run_moefs, src, "--to", to)
    with mount(src, "--to", to) as there:
        assert mounted(mount, there.path, "--to", "original") == m.tensors(source)


TORCHTITAN = {"gate": "w1", "up": "w3", "down": "w2"}


def torchtitan(m):
    out = dict(m.rest)
    for number, block in enumerate(BLOCKS):
        out |= {f"layers.{number}.moe.experts.{word}": raw.Tensor(m.dtype, m.weights[block][p]) for p, word in TORCHTITAN.items()}
    return out


@pytest.mark.parametrize("source", ["per-expert", "merged", "stacked", "in-out"])
def test_torchtitan(run_moefs, mount, tmp_path, source):
    """Stacked under its own names, everything else under its old ones."""
    m = model()
    src = m.write(tmp_path / "src", source)
    with mount(src, "--to", "torchtitan") as there:
        assert raw.read_directory(there.path) == torchtitan(m)
        assert "reading it back needs --from torchtitan" in there.log.read_text()
        back = mounted(mount, there.path, "--from", "torchtitan", "--to", "per-expert")
        assert refused(run_moefs, there.path, "--to", "original")
    want = dict(m.rest)
    for number, block in enumerate(BLOCKS):  # which block they were of is not in torchtitan's names
        want |= lay_out("per-expert", f"layers.{number}.moe", m.dtype, m.weights[block], suffix=".weight")
    assert back == want


def test_torchtitan_needs_a_layer(run_moefs, tmp_path):
    m = model()
    tensors = {n.replace("model.layers.1.mlp", "model.extra.mlp"): t for n, t in m.tensors("per-expert").items()}
    src = raw.make(tensors, m.config).write(tmp_path / "src")
    assert "model.extra.mlp: layout torchtitan puts experts under layers.{layer}.moe, and the name of this MoE layer has no number" \
        in refused(run_moefs, src, "--to", "torchtitan")


@pytest.mark.parametrize("mtp", ["mtp.layers.0.mlp", "model.mtp.layers.0.mlp"])
def test_torchtitan_leaves_multi_token_prediction(run_moefs, mount, tmp_path, mtp):
    """Its layer 0 is not the model's: transformers ignores it, and torchtitan has no place for it."""
    m = model()
    beside = lay_out("per-expert", mtp, m.dtype, m.weights[BLOCKS[1]], suffix=".weight")
    src = raw.make(m.tensors("per-expert") | beside, m.config, shards=2).write(tmp_path / "src")
    assert mounted(mount, src, "--to", "torchtitan") == torchtitan(m) | beside
    assert f"1 MoE layer ({mtp}): stays per-expert" in said(run_moefs, src, "--to", "torchtitan")


@pytest.mark.parametrize("to", ["torchtitan", "mine"])
def test_two_sets_of_layers(run_moefs, tmp_path, to):
    """Qwen3-Omni's thinker and talker: a layer's number does not tell whose it is."""
    m = model("qwen3_omni_moe")
    tensors = {n.replace("model.", f"{part}.model."): t
               for part in ("talker", "thinker") for n, t in m.tensors("per-expert").items()}
    src = raw.make(tensors, m.config).write(tmp_path / "src")
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"block": "layers.{layer}.moe", "weight": {
        "name": "{block}.{proj}", "gate up": "expert (proj inner) hidden", "down": "expert hidden inner"}}))
    to = mine if to == "mine" else to
    assert refused(run_moefs, src, "--to", to) == (
        f"moefs: error: talker.model.layers.0.mlp and thinker.model.layers.0.mlp: layout {to} would call the experts of both "
        "layers.0.moe (and 1 more)\n")


def test_two_kinds_of_experts_in_one_block(run_moefs, tmp_path):
    """ERNIE-VL's text and vision experts, numbered through: torchtitan has no word for them."""
    block = "model.layers.0.mlp"
    rng = np.random.default_rng(1)
    tensors = {f"{block}.experts.{e}.{p}_proj.weight": raw.random_tensor(rng, "BF16", (H, I) if p == "down" else (I, H))
               for e in range(4) for p in ("gate", "up", "down")}
    src = raw.make(tensors, {"model_type": "ernie4_5_vl_moe"}).write(tmp_path / "src")
    assert refused(run_moefs, src, "--to", "torchtitan") == (
        f"moefs: error: {block} (text) and {block} (vision): layout torchtitan would call the experts of both layers.0.moe\n")


# ---- model types that are not known ----


@pytest.mark.parametrize("to", ["merged", "stacked", "in-out"])
def test_unknown_type(run_moefs, mount, tmp_path, to):
    m = model("brand_new_moe")
    src = m.write(tmp_path / "src", "per-expert")
    text = said(run_moefs, src, "--to", to)
    assert f"model_type brand_new_moe is not known: 2 MoE layers ({BLOCKS[0]}, ...) read as per-expert by their names and shapes" in text
    assert mounted(mount, src, "--to", to) == m.tensors(to)
    for relative in ("v5", "original"):
        assert f"model_type brand_new_moe is not known, so --to {relative} has no meaning for it" in refused(run_moefs, src, "--to", relative)


@pytest.mark.parametrize("source", ["merged", "in-out"])
def test_unknown_type_hides_the_order(run_moefs, mount, tmp_path, source):
    m = model("brand_new_moe")
    src = m.write(tmp_path / "src", source)
    text = refused(run_moefs, src, "--to", "per-expert")
    assert f"{BOTH}nothing in its names or shapes tells whether gate or up comes first" in text
    fits = {"merged": "merged, --from up-first, --from interleaved", "in-out": "in-out, --from in-out-interleaved"}
    assert text.count(f"say which it is: --from {fits[source]}\n") == 1
    assert f"read as {source} because --from says so" in said(run_moefs, src, "--to", "per-expert", "--from", source)
    assert mounted(mount, src, "--from", source, "--to", "per-expert") == m.tensors("per-expert")


def test_known_type_needs_no_such_note(run_moefs, tmp_path):
    assert "is not known" not in said(run_moefs, model().write(tmp_path / "src", "per-expert"), "--to", "merged")


# ---- plan --explain ----


def explained(run_moefs, src, tensor, *options):
    done = run_moefs("plan", src, "--explain", tensor, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_explains_a_merged_tensor(run_moefs, tmp_path):
    m = model()
    src = m.write(tmp_path / "src", "per-expert", 1)
    name = f"{BLOCKS[1]}.experts.gate_up_proj"
    lines = explained(run_moefs, src, name, "--to", "merged").splitlines()
    assert lines[0].startswith(f"{name} BF16 [{E}, {2 * I}, {H}], model-00001-of-00001.safetensors, {E * 2 * I * H * 2} bytes at ")
    assert lines[1] == "holds gate up: expert (proj inner) hidden"
    assert lines[2] == f"of block {BLOCKS[1]}: 3 experts, inner (I) 5, hidden (H) 7, stored as per-expert, wanted as merged"
    assert lines[3] == "made of 6 source tensors, in the order of its bytes:"
    sources = [line.split()[0] for line in lines[4::2]]
    assert sources == [f"{BLOCKS[1]}.experts.{e}.{p}_proj.weight" for e in range(E) for p in ("gate", "up")]
    assert set(lines[5::2]) == {"    holds gate: inner hidden; all of it is copied, in 1 run", "    holds up: inner hidden; all of it is copied, in 1 run"}


def test_explains_many_sources_in_a_few_lines(run_moefs, tmp_path):
    src = model().write(tmp_path / "src", "stacked", 1)
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"weight": {"name": "{block}.{expert}", "gate up down": "(proj inner) hidden"}}))
    text = explained(run_moefs, src, f"{BLOCKS[0]}.2", "--to", path)
    assert "holds gate up down: (proj inner) hidden" in text and "made of 3 source tensors" in text
    assert "holds down: expert hidden inner; its elements are put into their places when they are read" in text
    text = explained(run_moefs, src, f"{BLOCKS[0]}.experts.2.up_proj.weight", "--to", "per-expert")
    assert "made of 1 source tensor" in text and f"  {BLOCKS[0]}.experts.up_proj BF16 [3, 5, 7]" in text
    assert "holds up: expert inner hidden; 70 of its 210 bytes are copied, in 1 run" in text


def test_explains_companions(run_moefs, tmp_path):
    src = Model(2, 128, 256, dtype="F8_E4M3", scale="F32").write(tmp_path / "src", "per-expert", 1)
    text = explained(run_moefs, src, f"{BLOCKS[0]}.experts.gate_up_proj_scale_inv", "--to", "merged", "--fp8", "keep")
    assert "holds gate up (scale_inv): expert (proj inner/128) hidden/128" in text
    assert "holds gate (scale_inv): inner/128 hidden/128" in text


def test_explains_what_passes(run_moefs, tmp_path):
    src = model().write(tmp_path / "src", "per-expert", 1)
    text = explained(run_moefs, src, "model.norm.weight")
    assert "passes through: it is not converted" in text and "all of it is copied, in 1 run" in text


def test_explains_no_unknown_tensor(run_moefs, tmp_path):
    src = model().write(tmp_path / "src", "per-expert")
    done = run_moefs("plan", src, "--explain", f"{BLOCKS[0]}.experts.0.up_proj.weight")
    assert (done.returncode, done.stdout) == (1, "") and "the plan has no tensor of this name" in done.stderr


# ---- all refused groups at once ----


def test_every_reason_is_said(run_moefs, tmp_path):
    m = Model(3, 128, 128, dtype="F8_E4M3", scale="F32")
    tensors = m.tensors("per-expert")
    del tensors[f"{BLOCKS[1]}.experts.1.up_proj.weight"]
    rng = np.random.default_rng(4)
    odd = lay_out("per-expert", "model.layers.2.mlp", "BF16", {p: np.zeros((E, 4, 4), np.uint16) for p in ("gate", "up", "down")}, suffix=".weight")
    odd["model.layers.2.mlp.experts.0.gate_proj.weight"] = raw.random_tensor(rng, "F32", (4, 4))
    src = raw.make(tensors | odd, m.config).write(tmp_path / "src")
    text = refused(run_moefs, src, "--to", "merged")
    assert f"{BLOCKS[0]}: quantised experts" in text and f"{BLOCKS[1]}: " in text
    text = refused(run_moefs, src, "--to", "merged", "--fp8", "keep")
    assert f"{BLOCKS[1]}: " in text and "experts.1.up_proj.weight" in text
