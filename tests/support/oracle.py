"""What a mount must hold, worked out with torch's own operations and safetensors' own writer.

Nothing here asks moefs. The experts of a block are brought into the plainest form there is, one [E, I, H] tensor for
gate and up and one [E, H, I] for down, and from there into the target with stack, cat, chunk and transpose.
"""
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from checkpoints import ORIGINAL, PROJS, V5, dump_index, expert_name


def wanted_layouts(model_type, block, to):
    """The layouts in which a block may stay under this target; the first one is made. None: any."""
    mtp = block.startswith(("mtp.", "model.mtp."))
    if to == "v5":
        return None if mtp else (V5[model_type],)
    if to == "original":
        if mtp and model_type == "qwen3_5_moe":
            return ("per-expert", "merged")
        return (ORIGINAL[model_type],)
    return (to,)


def plain_experts(tensors, block):
    """gate [E, I, H], up [E, I, H], down [E, H, I]"""
    def stored(proj, expert=None):
        return tensors[expert_name(block.name, block.layout, proj, expert)]

    if block.layout == "per-expert":
        return tuple(torch.stack([stored(p, e) for e in range(block.experts)]) for p in PROJS)
    if block.layout == "stacked":
        return tuple(stored(p) for p in PROJS)
    if block.layout == "merged":
        return (*torch.chunk(stored("gate"), 2, dim=1), stored("down"))
    if block.layout == "in-out":
        gate, up = torch.chunk(stored("gate"), 2, dim=2)
        return gate.transpose(1, 2), up.transpose(1, 2), stored("down").transpose(1, 2)
    raise ValueError(block.layout)


def lay_out(block, layout, experts):
    """The block's tensors in that layout: name -> (tensor, (proj, expert) of its first byte)."""
    gate, up, down = experts
    if layout == "per-expert":
        return {expert_name(block.name, layout, p, e): (t[e], (p, e))
                for p, t in zip(PROJS, experts) for e in range(block.experts)}
    if layout == "stacked":
        return {expert_name(block.name, layout, p, None): (t, (p, 0)) for p, t in zip(PROJS, experts)}
    if layout == "merged":
        both = torch.cat([gate, up], dim=1)
    else:
        both = torch.cat([gate, up], dim=1).transpose(1, 2)
        down = down.transpose(1, 2)
    return {expert_name(block.name, layout, "gate", None): (both, ("gate", 0)),
            expert_name(block.name, layout, "down", None): (down, ("down", 0))}


@dataclass
class Expected:
    files: dict  # weight file -> name of the source shard it is verbatim, or {tensor name: tensor}
    index: dict | None
    index_name: str
    converted: list  # names of the blocks that change
    passed: dict  # path -> bytes

    def tensors(self, checkpoint):
        return {t: (tensors if isinstance(tensors, dict) else checkpoint.tensors)[t]
                for tensors in self.files.values()
                for t in (tensors if isinstance(tensors, dict) else checkpoint.shards[tensors])}


def convert(checkpoint, to, layouts=None):
    """The mount of checkpoint with --to `to`. layouts: block name -> layout it is made, instead of the rule."""
    home = {t: f for f, names in checkpoint.shards.items() for t in names}
    shards = {f: {t: checkpoint.tensors[t] for t in names} for f, names in checkpoint.shards.items()}
    converted = []
    for block in checkpoint.blocks:
        wanted = (layouts or {}).get(block.name) or wanted_layouts(checkpoint.model_type, block.name, to)
        if wanted is None or block.layout in wanted:
            continue
        converted.append(block.name)
        experts = plain_experts(checkpoint.tensors, block)
        for proj in PROJS:
            for e in range(block.experts):
                name = expert_name(block.name, block.layout, proj, e)
                shards[home[name]].pop(name, None)
        for name, (tensor, first) in lay_out(block, wanted[0], experts).items():
            shard = home[expert_name(block.name, block.layout, *first)]
            shards[shard][name] = tensor.contiguous().clone()
    changed = {f for f, names in checkpoint.shards.items()
               if set(shards[f]) != set(names) or any(not same(shards[f][t], checkpoint.tensors[t]) for t in names)}
    return arrange(checkpoint, shards, changed, converted)


def same(a, b):
    """The same shape, dtype and bytes: NaNs are equal to themselves here."""
    return (a.shape == b.shape and a.dtype == b.dtype
            and torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)))


def arrange(checkpoint, shards, changed, converted):
    left = sorted((f for f, tensors in shards.items() if tensors), key=os.fsencode)
    names = dict(zip(left, left))
    if len(left) < len(shards):
        names = {f: f"model-{i:05d}-of-{len(left):05d}.safetensors" for i, f in enumerate(left, 1)}
        if len(left) == 1:
            names = {left[0]: "model.safetensors"}
    files = {names[f]: shards[f] if f in changed else f for f in left}
    index = None
    required = checkpoint.config.get("transformers_weights", "").endswith(".index.json")
    if required or list(names.values()) != ["model.safetensors"]:
        metadata = dict((checkpoint.index or {}).get("metadata", {}))
        metadata["total_size"] = sum(t.numel() * t.element_size() for f in left for t in shards[f].values())
        index = {"metadata": metadata, "weight_map": {t: names[f] for f in left for t in shards[f]}}
    passed = dict(checkpoint.files)
    passed["config.json"] = (json.dumps(checkpoint.config, indent=2, sort_keys=True) + "\n").encode()
    return Expected(files, index, checkpoint.index_name, converted, passed)


def write(expected, src, directory):
    """The directory that the mount must equal, byte for byte."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    for path, contents in expected.passed.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(contents)
    for name, tensors in expected.files.items():
        if isinstance(tensors, str):
            shutil.copyfile(Path(src) / tensors, directory / name)
        else:
            save_file(tensors, directory / name, metadata={"format": "pt"})
    if expected.index is not None:
        (directory / expected.index_name).write_text(dump_index(expected.index))
    return directory


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            h.update(piece)
    return h.hexdigest()


def digests(directory):
    """relative path -> sha256 of every regular file below."""
    directory = Path(directory)
    return {str(p.relative_to(directory)): digest(p) for p in sorted(directory.rglob("*")) if p.is_file()}


def assert_same_directory(got, want):
    """Names first, then contents: a missing file reads better than a wrong digest."""
    got_paths = sorted(str(p.relative_to(got)) for p in Path(got).rglob("*"))
    want_paths = sorted(str(p.relative_to(want)) for p in Path(want).rglob("*"))
    assert got_paths == want_paths
    for path in want_paths:
        if (Path(want) / path).is_file():
            assert os.path.getsize(Path(got) / path) == os.path.getsize(Path(want) / path), path
    got_digests, want_digests = digests(got), digests(want)
    assert {p for p in want_digests if got_digests[p] != want_digests[p]} == set()
