"""Nothing is left behind: random layouts, weights of every type, and tensors of random names beside them.

Where moefs accepts a conversion, every byte of the source is found again where numpy puts it, and what is still under its
old name shares no stem with a weight. Where there is nothing beside the weights and they are whole numbers of their own,
it must accept. MOEFS_EXAMPLES is the number of examples, MOEFS_SEED where they begin.
"""

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import raw
from hypothesis import HealthCheck, assume, event, given, note, seed, settings
from hypothesis import strategies as st
from test_properties import BLOCKS, EXAMPLES, FOREIGN, KNOWN, ORDER, PROJS, SEED, differences, random_layouts

FLOATS = ["BF16", "F16", "F32", "F64"]
CODES = ["F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL", "I32"]
SCALE = "_sc"


def without_hidden(axes):
    """The axes of a scale for each row: "expert (proj inner) hidden" -> "expert (proj inner)"."""
    left = re.sub(r"\bhidden\b", "", axes)
    left = re.sub(r"\(\s*(\w*)\s*\)", r"\1", left)
    return " ".join(re.sub(r"\s+", " ", left.replace("( ", "(").replace(" )", ")")).split())


@dataclass(frozen=True)
class Described:
    """A layout of random weights, and of their scales if it has any."""

    layout: object
    scales: bool

    def tensors(self, block, weights, scales, dtype, sizes):
        out = self.layout.tensors(block, weights, dtype, sizes)
        if scales and self.scales:
            out |= self.scale_tensors(block, scales, sizes)
        return out

    def scale_tensors(self, block, values, sizes):
        out = {}
        for projs, axes in self.layout.forms.items():
            axes = without_hidden(axes)
            words = [x for d in raw.dims_of(axes) for x in d]
            order = [a for a in ORDER if a in words or a == "expert"]
            whole = np.stack([values[p] for p in projs.split()])
            whole = whole if "proj" in order else whole[0]
            mine = sizes | {"proj": len(projs.split())}
            if not self.layout.of_tensor_name():
                out[self.layout.tensor_name(block, projs, 0) + SCALE] = raw.Tensor("F32", raw.lay_out(whole, order, axes, mine))
                continue
            for e in range(sizes["expert"]):
                one = whole.take(e, axis=order.index("expert"))
                rest = [a for a in order if a != "expert"]
                out[self.layout.tensor_name(block, projs, e) + SCALE] = raw.Tensor("F32", raw.lay_out(one, rest, axes, mine))
        return out

    def write(self, directory, name):
        layout, path = self.layout, directory / f"{name}.json"
        parts = {"spell": layout.spell, "weight": {"name": layout.name, **layout.forms}}
        if self.scales:
            parts["row_scale"] = {"name": layout.name + SCALE, **{p: without_hidden(a) for p, a in layout.forms.items()}}
        path.write_text(json.dumps(parts))
        return path


layouts = st.one_of(random_layouts(), st.sampled_from(KNOWN), st.sampled_from(FOREIGN)).map(lambda x: replace(x, label=""))
words = st.text("abcdeiklmprstuwxyz0123456789_", min_size=1, max_size=8)
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def beside(draw, members):
    """The name of a tensor that is nobody's, with a place that a companion, a neighbour or a stranger might have."""
    member, word, block = draw(st.sampled_from(members)), draw(words), draw(st.sampled_from(BLOCKS))
    gap = draw(st.sampled_from([".", "_", "@", "-", "/", ".weight_", "_weight_", ".base_layer.", ""]))
    name = draw(st.sampled_from([
        member.removesuffix(".weight") + gap + word, member + gap + word, member.removesuffix(".weight"),
        f"{block}.experts.{draw(st.integers(0, 12))}.{word}", f"{block}.experts.{word}", f"{block}.experts.{word}.weight",
        f"{block}.shared_experts.{word}", f"{block}.{word}", f"model.{word}"]))  # fmt: skip
    return name, draw(st.sampled_from([*FLOATS, *CODES])), draw(shapes)


def shares_a_stem(name, members):
    stems = (m.removesuffix(".weight") for m in members)
    return any(name.startswith(s) and not name[len(s) : len(s) + 1].isalnum() for s in stems)


@seed(SEED)
@settings(max_examples=4 * EXAMPLES, deadline=None, print_blob=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data(), source=layouts, target=layouts, number=st.integers(0, 2**32 - 1), experts=st.sampled_from([1, 2, 3, 11]),
       inner=st.integers(1, 4), hidden=st.integers(1, 4), dtype=st.sampled_from([*FLOATS, *CODES]), scaled=st.booleans(),
       known=st.tuples(st.booleans(), st.booleans()), n_beside=st.integers(0, 2), lost=st.booleans())  # fmt: skip
def test_every_byte_is_found_or_nothing_is_mounted(run_moefs, mount, tmp_path_factory, data, source, target, number, experts,
                                                   inner, hidden, dtype, scaled, known, n_beside, lost):
    assume(source.can_be_read({}))
    directory = tmp_path_factory.mktemp("case")
    rng = np.random.default_rng(number)
    sizes = {"expert": experts, "inner": inner, "hidden": hidden}
    weights = {b: {p: raw.random_tensor(rng, dtype, (experts, inner, hidden)).elements for p in PROJS} for b in BLOCKS}
    scales = {b: {p: raw.random_tensor(rng, "F32", (experts, inner)).elements for p in PROJS} for b in BLOCKS}
    a, b = Described(source, scaled and known[0]), Described(target, scaled and known[1])
    members, want = {}, {}
    for block in BLOCKS:
        # scales that the source's layout does not describe are there all the same
        members |= replace(a, scales=True).tensors(block, weights[block], scaled and scales[block], dtype, sizes)
        want |= replace(b, scales=True).tensors(block, weights[block], scaled and scales[block], dtype, sizes)
    changed = differences(members, want) != set()
    unsaid = [n for n in members if n.endswith(SCALE)] if not a.scales else []
    gone = sorted(n for n in members if n.endswith(SCALE))
    if lost and gone:
        unsaid += [gone[0]]
        members.pop(data.draw(st.sampled_from(gone)))
    weight_names = [n for n in members if not n.endswith(SCALE)]
    extra = {}
    for name, kind, shape in data.draw(st.lists(beside(weight_names), min_size=n_beside, max_size=n_beside)):
        if name not in members and name not in want:
            extra[name] = raw.random_tensor(rng, kind, shape)
    src = raw.make(members | extra, raw.config_of("qwen3_moe", experts), shards=2, rng=rng).write(directory / "src")
    note(f"MOEFS_SEED={SEED} {directory} {a} -> {b} {sizes} {dtype} beside {list(extra)}")
    options = ("--from", a.write(directory, "from"), "--to", b.write(directory, "to"))
    may_stay = not any(shares_a_stem(n, weight_names) for n in extra) and not unsaid
    described = dtype in FLOATS or (scaled and a.scales and b.scales)
    done = run_moefs("plan", src, *options)
    event("accepted" if done.returncode == 0 else "refused")
    if done.returncode != 0:
        assert done.returncode == 1 and done.stdout == "", done.stderr
        assert extra or unsaid or dtype in CODES or a.scales != b.scales, done.stderr
        return
    assert not changed or (may_stay and described), done.stderr
    with mount(src, *options) as m:
        assert differences(raw.read_directory(m.path), want | extra if changed else members | extra) == set()
