"""moefs sample: the same bytes every time, the same weights in every layout, real sizes, and what it refuses."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from headers import read_header

HUB = {"qwen3_moe": "per-expert", "qwen3_vl_moe": "in-out", "qwen3_5_moe": "merged"}
ARCHITECTURES = tuple(HUB)
LAYOUTS = ("per-expert", "merged", "stacked", "in-out")
# experts, inner, hidden: the defaults; odd; 2I == H; I == H; one expert
SIZES = ((8, 48, 64), (3, 5, 7), (4, 4, 8), (3, 6, 6), (1, 5, 8))


def check_header(path):
    """{name: (shape, begin, end)}, offsets in the file; the format's rules for order and size are checked."""
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    at = header.data
    tensors = {}
    for name, (dtype, shape, begin, end) in header.tensors.items():
        assert (dtype, begin) == ("BF16", at)
        assert end - begin == 2 * np.prod(shape, dtype=np.int64)
        tensors[name] = (tuple(shape), begin, end)
        at = end
    assert at == path.stat().st_size
    return tensors


def read_headers(directory):
    """The same of all weight files, which the index must agree with: {file: {name: ...}}."""
    files = {path.name: check_header(path) for path in sorted(directory.glob("*.safetensors"))}
    if list(files) != ["model.safetensors"]:
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
        sizes = [end - begin for tensors in files.values() for _, begin, end in tensors.values()]
        assert index["metadata"] == {"total_size": sum(sizes)}
    return files


def read_tensors(directory):
    """{name: the bits as uint16}"""
    out = {}
    for file, tensors in read_headers(directory).items():
        data = np.fromfile(directory / file, dtype=np.uint8)
        for name, (shape, begin, end) in tensors.items():
            out[name] = data[begin:end].view("<u2").reshape(shape)
    return out


def per_expert(tensors, layout):
    """The experts of any of the four layouts as per-expert, by indexing alone; the rest as it is."""
    out = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(.*\.experts)\.(gate_up|gate|up|down)_proj", name)
        if not found:
            out[name] = tensor
            continue
        block, proj = found.groups()
        if layout == "in-out":
            tensor = tensor.swapaxes(1, 2)
        parts = {proj: tensor}
        if proj == "gate_up":
            half = tensor.shape[1] // 2
            parts = {"gate": tensor[:, :half], "up": tensor[:, half:]}
        for part, stacked in parts.items():
            out |= {f"{block}.{e}.{part}_proj.weight": weight for e, weight in enumerate(stacked)}
    return out


