"""transformers v5 itself loads a mount: the same parameters bit for bit, the same logits, nothing missing."""
import gc
import json
import subprocess

import pytest
import torch
from safetensors import safe_open

import models
from checkpoints import tensor_bytes

# experts, inner, hidden: odd, 2I == H, I == H. The last two are the squares that transformers itself reads wrongly
# from a qwen3_vl_moe in its hub layout.
SIZES = [(3, 5, 7), (4, 4, 8), (3, 6, 6)]
SPREADS = [(1, "natural"), (4, "random"), (3, "by-proj")]


def assert_same_parameters(model, loaded):
    want, got = model.state_dict(), loaded.state_dict()
    assert got.keys() == want.keys()
    different = [n for n in want if got[n].dtype != want[n].dtype or got[n].shape != want[n].shape
                 or tensor_bytes(got[n]) != tensor_bytes(want[n])]
    assert different == []


def assert_loads(model, directory):
    loaded, info = models.model_class(model.config.model_type).from_pretrained(
        directory, output_loading_info=True, dtype=torch.bfloat16)
    loaded = loaded.eval()
    loaded.set_experts_implementation("eager")
    assert {k: v for k, v in info.items() if v} == {}
    assert_same_parameters(model, loaded)
    assert torch.equal(models.logits(loaded), models.logits(model))
    # Mapped parameters must not outlive the mount.
    del loaded
    gc.collect()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "E{}-I{}-H{}".format(*s))
@pytest.mark.parametrize("model_type", models.CONFIGS)
def test_from_pretrained(mount, tmp_path, model_type, size):
    model = models.random_model(model_type, *size)
    shards, how = SPREADS[(SIZES.index(size) + list(models.CONFIGS).index(model_type)) % len(SPREADS)]
    hub = models.hub_checkpoint(model, tmp_path / "saved", *size, shards=shards, how=how)
    src = hub.write(tmp_path / "hub")
    with mount(src, "--to", "v5") as m:
        assert_loads(model, m.path)
        subprocess.run(["cp", "-r", m.path, tmp_path / "copy"], check=True)
    assert_loads(model, tmp_path / "copy")


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "E{}-I{}-H{}".format(*s))
@pytest.mark.parametrize("model_type", models.CONFIGS)
def test_back_to_the_hub_layout(mount, tmp_path, model_type, size):
    """From what transformers saves of its modules to the tensors that the hub has."""
    model = models.random_model(model_type, *size)
    hub = models.hub_checkpoint(model, tmp_path / "saved", *size, shards=1, how="natural")
    want = {n: t for n, t in hub.tensors.items() if not n.startswith("mtp.")}
    save = models.v5_checkpoint(model, tmp_path / "saved-v5", *size, shards=3, how="random")
    with mount(save.write(tmp_path / "v5"), "--to", "original") as m:
        got = {}
        for file in m.path.glob("*.safetensors"):
            with safe_open(file, "pt") as f:
                got |= {n: f.get_tensor(n).clone() for n in f.keys()}
    assert got.keys() == want.keys()
    assert [n for n in want if got[n].shape != want[n].shape or tensor_bytes(got[n]) != tensor_bytes(want[n])] == []


@pytest.mark.parametrize("to", ["v5", "original"])
@pytest.mark.parametrize("limit", [(), ("--max-shard-size", "1GB")], ids=["as they are", "in one file"])
def test_a_file_that_config_names(mount, tmp_path, limit, to):
    """transformers_weights: from_pretrained takes this file and looks for no other."""
    model = models.random_model("qwen3_moe", *SIZES[0])
    model.save_pretrained(tmp_path / "src")
    (tmp_path / "src/model.safetensors").rename(tmp_path / "src/mine.safetensors")
    config = json.loads((tmp_path / "src/config.json").read_text())
    (tmp_path / "src/config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    with mount(tmp_path / "src", "--to", to, *limit) as m:
        assert_loads(model, m.path)


def test_the_oracle_sees_a_wrong_layout(tmp_path):
    """This test file's own check: a square qwen3_vl_moe in its hub layout is what transformers loads wrongly, without
    an error. The comparison above must see that."""
    model = models.random_model("qwen3_vl_moe", 3, 6, 6)
    hub = models.hub_checkpoint(model, tmp_path / "saved", 3, 6, 6, shards=2, how="natural")
    loaded = models.model_class("qwen3_vl_moe").from_pretrained(hub.write(tmp_path / "hub"), dtype=torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_same_parameters(model, loaded)
