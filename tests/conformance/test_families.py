"""Every MoE type of the installed transformers, from its hub layout to the one that transformers loads and back.

The types are found in transformers (family_models.moe_types), so a new one is a failing row until family_models says
how it is built and architectures.json how it is stored. A table of all rows is printed at the end.
"""
import gc
import random
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

import family_models
from conftest import Row
from checkpoints import dump_index, natural_key, tensor_bytes
from hub import hub_tensors

SHARDS = 3


class Family:
    """One type's model, and the directory that the hub would have of it."""

    def __init__(self, model_type, directory):
        self.model_type, self.directory = model_type, directory
        model = family_models.random_model(model_type)
        self.cls = type(model)
        self.kind = kind_of(model)
        self.tensors = hub_tensors(model, directory)
        self.parameters = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        write_shards(self.tensors, directory, seed=model_type)


def kind_of(model):
    """How transformers brings the experts of this type from its files into its modules."""
    if not any(".experts." in name for name in model.state_dict()):
        return "no experts"
    touching = [t for t in get_model_conversion_mapping(model)
                if re.search("expert|moe", " ".join(map(str, [*t.source_patterns, *t.target_patterns])))]
    if any(isinstance(t, WeightConverter) for t in touching):
        return "converted"
    return "renamed" if touching else "native"


def write_shards(tensors, directory, seed):
    """In natural order or at random, so that experts and projections lie apart, with an index."""
    rng = random.Random(seed)
    names = sorted(tensors, key=natural_key)
    if rng.random() < 0.75:
        rng.shuffle(names)
    files = {f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors": names[i::SHARDS] for i in range(SHARDS)}
    for file, members in files.items():
        save_file({n: tensors[n].contiguous() for n in members}, directory / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
             "weight_map": {n: file for file, members in files.items() for n in members}}
    (directory / "model.safetensors.index.json").write_text(dump_index(index))


def read_tensors(directory):
    tensors = {}
    for path in Path(directory).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name).clone() for name in file.keys()}
    return tensors


def assert_same_tensors(got, want):
    assert sorted(got.keys() - want.keys()) == [] and sorted(want.keys() - got.keys()) == []
    different = [f"{n}: {got[n].dtype} {tuple(got[n].shape)} for {want[n].dtype} {tuple(want[n].shape)}" for n in want
                 if got[n].dtype != want[n].dtype or got[n].shape != want[n].shape
                 or tensor_bytes(got[n]) != tensor_bytes(want[n])]
    assert different == []


def assert_loads(family, directory):
    model, info = family.cls.from_pretrained(directory, output_loading_info=True, dtype=torch.bfloat16)
    got = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del model  # what it maps must not outlive the mount
    gc.collect()
    assert {k: v for k, v in info.items() if v} == {}
    assert_same_tensors(got, family.parameters)


def conversions(mounted):
    """What the daemon says it does: "per-expert -> merged"."""
    said = re.findall(r"groups? of experts \(.*\): (.*)", mounted.log.read_text())
    return ", ".join(dict.fromkeys(said))


@pytest.fixture(scope="module", params=family_models.moe_types())
def family(request, tmp_path_factory, family_rows):
    row = family_rows.setdefault(request.param, Row())
    made = Family(request.param, tmp_path_factory.mktemp(request.param))
    row.kind = made.kind
    return made


def test_loads_as_v5(family, mount, family_rows):
    """Every parameter of the model that transformers loads is the one of the model that was saved."""
    with mount(family.directory, "--to", "v5") as m:
        assert_loads(family, m.path)
        family_rows[family.model_type].layout = conversions(m)


@pytest.mark.parametrize("via", ["v5", "stacked", "per-expert"])
def test_comes_back(family, via, mount, tmp_path):
    """The hub's tensors, from a copy in another layout."""
    with mount(family.directory, "--to", via) as m:
        subprocess.run(["cp", "-r", m.path, tmp_path / "copy"], check=True)
    with mount(tmp_path / "copy", "--to", "original") as m:
        assert_same_tensors(read_tensors(m.path), family.tensors)