def digests(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def size_options(experts, inner, hidden):
    return ("--experts", experts, "--intermediate", inner, "--hidden", hidden)


@pytest.fixture
def sample(run_moefs, tmp_path):
    """sample("qwen3_moe", "--seed", 1) -> the directory it has written."""
    count = 0

    def make(*arguments):
        nonlocal count
        count += 1
        directory = tmp_path / f"sample{count}"
        done = run_moefs("sample", *arguments, directory)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return directory

    return make


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_options_same_bytes(sample, architecture):
    first, second, other = (digests(sample(architecture, *more)) for more in ((), (), ("--seed", 1)))
    assert first == second
    assert first.keys() == other.keys()
    assert {name for name in first if first[name] != other[name]} == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contents_are_harmless(sample, architecture):
    """No NaN, infinity or denormal; norms do not vanish; no two tensors of more than a few elements alike."""
    seen = set()
    for name, bits in read_tensors(sample(architecture)).items():
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        if values.min() >= 1:
            assert values.max() < 1.2 and re.search(r"norm|dt_bias", name), name
        else:
            assert 2.0**-9 <= np.abs(values).min() and np.abs(values).max() < 2.0**-5, name
        if bits.size > 64:
            assert (values.min() >= 1) or abs(values.mean()) < 0.005, name
            assert bits.tobytes() not in seen
            seen.add(bits.tobytes())
    assert len(seen) > 10


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "E{}I{}H{}".format(*sizes))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_weights_in_every_layout(sample, architecture, sizes):
    options = size_options(*sizes)
    want = per_expert(read_tensors(sample(architecture, *options)), HUB[architecture])
    for layout in LAYOUTS:
        got = per_expert(read_tensors(sample(architecture, *options, "--layout", layout)), layout)
        assert got.keys() == want.keys(), layout
        assert {n for n in want if not np.array_equal(got[n], want[n])} == set(), layout


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "E{}I{}H{}".format(*sizes))
def test_gpt_oss_interleaves_gate_and_up(sample, sizes):
    """gate and up are every other column of the transposed matrix, and every other element of the bias."""
    original = read_tensors(sample("gpt_oss", *size_options(*sizes)))
    merged = read_tensors(sample("gpt_oss", *size_options(*sizes), "--layout", "merged"))
    assert merged.keys() == original.keys()
    for name, bits in original.items():
        if re.search(r"experts\.(gate_up|down)_proj$", name):
            bits = bits.transpose(0, 2, 1)
        if "gate_up_proj" in name:
            bits = np.concatenate([bits[:, 0::2], bits[:, 1::2]], axis=1)
        assert np.array_equal(merged[name], bits), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_original_and_v5_are_the_architectures_own(sample, architecture):
    layouts = ("original", "v5", HUB[architecture], "merged")
    original, v5, hub, merged = (digests(sample(architecture, "--layout", layout)) for layout in layouts)
    assert digests(sample(architecture)) == original
    if architecture == "qwen3_5_moe":
        # Its MTP block stays per-expert under both names; an explicit layout converts it too.
        assert v5 == original != merged
        names = read_tensors(sample(architecture))
        assert "model.language_model.layers.1.mlp.experts.gate_up_proj" in names
        assert "mtp.layers.0.mlp.experts.7.gate_proj.weight" in names
    else:
        assert (hub, merged) == (original, v5)


def test_sizes_are_in_config_and_shapes(sample):
    directory = sample("qwen3_moe", "--layers", 3, *size_options(5, 12, 20), "--shards", 1)
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"] == "qwen3_moe"
    assert [config[key] for key in ("num_hidden_layers", "num_experts", "moe_intermediate_size", "hidden_size")] \
        == [3, 5, 12, 20]
    files = read_headers(directory)
    assert list(files) == ["model.safetensors"] and not list(directory.glob("*.index.json"))
    tensors = {name: shape for name, (shape, _, _) in files["model.safetensors"].items()}
    assert tensors["model.layers.2.mlp.experts.4.gate_proj.weight"] == (12, 20)
    assert tensors["model.layers.2.mlp.experts.4.down_proj.weight"] == (20, 12)
    assert tensors["model.layers.2.mlp.gate.weight"] == (5, 20)
    assert len(tensors) == 3 + 3 * (3 * 5 + 9)


