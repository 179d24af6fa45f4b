"""Every MoE type of the installed transformers, from its hub layout to the one that transformers loads and back.

The types are found in transformers (family_models.moe_types), so a new one is a failing row until family_models says
how it is built and architectures.json how it is stored. A table of all rows is printed at the end.
"""
import gc
import json
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
from checkpoints import dump_index, natural_key, tensor_bytes
from hub import hub_tensors

pytest_plugins = ["family_table"]

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 3

# Types of parts of a model that no class of transformers loads alone; their experts are in the whole model's rows.
INSIDE = {"qwen3_omni_moe_text", "dots3_note_vision_encoder"}

# No projections gate, up and down: doge has product keys in an embedding, vitpose one matrix for each kind of image.
NEVER_CONVERTED = {"doge", "vitpose", "vitpose_backbone"}


class Family:
    """One type's model, and the directory that the hub would have of it. fields: the configuration's, besides."""

    def __init__(self, model_type, directory, **fields):
        self.model_type, self.directory = model_type, directory
        model = family_models.random_model(model_type, **fields)
        self.cls = type(model)
        self.kind = kind_of(model)
        self.tensors = hub_tensors(model, directory)
        self.parameters = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        write_shards(self.tensors, directory, seed=model_type)


def architectures():
    return json.loads((ROOT / "layout" / "data" / "architectures.json").read_text())


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


def conversions(log):
    """What the daemon says it does: ["per-expert -> merged"]."""
    return list(dict.fromkeys(re.findall(r"MoE layers? \(.*\): (.*)", log)))


@pytest.fixture(scope="module", params=family_models.moe_types())
def family(request, tmp_path_factory, family_rows):
    row = family_rows[request.param]
    made = Family(request.param, tmp_path_factory.mktemp(request.param))
    row.kind = made.kind
    return made


def test_loads_as_v5(family, mount, family_rows):
    """Every parameter of the model that transformers loads is the one of the model that was saved."""
    with mount(family.directory, "--to", "v5") as m:
        assert_loads(family, m.path)
        family_rows[family.model_type].layout = ", ".join(conversions(m.log.read_text())) or "passes through"


@pytest.mark.parametrize("via", ["v5", "stacked", "per-expert"])
def test_comes_back(family, via, mount, tmp_path):
    """The hub's tensors, from a copy in another layout."""
    said = conversions(copy(mount, family.directory, tmp_path / "copy", "--to", via))
    if via != "v5" and family.model_type not in NEVER_CONVERTED:
        assert said and all(text.endswith((f"-> {via}", f"stays {via}")) for text in said), said
    with mount(tmp_path / "copy", "--to", "original") as m:
        assert_same_tensors(read_tensors(m.path), family.tensors)


def copy(mount, src, dst, *options):
    """Returns what the daemon said."""
    with mount(src, *options) as m:
        subprocess.run(["cp", "-r", m.path, dst], check=True)
        return m.log.read_text()


# ---- what the suite above must be able to see ----


def wrong(layout_file, name, spell, axes):
    """A layout of a user's own, in place of an entry that somebody got wrong."""
    weight = {"name": name, **axes}
    layout_file.write_text(json.dumps({"summary": "wrong on purpose", "spell": spell, "weight": weight}))
    return layout_file


PER_EXPERT = {"gate": "inner hidden", "up": "inner hidden", "down": "hidden inner"}
WRONG = {
    "mixtral": ("{block}.experts.{expert}.{proj}.weight", {"gate": "w3", "up": "w1", "down": "w2"}, PER_EXPERT),
    "qwen3_moe": ("{block}.experts.{expert}.{proj}.weight", {"gate": "up_proj", "up": "gate_proj"}, PER_EXPERT),
    "inkling2_text": ("{block}.experts.{proj}", {"gate up": "w13_weight", "down": "w2_weight"},
                      {"gate up": "expert (proj inner) hidden", "down": "expert hidden inner"}),
}


