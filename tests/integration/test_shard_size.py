"""--max-shard-size: the tensors in natural order, dealt out greedily; every file byte for byte as the writer's."""

import functools
import json
import re

import numpy as np
import pytest
import raw
from test_companions import Model


def natural_key(name):
    """Parts between dots; numbers before words; a word's trailing digits count as a number."""
    key = []
    for part in name.split("."):
        word, digits = re.fullmatch(r"(.*?)(\d*)", part).groups()
        key.append((0, "", int(digits)) if digits and not word else (1, word, int(digits) if digits else -1))
    return key


def deal_out(tensors, limit):
    """[{name: tensor}]: as save_pretrained does it, for tensors in this order."""
    files, current, size = [], {}, 0
    for name in sorted(tensors, key=natural_key):
        if tensors[name].nbytes > limit:
            files.append({name: tensors[name]})
            continue
        if size + tensors[name].nbytes > limit:
            files.append(current)
            current, size = {}, 0
        current[name] = tensors[name]
        size += tensors[name].nbytes
    return files + [current] * bool(current)


def named(files):
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{i:05d}-of-{len(files):05d}.safetensors": t for i, t in enumerate(files, 1)}


def check(mount, tmp_path, src, want, *options):
    """Files, index, bytes."""
    with mount(src, *options) as m:
        assert {p.name for p in m.path.glob("*.safetensors")} == set(want)
        for file, tensors in want.items():
            raw.write_file(tmp_path / "want", tensors)
            assert (m / file).read_bytes() == (tmp_path / "want").read_bytes(), file
        if len(want) == 1:
            assert not (m / raw.INDEX).exists()
        else:
            index = json.loads((m / raw.INDEX).read_text())
            assert index["weight_map"] == {n: f for f, tensors in want.items() for n in tensors}
            assert index["metadata"]["total_size"] == sum(t.nbytes for ts in want.values() for t in ts.values())


def sized(rng, sizes):
    return {name: raw.random_tensor(rng, "U8", (n,)) for name, n in sizes.items()}


@functools.cache
def model():
    return Model(1, 5, 7)


# bytes of an expert's matrix: 70; of a merged one: 420 and 210
@pytest.mark.parametrize("to", ["original", "merged", "stacked", "in-out"])
@pytest.mark.parametrize("limit", [1, 69, 70, 71, 140, 209, 210, 419, 420, 421, 500, 999, 1000, 1260, 1288, 10**6])
def test_each_target(mount, tmp_path, to, limit):
    tensors = model().tensors("per-expert" if to == "original" else to)
    src = model().write(tmp_path / "src", "per-expert", 3)
    check(mount, tmp_path, src, named(deal_out(tensors, limit)), "--to", to, "--max-shard-size", limit)


def test_one_file_is_dealt_out(mount, tmp_path):
    src = model().write(tmp_path / "src", "per-expert", 0)
    check(mount, tmp_path, src, named(deal_out(model().tensors("merged"), 700)), "--to", "merged", "--max-shard-size", 700)


@pytest.mark.parametrize("text,limit", [("1KB", 1000), ("1kb", 1000), ("2KB", 2000), ("1MB", 10**6), ("1GB", 10**9),
                                        ("5GB", 5 * 10**9), ("1TB", 10**12), ("999", 999)])  # fmt: skip
def test_units_are_powers_of_ten(mount, tmp_path, text, limit):
    rng = np.random.default_rng(2)
    tensors = sized(rng, {f"t.{i}": 250 for i in range(9)})
    src = raw.make(tensors, {"model_type": "qwen3"}).write(tmp_path / "src")
    check(mount, tmp_path, src, named(deal_out(tensors, limit)), "--max-shard-size", text)


@pytest.mark.parametrize("text", ["", "0", "0GB", "GB", "5 GB", "5G", "5GiB", "-1", "1.5GB", "5GB ", "18446744073709551616",
                                  "18446744073710TB"])  # fmt: skip
def test_sizes_that_are_none(run_moefs, tmp_path, text):
    done = run_moefs("plan", tmp_path, "--max-shard-size", text)
    assert done.returncode == 2 and f"--max-shard-size {text}: not a size" in done.stderr


