"""Any layout becomes any other: the moved elements are compared with what numpy's transpose and reshape make of them.

Layouts are drawn at random too: which projections share a tensor, in which order, where the expert's number stands in
the name or in which dimension it lies, which axes share a dimension. MOEFS_EXAMPLES is the number of examples of each
test, MOEFS_SEED where they begin.
"""

import json
import math
import os
from dataclasses import dataclass

import numpy as np
import raw
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

SEED = int(os.environ.get("MOEFS_SEED", "20260401"))
EXAMPLES = int(os.environ.get("MOEFS_EXAMPLES", "25"))
PROJS = ("gate", "up", "down")
WORDS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj", "gate up": "gate_up_proj", "up gate": "gate_up_proj"}
BLOCKS = ("model.layers.0.mlp", "model.layers.1.mlp")
ORDER = ["proj", "expert", "inner", "hidden"]


@dataclass(frozen=True)
class Layout:
    label: str  # what --to and --from are given; "" is a file of the layout's own
    name: str
    forms: dict  # "gate up" -> axes
    spell: dict

    def tensor_name(self, block, projs, expert):
        word = self.spell.get(projs) or WORDS.get(projs)  # no word: not in the name
        return self.name.format(block=block, experts=f"{block}.experts", proj=word, expert=expert)

    def of_tensor_name(self):
        return "{expert}" in self.name

    def tensors(self, block, values, dtype, sizes):
        """values: projection -> [E, I, H]"""
        out = {}
        for projs, axes in self.forms.items():
            whole = np.stack([values[p] for p in projs.split()])
            mine = sizes | {"proj": len(projs.split())}
            order = [a for a in ORDER if a != "proj" or "proj" in [x for d in raw.dims_of(axes) for x in d]]
            if "proj" not in order:
                whole = whole[0]
            if not self.of_tensor_name():
                out[self.tensor_name(block, projs, 0)] = raw.Tensor(dtype, raw.lay_out(whole, order, axes, mine))
                continue
            order.remove("expert")
            for e in range(sizes["expert"]):
                one = whole.take(e, axis=whole.ndim - 3)
                out[self.tensor_name(block, projs, e)] = raw.Tensor(dtype, raw.lay_out(one, order, axes, mine))
        return out

    def can_be_read(self, sizes):
        """Whether shapes and names tell all sizes: dimensions with one unknown axis, one after the other."""
        known = {"expert"} if self.of_tensor_name() else set()
        known |= {"proj"}
        dims = [dim for axes in self.forms.values() for dim in raw.dims_of(axes)]
        while new := {a for dim in dims if len(u := set(dim) - known) == 1 for a in u}:
            known |= new
        return known >= {"expert", "inner", "hidden"}

    def option(self, directory):
        if self.label:
            return self.label
        path = directory / f"{abs(hash(json.dumps([self.name, self.forms, self.spell])))}.json"
        path.write_text(json.dumps({"spell": self.spell, "weight": {"name": self.name, **self.forms}}))
        return path


STACKED = "{experts}.{proj}"
BOTH = {"down": "expert hidden inner"}
APART = {"gate": "expert inner hidden", "up": "expert inner hidden"} | BOTH
KNOWN = [
    Layout("per-expert", "{experts}.{expert}.{proj}.weight", {"gate": "inner hidden", "up": "inner hidden", "down": "hidden inner"}, {}),
    Layout("stacked", STACKED, APART, {}),
    Layout("merged", STACKED, {"gate up": "expert (proj inner) hidden"} | BOTH, {}),
    Layout("up-first", STACKED, {"up gate": "expert (proj inner) hidden"} | BOTH, {}),
    Layout("interleaved", STACKED, {"gate up": "expert (inner proj) hidden"} | BOTH, {}),
    Layout("in-out", STACKED, {"gate up": "expert hidden (proj inner)", "down": "expert inner hidden"}, {}),
    Layout("in-out-interleaved", STACKED, {"gate up": "expert hidden (inner proj)", "down": "expert inner hidden"}, {}),
    Layout("flat", STACKED, {p: "(expert inner) hidden" for p in PROJS}, {}),
]  # fmt: skip
# What nobody has built in, but somebody's loader might want.
FOREIGN = [
    Layout("", "{experts}.{proj}.weight{expert}", {"gate up": "(proj inner) hidden", "down": "hidden inner"},
           {"gate up": "linear_fc1", "down": "linear_fc2"}),
    Layout("", STACKED, {"gate up": "inner (hidden proj) expert", "down": "hidden inner expert"}, {}),
    Layout("", "{block}.everything", {"gate up down": "proj expert (inner hidden)"}, {}),
    Layout("", "{block}.w{expert}", {"down gate up": "(hidden proj inner)"}, {}),
    Layout("", STACKED, {p: "(expert hidden) inner" for p in PROJS}, {}),
]  # fmt: skip
NAMES = ["{experts}.{proj}", "{block}.{proj}.packed", "{experts}.{expert}.{proj}.weight", "{experts}.{proj}.weight{expert}",
         "{block}.e{expert}.{proj}", "{block}.{proj}.{expert}.w", "{block}.moe.{expert}_{proj}"]  # fmt: skip


