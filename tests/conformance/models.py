"""Tiny random models of the real transformers classes, and the checkpoints that the hub has of such models."""
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import load_file

from checkpoints import PREFIX, Block, Checkpoint, natural_key, random_tensor, rng_of, shard

LAYERS = 2


def text_config(experts, inner, hidden):
    return {"vocab_size": 32, "hidden_size": hidden, "moe_intermediate_size": inner, "num_experts": experts,
            "num_experts_per_tok": 2, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "intermediate_size": 6, "tie_word_embeddings": False, "dtype": "bfloat16",
            "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def vision_config(hidden, **more):
    return {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "in_channels": 3, "patch_size": 2,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": hidden,
            "num_position_embeddings": 16, **more}


def qwen3_moe(experts, inner, hidden):
    return transformers.Qwen3MoeConfig(**text_config(experts, inner, hidden))


def qwen3_vl_moe(experts, inner, hidden):
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    return transformers.Qwen3VLMoeConfig(
        text_config={**text_config(experts, inner, hidden), "rope_parameters": rope},
        vision_config=vision_config(hidden, deepstack_visual_indexes=[0]), tie_word_embeddings=False)


def qwen3_5_moe(experts, inner, hidden):
    linear = {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 4,
              "linear_value_head_dim": 4, "linear_conv_kernel_dim": 2, "shared_expert_intermediate_size": 3,
              "layer_types": ["linear_attention", "full_attention"]}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    return transformers.Qwen3_5MoeConfig(
        text_config={**text_config(experts, inner, hidden), **linear, "rope_parameters": rope},
        vision_config=vision_config(hidden), tie_word_embeddings=False)


CONFIGS = {"qwen3_moe": qwen3_moe, "qwen3_vl_moe": qwen3_vl_moe, "qwen3_5_moe": qwen3_5_moe}
CLASSES = {"qwen3_moe": "Qwen3MoeForCausalLM", "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
           "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration"}


def model_class(model_type):
    return getattr(transformers, CLASSES[model_type])


def random_model(model_type, experts, inner, hidden, seed=0):
    """Every parameter is random: what is initialised to a constant would hide a mistake."""
    torch.manual_seed(seed)
    # Not .to(bfloat16), which would round the rotary frequencies too: those are computed, not loaded.
    model = model_class(model_type)._from_config(CONFIGS[model_type](experts, inner, hidden), dtype=torch.bfloat16)
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    # Odd widths are nothing for the grouped kernels; and both sides of a comparison must take the same path.
    model.set_experts_implementation("eager")
    return model


def logits(model):
    ids = torch.tensor([[1, 5, 9, 2, 30, 7, 7, 3, 0, 11]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def blocks_of(model_type, layout, experts, inner, hidden):
    return [Block(f"{PREFIX[model_type]}.{n}.mlp", layout, experts, inner, hidden) for n in range(LAYERS)]


def checkpoint_of(directory, model_type, tensors, blocks):
    """The tensors in natural order, with the files that save_pretrained left in the directory beside the weights."""
    config = json.loads((directory / "config.json").read_text())
    beside = {p.name: p.read_bytes() for p in directory.iterdir()
              if p.name != "config.json" and ".safetensors" not in p.name}
    return Checkpoint(model_type, blocks, config, {n: tensors[n] for n in sorted(tensors, key=natural_key)},
                      files=beside)


def hub_checkpoint(model, directory, experts, inner, hidden, *, shards, how):
    """What the hub has of such a model. transformers saves that for qwen3_moe alone: qwen3_vl_moe is saved in module
    layout and is transposed here, qwen3_5_moe is saved per-expert and is merged here, with an MTP block per-expert."""
    model_type = model.config.model_type
    model.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    if model_type == "qwen3_moe":
        blocks = blocks_of(model_type, "per-expert", experts, inner, hidden)
    elif model_type == "qwen3_vl_moe":
        blocks = blocks_of(model_type, "in-out", experts, inner, hidden)
        for block in blocks:
            for name in (f"{block.name}.experts.gate_up_proj", f"{block.name}.experts.down_proj"):
                tensors[name] = tensors[name].transpose(1, 2).contiguous()
    else:
        blocks = blocks_of(model_type, "merged", experts, inner, hidden)
        for block in blocks:
            gate, up, down = (torch.stack([tensors.pop(f"{block.name}.experts.{e}.{p}_proj.weight")
                                           for e in range(experts)]) for p in ("gate", "up", "down"))
            tensors[f"{block.name}.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
            tensors[f"{block.name}.experts.down_proj"] = down
        mtp = Block("mtp.layers.0.mlp", "per-expert", experts, inner, hidden)
        rng = rng_of(1)
        tensors |= mtp.tensors(rng)
        tensors["mtp.fc.weight"] = random_tensor(rng, torch.bfloat16, (hidden, 2 * hidden))
        blocks.append(mtp)
    return shard(checkpoint_of(directory, model_type, tensors, blocks), shards, how)


def v5_checkpoint(model, directory, experts, inner, hidden, *, shards, how):
    """The same model as transformers saves its modules."""
    model_type = model.config.model_type
    model.save_pretrained(directory, save_original_format=False)
    tensors = load_file(directory / "model.safetensors")
    blocks = blocks_of(model_type, "merged", experts, inner, hidden)
    return shard(checkpoint_of(directory, model_type, tensors, blocks), shards, how)