@pytest.mark.parametrize("model_type", WRONG)
def test_the_load_sees_a_wrong_entry(model_type, mount, tmp_path):
    """Gate and up swapped, or one behind the other where they alternate: everything fits and comes back right, and
    still the experts are wrong. Nothing but loading can tell, so every type above is loaded."""
    family = Family(model_type, tmp_path / "hub")
    layout = wrong(tmp_path / "wrong.json", *WRONG[model_type])
    with mount(family.directory, "--from", layout, "--to", "v5") as m, pytest.raises(AssertionError, match="gate_up_proj"):
        assert_loads(family, m.path)
    copy(mount, family.directory, tmp_path / "copy", "--from", layout, "--to", "merged")
    with mount(tmp_path / "copy", "--from", "merged", "--to", layout) as m:
        assert_same_tensors(read_tensors(m.path), family.tensors)


MISREAD = [("gpt_oss", "in-out"), ("qwen3_moe", "up-first"), ("llama4", "in-out-interleaved")]


@pytest.mark.parametrize("model_type,via", MISREAD)
def test_a_copy_that_would_be_misread_says_so(model_type, via, mount, tmp_path):
    """Nothing in such a copy tells how it is stored: the mount says what its reader needs, and with that it returns."""
    family = Family(model_type, tmp_path / "hub")
    assert f"--from {via}" in copy(mount, family.directory, tmp_path / "copy", "--to", via)
    with mount(tmp_path / "copy", "--from", via, "--to", "original") as m:
        assert_same_tensors(read_tensors(m.path), family.tensors)
    with mount(tmp_path / "copy", "--to", "original") as m, pytest.raises(AssertionError):
        assert_same_tensors(read_tensors(m.path), family.tensors)


def test_longcat_without_its_zero_experts(mount, tmp_path):
    """As published: they have no weights. What is there is merged, and the mount says that the numbers differ from
    config.json's; this transformers cannot load that, mounted or not."""
    family = Family("longcat_flash", tmp_path / "hub")
    assert "warning" not in copy(mount, family.directory, tmp_path / "whole", "--to", "v5")
    zero = family_models.tiny_config("longcat_flash").zero_expert_num
    routed = family_models.tiny_config("longcat_flash").n_routed_experts
    assert zero > 0
    tensors = {n: t for n, t in family.tensors.items()
               if not (m := re.search(r"\.experts\.(\d+)\.", n)) or int(m[1]) < routed}
    write_shards(tensors, family.directory, seed=0)
    with mount(family.directory, "--to", "v5") as m:
        merged = read_tensors(m.path)
        assert "n_routed_experts zero_expert_num add up to" in m.log.read_text()
    want = {n: torch.cat([t[:routed]]) for n, t in family.parameters.items() if n.endswith(".experts.gate_up_proj")}
    assert_same_tensors({n: merged[n] for n in want}, want)
    copy(mount, family.directory, tmp_path / "copy", "--to", "v5")
    with mount(tmp_path / "copy", "--to", "original") as m:
        assert_same_tensors(read_tensors(m.path), tensors)


SQUARE = [{"moe_intermediate_size": 10}, {"moe_intermediate_size": 20}]  # hidden_size 20: 2I == H, I == H


@pytest.mark.parametrize("fields", SQUARE, ids=["2I=H", "I=H"])
@pytest.mark.parametrize("model_type", ["olmoe", "qwen3_moe", "qwen3_vl_moe", "nemotron_h", "nemo_speechlm", "gpt_oss"])
def test_square_experts(model_type, fields, mount, tmp_path):
    """transformers itself reads a square qwen3_vl_moe wrongly from its hub layout; the model that was saved is the
    truth, and the mount gives it."""
    if model_type in ("olmoe", "gpt_oss"):
        fields = {"intermediate_size": fields["moe_intermediate_size"]}
    elif model_type in ("qwen3_vl_moe", "nemo_speechlm"):
        fields = {"text_config": fields}
    family = Family(model_type, tmp_path / "hub", **fields)
    with mount(family.directory, "--to", "v5") as m:
        assert_loads(family, m.path)
    copy(mount, family.directory, tmp_path / "copy", "--to", "stacked")
    with mount(tmp_path / "copy", "--to", "original") as m:
        assert_same_tensors(read_tensors(m.path), family.tensors)


def test_the_data_has_every_type_and_no_other():
    known = {t for entry in architectures()["architectures"] for t in entry["types"]}
    found = set(family_models.moe_types())
    assert sorted(found - known) == []
    assert sorted(known - found - INSIDE) == []
