"""Checkpoint directories as cases: what makes them, and what is checked of each."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 16060617592\n"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
# What shard() and base() write. Both shards keep a tensor, so that no name changes.
WEIGHTS = {ONE, TWO, INDEX}
PLAIN = {"config.json", "tokenizer.json", "README.md"}


def tensors(which):
    """Half of a Qwen3-MoE layer with two experts: each shard has one expert and something else."""
    block = f"model.layers.{which // 2}.mlp"
    expert = {"gate_proj": (3, 5), "up_proj": (3, 5), "down_proj": (5, 3)}
    out = {f"{block}.experts.{which % 2}.{p}.weight": np.full(s, which, np.float32) for p, s in expert.items()}
    return out | {f"other.{which}": np.arange(4, dtype=np.float32)}


def config(**more):
    return {"model_type": "qwen3_moe", "num_experts": 2, "hidden_size": 5, "moe_intermediate_size": 3, **more}


def write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(contents, dict):
        contents = json.dumps(contents)
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)


def shard(path, *which):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t for w in which for n, t in tensors(w).items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # save_file makes it 0600; an unprivileged user reads it below


def index_of(**files):
    return {"metadata": {"total_size": 1}, "weight_map": {n: f for w, f in files.items() for n in tensors(int(w[1:]))}}


def base(src, weights=True):
    """Two shards with an index, and three files beside them."""
    write(src / "config.json", config())
    write(src / "tokenizer.json", "{}")
    write(src / "README.md", "read me\n")
    if weights:
        shard(src / ONE, 0)
        shard(src / TWO, 1)
        write(src / INDEX, index_of(w0=ONE, w1=TWO))


def hf_cache(src, revision="abc123", ref="main"):
    """base() as huggingface_hub stores it; the path of the snapshot."""
    repository = src / "models--org--name"
    snapshot = repository / "snapshots" / revision
    base(snapshot)
    write(snapshot / "sub" / "notes.txt", "notes")
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        blob = repository / "blobs" / f"{number:040x}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    if ref:
        write(repository / "refs" / ref, revision)
    return snapshot


REFUSED, SHOWN = {}, {}  # by the module of the cases


def refused(*fragments, options=(), status=1):
    """The case makes the directory at src, and may return another path to give to moefs."""

    def register(case):
        REFUSED.setdefault(case.__module__, []).append(
            pytest.param(case, fragments, options, status, id=case.__name__)
        )
        return case

    return register


def shown(*fragments, names, options=(), not_said=()):
    """names: the files that the mount lists; fragments: what moefs says."""

    def register(case):
        SHOWN.setdefault(case.__module__, []).append(
            pytest.param(case, fragments, not_said, set(names), options, id=case.__name__)
        )
        return case

    return register


@pytest.fixture
def src(tmp_path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:  # pytest makes them 0700; `nobody` has to get through
        if parent.owner() == tmp_path.owner() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    path = tmp_path / "src"
    path.mkdir()
    return path


def check_refused(case, fragments, options, status, src, run_moefs):
    given = case(src) or src
    result = run_moefs("plan", given, *options, errors="surrogateescape")
    assert result.returncode == status, result.stderr
    for fragment in fragments:
        assert fragment in result.stderr


def listing(top):
    """Paths relative to top, of files and directories."""
    return {
        os.path.relpath(os.path.join(place, name), top) for place, dirs, files in os.walk(top) for name in dirs + files
    }


def check_shown(case, fragments, not_said, names, options, src, run_moefs, mount):
    given = case(src) or src
    result = run_moefs("plan", given, *options, errors="surrogateescape")
    assert result.returncode == 0, result.stderr
    for fragment in fragments:
        assert fragment in result.stderr
    for fragment in not_said:
        assert fragment not in result.stderr

    snapshot = given / "snapshots" / "abc123" if (given / "snapshots").is_dir() else given
    with mount(given, *options) as m:
        assert listing(m.path) == names
        for name in names:
            status = os.lstat(m.path / name)
            assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode), name
            if stat.S_ISREG(status.st_mode) and not name.endswith((".safetensors", ".index.json")):
                assert (m.path / name).read_bytes() == (snapshot / name).read_bytes(), name
