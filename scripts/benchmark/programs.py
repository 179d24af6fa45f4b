"""What moefs is compared with: programs.py convert SRC DST, programs.py load DIR. Prints one line of JSON.

convert does what people do offline: the whole model in memory, each layer's experts stacked, the result saved. load is
transformers' from_pretrained, and then every page of every weight touched once."""

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
IN_OUT = re.compile(r".*\.experts\.(gate_up|down)_proj")


def merge(tensors):
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
            tensors[name] = tensors[name].transpose(1, 2).contiguous()


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
    merge(tensors)
    files = {}
    last = max(shards.values())
    for name in tensors:
        files.setdefault(shards.get(name, last), {})[name] = tensors[name]
    for file, contents in files.items():
        save_file(contents, target / file, metadata={"format": "pt"})
    for path in source.glob("*.json"):
        shutil.copy(path, target)
    return time.perf_counter() - start


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
        else:
            result = load(*paths)
    result["anonymous"] = memory.peak
    result["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
