"""Every byte of a mount equals what safetensors' own writer makes of the conversion done with torch."""
import itertools
import os
import subprocess

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import oracle
from checkpoints import DTYPES, LAYOUTS, build, dump_index, index_of, make, rng_of, tensor_bytes

SEED = int(os.environ.get("MOEFS_SEED", "20260401"))

# experts, inner, hidden: odd, 2I == H, I == H, one expert, more than ten (e.10 sorts before e.2), thin ones
SIZES = [(3, 5, 7), (2, 4, 8), (3, 6, 6), (1, 5, 7), (12, 3, 5), (2, 1, 7), (2, 5, 1), (2, 1, 2), (3, 33, 65)]
# shards, how: 0 is a single model.safetensors without an index
SPREADS = [(0, None), (1, "natural"), (3, "natural"), (4, "round-robin"), (5, "random"), (4, "by-proj"),
           (3, "by-expert")]


def check(mount, checkpoint, to, tmp_path, layouts=None):
    src = checkpoint.write(tmp_path / "src")
    expected = oracle.convert(checkpoint, to, layouts)
    want = oracle.write(expected, src, tmp_path / "want")
    with mount(src, "--to", to) as m:
        oracle.assert_same_directory(m.path, want)
    return expected


def test_reference_writer_is_the_one_described(tmp_path):
    """The oracle's own check: length and digest are literals of the format's description."""
    path = tmp_path / "vector"
    save_file({"b": torch.tensor([1, 2], dtype=torch.bfloat16), "a": torch.tensor([1], dtype=torch.float16),
               "e.10": torch.zeros(0, 3), "e.2": torch.tensor(7.0), "i": torch.tensor([3]),
               'q"\n\x01é': torch.tensor([True])}, path, metadata={"format": "pt"})
    assert int.from_bytes(path.read_bytes()[:8], "little") == 384
    assert oracle.digest(path) == "dee5434d23fd4169e335e15c653d960973980f014e60d85c55e0c63cc58b237e"


@pytest.mark.parametrize("source,to", list(itertools.product(LAYOUTS, LAYOUTS)))
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "E{}-I{}-H{}".format(*s))
def test_any_to_any(mount, tmp_path, source, to, size):
    """All pairs at all sizes; dtypes and spreads take turns, so that each pair meets each of them."""
    turn = SIZES.index(size) + 3 * LAYOUTS.index(source) + LAYOUTS.index(to)
    shards, how = SPREADS[turn % len(SPREADS)]
    dtype = list(DTYPES.values())[turn % len(DTYPES)]
    e, i, h = size
    checkpoint = make(turn, shards=shards, how=how, layout=source, experts=e, inner=i, hidden=h, dtype=dtype,
                      odd=turn % 3 == 0, dense_layer=turn % 2 == 0)
    expected = check(mount, checkpoint, to, tmp_path)
    assert bool(expected.converted) == (source != to)


@pytest.mark.parametrize("source,to", [p for p in itertools.product(LAYOUTS, LAYOUTS) if p[0] != p[1]])
@pytest.mark.parametrize("spread", SPREADS, ids=lambda s: f"{s[0]}-{s[1]}")
def test_spreads(mount, tmp_path, source, to, spread):
    turn = SPREADS.index(spread) + LAYOUTS.index(source) + 2 * LAYOUTS.index(to)
    dtype = list(DTYPES.values())[turn % len(DTYPES)]
    checkpoint = make(turn, shards=spread[0], how=spread[1], layout=source, dtype=dtype, odd=True, layers=3)
    check(mount, checkpoint, to, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("source,to", [("per-expert", "merged"), ("in-out", "merged"), ("merged", "in-out"),
                                       ("stacked", "per-expert")])
def test_dtypes(mount, tmp_path, dtype, source, to):
    check(mount, make(5, shards=3, how="random", layout=source, dtype=dtype, odd=True), to, tmp_path)


@pytest.mark.parametrize("to", ("v5", "original", *LAYOUTS))
@pytest.mark.parametrize("model_type", ["qwen3_moe", "qwen3_vl_moe", "qwen3_5_moe"])
def test_targets_of_each_architecture(mount, tmp_path, model_type, to):
    """The hub's own layout, with an MTP block per-expert beside it."""
    check(mount, make(9, shards=3, model_type=model_type, mtp="per-expert", odd=True), to, tmp_path)


@pytest.mark.parametrize("template,first", [("model-{:05d}-of-{:06d}.safetensors", 1), ("model-{}-of-{}.safetensors", 1),
                                            ("model.safetensors-{:05d}-of-{:05d}.safetensors", 1),
                                            ("model-{:05d}-of-{:05d}.safetensors", 0), ("weights {} ({}).safetensors", 7)])
@pytest.mark.parametrize("how", ["natural", "by-proj"])
def test_shard_names_are_not_parsed(mount, tmp_path, template, first, how):
    """`model-10` sorts before `model-2`: new names follow the bytes of the old ones."""
    checkpoint = make(3, shards=12, how=how, template=template, first=first, layers=3)
    check(mount, checkpoint, "v5", tmp_path)


@pytest.mark.parametrize("to", ["merged", "stacked", "in-out"])
def test_one_shard_remains(mount, tmp_path, to):
    """Nothing but experts in two shards, and they merge into the first: model.safetensors, and no index."""
    checkpoint = build(4, layers=1, companions=False)
    block = checkpoint.blocks[0]
    checkpoint.tensors = block.tensors(rng_of(1))
    checkpoint.shards = {"a.safetensors": [t for t in checkpoint.tensors if ".experts.0." in t],
                         "b.safetensors": [t for t in checkpoint.tensors if ".experts.0." not in t]}
    checkpoint.index = index_of(checkpoint)
    expected = check(mount, checkpoint, to, tmp_path)
    assert list(expected.files) == ["model.safetensors"] and expected.index is None


def test_shard_that_is_not_of_the_writers_making(mount, tmp_path):
    """Order, white space and metadata of our own: verbatim where nothing changes, rewritten where something does."""
    checkpoint = make(8, shards=4, how="natural", layers=2, odd=True)
    for n, name in enumerate(checkpoint.shards):
        checkpoint.raw[name] = {"metadata": [None, {"format": "pt", "x": "y"}, {}, {"format": "np"}][n],
                                "padding": n * 3, "indent": [None, 1][n % 2]}
        checkpoint.shards[name].reverse()
    expected = check(mount, checkpoint, "merged", tmp_path)
    assert any(isinstance(f, str) for f in expected.files.values()), "no verbatim shard in this case"


def test_single_file_under_another_name(mount, tmp_path):
    """No index in the source; the only weight file is not model.safetensors, so there is one in the mount."""
    checkpoint = make(8, shards=1)
    checkpoint.shards = {"weights.safetensors": list(checkpoint.tensors)}
    checkpoint.index = None
    expected = check(mount, checkpoint, "v5", tmp_path)
    assert expected.index["weight_map"]


def test_wide_tensors(mount, tmp_path):
    """Units of a gather smaller than an expert's matrix, and extents that no page boundary meets."""
    checkpoint = make(2, shards=2, layout="in-out", experts=3, inner=301, hidden=517, dtype=torch.float32, layers=1)
    src = checkpoint.write(tmp_path / "src")
    for to in ("merged", "per-expert", "stacked"):
        want = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / to)
        for cache in ("1M", "256M"):
            with mount(src, "--to", to, "--cache-size", cache) as m:
                oracle.assert_same_directory(m.path, want)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("inner,hidden", [(8, 16), (16, 8), (31, 33), (32, 32), (63, 65), (64, 128), (65, 127), (1, 129)])
