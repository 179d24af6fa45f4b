"""A tiny random model of every MoE type that the installed transformers has.

Which types those are is read from transformers itself (`moe_types`). How one is made small is a table of field names
that all configurations share (SMALL), and what a type needs besides (EXTRA).
"""
import os
import re
from functools import cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers.core_model_loading import build_glob_alternation
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES, model_type_to_module_name

transformers.logging.set_verbosity_error()

EXPERTS, INNER, HIDDEN = 3, 7, 20
SMALL = {
    "vocab_size": 40, "hidden_size": HIDDEN, "d_model": HIDDEN, "num_hidden_layers": 2, "num_layers": 2, "n_layers": 2,
    "num_attention_heads": 2, "num_heads": 2, "n_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "d_kv": 8,
    "intermediate_size": 9, "moe_intermediate_size": INNER, "d_ff": INNER, "shared_expert_intermediate_size": 5,
    "num_experts": EXPERTS, "num_local_experts": EXPERTS, "n_routed_experts": EXPERTS, "moe_num_experts": EXPERTS,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 6, "kv_lora_rank": 6, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "max_position_embeddings": 64, "depth": 1, "image_size": 8, "patch_size": 2, "num_position_embeddings": 16,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "pad_token_id": 0, "eos_token_id": 1, "out_hidden_size": HIDDEN,
    "text_hidden_size": HIDDEN, "mamba_num_heads": 2, "mamba_head_dim": 4, "ssm_state_size": 4, "n_groups": 1,
    "moe_shared_expert_intermediate_size": 5, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
    "linear_key_head_dim": 4, "linear_value_head_dim": 4, "num_mel_bins": 8, "shared_intermediate_size": 5,
    "swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "swa_head_dim": 8, "rel_extent": 8, "d_rel": 4,
    "unpadded_vocab_size": 38, "max_source_positions": 16, "output_dim": HIDDEN, "index_head_dim": 8, "index_n_heads": 2,
    "o_groups": 2, "o_lora_rank": 4, "downsample_hidden_size": 6, "mlp_dim": 9, "intermediate_size_mlp": 9,
    "projector_hidden_size": 6, "projection_hidden_size": 6, "vision_output_dim": 6, "projector_input_dim": 6,
    "projector_output_dim": 6, "position_embedding_size": 16, "pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2,
    "projection_hidden_dim": 6, "projection_intermediate_size": 6, "posemb_grid_size": 4, "router_hidden_size": 6,
    "output_channels": 6, "decoder_dim": 16, "share_expert_dim": 5, "expert_ffn_hidden_size": INNER, "ffn_hidden_size": 9,
    "zero_expert_num": 2, "max_img_size": 8, "conv_output_size": 12, "adapter_input_size": HIDDEN,
    "adapter_out_dim": HIDDEN, "ngram_vocab_size": 40, "linear_head_dim": 8, "linear_num_heads": 2, "codebook_size": 40,
}
SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
MAMBA = {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "moe"]}
GEMMA = {"num_experts": EXPERTS, "top_k_experts": 2, "moe_intermediate_size": INNER, "per_layer_config": {},
         "layer_types": ["sliding_attention", "full_attention"], "vocab_size_per_layer_input": 40,
         "hidden_size_per_layer_input": 4}
ROPE3 = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
VITPOSE = {"num_experts": 3, "part_features": 5, "image_size": [8, 8], "patch_size": [2, 2]}
TWO_HEADS = {"num_key_value_heads": 2}
NOPE = {"num_key_value_heads": 2, "qk_rope_head_dim": 0, "head_dim": 0, "linear_head_dim": 4, "linear_num_heads": 2,
        "layer_types": ["linear_attention", "indexed_attention"], "indexer_types": ["full", "full"], **SPARSE}
DOTS = {"num_key_value_heads": 2, "per_layer_config": {}, "shared_experts_intermediate_size": 5, **SPARSE,
        "layer_types": ["indexed_attention", "sliding_attention"]}

