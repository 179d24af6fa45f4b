"""Matrices so large that all who wait for one compute it together: right bytes, whoever computes what."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from headers import parse_header
from safetensors.numpy import save_file

EXPERTS, INNER, HIDDEN = 2, 2200, 2064  # a gate_up of 18 MB, four parts, and rows that no tile divides
THREADS, PIECE = 8, 1 << 20
BLOCK = "model.layers.0.mlp"
FUSED = ("merged", "in-out", "interleaved", "in-out-interleaved")


def put_together(gate, up, down, layout):
    """{name: array} of gate and up [E, I, H] and down [E, H, I]."""
    names = {}
    if layout == "per-expert":
        for e in range(EXPERTS):
            for proj, array in (("gate", gate), ("up", up), ("down", down)):
                names[f"{BLOCK}.experts.{e}.{proj}_proj.weight"] = array[e]
        return names
    both = [gate, up]
    fused = np.stack(both, 2).reshape(EXPERTS, -1, HIDDEN) if "interleaved" in layout else np.concatenate(both, 1)
    if layout.startswith("in-out"):
        fused, down = fused.swapaxes(1, 2), down.swapaxes(1, 2)
    return {f"{BLOCK}.experts.gate_up_proj": fused, f"{BLOCK}.experts.down_proj": down}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(20260523)
    shapes = [(EXPERTS, INNER, HIDDEN)] * 2 + [(EXPERTS, HIDDEN, INNER)]
    return [rng.integers(0, 1 << 16, shape, dtype=np.uint16) for shape in shapes]


def write(directory, tensors):
    directory.mkdir()
    config = {"model_type": "qwen3_moe", "num_experts": EXPERTS, "num_hidden_layers": 1}
    (directory / "config.json").write_text(json.dumps(config))
    halves = {name: np.ascontiguousarray(array).view(np.float16) for name, array in tensors.items()}
    save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})


def read_at_once(path):
    """The file's bytes, by threads that all read in the same place."""
    size = os.path.getsize(path)
    data, fd = bytearray(size), os.open(path, os.O_RDONLY)

    def read_pieces(thread):
        with memoryview(data) as view:
            for at in range(thread * PIECE, size, THREADS * PIECE):
                assert os.preadv(fd, [view[at : at + PIECE]], at) == min(PIECE, size - at)

    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read_pieces, range(THREADS)))
    os.close(fd)
    return data


def take(data, name):
    _, shape, begin, end = parse_header(data).tensors[name]
    return np.frombuffer(data, np.uint16, (end - begin) // 2, begin).reshape(shape)


@pytest.mark.parametrize("source,to", [pair for pair in product(("per-expert", *FUSED), FUSED) if len({*pair}) == 2])
def test_large_units(mount, tmp_path, arrays, source, to):
    write(tmp_path / "src", put_together(*arrays, source))
    with mount(tmp_path / "src", "--from", source, "--to", to) as m:
        data = read_at_once(m.path / "model.safetensors")
        for name, want in put_together(*arrays, to).items():
            have = take(data, name)
            assert have.shape == want.shape
            wrong = np.argwhere(have != want)
            assert len(wrong) == 0, f"{name}: {len(wrong)} wrong elements, the first at {wrong[0]}"
