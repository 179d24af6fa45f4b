"""What the hub has of a model: composed from what transformers saves, and from nothing of moefs.

`save_pretrained` reverses a type's conversion, and for most types that is the hub's layout. Where it is not (its
reversed renames match too much, or a prefix that loading removes is not added again), FIXES says what the hub has
instead. from_pretrained takes both, so only a table of what is published can tell.
"""
import re

import torch
from safetensors.torch import load_file


def renamed(tensors, *pairs):
    out = {}
    for name, tensor in tensors.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        assert name not in out, name
        out[name] = tensor
    return out


def blocks_of(tensors, pattern):
    """block -> the numbers and tensors of pattern, whose first group is the block."""
    found = {}
    for name in list(tensors):
        if match := re.fullmatch(pattern, name):
            found.setdefault(match[1], {})[tuple(match.groups()[1:])] = tensors.pop(name)
    return found


def kimi_k25(tensors):
    return renamed(tensors, (r"^language_model\.model\.blocks\.", "language_model.model.layers."))


def kimi_linear(tensors):
    return renamed(tensors, (r"\.block_sparse_moe\.(gate|up|down)_proj\.", r".mlp.\1_proj."))


def hy_v4(tensors):
    return renamed(tensors, (r"\.mlp\.(shared_experts\.)?linear_gate\.", r".mlp.\1gate_proj."))


def deepseek_v4(tensors):
    return renamed(tensors, (r"^model\.layers\.", "layers."), (r"^model\.embed_tokens\.", "embed."),
                   (r"^model\.norm\.", "norm."), (r"^model\.", ""), (r"\.attn\.norm\.", ".attn.kv_norm."))


def qwen3_5_moe(tensors):
    experts = blocks_of(tensors, r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
    for block, members in experts.items():
        gate, up, down = (torch.stack([members[str(e), p] for e in range(len(members) // 3)])
                          for p in ("gate", "up", "down"))
        tensors[f"{block}.gate_up_proj"] = torch.cat([gate, up], dim=1)
        tensors[f"{block}.down_proj"] = down
    return tensors


def qwen3_vl_moe(tensors):
    return {name: tensor.transpose(1, 2).contiguous() if re.search(r"\.mlp\.experts\.(gate_up|down)_proj$", name)
            else tensor for name, tensor in tensors.items()}


def nemo_speechlm(tensors):
    experts = blocks_of(tensors, r"(.*\.experts)\.(\d+)\.(up|down)_proj\.weight")
    for block, members in experts.items():
        for proj, word in (("up", "gate_and_up_projs"), ("down", "down_projs")):
            tensors[f"{block}.{word}"] = torch.stack([members[str(e), proj].T for e in range(len(members) // 2)])
    return tensors


def qwen3_5_moe_text(tensors):
    return renamed(tensors, (r"^model\.(?!language_model\.)", "model.language_model."))


def qwen3_omni_moe_thinker(tensors):
    return renamed(tensors, (r"^", "thinker."))


FIXES = {f.__name__: f for f in (kimi_k25, kimi_linear, hy_v4, deepseek_v4, qwen3_5_moe, qwen3_vl_moe, nemo_speechlm,
                                 qwen3_5_moe_text, qwen3_omni_moe_thinker)}


def hub_tensors(model, directory):
    """Saves the model and returns the tensors that the hub would have; the other files stay in the directory."""
    model.save_pretrained(directory)
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    for path in directory.glob("*.safetensors.index.json"):
        path.unlink()
    return FIXES.get(model.config.model_type, dict)(tensors)
