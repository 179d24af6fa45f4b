"""Small random checkpoints: built in memory, written as real directories.

A checkpoint is a mapping from shard file to tensors, a config.json and whatever else lies beside the weights. Contents
are random bytes of each dtype (NaN payloads included), so that a byte in the wrong place cannot go unnoticed.
"""
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from headers import pack_header
from safetensors.torch import save_file

LAYOUTS = ("per-expert", "stacked", "merged", "in-out")
PROJS = ("gate", "up", "down")
# Of experts' weights: those of 8 bits convert only with scales (test_quantised.py).
DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
}
PREFIX = {
    "qwen3_moe": "model.layers",
    "qwen3_vl_moe": "model.language_model.layers",
    "qwen3_5_moe": "model.language_model.layers",
}
# What the hub has, and what transformers v5's modules have (reference: the model types' conversion mappings).
ORIGINAL = {"qwen3_moe": "per-expert", "qwen3_vl_moe": "in-out", "qwen3_5_moe": "merged"}
V5 = {"qwen3_moe": "merged", "qwen3_vl_moe": "merged", "qwen3_5_moe": "merged"}

INDEX = "model.safetensors.index.json"


def rng_of(seed):
    return np.random.default_rng(seed)


def random_tensor(rng, dtype, shape):
    count = int(np.prod(shape, dtype=np.int64))
    if dtype == torch.bool:
        return torch.from_numpy(rng.integers(0, 2, count, dtype=np.uint8).astype(bool)).reshape(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    raw = rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def tensor_bytes(tensor):
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def expert_name(block, layout, proj, expert):
    """The name of the tensor that holds this expert's projection."""
    if layout == "per-expert":
        return f"{block}.experts.{expert}.{proj}_proj.weight"
    if layout == "stacked" or proj == "down":
        return f"{block}.experts.{proj}_proj"
    return f"{block}.experts.gate_up_proj"


def expert_shapes(layout, experts, inner, hidden):
    """What the tensors of one block look like: projections -> shape (reference/notation, section 1)."""
    if layout == "per-expert":
        return {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    if layout == "stacked":
        return {"gate": (experts, inner, hidden), "up": (experts, inner, hidden), "down": (experts, hidden, inner)}
    if layout == "merged":
        return {"gate_up": (experts, 2 * inner, hidden), "down": (experts, hidden, inner)}
    return {"gate_up": (experts, hidden, 2 * inner), "down": (experts, inner, hidden)}


@dataclass(frozen=True)
class Block:
    name: str
    layout: str
    experts: int
    inner: int
    hidden: int
    dtype: torch.dtype = torch.bfloat16

    def tensors(self, rng):
        out = {}
        for projs, shape in expert_shapes(self.layout, self.experts, self.inner, self.hidden).items():
            for e in range(self.experts) if self.layout == "per-expert" else (None,):
                name = expert_name(self.name, self.layout, projs.split("_")[0], e)
                out[name] = random_tensor(rng, self.dtype, shape)
        return out


@dataclass
class Checkpoint:
    model_type: str
    blocks: list
    config: dict
    tensors: dict  # in natural order
    shards: dict = field(default_factory=dict)  # file name -> list of tensor names, in the order of the file
    index: dict | None = None  # as it is written; None: no index
    index_name: str = INDEX
    files: dict = field(default_factory=dict)  # what else lies there: path -> bytes
    raw: dict = field(default_factory=dict)  # shards with a header of our own: file name -> keywords of write_shard

    def block(self, name):
        return next(b for b in self.blocks if b.name == name)

    def write(self, directory):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.config is not None:
            (directory / "config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True) + "\n")
        for path, contents in self.files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(contents)
        for name, names in self.shards.items():
            tensors = {t: self.tensors[t] for t in names}
            if name in self.raw:
                write_shard(directory / name, tensors, **self.raw[name])
            else:
                save_file(tensors, directory / name, metadata={"format": "pt"})
        if self.index is not None:
            (directory / self.index_name).write_text(dump_index(self.index))
        return directory


def dump_index(index):
    """As transformers writes it."""
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def natural_key(name):
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]


def config_of(model_type, experts, inner, hidden, layers):
    text = {
        "hidden_size": hidden,
        "moe_intermediate_size": inner,
        "num_experts": experts,
        "num_hidden_layers": layers,
        "num_experts_per_tok": 2,
    }
    if model_type in ("qwen3_vl_moe", "qwen3_5_moe"):
        return {"model_type": model_type, "text_config": {"model_type": model_type + "_text", **text}}
    return {"model_type": model_type, **text}


def companions_of_block(rng, block):
    """What lies around the experts and is none: router, shared experts, a stray key under `experts.`."""
    h, i, d = block.hidden, block.inner, block.dtype
    return {
        f"{block.name}.gate.weight": random_tensor(rng, d, (block.experts, h)),
        f"{block.name}.experts.e_score_correction_bias": random_tensor(rng, torch.float32, (block.experts,)),
        f"{block.name}.shared_expert.gate_proj.weight": random_tensor(rng, d, (i, h)),
        f"{block.name}.shared_expert.up_proj.weight": random_tensor(rng, d, (i, h)),
        f"{block.name}.shared_expert.down_proj.weight": random_tensor(rng, d, (h, i)),
        f"{block.name}.shared_experts.gate_up_proj": random_tensor(rng, d, (2, 2 * i, h)),
        f"{block.name}.shared_expert_gate.weight": random_tensor(rng, d, (1, h)),
    }


def odd_tensors(rng):
    """Names and shapes that a careless writer of headers gets wrong."""
    return {
        'odd "quoted" \\ back/slash': random_tensor(rng, torch.uint8, (3,)),
        "odd.tab\tnewline\nreturn\rbell\x07\x01\x1f\x7f": random_tensor(rng, torch.bool, (5,)),
        "odd.größe.ß.日本.\U0001f600.weight": random_tensor(rng, torch.float16, (2, 1)),
        "odd.scalar": random_tensor(rng, torch.float32, ()),
        "odd.scalar.u8": random_tensor(rng, torch.uint8, ()),
        "odd.empty": random_tensor(rng, torch.float32, (0, 3)),
        "odd.empty.bf16": random_tensor(rng, torch.bfloat16, (2, 0)),
        "odd.i64": random_tensor(rng, torch.int64, (3,)),
        "odd.e.10": random_tensor(rng, torch.float32, (1,)),
        "odd.e.2": random_tensor(rng, torch.float32, (1,)),
        "odd.f8": random_tensor(rng, torch.float8_e4m3fn, (4, 3)),
    }


def build(seed, *, model_type="qwen3_moe", layout=None, layers=2, experts=3, inner=5, hidden=7, dtype=torch.bfloat16,
          mtp=None, odd=False, companions=True, dense_layer=False):
    """A checkpoint without shards yet (see shard()). mtp: the layout of an MTP block, or None."""
    rng = rng_of(seed)
    layout = layout or ORIGINAL[model_type]
    prefix = PREFIX[model_type]
    blocks = [Block(f"{prefix}.{n}.mlp", layout, experts, inner, hidden, dtype)
              for n in range(int(dense_layer), layers + int(dense_layer))]
    if mtp:
        blocks.append(Block("mtp.layers.0.mlp", mtp, experts, inner, hidden, dtype))
    top = prefix.rsplit(".", 1)[0]
    tensors = {f"{top}.embed_tokens.weight": random_tensor(rng, dtype, (11, hidden)),
               f"{top}.norm.weight": random_tensor(rng, torch.float32, (hidden,)),
               "lm_head.weight": random_tensor(rng, dtype, (11, hidden))}
    if dense_layer:
        tensors[f"{prefix}.0.mlp.gate_proj.weight"] = random_tensor(rng, dtype, (2 * inner, hidden))
        tensors[f"{prefix}.0.mlp.down_proj.weight"] = random_tensor(rng, dtype, (hidden, 2 * inner))
    for block in blocks:
        layer = block.name.rsplit(".", 1)[0]
        tensors[f"{layer}.input_layernorm.weight"] = random_tensor(rng, dtype, (hidden,))
        tensors[f"{layer}.self_attn.q_proj.weight"] = random_tensor(rng, dtype, (2 * hidden, hidden))
        tensors |= block.tensors(rng)
        if companions:
            tensors |= companions_of_block(rng, block)
    if odd:
        tensors |= odd_tensors(rng)
    tensors = {n: tensors[n] for n in sorted(tensors, key=natural_key)}
    return Checkpoint(model_type, blocks, config_of(model_type, experts, inner, hidden, layers), tensors,
                      files={"tokenizer.json": b'{"version": "1.0"}\n', "merges.txt": b"",
                             "sub/notes.txt": b"passes through\n"})


def single(checkpoint):
    """All in model.safetensors, no index."""
    checkpoint.shards = {"model.safetensors": list(checkpoint.tensors)}
    checkpoint.index = None
    return checkpoint


def shard(checkpoint, n, how="natural", *, seed=0, template="model-{:05d}-of-{:05d}.safetensors", first=1):
    """Spreads the tensors over n files with an index. how: natural | round-robin | random | by-proj | by-expert."""
    names = list(checkpoint.tensors)
    rng = random.Random(seed)
    files = [template.format(first + i, n) for i in range(n)]
    place = {
        "natural": lambda i, name: i * n // len(names),
        "round-robin": lambda i, name: i % n,
        "random": lambda i, name: rng.randrange(n),
        # Experts alone in shards of their own: those shards are left empty by a merge.
        "by-proj": lambda i, name: next((1 + k % (n - 1) for k, p in enumerate(PROJS)
                                         if re.search(rf"\.experts\.\d+\.{p}_proj|\.experts\.{p}", name)), 0),
        "by-expert": lambda i, name: (lambda m: 1 + int(m[1]) % (n - 1) if m else 0)(
            re.search(r"\.experts\.(\d+)\.", name)),
    }[how]
    checkpoint.shards = {f: [] for f in files}
    for i, name in enumerate(names):
        checkpoint.shards[files[place(i, name)]].append(name)
    checkpoint.shards = {f: t for f, t in checkpoint.shards.items() if t}
    checkpoint.index = index_of(checkpoint)
    return checkpoint


def index_of(checkpoint, metadata=None):
    total = sum(t.numel() * t.element_size() for t in checkpoint.tensors.values())
    return {"metadata": {"total_size": total} if metadata is None else metadata,
            "weight_map": {t: f for f, names in checkpoint.shards.items() for t in names}}


def make(seed, *, shards=1, how="natural", template="model-{:05d}-of-{:05d}.safetensors", first=1, **keywords):
    """build() and spread: shards=0 is the single model.safetensors without an index."""
    checkpoint = build(seed, **keywords)
    if shards == 0:
        return single(checkpoint)
    return shard(checkpoint, shards, how, seed=seed, template=template, first=first)


def write_shard(path, tensors, *, metadata=None, padding=0, indent=None):
    """A safetensors file in the given order, with a header that the reference's writer would not write."""
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, at + size]}
        at += size
    write_raw(path, json.dumps(header, indent=indent).encode() + b" " * padding,
              b"".join(tensor_bytes(t) for t in tensors.values()))


def write_raw(path, header, data=b"", length=None):
    """Any bytes in the places of a safetensors file's parts."""
    Path(path).write_bytes(pack_header(header, length) + data)
