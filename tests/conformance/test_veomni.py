"""VeOmni's own loader on mounts: every parameter is bit for bit the one of the model that was saved."""
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.torch import load_file

import models
from checkpoints import tensor_bytes

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(3, 5, 7), (4, 4, 8), (3, 6, 6)]


@pytest.fixture(scope="module")
def veomni_python():
    """The interpreter of the environment that `scripts/make-venvs veomni` makes."""
    python = Path(os.environ.get("MOEFS_VEOMNI_VENV", ROOT / ".venv-veomni")) / "bin" / "python"
    if not python.exists():
        reason = f"no VeOmni: {python} is not there; make it with scripts/make-venvs veomni"
        print(reason)
        pytest.skip(reason)
    return python


@pytest.mark.timeout(300)
def test_load_model_weights(mount, tmp_path, veomni_python):
    """All architectures and sizes in one process: importing VeOmni takes longer than loading."""
    with ExitStack() as mounts:
        arguments, saved = [], {}
        for model_type in models.CONFIGS:
            for size in SIZES:
                case = f"{model_type}-{size}"
                model = models.random_model(model_type, *size)
                hub = models.hub_checkpoint(model, tmp_path / case / "saved", *size, shards=4, how="random")
                m = mounts.enter_context(mount(hub.write(tmp_path / case / "hub"), "--to", "v5"))
                arguments += [m.path, tmp_path / case / "loaded.safetensors"]
                saved[case] = dict(model.named_parameters())
        script = Path(__file__).with_name("veomni_load.py")
        done = subprocess.run([veomni_python, script, *arguments], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for case, want in saved.items():
        got = load_file(tmp_path / case / "loaded.safetensors")
        assert got.keys() == want.keys(), case
        assert [n for n in want if tensor_bytes(got[n]) != tensor_bytes(want[n])] == [], case
