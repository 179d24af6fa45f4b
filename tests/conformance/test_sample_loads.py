"""The real transformers loads what `moefs sample` writes, and its modules have those names and shapes at real sizes."""

import json
import os
import re

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers
from safetensors import safe_open

CLASSES = {
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "gpt_oss": "GptOssForCausalLM",
}
PRESETS = {"qwen3-30b-a3b": "qwen3_moe", "qwen3-vl-30b-a3b": "qwen3_vl_moe", "gpt-oss-20b": "gpt_oss"}


def write(run_moefs, directory, *arguments):
    done = run_moefs("sample", *arguments, directory)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return directory


def load(model_type, directory):
    model, info = getattr(transformers, CLASSES[model_type]).from_pretrained(
        directory, dtype=torch.bfloat16, output_loading_info=True)
    assert not any(info.values()), info
    model.set_experts_implementation("eager")
    return model.eval()


# Not 2I == H or I == H: transformers reads such a qwen3_vl_moe wrongly from its hub layout.
@pytest.mark.parametrize("sizes", [(8, 48, 64), (3, 5, 7)], ids=lambda sizes: "E{}I{}H{}".format(*sizes))
@pytest.mark.parametrize("model_type", CLASSES)
def test_loads_the_same_from_both_layouts(run_moefs, tmp_path, model_type, sizes):
    options = [text for pair in zip(("--experts", "--intermediate", "--hidden"), sizes) for text in pair]
    models = [load(model_type, write(run_moefs, tmp_path / layout, model_type, *options, "--layout", layout))
              for layout in ("original", "v5")]
    first, second = (model.state_dict() for model in models)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []

    config = json.loads((tmp_path / "v5" / "config.json").read_text())
    text = config.get("text_config", config)
    keys = (("num_experts", "num_local_experts"), ("moe_intermediate_size", "intermediate_size"), ("hidden_size",))
    assert [next(text[key] for key in spellings if key in text) for spellings in keys] == list(sizes)

    with torch.no_grad():
        logits = [model(input_ids=torch.arange(1, 40)[None]).logits for model in models]
    assert torch.isfinite(logits[0]).all() and logits[0].float().std() > 1e-3
    assert torch.equal(*logits)


def test_the_image_tower_runs(run_moefs, tmp_path):
    """The text model is fed by the image tower, whose output must have its width."""
    for model_type in ("qwen3_vl_moe", "qwen3_5_moe"):
        model = load(model_type, write(run_moefs, tmp_path / model_type, model_type))
        vision = model.config.vision_config
        grid = torch.tensor([[1, 4, 4]])
        pixels = torch.linspace(-1, 1, 16 * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        ids = torch.tensor([[1, model.config.vision_start_token_id, *[model.config.image_token_id] * 4,
                             model.config.vision_end_token_id, 5]])
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=pixels.reshape(16, -1).bfloat16(), image_grid_thw=grid,
                           mm_token_type_ids=(ids == model.config.image_token_id).int()).logits
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_real_dimensions_are_the_modules_own(run_moefs, tmp_path, preset):
    directory = write(run_moefs, tmp_path / preset, "--like", preset, "--sparse", "--layout", "v5")
    stored = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    config = transformers.AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = getattr(transformers, CLASSES[PRESETS[preset]])(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
              if not re.match(r"model\.visual\.", name)}  # a preset is the language model only
    assert stored == wanted
