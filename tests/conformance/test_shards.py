"""The rule of shards, against huggingface_hub's own split: of sizes alone, no byte is written."""

import random

from drivers import run_cases
from huggingface_hub import split_state_dict_into_shards_factory


def split(sizes, limit):
    """Each tensor's shard, counted from 0."""
    state = {f"t{i}": size for i, size in enumerate(sizes)}
    done = split_state_dict_into_shards_factory(
        state, get_storage_size=lambda size: size, get_storage_id=lambda size: None, max_shard_size=limit,
        filename_pattern="model{suffix}.safetensors")  # fmt: skip
    numbers = {name: i for i, name in enumerate(done.filename_to_tensors)}
    return [numbers[done.tensor_to_filename[f"t{i}"]] for i in range(len(sizes))]


def test_shards_as_the_hub_splits():
    rng = random.Random(1)
    cases = [([1, 9, 1], 5), ([1], 5), ([9], 5), ([9, 9], 5), ([5, 5], 5), ([2, 3, 1], 5), ([0, 0, 9, 0], 5), ([6, 0], 6)]
    cases += [([rng.randrange(12) for _ in range(rng.randrange(1, 30))], rng.randrange(1, 16)) for _ in range(2000)]
    said = run_cases("split_shards", [" ".join(map(str, (limit, *sizes))).encode() for sizes, limit in cases])
    for (sizes, limit), line in zip(cases, said.decode().splitlines(), strict=True):
        assert [int(word) for word in line.split()] == split(sizes, limit), (sizes, limit)
