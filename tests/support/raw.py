"""Small checkpoints of raw elements, without torch: numpy arrays of unsigned integers stand for any dtype.

An element is its bytes, whatever it means: a conversion only moves it. Files are written by safetensors' own writer.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from headers import parse_header
from safetensors import TensorSpec, serialize_file

# safetensors' name in files -> (the name that its writer takes, what stands for an element here)
DTYPES = {
    "BF16": ("bfloat16", np.uint16),
    "F16": ("float16", np.uint16),
    "F32": ("float32", np.uint32),
    "F64": ("float64", np.uint64),
    "U8": ("uint8", np.uint8),
    "BOOL": ("bool", np.uint8),
    "I8": ("int8", np.uint8),
    "I16": ("int16", np.uint16),
    "I32": ("int32", np.uint32),
    "I64": ("int64", np.uint64),
    "F8_E5M2": ("float8_e5m2", np.uint8),
    "F8_E4M3": ("float8_e4m3fn", np.uint8),
    "F8_E8M0": ("float8_e8m0fnu", np.uint8),
}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    dtype: str
    elements: np.ndarray

    @property
    def shape(self):
        return self.elements.shape

    def __eq__(self, other):
        return (self.dtype, self.shape, self.elements.tobytes()) == (other.dtype, other.shape, other.elements.tobytes())

    def __repr__(self):
        return f"{self.dtype}{list(self.shape)}"

    @property
    def nbytes(self):
        return self.elements.nbytes


def random_tensor(rng, dtype, shape):
    kind = DTYPES[dtype][1]
    raw = rng.integers(0, 256, math.prod(shape) * np.dtype(kind).itemsize, dtype=np.uint8)
    return Tensor(dtype, raw.view(kind).reshape(shape))


def write_file(path, tensors):
    """As safetensors.torch.save_file(..., metadata={"format": "pt"}) writes it."""
    kept = {name: np.ascontiguousarray(t.elements) for name, t in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=DTYPES[t.dtype][0], shape=list(t.shape), data_ptr=kept[name].ctypes.data, data_len=kept[name].nbytes
        )
        for name, t in tensors.items()
    }
    serialize_file(specs, path, {"format": "pt"})


def read_file(path):
    raw = Path(path).read_bytes()
    return {
        name: Tensor(dtype, np.frombuffer(raw[begin:end], DTYPES[dtype][1]).reshape(shape))
        for name, (dtype, shape, begin, end) in parse_header(raw).tensors.items()
    }


def read_directory(directory):
    """name -> Tensor, of all weight files; each name in one file only, and where the index says."""
    directory = Path(directory)
    found, home = {}, {}
    for file in sorted(directory.glob("*.safetensors")):
        for name, tensor in read_file(file).items():
            assert name not in found, f"{name} twice"
            found[name], home[name] = tensor, file.name
    if (directory / INDEX).exists():
        assert json.loads((directory / INDEX).read_text())["weight_map"] == home
    return found


@dataclass
class Checkpoint:
    config: dict
    tensors: dict
    shards: dict = field(default_factory=dict)  # file name -> names

    def write(self, directory):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        for file, names in self.shards.items():
            write_file(directory / file, {n: self.tensors[n] for n in names})
        if list(self.shards) != ["model.safetensors"]:
            index = {
                "metadata": {"total_size": sum(t.nbytes for t in self.tensors.values())},
                "weight_map": {n: f for f, names in self.shards.items() for n in names},
            }
            (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        return directory


def make(tensors, config, *, shards=1, rng=None):
    """A checkpoint of these tensors, dealt out to files at random; shards=0 is a single model.safetensors."""
    if shards == 0:
        return Checkpoint(config, tensors, {"model.safetensors": list(tensors)})
    rng = rng or np.random.default_rng(1)
    files = {f"model-{i + 1:05d}-of-{shards:05d}.safetensors": [] for i in range(shards)}
    for name in tensors:
        files[list(files)[rng.integers(shards)]].append(name)
    return Checkpoint(config, tensors, {f: names for f, names in files.items() if names})


def config_of(model_type, experts):
    return {"model_type": model_type, "num_experts": experts}


# ---- numpy's own reading of axis expressions ----


def dims_of(axes):
    """"expert (proj inner) hidden" -> [["expert"], ["proj", "inner"], ["hidden"]]"""
    return [part.strip("()").split() for part in re.findall(r"\([^)]*\)|\S+", axes)]


def size_of(axis, sizes):
    if axis.isdigit():
        return int(axis)
    word, _, grain = axis.partition("/")
    return -(-sizes[word] // int(grain)) if grain else sizes[axis]


def lay_out(values, order, axes, sizes):
    """values: an array whose dimensions are the axes of `order`; -> the array of the expression."""
    flat = [axis for dim in dims_of(axes) for axis in dim]
    assert sorted(flat) == sorted(order), (flat, order)
    moved = values.transpose([order.index(axis) for axis in flat])
    return moved.reshape([math.prod(size_of(a, sizes) for a in dim) for dim in dims_of(axes)])
