"""What a newcomer does, checked with numpy alone: sample, plan, mount, copy, and back.

The oracle takes a checkpoint's experts apart into out x in matrices and puts them together in the wanted layout.
"""

import json
import re
import subprocess

import numpy as np
import pytest

from conftest import is_mounted
from headers import parse_header

ARCHITECTURES = ("qwen3_moe", "qwen3_vl_moe", "qwen3_5_moe")
LAYOUTS = ("per-expert", "stacked", "merged", "in-out")
ORIGINAL = {"qwen3_moe": "per-expert", "qwen3_vl_moe": "in-out", "qwen3_5_moe": "merged"}
SIZES = ("--layers", 2, "--experts", 3, "--hidden", 24, "--intermediate", 10, "--shards", 2)
PER_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
STACKED = re.compile(r"(.*\.experts)\.(gate_up|gate|up|down)_proj")


def read_tensors(directory):
    """{name: array} of all weight files; BF16 as the 16 bits that it is."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        for name, (dtype, shape, begin, end) in parse_header(data).tensors.items():
            assert dtype == "BF16" and name not in tensors, name
            tensors[name] = np.frombuffer(data[begin:end], np.uint16).reshape(shape)
    return tensors


def take_apart(tensors, layout):
    """({block: {proj: [expert, out, in]}}, the other tensors)."""
    parts, others = {}, {}
    for name, array in tensors.items():
        if match := PER_EXPERT.fullmatch(name):
            block, expert, proj = match.groups()
            parts.setdefault(block, {}).setdefault(proj, {})[int(expert)] = array
        elif match := STACKED.fullmatch(name):
            block, proj = match.groups()
            array = array.swapaxes(1, 2) if layout == "in-out" else array
            pair = np.split(array, 2, axis=1) if proj == "gate_up" else [array]
            parts.setdefault(block, {}).update(zip(proj.split("_"), pair))
        else:
            others[name] = array
    if layout == "per-expert":
        parts = {b: {p: np.stack([e[i] for i in range(len(e))]) for p, e in projs.items()} for b, projs in parts.items()}
    return parts, others


def put_together(parts, others, layout):
    tensors = dict(others)
    for block, projs in parts.items():
        if layout == "per-expert":
            for proj, experts in projs.items():
                tensors.update({f"{block}.{i}.{proj}_proj.weight": matrix for i, matrix in enumerate(experts)})
            continue
        stacks = projs
        if layout != "stacked":
            stacks = {"gate_up": np.concatenate([projs["gate"], projs["up"]], axis=1), "down": projs["down"]}
        for proj, stack in stacks.items():
            tensors[f"{block}.{proj}_proj"] = stack.swapaxes(1, 2) if layout == "in-out" else stack
    return tensors


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].shape == array.shape, name
        assert np.array_equal(tensors[name], array), name


@pytest.fixture
def sample(run_moefs, tmp_path):
    def write(architecture, layout, name="sample"):
        result = run_moefs("sample", architecture, tmp_path / name, "--layout", layout, *SIZES)
        assert result.returncode == 0, result.stderr
        return tmp_path / name

    return write


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layout_to_every_other(sample, mount, architecture, source, target):
    src = sample(architecture, source)
    tensors = read_tensors(src)
    parts, others = take_apart(tensors, source)
    assert len(parts) >= 2 and all(projs.keys() == {"gate", "up", "down"} for projs in parts.values())
    with mount(src, "--to", target) as m:
        assert_same(read_tensors(m.path), put_together(parts, others, target))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copy_of_the_mount_mounts_back(sample, mount, run_moefs, tmp_path, architecture):
    src = sample(architecture, ORIGINAL[architecture])
    copy = tmp_path / "copy"
    with mount(src, "--to", "stacked") as m:
        subprocess.run(["cp", "-r", str(m.path), str(copy)], check=True)
        assert subprocess.run(["diff", "-r", str(m.path), str(copy)], check=False).returncode == 0
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(read_tensors(copy))
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in read_tensors(src).values())
    with mount(copy, "--to", ORIGINAL[architecture]) as m:
        assert_same(read_tensors(m.path), read_tensors(src))


def test_mount_returns_when_it_answers_and_umount_ends_it(sample, run_moefs, tmp_path):
    src, mnt = sample("qwen3_moe", "per-expert"), tmp_path / "mnt"
    mnt.mkdir()
    try:
        mounted = run_moefs("mount", src, mnt, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert mounted.returncode == 0
        assert is_mounted(mnt)
        assert (mnt / "config.json").read_bytes() == (src / "config.json").read_bytes()
        with pytest.raises(OSError):
            (mnt / "new").write_bytes(b"")
        assert run_moefs("umount", mnt).returncode == 0
        assert not is_mounted(mnt)
    finally:
        if is_mounted(mnt):
            subprocess.run(["umount", "-l", str(mnt)], check=False)


def test_plan_says_what_the_mount_holds(sample, mount, run_moefs):
    src = sample("qwen3_moe", "per-expert")
    planned = run_moefs("plan", src, "--to", "v5", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    with mount(src, "--to", "v5") as m:
        shapes = {name: list(array.shape) for name, array in read_tensors(m.path).items()}
        sizes = {path.name: path.stat().st_size for path in m.path.glob("model*")}
    assert {tensor["name"]: tensor["shape"] for tensor in plan["tensors"]} == shapes
    assert {file["name"]: file["size"] for file in plan["files"]} == sizes


def test_samples_differ_by_seed_alone(run_moefs, tmp_path):
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run_moefs("sample", "qwen3_moe", tmp_path / name, "--seed", seed, *SIZES).returncode == 0
        digests.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert digests[0] == digests[1]
    assert digests[0].keys() == digests[2].keys() and digests[0] != digests[2]


@pytest.mark.parametrize(
    "arguments, status",
    [
        (["--help"], 0),
        (["--version"], 0),
        (["layouts"], 0),
        (["mount", "--help"], 0),
        ([], 2),
        (["convert"], 2),
        (["mount", "only-one"], 2),
        (["plan", "--no-such-option", "."], 2),
        (["plan", "/nonexistent"], 1),
        (["umount", "/"], 1),
    ],
)
def test_exit_status(run_moefs, arguments, status):
    result = run_moefs(*arguments, stdin=subprocess.DEVNULL)
    assert result.returncode == status, result.stderr
    assert (result.stdout if status == 0 else result.stderr).strip()