def test_sizes_around_powers_of_two(mount, tmp_path, inner, hidden, dtype):
    """Both directions of a transpose at sizes where one that works in tiles has whole tiles, and a rest."""
    for source, to in (("in-out", "merged"), ("per-expert", "in-out")):
        checkpoint = make(inner, shards=2, layout=source, experts=2, inner=inner, hidden=hidden, dtype=dtype, layers=1)
        check(mount, checkpoint, to, tmp_path / source)


@pytest.mark.parametrize("source,to", [("per-expert", "v5"), ("in-out", "merged"), ("merged", "original")])
def test_copied(mount, tmp_path, source, to):
    checkpoint = make(6, shards=4, how="random", layout=source, odd=True, layers=3)
    src = checkpoint.write(tmp_path / "src")
    want = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / "want")
    with mount(src, "--to", to) as m:
        subprocess.run(["cp", "-r", m.path, tmp_path / "copy"], check=True)
    oracle.assert_same_directory(tmp_path / "copy", want)


def test_same_source_same_bytes(mount, tmp_path):
    """A copy of the source elsewhere, listed by the file system in another order, mounts as the same bytes."""
    checkpoint = make(6, shards=5, how="random", odd=True)
    seen = []
    for name in ("one", "two"):
        src = checkpoint.write(tmp_path / name)
        checkpoint.shards = dict(reversed(checkpoint.shards.items()))
        with mount(src) as m:
            seen.append(oracle.digests(m.path))
    assert seen[0] == seen[1]


def test_index_metadata_is_kept(mount, tmp_path):
    """total_size is recomputed, total_parameters stays what it was, anything else is kept."""
    checkpoint = make(6, shards=3, how="round-robin")
    checkpoint.index["metadata"] = {"total_size": 1, "total_parameters": 12345678901234567890, "zeta": [1.5, None, "é\n"],
                                    "alpha": {"b": 1, "a": True}, "format": "pt"}
    src = checkpoint.write(tmp_path / "src")
    expected = oracle.convert(checkpoint, "v5")
    assert expected.index["metadata"]["total_parameters"] == 12345678901234567890
    with mount(src) as m:
        assert (m / "model.safetensors.index.json").read_text() == dump_index(expected.index)


def tensors_of(directory):
    """name -> (dtype, shape, bytes). No mapping of the files outlives the call: it would keep the mount alive."""
    found = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as f:
            for name in f.keys():
                assert name not in found
                tensor = f.get_tensor(name)
                found[name] = (tensor.dtype, tensor.shape, tensor_bytes(tensor))
    return found


sizes = st.integers(1, 6)


@seed(SEED)
@settings(max_examples=int(os.environ.get("MOEFS_EXAMPLES", "12")), deadline=None, print_blob=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(number=st.integers(0, 2**32 - 1), source=st.sampled_from(LAYOUTS), to=st.sampled_from(LAYOUTS), experts=sizes,
       inner=sizes, hidden=sizes, dtype=st.sampled_from(list(DTYPES.values())), spread=st.sampled_from(SPREADS))
def test_there_and_back(mount, tmp_path_factory, number, source, to, experts, inner, hidden, dtype, spread):
    """A mount of a mount: every tensor is the one of the source again."""
    print(f"MOEFS_SEED={SEED} number={number} {source} -> {to} E={experts} I={inner} H={hidden} {dtype} {spread}")
    checkpoint = make(number, shards=spread[0], how=spread[1], layout=source, experts=experts, inner=inner,
                      hidden=hidden, dtype=dtype, layers=1, odd=True)
    src = checkpoint.write(tmp_path_factory.mktemp("src") / "src")
    with mount(src, "--to", to) as there, mount(there.path, "--to", source) as back:
        seen = tensors_of(back.path)
    assert seen == {n: (t.dtype, t.shape, tensor_bytes(t)) for n, t in checkpoint.tensors.items()}