def test_large_tensor_does_not_close_the_file_at_hand(mount, tmp_path):
    tensors = sized(np.random.default_rng(3), {"a.1": 300, "a.2": 5000, "a.3": 300, "a.4": 5000, "a.5": 400, "a.6": 1})
    src = raw.make(tensors, {"model_type": "qwen3"}, shards=2).write(tmp_path / "src")
    files = [["a.2"], ["a.4"], ["a.1", "a.3", "a.5"], ["a.6"]]
    want = named([{n: tensors[n] for n in names} for names in files])
    assert want == named(deal_out(tensors, 1000))
    check(mount, tmp_path, src, want, "--max-shard-size", "1KB")


def test_numbers_as_numbers(mount, tmp_path):
    order = ["a.1", "a.2.x", "a.02.x", "a.10", "a.18446744073709551617", "a.e", "a.e2", "a.e10", "a.e10x", "a.ex", "b", "b.1", "b1", "b1.0"]
    tensors = sized(np.random.default_rng(4), dict.fromkeys(order, 8))
    src = raw.make(tensors, {"model_type": "qwen3"}).write(tmp_path / "src")
    with mount(src, "--max-shard-size", "8") as m:
        seen = [n for f in sorted(m.path.glob("*.safetensors")) for n in raw.read_file(f)]
    assert seen[:1] + sorted(seen[1:3]) + seen[3:] == order[:1] + sorted(order[1:3]) + order[3:]


def test_empty_tensors_and_scalars(mount, tmp_path):
    rng = np.random.default_rng(5)
    tensors = {"a": raw.random_tensor(rng, "F32", ()), "b": raw.random_tensor(rng, "F32", (0, 3)),
               "c": raw.random_tensor(rng, "F32", (2,)), "d": raw.random_tensor(rng, "F32", (0,))}
    src = raw.make(tensors, {"model_type": "qwen3"}).write(tmp_path / "src")
    check(mount, tmp_path, src, named(deal_out(tensors, 8)), "--max-shard-size", "8")


def test_original_sharding_comes_back(mount, tmp_path):
    """A mount of a mount: the size of its files does not depend on the source's."""
    src = model().write(tmp_path / "src", "per-expert", 4)
    want = named(deal_out(model().tensors("per-expert"), 600))
    with mount(src, "--to", "merged", "--max-shard-size", "77") as there:
        check(mount, tmp_path, there.path, want, "--to", "original", "--max-shard-size", "600")


def test_a_file_that_config_names(mount, run_moefs, tmp_path):
    """transformers_weights: a loader looks for this file alone, and config.json is shown as it is."""
    tensors = sized(np.random.default_rng(5), {"a": 300, "b": 300})
    src = raw.Checkpoint({"model_type": "qwen3", "transformers_weights": "mine.safetensors"}, tensors,
                         {"mine.safetensors": list(tensors)}).write(tmp_path / "src")
    with mount(src, "--max-shard-size", 600) as m:
        assert [p.name for p in m.path.glob("*.safetensors")] == ["mine.safetensors"]
        assert raw.read_directory(m.path) == tensors
    done = run_moefs("plan", src, "--max-shard-size", 599)
    assert done.returncode == 1
    assert "transformers_weights names one file, mine.safetensors, and would not find the 2 that --max-shard-size makes" in done.stderr


def test_an_index_that_config_names(mount, tmp_path):
    tensors = sized(np.random.default_rng(6), {"a": 300, "b": 300, "c": 300})
    src = raw.make(tensors, {"model_type": "qwen3", "transformers_weights": "mine.safetensors.index.json"}).write(tmp_path / "src")
    (src / raw.INDEX).rename(src / "mine.safetensors.index.json")
    with mount(src, "--max-shard-size", 600) as m:
        index = json.loads((m / "mine.safetensors.index.json").read_text())
        assert index["weight_map"] == {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors",
                                       "c": "model-00002-of-00002.safetensors"}
        assert raw.read_directory(m.path) == tensors and not (m / raw.INDEX).exists()