@st.composite
def axes_of(draw, axes):
    """Any order, any neighbours in one dimension."""
    text, inside = "", draw(st.permutations(axes))
    while inside:
        n = draw(st.integers(1, len(inside)))
        text += f" ({' '.join(inside[:n])})" if n > 1 else f" {inside[0]}"
        inside = inside[n:]
    return text.strip()


@st.composite
def random_layouts(draw):
    order = draw(st.permutations(PROJS))
    cut = draw(st.sampled_from([(1, 2), (1, 1), (2, 2), (3, 3)]))  # which neighbours share a tensor
    together = [order[: cut[0]], order[cut[0] : cut[1]], order[cut[1] :]]
    name = draw(st.sampled_from(NAMES))
    forms, spell = {}, {}
    for projs in (" ".join(p) for p in together if p):
        several = " " in projs
        axes = ["inner", "hidden"] + ["expert"] * ("{expert}" not in name) + ["proj"] * (several or draw(st.booleans()))
        forms[projs] = draw(axes_of(axes))
        if projs not in WORDS or draw(st.booleans()):
            spell[projs] = projs.replace(" ", "_") + draw(st.sampled_from(["", "_w", ".x"]))
    return Layout("", name, forms, spell)


layouts = st.one_of(random_layouts(), st.sampled_from(KNOWN), st.sampled_from(FOREIGN))
small = st.integers(1, 6)


@dataclass
class Case:
    src: object
    dtype: str
    sizes: dict
    values: dict
    rest: dict

    def tensors(self, layout):
        out = dict(self.rest)
        for block in BLOCKS:
            out |= layout.tensors(block, self.values[block], self.dtype, self.sizes)
        return out


def make_case(directory, source, number, sizes, dtype, shards, model_type="qwen3_moe"):
    rng = np.random.default_rng(number)
    shape = (sizes["expert"], sizes["inner"], sizes["hidden"])
    values = {b: {p: raw.random_tensor(rng, dtype, shape).elements for p in PROJS} for b in BLOCKS}
    rest = {f"{b}.gate.weight": raw.random_tensor(rng, "F32", (sizes["expert"], sizes["hidden"])) for b in BLOCKS}
    rest["model.norm.weight"] = raw.random_tensor(rng, dtype, (sizes["hidden"],))
    case = Case(directory / "src", dtype, sizes, values, rest)
    raw.make(case.tensors(source), raw.config_of(model_type, sizes["expert"]), shards=shards, rng=rng).write(case.src)
    return case


def differences(seen, want):
    return {n for n in seen.keys() | want.keys() if n not in seen or n not in want or seen[n] != want[n]}


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, print_blob=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(source=layouts, target=layouts, number=st.integers(0, 2**32 - 1), experts=st.sampled_from([1, 2, 3, 4, 11]),
       inner=small, hidden=small, dtype=st.sampled_from(["BF16", "F16", "F32", "F64"]), shards=st.integers(0, 4))
def test_any_to_any_and_back(mount, tmp_path_factory, source, target, number, experts, inner, hidden, dtype, shards):
    assume(source.can_be_read({}))
    directory = tmp_path_factory.mktemp("case")
    sizes = {"expert": experts, "inner": inner, "hidden": hidden}
    case = make_case(directory, source, number, sizes, dtype, shards)
    print(f"MOEFS_SEED={SEED} {directory} {source} -> {target} {sizes} {dtype}")
    a, b = source.option(directory), target.option(directory)
    with mount(case.src, "--from", a, "--to", b) as there:
        assert differences(raw.read_directory(there.path), case.tensors(target)) == set()
        if target.can_be_read({}):
            with mount(there.path, "--from", b, "--to", a) as back:
                assert differences(raw.read_directory(back.path), case.tensors(source)) == set()
        else:
            assert "cannot be read back" in there.log.read_text()


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, print_blob=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(target=random_layouts(), number=st.integers(0, 2**32 - 1), experts=st.sampled_from([2, 5]),
       inner=st.sampled_from([3, 31, 64]), hidden=st.sampled_from([5, 33, 128]), dtype=st.sampled_from(["BF16", "F32"]))
def test_larger_matrices(mount, tmp_path_factory, target, number, experts, inner, hidden, dtype):
    """From what the hub has, recognised without --from; sizes around those that kernels are made for."""
    directory = tmp_path_factory.mktemp("case")
    sizes = {"expert": experts, "inner": inner, "hidden": hidden}
    case = make_case(directory, KNOWN[0], number, sizes, dtype, 2)
    print(f"MOEFS_SEED={SEED} {directory} {target} {sizes} {dtype}")
    with mount(case.src, "--to", target.option(directory), "--cache-size", "1M") as m:
        assert differences(raw.read_directory(m.path), case.tensors(target)) == set()


def test_numpy_reads_axes_as_the_notation_says():
    """The oracle's own check, element by element."""
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    sizes = {"proj": 2, "expert": 3, "inner": 4, "hidden": 5}
    seen = raw.lay_out(values, ORDER, "hidden (inner proj) expert", sizes)
    assert seen.shape == (5, 8, 3) and math.prod(seen.shape) == values.size
    for p, e, i, h in np.ndindex(2, 3, 4, 5):
        assert seen[h, 2 * i + p, e] == values[p, e, i, h]
