"""--max-shard-size against what transformers saves with: its order of names and huggingface_hub's splitting."""

import json

import numpy as np
import pytest
import torch
from checkpoints import INDEX, Checkpoint, random_tensor, shard
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers.core_model_loading import dot_natural_key

PARTS = ["a", "b", "layers", "1", "2", "10", "100", "e1", "e2", "e10", "weight", "x_9", "x_10", "_", "-", "A", "é"]


def random_state(rng):
    state = {}
    for _ in range(int(rng.integers(1, 60))):
        name = ".".join(rng.choice(PARTS, size=int(rng.integers(1, 5))))
        dtype = [torch.uint8, torch.bfloat16, torch.float32][rng.integers(3)]
        state[name] = random_tensor(rng, dtype, tuple(int(n) for n in rng.integers(1, 20, size=int(rng.integers(0, 3)))))
    # no empty ones: the library takes their storages for one and the same
    return dict(sorted(state.items(), key=lambda kv: dot_natural_key(kv[0])))


@pytest.mark.parametrize("number", range(30))
def test_as_transformers_saves(mount, tmp_path, number):
    rng = np.random.default_rng(number)
    state = random_state(rng)
    limit = int(rng.choice([1, 50, 200, 999, 2000, 10**6]))
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=limit
    )
    checkpoint = shard(Checkpoint("qwen3", [], {"model_type": "qwen3"}, state), 3, "random", seed=number)
    src = checkpoint.write(tmp_path / "src")
    with mount(src, "--max-shard-size", str(limit)) as m:
        assert {p.name for p in m.path.glob("*.safetensors")} == set(split.filename_to_tensors)
        for file, names in split.filename_to_tensors.items():
            save_file({n: state[n] for n in names}, tmp_path / "want", metadata={"format": "pt"})
            assert (m / file).read_bytes() == (tmp_path / "want").read_bytes()
        if split.is_sharded:
            assert json.loads((m / INDEX).read_text())["weight_map"] == split.tensor_to_filename