# What a type needs besides, or else would be without experts, or too large.
EXTRA = {
    "beam": SPARSE,
    "dbrx": {"attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0},
             "ffn_config": {"hidden_size": HIDDEN, "ffn_hidden_size": INNER, "moe_num_experts": EXPERTS}},
    "deepseek_ocr2": {"text_config": {**SPARSE, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
                      "vision_config": {"sam_config": {"global_attn_indexes": [1], "downsample_channels": [6, 20]}}},
    "diffusion_gemma": {"text_config": GEMMA},
    "dots1": {"n_routed_experts": 11, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {"text_config": DOTS, "vision_config": {
        **SPARSE, "per_layer_config": {}, "num_local_experts": 11, "moe_intermediate_size": 5, "hidden_size": 16,
        "adapter_in_dim": 16, "adapter_out_dim": HIDDEN}},
    "dots3_note_text": DOTS,
    "ernie4_5_vl_moe": {"text_config": {**SPARSE, "moe_intermediate_size": [INNER, 5], "head_dim": 8,
                                        "rope_parameters": ROPE3}},
    "flint": {"mlp_only_layers": [0]},
    "gemma4": {"text_config": {**GEMMA, "enable_moe_block": True}},
    "gemma4_text": {**GEMMA, "enable_moe_block": True},
    "glm5_next": {"text_config": NOPE},
    "glm5_next_text": NOPE,
    "granitemoehybrid": {"mamba_n_heads": 2, "mamba_d_head": HIDDEN},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 11, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"], "num_dense_layers": 1},
    "llama4": {"text_config": {"moe_layers": [0, 1]}},
    "muse_spark": {"audio_config": {"num_hidden_layers": 1, "patch_sizes": [4], "hidden_sizes": [6], "depths": [1]},
                   "text_config": {"moe_hidden_size": 10}},
    "muse_spark_text": {"moe_hidden_size": 10},
    "nemo_speechlm": {"text_config": MAMBA, "word_timestamp_config": {**TWO_HEADS, "blank_token_id": 39},
                      "audio_config": {"asr_config": TWO_HEADS, "diarization_config": {
                          "audio_config": TWO_HEADS, "head_config": {"hidden_size": 4, "audio_hidden_size": HIDDEN}}}},
    "nemotron_h": MAMBA,
    "nemotron_h_omni": {"text_config": MAMBA, "vision_config": {"video_temporal_patch_size": 2}},
    "nllb-moe": {"encoder_sparse_step": 1, "decoder_sparse_step": 2},
    "qwen3_omni_moe": {"talker_config": {"text_config": {"shared_expert_intermediate_size": 5},
                                          "spatial_merge_size": 2}},
    "step3p7": {"text_config": SPARSE},
    "unlimited_ocr": {"text_config": {**SPARSE, "layer_types": ["reference_sliding_attention"] * 2},
                      "vision_config": {"sam_config": {"global_attn_indexes": [1], "downsample_channels": [6, 20]}}},
    "vitpose": {"backbone_config": VITPOSE},
    "vitpose_backbone": VITPOSE,
    "zaya": {"num_experts_per_tok": 1},
}

# Of every third type: experts whose numbers do not sort as text.
MANY = 11
COUNTS = {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}

# Types whose configuration has no default that is valid, and which have no experts.
DENSE = {"gemma4_assistant", "nougat"}

# Of several classes for one type, the one whose name ends in the first of these.
ORDER = ["ForConditionalGeneration", "ForCausalLM", "ForTokenClassification", "", "Model"]


def subconfigs(config):
    names = getattr(config, "sub_configs", None) or {}
    return {n: getattr(config, n) for n in names if getattr(getattr(config, n, None), "model_type", None) is not None}


def has_experts(config):
    """A field that speaks of experts, in it or in a configuration inside it."""
    own = any(re.search("expert|moe", str(key)) for key in config.to_dict())
    return own or any(map(has_experts, subconfigs(config).values()))


def types_inside(config):
    """The model_types of a configuration and of those inside it."""
    return {config.model_type}.union(*map(types_inside, subconfigs(config).values()))


@cache
def auto_classes():
    """model_type -> the classes of that type which some Auto class makes."""
    found = {}
    for name in dir(modeling_auto):
        if name.endswith("_MAPPING_NAMES") and not name.startswith("CONFIG"):
            for model_type, classes in getattr(modeling_auto, name).items():
                for each in [classes] if isinstance(classes, str) else classes or []:
                    if each and not each.endswith("Config"):
                        found.setdefault(model_type, set()).add(each)
    return found


def model_class(model_type):
    names = auto_classes()[model_type]
    best = min(names, key=lambda n: (next(i for i, end in enumerate(ORDER) if n.endswith(end)), n))
    return getattr(transformers, best)


@cache
def moe_types():
    """The types whose modules, or those of a part, have experts, and which a class of transformers loads."""
    root = Path(transformers.__file__).parent / "models"
    folders = {p.parent.name for p in root.glob("*/modeling_*.py") if "experts" in p.read_text()}
    found = []
    for model_type in sorted(CONFIG_MAPPING_NAMES):
        if model_type not in auto_classes() or model_type in DENSE:
            continue
        config = CONFIG_MAPPING[model_type]()
        if any(model_type_to_module_name(t) in folders for t in types_inside(config)) and has_experts(config):
            found.append(model_type)
    return found


def tiny_fields(default, extra, experts):
    """What to pass to the class of the configuration `default`, as it has fields of these names."""
    fields = {}
    present = default.to_dict()
    for name, value in SMALL.items():
        if type(present.get(name)) is int:
            fields[name] = experts if name in COUNTS else value
    nested = subconfigs(default)
    for name, sub in nested.items():
        fields[name] = {"model_type": sub.model_type, **tiny_fields(sub, extra.get(name, {}), experts)}
    return fields | {k: v for k, v in extra.items() if k not in nested}


def merged(extra, fields):
    """extra, with fields over it, also inside of it."""
    return extra | {k: merged(extra.get(k, {}), v) if isinstance(v, dict) else v for k, v in fields.items()}


def tiny_config(model_type, **fields):
    cls = CONFIG_MAPPING[model_type]
    experts = MANY if moe_types().index(model_type) % 3 == 1 else EXPERTS
    return cls(**tiny_fields(cls(), merged(EXTRA.get(model_type, {}), fields), experts))


def random_fill(tensor, generator):
    if tensor.is_floating_point():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    else:
        tensor.copy_(torch.randint(0, 2, tensor.shape, generator=generator))


def keep_in_float32(model):
    """What from_pretrained keeps in float32, whatever dtype is asked for: such a tensor is stored so, too."""
    names = model._keep_in_fp32_modules_strict
    if not names:
        return
    pattern = build_glob_alternation(list(names))[0]
    for tensors in (model.named_parameters(), model.named_buffers()):
        for name, tensor in tensors:
            if tensor.is_floating_point() and pattern.search(name):
                tensor.data = tensor.data.float()


def random_model(model_type, seed=0, **fields):
    """Every parameter and every stored buffer is random: what is initialised to a constant would hide a mistake."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = model_class(model_type)._from_config(tiny_config(model_type, **fields), dtype=torch.bfloat16).eval()
    keep_in_float32(model)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            random_fill(tensor, generator)
            if re.search("balancing_biases$", name):  # zaya sets it when it is loaded
                tensor[-1] = -1
    return model
