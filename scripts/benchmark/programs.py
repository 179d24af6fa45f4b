"""What moefs is compared with: programs.py convert SRC DST, load DIR, same DIR DIR. Prints one line of JSON.

convert does what people do offline: the whole model in memory, each layer's experts stacked, the result saved. load is
transformers' from_pretrained, and then every page of every weight touched once. same fails where two checkpoints differ
in a tensor."""

import gc
import json
import re
import resource
import shutil
import sys
import time
from pathlib import Path

from operations import PeakMemory

EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
IN_OUT = re.compile(r".*\.experts\.(gate_up|down)_proj(_bias)?")


def stand_upright(name, tensor, interleaved):
    """Of a tensor published as [expert, in, out]: [expert, out, in], and gate before up where they alternate."""
    import torch

    if interleaved and "gate_up" in name:
        tensor = torch.cat([tensor[..., 0::2], tensor[..., 1::2]], dim=-1)
    return (tensor if name.endswith("_bias") else tensor.transpose(1, 2)).contiguous()


def merge(tensors, interleaved):
    import torch

    blocks = {}
    for name in tensors:
        if match := EXPERT.fullmatch(name):
            block, expert, _ = match.groups()
            blocks[block] = max(blocks.get(block, 0), int(expert) + 1)
    for block, n in blocks.items():
        def take(projection):
            return torch.stack([tensors.pop(f"{block}.{i}.{projection}_proj.weight") for i in range(n)])

        tensors[f"{block}.gate_up_proj"] = torch.cat([take("gate"), take("up")], dim=1)
        tensors[f"{block}.down_proj"] = take("down")
    if not blocks:  # published stacked and transposed
        for name in [name for name in tensors if IN_OUT.fullmatch(name)]:
            tensors[name] = stand_upright(name, tensors[name], interleaved)


def convert(source, target):
    from safetensors.torch import load_file, save_file

    target.mkdir()
    start = time.perf_counter()
    shards, tensors = {}, {}
    for path in sorted(source.glob("*.safetensors")):
        loaded = load_file(path)
        # load_file maps the file; a model in memory is what a converter holds
        loaded = {name: tensor.clone() for name, tensor in loaded.items()}
        shards.update(dict.fromkeys(loaded, path.name))
        tensors.update(loaded)
    del loaded
    merge(tensors, json.loads((source / "config.json").read_text())["model_type"] == "gpt_oss")
    files = {}
    last = max(shards.values())
    for name in tensors:
        files.setdefault(shards.get(name, last), {})[name] = tensors[name]
    for file, contents in files.items():
        save_file(contents, target / file, metadata={"format": "pt"})
    for path in source.glob("*.json"):
        shutil.copy(path, target)
    return time.perf_counter() - start


def compare(one, other):
    import torch
    from safetensors import safe_open

    where = []
    for directory in (one, other):
        found = {}
        for path in directory.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found.update(dict.fromkeys(file.keys(), path))
        where.append(found)
    if where[0].keys() != where[1].keys():
        raise SystemExit(f"not the same tensors: {sorted(where[0].keys() ^ where[1].keys())[:5]}")
    for name, path in where[0].items():
        with safe_open(path, "pt") as a, safe_open(where[1][name], "pt") as b:
            if not torch.equal(a.get_tensor(name), b.get_tensor(name)):
                raise SystemExit(f"{name} differs")
    return {"tensors": len(where[0])}


def load(directory):
    import torch
    import transformers
    from transformers import AutoConfig

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, AutoConfig.from_pretrained(directory).architectures[0])
    start = time.perf_counter()
    model = model_class.from_pretrained(directory, dtype="auto")
    loaded = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.data.flatten().view(torch.uint8)[::4096].sum()
    return {"load": loaded, "seconds": time.perf_counter() - start}


def main():
    command, *paths = sys.argv[1:]
    paths = [Path(path) for path in paths]
    import torch  # noqa: F401 - so that its import is not measured

    gc.collect()
    with PeakMemory() as memory:
        if command == "convert":
            result = {"seconds": convert(*paths)}
        elif command == "same":
            result = compare(*paths)
        else:
            result = load(*paths)
    result["anonymous"] = memory.peak
    result["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
