"""Pairs of layouts between which no element can be followed: refused for what the two say."""

import json

import numpy as np
import pytest
import raw
from mounting import refused

E, I, H = 2, 3, 4
BLOCK = "model.layers.0.mlp"
PROJS = ("gate", "up", "down")


def write_layout(tmp_path, name, axes, part="weight", **more):
    """One tensor for each expert and projection."""
    layout = {part: {"name": "{experts}.{expert}.{proj}.weight", **axes}, "spell": "gate_proj up_proj down_proj", **more}
    (tmp_path / name).write_text(json.dumps(layout))
    return tmp_path / name


def write_model(tmp_path, shapes, more=()):
    rng = np.random.default_rng(1)
    tensors = {f"{BLOCK}.experts.{e}.{p}_proj.weight": raw.random_tensor(rng, "BF16", s) for p, s in shapes.items() for e in range(E)}
    return raw.make(tensors | dict(more), raw.config_of("qwen3_moe", E), shards=0).write(tmp_path / "src")


@pytest.mark.parametrize("target,says", [
    ({p: "(inner rows) hidden" for p in PROJS}, "has the axis 'rows' of its weight, layout "),
    ({p: "inner" for p in PROJS}, "has the axis 'hidden' of its weight, layout "),
    ({p: "inner hidden 2" for p in PROJS}, "has the axis '2' of its weight, layout ")])  # fmt: skip
def test_axes_that_only_one_side_has(run_moefs, tmp_path, target, says):
    src = write_model(tmp_path, {"gate": (I, H), "up": (I, H), "down": (H, I)})
    text = refused(run_moefs, "plan", src, "--to", write_layout(tmp_path, "to.json", target))
    assert f"{BLOCK}: layout " in text and says in text and "does not" in text


def test_axes_of_a_companion_that_only_one_side_has(run_moefs, tmp_path):
    """The scales of rows against scales of the whole matrix."""
    weight = {"gate": "inner hidden", "up": "inner hidden", "down": "hidden inner"}
    scale = {"name": "{experts}.{expert}.{proj}.scale"}
    a = write_layout(tmp_path, "a.json", weight, scale=scale | {"gate": "inner", "up": "inner", "down": "hidden"})
    b = write_layout(tmp_path, "b.json", weight | {"gate": "hidden inner"}, scale=scale | {p: "" for p in PROJS})
    rng = np.random.default_rng(2)
    scales = {f"{BLOCK}.experts.{e}.{p}_proj.scale": raw.random_tensor(rng, "F32", (H if p == "down" else I,))
              for p in PROJS for e in range(E)}  # fmt: skip
    src = write_model(tmp_path, {"gate": (I, H), "up": (I, H), "down": (H, I)}, scales)
    text = refused(run_moefs, "plan", src, "--from", a, "--to", b)
    assert "of its scale, layout " in text and "has the axis 'inner'" in text


def test_more_axes_than_a_gather_has(run_moefs, mount, tmp_path):
    """Five axes that all change places are one too many; four are not."""
    stored = {p: "inner hidden 2 3 5" for p in PROJS}
    src = write_model(tmp_path, {p: (I, H, 2, 3, 5) for p in PROJS})
    a = write_layout(tmp_path, "a.json", stored)
    b = write_layout(tmp_path, "b.json", {p: "5 3 2 hidden inner" for p in PROJS})
    text = refused(run_moefs, "plan", src, "--from", a, "--to", b)
    assert "its elements move along 5 independent axes; at most 4 are supported" in text
    four = write_layout(tmp_path, "four.json", {p: "5 3 (2 inner) hidden" for p in PROJS})
    source = raw.read_directory(src)
    with mount(src, "--from", a, "--to", four) as m:
        got = raw.read_directory(m.path)
    want = {n: raw.Tensor("BF16", t.elements.transpose(4, 3, 2, 0, 1).reshape(5, 3, 2 * I, H)) for n, t in source.items()}
    assert got == want
