"""Offsets above 2 and 4 GiB, in the source and in the mount: sparse files with a few bytes in known places."""
import json
import os
import random

import pytest
from headers import pack_header, read_header

SEED = int(os.environ.get("MOEFS_SEED", random.randrange(1 << 30)))
EXPERTS, INNER, HIDDEN, SIZE = 6, 4096, 32768, 2  # BF16: gate_up is 3 GiB, down 1.5 GiB
BLOCK = "model.layers.0.mlp"
SHAPES = {"in-out": {"gate_up": (EXPERTS, HIDDEN, 2 * INNER), "down": (EXPERTS, INNER, HIDDEN)},
          "merged": {"gate_up": (EXPERTS, 2 * INNER, HIDDEN), "down": (EXPERTS, HIDDEN, INNER)}}


def place(tensors, name, e, row, column):
    """The offset in the file of one element's first byte."""
    _, (_, rows, columns), begin, _ = tensors[name]
    return begin + ((e * rows + row) * columns + column) * SIZE


def write_sparse(path, layout):
    header, at = {}, 0
    for i, (proj, shape) in enumerate(SHAPES[layout].items()):
        size = shape[0] * shape[1] * shape[2] * SIZE
        header[f"{BLOCK}.experts.{proj}_proj"] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = pack_header(header)
    with open(path, "wb") as f:
        f.write(raw)
        f.truncate(len(raw) + at)
    return len(raw) + at


@pytest.mark.parametrize("source,to", [("in-out", "merged"), ("merged", "in-out"), ("merged", "merged"),
                                       ("merged", "per-expert")])
def test_marked_bytes(mount, tmp_path, source, to):
    print(f"MOEFS_SEED={SEED}")
    rng = random.Random(SEED)
    src = tmp_path / "src"
    src.mkdir()
    path = src / "model.safetensors"
    size = write_sparse(path, source)
    assert size > 1 << 32 and path.stat().st_blocks * 512 < 1 << 20, "this file system has no sparse files"
    (src / "config.json").write_text(json.dumps({"model_type": "qwen3_vl_moe", "num_experts": EXPERTS}))

    tensors = read_header(path).tensors
    marks = {}  # (proj, expert, inner, hidden) -> byte; inner counts gate's rows, then up's
    corners = [("gate_up", e, i, h) for e in (0, EXPERTS - 1) for i in (0, INNER - 1, INNER, 2 * INNER - 1)
               for h in (0, HIDDEN - 1)]
    corners += [("down", e, i, h) for e in (0, EXPERTS - 1) for i in (0, INNER - 1) for h in (0, HIDDEN - 1)]
    spots = [(proj, rng.randrange(EXPERTS), rng.randrange(INNER * (1 + (proj == "gate_up"))), rng.randrange(HIDDEN))
             for proj in ("gate_up", "down") for _ in range(4)]

    def offset(layout, tensors, proj, e, i, h):
        if layout == "per-expert":
            part = ("gate", "up")[i // INNER] if proj == "gate_up" else "down"
            _, (_, columns), begin, _ = tensors[f"{BLOCK}.experts.{e}.{part}_proj.weight"]
            row, column = (h, i) if part == "down" else (i % INNER, h)
            return begin + (row * columns + column) * SIZE
        inner_outside = (proj == "gate_up") == (layout == "merged")
        return place(tensors, f"{BLOCK}.experts.{proj}_proj", e, *((i, h) if inner_outside else (h, i)))

    with open(path, "r+b") as f:
        for spot in corners + spots:
            marks[spot] = rng.randrange(1, 256)
            f.seek(offset(source, tensors, *spot))
            f.write(bytes([marks[spot]]))
    with mount(src, "--to", to) as m:
        got = read_header(m / "model.safetensors")
        fd = os.open(m / "model.safetensors", os.O_RDONLY | os.O_DIRECT)
        assert os.fstat(fd).st_size > 1 << 32
        where = {offset(to, got.tensors, *spot): byte for spot, byte in marks.items()}
        assert max(where) > 1 << 32
        for at in where:
            begin = max(at - 2, got.data)
            want = bytes(where.get(k, 0) for k in range(begin, min(at + 3, os.fstat(fd).st_size)))
            assert os.pread(fd, len(want), begin) == want, at
        os.close(fd)