def natural_key(name):
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def assert_in_natural_order(files):
    """Each shard's names come before those of the next."""
    names = [sorted(tensors, key=natural_key) for tensors in files.values()]
    assert sum(names, []) == sorted(sum(names, []), key=natural_key)


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 68, 69])
def test_shards(sample, shards):
    files = read_headers(sample("qwen3_moe", "--shards", shards))
    assert list(files) == ([f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
                           if shards > 1 else ["model.safetensors"])
    assert all(files.values())
    assert_in_natural_order(files)
    sizes = [sum(end - begin for _, begin, end in tensors.values()) for tensors in files.values()]
    largest = max(end - begin for tensors in files.values() for _, begin, end in tensors.values())
    if shards < 8:  # beyond that, single tensors are larger than the mean
        assert max(sizes) - min(sizes) <= 2 * largest


# The totals and shard counts of the published checkpoints; of qwen3-vl-30b-a3b the language model's part.
@pytest.mark.parametrize("preset, n_tensors, n_bytes, n_shards, limit, shapes", [
    ("qwen3-30b-a3b", 18867, 61_064_245_248, 16, 4_000_000_000, {
        "model.layers.47.mlp.experts.127.up_proj.weight": (768, 2048),
        "model.layers.0.self_attn.q_norm.weight": (128,),
        "model.layers.0.self_attn.k_proj.weight": (512, 2048),
        "lm_head.weight": (151936, 2048)}),
    ("qwen3-vl-30b-a3b", 531, 61_064_245_248, 13, 5_000_000_000, {
        "model.language_model.layers.47.mlp.experts.gate_up_proj": (128, 2048, 1536),
        "model.language_model.layers.47.mlp.experts.down_proj": (128, 768, 2048),
        "lm_head.weight": (151936, 2048)}),
    # 20,914,757,184 parameters, as OpenAI's model card counts them, in BF16
    ("gpt-oss-20b", 411, 2 * 20_914_757_184, 9, 5_000_000_000, {
        "model.layers.23.mlp.experts.gate_up_proj": (32, 2880, 5760),
        "model.layers.23.mlp.experts.down_proj_bias": (32, 2880),
        "model.layers.0.self_attn.sinks": (64,),
        "lm_head.weight": (201088, 2880)}),
])
def test_real_dimensions(sample, preset, n_tensors, n_bytes, n_shards, limit, shapes):
    directory = sample("--like", preset, "--sparse")
    files = read_headers(directory)
    tensors = {name: place for names in files.values() for name, place in names.items()}
    sizes = [sum(end - begin for _, begin, end in names.values()) for names in files.values()]
    assert (len(tensors), sum(sizes), len(files)) == (n_tensors, n_bytes, n_shards)
    assert max(sizes) <= limit
    assert_in_natural_order(files)
    assert {name: tensors[name][0] for name in shapes} == shapes
    on_disk = sum(path.stat().st_blocks * 512 for path in directory.iterdir())
    assert on_disk < 16 << 20


def test_sparse_differs_in_nothing_but_the_weights(sample):
    full, sparse = sample("qwen3_vl_moe", "--layout", "v5"), sample("qwen3_vl_moe", "--layout", "v5", "--sparse")
    for path in full.iterdir():
        if path.suffix == ".safetensors":
            assert check_header(path) == check_header(sparse / path.name)
        else:
            assert path.read_bytes() == (sparse / path.name).read_bytes()
    assert all(not bits.any() for bits in read_tensors(sparse).values())


def test_preset_with_other_sizes(sample):
    directory = sample("qwen3_moe", "--like", "qwen3-30b-a3b", "--layers", 2, "--experts", 4, "--sparse")
    files = read_headers(directory)
    tensors = {name: shape for names in files.values() for name, (shape, _, _) in names.items()}
    assert tensors["model.layers.1.mlp.experts.3.gate_proj.weight"] == (768, 2048)
    assert len(tensors) == 3 + 2 * (3 * 4 + 9)
    assert json.loads((directory / "config.json").read_text())["num_experts_per_tok"] == 4


def test_an_empty_directory_is_taken(run_moefs, tmp_path):
    assert run_moefs("sample", "qwen3_moe", tmp_path).returncode == 0
    assert len(read_headers(tmp_path)) == 2


REFUSALS = {
    "unknown architecture": (("qwen9", "DIR"), 1, "'qwen9' (known: qwen3_moe, qwen3_vl_moe, qwen3_5_moe, gpt_oss)"),
    "unknown preset": (("--like", "qwen9", "DIR"), 1, "'qwen9' (known: qwen3-30b-a3b, qwen3-vl-30b-a3b, gpt-oss-20b)"),
    "preset of another architecture": (
        ("qwen3_moe", "--like", "qwen3-vl-30b-a3b", "DIR"), 1,
        "qwen3-vl-30b-a3b is of architecture qwen3_vl_moe, not qwen3_moe"),
    "unknown layout": (("qwen3_moe", "--layout", "mergd", "DIR"), 2, "--layout mergd: unknown layout; did you mean merged"),
    "more shards than tensors": (
        ("qwen3_moe", "--shards", "70", "DIR"), 1, "70 shards are more than the model's 69 tensors"),
    "too many shards": (("qwen3_moe", "--shards", "100000", "DIR"), 2, "--shards 100000: not a number from 1 to 99999"),
    "too many tensors": (
        ("qwen3_moe", "--layers", "100000", "--experts", "100000", "DIR"), 1, "more than 4194304 tensors"),
    "too many bytes": (
        ("qwen3_moe", "--hidden", str(2**40), "--intermediate", str(2**18), "DIR"), 1,
        "the model is larger than 9223372036854775807 bytes"),
    "a shape beyond 64 bits": (
        ("qwen3_moe", "--hidden", str(2**40), "--intermediate", str(2**40), "DIR"), 1,
        "the shape intermediate hidden does not fit in 64 bits"),
    "a size beyond 40 bits": (
        ("qwen3_moe", "--hidden", str(2**40 + 1), "DIR"), 2, f"not a number from 1 to {2**40}"),
    "no layers": (("qwen3_moe", "--layers", "0", "DIR"), 2, "--layers 0: not a number from 1"),
    "negative": (("qwen3_moe", "--experts=-1", "DIR"), 2, "--experts -1: not a number"),
    "not a number": (("qwen3_moe", "--hidden", "6x4", "DIR"), 2, "--hidden 6x4: not a number"),
    "seed beyond 64 bits": (("qwen3_moe", "--seed", str(2**64), "DIR"), 2, f"--seed {2**64}: not a number from 0"),
    "no value": (("qwen3_moe", "DIR", "--seed"), 2, "--seed: needs a value"),
    "unknown option": (("qwen3_moe", "DIR", "--layer-count=2"), 2, "--layer-count=2: unknown option"),
    "no directory": (("qwen3_moe",), 2, "expected ARCH DIR, got 1 operand"),
    "too many operands": (("qwen3_moe", "DIR", "x"), 2, "expected ARCH DIR, got 3 operands"),
    "no parent": (("qwen3_moe", "DIR/a/b"), 1, "cannot make the directory"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(run_moefs, tmp_path, case):
    arguments, status, message = REFUSALS[case]
    done = run_moefs("sample", *(a.replace("DIR", str(tmp_path / "new")) for a in arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_left_alone(run_moefs, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    done = run_moefs("sample", "qwen3_moe", tmp_path)
    assert done.returncode == 1 and f"{tmp_path} is not empty (it holds thesis.tex)" in done.stderr
    done = run_moefs("sample", "qwen3_moe", tmp_path / "thesis.tex")
    assert done.returncode == 1 and "thesis.tex: Not a directory" in done.stderr
    assert [p.read_text() for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_leaves_nothing(run_moefs, tmp_path, existing):
    """The first shards fit under the limit of the file size, an expert does not."""
    directory = tmp_path / "new"
    if existing:
        directory.mkdir()

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then write() fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    done = run_moefs("sample", "qwen3_moe", "--shards", 69, "--intermediate", 2048, directory, preexec_fn=limit,
                     restore_signals=False)
    assert done.returncode == 1
    assert f"{directory}/model-00004-of-00069.safetensors: cannot write: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == ([directory] if existing else [])
    assert not existing or list(directory.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(moefs, tmp_path, number):
    directory = tmp_path / "new"
    process = subprocess.Popen([str(moefs), "sample", "--like", "qwen3-30b-a3b", "--layers", "4", str(directory)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not list(directory.glob(".model*.incomplete")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in errors and output == ""
    assert list(tmp_path.iterdir()) == []


# A build with ASan keeps 256 MB of freed memory otherwise; others do not read it.
NO_QUARANTINE = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"


def test_memory_is_bounded(moefs, tmp_path):
    """Half a gigabyte, transposed on the way."""
    process = subprocess.Popen([str(moefs), "sample", "qwen3_vl_moe", "--experts", "32", "--hidden", "2048",
                                "--intermediate", "768", "--layout", "per-expert", str(tmp_path / "new")],
                               stdout=subprocess.DEVNULL, env={**os.environ, "ASAN_OPTIONS": NO_QUARANTINE})
    peak = 0  # KiB, of this program alone: ru_maxrss would count pytest, of which the process is a fork
    while process.poll() is None:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.002)
    assert process.returncode == 0
    assert sum(p.stat().st_size for p in (tmp_path / "new").iterdir()) > 500_000_000
    assert 1 << 10 < peak < 160 << 10
