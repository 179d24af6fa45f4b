"""Run by the interpreter of VeOmni's environment: loads checkpoints with its own loader and saves what came of each.

usage: veomni_load.py DIRECTORY OUT [DIRECTORY OUT ...]   OUT: a .safetensors file of the model's parameters
Imports nothing of this project: the two environments have different versions of transformers.
"""
import dataclasses
import sys

import torch
from safetensors.torch import save_file
from veomni.arguments.arguments_types import OpsImplementationConfig
from veomni.models import build_foundation_model
from veomni.models.module_utils import load_model_weights


def all_eager():
    """No kernel of VeOmni's own: those need a GPU."""
    names = [f.name for f in dataclasses.fields(OpsImplementationConfig) if f.name.endswith("_implementation")]
    return OpsImplementationConfig(**{name: "eager" for name in names if name != "qat_implementation"})


for directory, out in zip(sys.argv[1::2], sys.argv[2::2]):
    model = build_foundation_model(directory, torch_dtype="bfloat16", init_device="cpu",
                                   ops_implementation=all_eager())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))  # what is not loaded is seen
    load_model_weights(model, directory, init_device="cpu")
    parameters = {name: p.detach().contiguous().clone() for name, p in model.named_parameters()}
    save_file(parameters, out, metadata={"format": "pt"})
