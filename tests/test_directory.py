"""What real checkpoint directories look like, and what is refused: each case is a function that makes the directory.

The expected listing is written down in the case; contents that pass through are compared with the source's own.
"""

import ctypes
import json
import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
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


REFUSED, SHOWN = [], []


def refused(*fragments, options=(), status=1):
    """The case makes the directory at src, and may return another path to give to moefs."""

    def register(case):
        REFUSED.append(pytest.param(case, fragments, options, status, id=case.__name__))
        return case

    return register


def shown(*fragments, names, options=(), not_said=()):
    """names: the files that the mount lists; fragments: what moefs says."""

    def register(case):
        SHOWN.append(pytest.param(case, fragments, not_said, set(names), options, id=case.__name__))
        return case

    return register


# --- SRC itself


@refused("/src/nowhere", "No such file or directory")
def absent(src):
    return src / "nowhere"


@refused("/src/config.json", "not a directory")
def a_file(src):
    base(src)
    return src / "config.json"


@refused("/src has no config.json")
def empty(src):
    pass


@refused("/src", "Too many levels of symbolic links")
def src_is_a_link_loop(src):
    (src / "loop").symlink_to("loop")
    return src / "loop"


# --- config.json


@refused("/src has no config.json")
def no_config(src):
    base(src)
    (src / "config.json").unlink()


@refused("config.json: ", "byte 14")
def config_malformed(src):
    base(src)
    write(src / "config.json", '{"model_type":')


@refused("config.json: ", "not a JSON object")
def config_a_list(src):
    base(src)
    write(src / "config.json", "[]")


@refused("config.json: ")
def config_empty(src):
    base(src)
    write(src / "config.json", "")


@refused("config.json is a directory and not a file")
def config_a_directory(src):
    base(src)
    (src / "config.json").unlink()
    (src / "config.json").mkdir()


@refused("config.json is a fifo and not a file")
def config_a_fifo(src):
    base(src)
    (src / "config.json").unlink()
    os.mkfifo(src / "config.json")


@refused("config.json is a git-lfs pointer", "git lfs pull")
def config_lfs_pointer(src):
    base(src)
    write(src / "config.json", LFS)


@refused("config.json cannot be hidden", options=["--exclude", "*.json"])
def config_excluded(src):
    base(src)


@shown(names=PLAIN | WEIGHTS)
def config_infinity(src):
    base(src)
    write(src / "config.json", '{"model_type": "qwen3_moe", "num_experts": 2, "a": [NaN, -Infinity, Infinity]}')


# --- Hugging Face cache


@shown(names=PLAIN | WEIGHTS | {"sub", "sub/notes.txt"})
def cache_snapshot(src):
    return hf_cache(src)


@shown(names=PLAIN | WEIGHTS | {"sub", "sub/notes.txt"})
def cache_snapshot_by_a_link(src):
    (src / "link").symlink_to(hf_cache(src))
    return src / "link"


@shown(names=PLAIN | WEIGHTS | {"sub", "sub/notes.txt"})
def cache_repository(src):
    hf_cache(src)
    hf = src / "models--org--name"
    shutil.copytree(hf / "snapshots" / "abc123", hf / "snapshots" / "other", symlinks=True)
    write(hf / "snapshots" / "other" / "only-in-other.txt", "")
    return hf


@shown(names=PLAIN | WEIGHTS)
def cache_subdirectory_of_a_snapshot(src):
    """diffusers and others keep checkpoints below a repository's top."""
    snapshot = hf_cache(src)
    (snapshot / "transformer").mkdir()
    for path in list(snapshot.iterdir()):
        if path.is_symlink():
            (snapshot / "transformer" / path.name).symlink_to("../" + os.readlink(path))
            path.unlink()
    return snapshot / "transformer"


@refused("without a refs/main", "/snapshots/aaa\n", "/snapshots/bbb\n")
def cache_repository_without_main(src):
    snapshot = hf_cache(src, "aaa", ref="v1.0")
    shutil.copytree(snapshot, snapshot.parent / "bbb", symlinks=True)
    return src / "models--org--name"


@refused("refs/main names snapshot gone", "/snapshots/abc123\n")
def cache_repository_main_is_gone(src):
    hf_cache(src)
    write(src / "models--org--name" / "refs" / "main", "gone\n")
    return src / "models--org--name"


@refused("without a refs/main", "/snapshots/abc123\n")
def cache_repository_main_leads_out(src):
    hf_cache(src)
    write(src / "models--org--name" / "refs" / "main", "../../..")
    return src / "models--org--name"


@refused("download incomplete", TWO)
def cache_blob_missing(src):
    snapshot = hf_cache(src)
    (snapshot / TWO).resolve().unlink()
    return snapshot


# --- symbolic links


@refused("download incomplete", "README.md")
def dangling_link(src):
    base(src)
    (src / "README.md").unlink()
    (src / "README.md").symlink_to("gone.md")


@shown(names=PLAIN - {"README.md"} | WEIGHTS, options=["--exclude", "README.md"])
def dangling_link_excluded(src):
    dangling_link(src)


@refused("download incomplete", ONE + ".incomplete")
def incomplete_file(src):
    base(src)
    write(src / (ONE + ".incomplete"), "half")


@shown(names=PLAIN | WEIGHTS | {"vocab.json"})
def link_inside(src):
    base(src)
    (src / "vocab.json").symlink_to(src / "tokenizer.json")


def move_out(src, name):
    outside = src.parent / "outside"
    outside.mkdir()
    shutil.move(src / name, outside / name)
    (src / name).symlink_to(outside / name)


@refused("links that lead out of", TWO, "--follow-symlinks")
def weights_link_outside(src):
    base(src)
    move_out(src, TWO)


@shown(names=PLAIN | WEIGHTS, options=["--follow-symlinks"])
def weights_link_outside_followed(src):
    weights_link_outside(src)


@refused("links that lead out of", "sub", "--follow-symlinks")
def directory_link_outside(src):
    base(src)
    write(src / "sub" / "notes.txt", "notes")
    move_out(src, "sub")


@shown(names=PLAIN | WEIGHTS | {"sub", "sub/notes.txt"}, options=["--follow-symlinks"])
def directory_link_outside_followed(src):
    directory_link_outside(src)


@shown(names=PLAIN | WEIGHTS, options=["--exclude", "sub"])
def directory_link_outside_excluded(src):
    directory_link_outside(src)


@refused("links that lead out of", "sub/deep.txt", "--follow-symlinks")
def link_outside_below(src):
    base(src)
    (src / "sub").mkdir()
    (src / "sub" / "deep.txt").symlink_to("/etc/passwd")


@refused("links that lead out of", "x.txt")
def link_to_a_sibling_with_the_same_start(src):
    base(src)
    write(src.parent / "src-more" / "x.txt", "")
    (src / "x.txt").symlink_to(src.parent / "src-more" / "x.txt")


@shown("not shown", "lead back to themselves", "loop", names=PLAIN | WEIGHTS)
def link_loop(src):
    base(src)
    (src / "loop").symlink_to("pool")
    (src / "pool").symlink_to("loop")


@refused(INDEX + " names " + TWO, "link loop")
def weights_are_a_link_loop(src):
    base(src)
    (src / TWO).unlink()
    (src / TWO).symlink_to(TWO)


@shown("not shown", "sub/up", names=PLAIN | WEIGHTS | {"sub", "sub/notes.txt"})
def directory_loop(src):
    base(src)
    write(src / "sub" / "notes.txt", "notes")
    (src / "sub" / "up").symlink_to("..")


@shown(names=PLAIN | WEIGHTS | {"sub", "sub/notes.txt", "tub", "tub/notes.txt"})
def directory_link_inside(src):
    base(src)
    write(src / "sub" / "notes.txt", "notes")
    (src / "tub").symlink_to("sub")


# --- what is neither a file nor a directory


@shown("not shown", "neither a file nor a directory", "pipe", "sub/socket", names=PLAIN | WEIGHTS | {"sub"})
def fifo_and_socket(src):
    base(src)
    (src / "sub").mkdir()
    os.mkfifo(src / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(src / "sub" / "socket"))


@shown("not shown", "null", names=PLAIN | WEIGHTS, options=["--follow-symlinks"])
def device(src):
    base(src)
    (src / "null").symlink_to("/dev/null")


@refused(INDEX + " names " + TWO, "fifo")
def weights_are_a_fifo(src):
    base(src)
    (src / TWO).unlink()
    os.mkfifo(src / TWO)


@refused(INDEX + " names " + TWO, "device", options=["--follow-symlinks"])
def weights_are_a_device(src):
    base(src)
    (src / TWO).unlink()
    (src / TWO).symlink_to("/dev/zero")


@refused(INDEX + " names " + TWO, "directory")
def weights_are_a_directory(src):
    base(src)
    (src / TWO).unlink()
    (src / TWO).mkdir()


# --- which files are the weights


@refused("both model.safetensors and " + INDEX, "transformers_weights", "--exclude model.safetensors")
def single_file_beside_an_index(src):
    base(src)
    shard(src / "model.safetensors", 0, 1)


@shown(names=PLAIN | WEIGHTS, options=["--exclude", "model.safetensors"])
def single_file_excluded(src):
    single_file_beside_an_index(src)


@shown(
    "not converted", ONE, TWO, names=PLAIN | {"model.safetensors", ONE, TWO}, options=["--exclude", INDEX]
)
def index_excluded(src):
    single_file_beside_an_index(src)


@shown("not shown, an index", INDEX, names=PLAIN | {"model.safetensors", ONE, TWO})
def single_file_by_transformers_weights(src):
    single_file_beside_an_index(src)
    write(src / "config.json", config(transformers_weights="model.safetensors"))


@shown("not converted", "model.safetensors", names=PLAIN | WEIGHTS | {"model.safetensors"})
def index_by_transformers_weights(src):
    single_file_beside_an_index(src)
    write(src / "config.json", config(transformers_weights=INDEX))


@shown(names=PLAIN | {ONE, TWO, "special.safetensors.index.json"})
def index_of_another_name(src):
    base(src)
    (src / INDEX).rename(src / "special.safetensors.index.json")
    write(src / "config.json", config(transformers_weights="special.safetensors.index.json"))


@shown("not shown, an index", INDEX, names=PLAIN | {ONE, TWO, "special.safetensors.index.json"})
def index_of_another_name_beside_the_usual(src):
    base(src)
    shutil.copy(src / INDEX, src / "special.safetensors.index.json")
    write(src / "config.json", config(transformers_weights="special.safetensors.index.json"))


@refused("transformers_weights", "gone.safetensors", "download incomplete")
def transformers_weights_missing(src):
    base(src)
    write(src / "config.json", config(transformers_weights="gone.safetensors"))


@refused("transformers_weights", "sub/x.safetensors", "directly in")
def transformers_weights_below(src):
    base(src)
    shard(src / "sub" / "x.safetensors", 0, 1)
    write(src / "config.json", config(transformers_weights="sub/x.safetensors"))


@refused("transformers_weights", "pytorch_model.bin", "safetensors only")
def transformers_weights_pickle(src):
    base(src)
    write(src / "pytorch_model.bin", "x")
    write(src / "config.json", config(transformers_weights="pytorch_model.bin"))


@refused("transformers_weights is not a string")
def transformers_weights_number(src):
    base(src)
    write(src / "config.json", config(transformers_weights=1))


@refused("transformers_weights", "--exclude cannot hide it", options=["--exclude", "model.safetensors"])
def transformers_weights_excluded(src):
    single_file_by_transformers_weights(src)


@shown(names=PLAIN | {"model.safetensors"}, not_said=["not converted"])
def single_file(src):
    base(src, weights=False)
    shard(src / "model.safetensors", 0, 1)


@shown(names=PLAIN | {"model.safetensors"})
def single_file_with_its_own_index(src):
    """No ambiguity: both ways lead to the same file."""
    single_file(src)
    write(src / INDEX, index_of(w0="model.safetensors", w1="model.safetensors"))


@shown("not converted", "extra.safetensors", names=PLAIN | {"model.safetensors", "extra.safetensors"})
def single_file_and_others(src):
    single_file(src)
    shard(src / "extra.safetensors", 2, 3)


@shown(
    "not converted",
    "adapter_model.safetensors, consolidated.safetensors",
    names=PLAIN | {"a.safetensors", "b.safetensors", INDEX, "adapter_model.safetensors", "consolidated.safetensors"},
)
def without_an_index(src):
    base(src, weights=False)
    shard(src / "a.safetensors", 0)
    shard(src / "b.safetensors", 1)
    shard(src / "consolidated.safetensors", 0, 1)
    shard(src / "adapter_model.safetensors", 2)


@shown(
    "not converted",
    "adapter_model.bin",
    "consolidated.safetensors",
    "metal/",
    "model.gguf",
    "original/",
    names=PLAIN
    | WEIGHTS
    | {"consolidated.safetensors", "adapter_model.bin", "extra.safetensors", "model.gguf"}
    | {"original", "original/params.json", "original/consolidated.00.pth", "metal", "metal/model.bin"},
)
def weights_that_no_index_names(src):
    base(src)
    shard(src / "consolidated.safetensors", 0, 1)
    shard(src / "extra.safetensors", 2)
    for name in "adapter_model.bin", "model.gguf", "original/consolidated.00.pth", "metal/model.bin":
        write(src / name, "weights")
    write(src / "original" / "params.json", "{}")


@shown(
    names=PLAIN | WEIGHTS | {"metal", "model.gguf", "extra.safetensors"},
    options=["--exclude", "consolidated*", "--exclude", "original", "--exclude", "metal/*", "--exclude", "*.bin"],
)
def weights_that_no_index_names_excluded(src):
    weights_that_no_index_names(src)


@shown(
    names=PLAIN | WEIGHTS | {"consolidated.safetensors", "consolidated.safetensors.index.json"},
    not_said=["not shown"],
)
def another_index_that_stays_true(src):
    """vLLM reads Mistral's consolidated files by their own index; both pass through."""
    base(src)
    shard(src / "consolidated.safetensors", 2, 3)
    write(src / "consolidated.safetensors.index.json", index_of(w2="consolidated.safetensors"))


@shown(
    "not shown, an index",
    "consolidated.safetensors.index.json",
    names=PLAIN | WEIGHTS,
    options=["--exclude", "consolidated.safetensors"],
)
def another_index_of_an_excluded_file(src):
    another_index_that_stays_true(src)


@shown("not shown, an index", "model.safetensors.index.fp16.json", names=PLAIN | WEIGHTS)
def another_index_of_the_weights(src):
    base(src)
    shutil.copy(src / INDEX, src / "model.safetensors.index.fp16.json")


@refused("no safetensors weights", "PyTorch", "pytorch_model.bin")
def only_bin(src):
    base(src, weights=False)
    write(src / "pytorch_model.bin", "weights")


@refused("no safetensors weights", "PyTorch", "model.pth")
def only_pth(src):
    base(src, weights=False)
    write(src / "model.pth", "weights")


@refused("no safetensors weights", "GGUF", "model.gguf")
def only_gguf(src):
    base(src, weights=False)
    write(src / "model.gguf", "GGUF")


@refused("no safetensors weights", "consolidated", "consolidated-00001.safetensors", "original/consolidated.00.pth")
def only_consolidated(src):
    base(src, weights=False)
    shard(src / "consolidated-00001.safetensors", 0, 1)
    write(src / "original" / "consolidated.00.pth", "weights")


@refused("no safetensors weights", "adapter")
def only_an_adapter(src):
    base(src, weights=False)
    shard(src / "adapter_model.safetensors", 0)


@refused("no safetensors weights", "transformer/model.safetensors", "mount it separately")
def only_below(src):
    base(src, weights=False)
    shard(src / "transformer" / "model.safetensors", 0, 1)


@refused("no safetensors weights\n")
def no_weights(src):
    base(src, weights=False)


@refused("no safetensors weights", "--exclude hides", "a.safetensors", options=["--exclude", "*.safetensors"])
def all_weights_excluded(src):
    base(src, weights=False)
    shard(src / "a.safetensors", 0, 1)


@refused(INDEX + " names " + TWO, "--exclude cannot hide it", options=["--exclude", "model-00002*"])
def indexed_file_excluded(src):
    base(src)


# --- the index


@refused(INDEX + " names " + TWO, "not in", "download incomplete")
def index_names_a_missing_file(src):
    base(src)
    (src / TWO).unlink()


@refused(INDEX + " names " + ONE + " and 1 more files of 2", "download incomplete")
def index_names_two_missing_files(src):
    base(src)
    (src / ONE).unlink()
    (src / TWO).unlink()


def index_leads_to(name):
    def case(src):
        base(src)
        write(src / INDEX, index_of(w0=ONE, w1=name))

    return case


for number, name in enumerate(["../../etc/passwd", "/etc/passwd", "sub/x.safetensors", "..", ""]):
    REFUSED.append(
        pytest.param(index_leads_to(name), (INDEX, f"'{name}'", "own directory"), (), 1, id=f"index_outside_{number}")
    )


@refused(INDEX, "byte")
def index_malformed(src):
    base(src)
    write(src / INDEX, '{"metadata": {}, "weight_map": {"a":}}')


@refused(INDEX, "names no file")
def index_without_entries(src):
    base(src)
    write(src / INDEX, {"metadata": {}, "weight_map": {}})


@refused(INDEX)
def index_lfs_pointer(src):
    base(src)
    write(src / INDEX, LFS)


# --- weight files


@refused(TWO + " is a git-lfs pointer", "git lfs pull")
def weights_lfs_pointer(src):
    base(src)
    write(src / TWO, LFS)


@refused(TWO)
def weights_empty(src):
    base(src)
    write(src / TWO, b"")


@refused(TWO)
def weights_header_longer_than_the_file(src):
    base(src)
    write(src / TWO, struct.pack("<Q", 1 << 20) + b"{}")


@refused("weight file is not UTF-8")
def weights_name_not_utf8(src):
    base(src, weights=False)
    shard(src / "a.safetensors", 0)
    os.rename(src / "a.safetensors", os.fsencode(src) + b"/\xff.safetensors")


@shown(names=PLAIN | {"größe-日本\n1.safetensors", "größe-日本\n2.safetensors", INDEX})
def weights_name_odd(src):
    base(src, weights=False)
    shard(src / "größe-日本\n1.safetensors", 0)
    shard(src / "größe-日本\n2.safetensors", 1)


# --- what else lies there


@shown(
    "not shown: .cache, .git\n",
    names=PLAIN | WEIGHTS | {"sub", "sub/.git", "sub/.git/HEAD", ".gitattributes"},
)
def private_directories(src):
    base(src)
    for name in ".git/HEAD", ".cache/huggingface/x.incomplete", "sub/.git/HEAD", ".gitattributes":
        write(src / name, "x")


@shown(
    "text_encoder/, transformer/: mount it separately",
    "not converted",
    names=PLAIN
    | WEIGHTS
    | {"transformer", "transformer/config.json", "transformer/model.safetensors"}
    | {"text_encoder", "text_encoder/" + INDEX, "tokenizer", "tokenizer/vocab.json"},
)
def subdirectories_with_a_checkpoint(src):
    base(src)
    write(src / "transformer" / "config.json", config())
    shard(src / "transformer" / "model.safetensors", 0, 1)
    write(src / "text_encoder" / INDEX, index_of(w0="gone.safetensors"))
    write(src / "tokenizer" / "vocab.json", "{}")


@shown(names=PLAIN | WEIGHTS | {"new\nline", os.fsdecode(b"\xff\xfe.txt"), "sub", os.fsdecode(b"sub/\x80"), "-x", " "})
def names_odd(src):
    base(src)
    for name in "new\nline", os.fsdecode(b"\xff\xfe.txt"), os.fsdecode(b"sub/\x80"), "-x", " ":
        write(src / name, "x")


@shown("git-lfs pointers", "tokenizer.model", names=PLAIN | WEIGHTS | {"tokenizer.model"})
def other_file_lfs_pointer(src):
    base(src)
    write(src / "tokenizer.model", LFS)


@shown(
    names=PLAIN | WEIGHTS | {"sub", "sub/a.txt"},
    options=["--exclude", "sub/deep/", "--exclude", "*.log", "--exclude", "REA*.txt"],
)
def exclude_globs(src):
    base(src)
    for name in "sub/a.txt", "sub/deep/b.txt", "sub/deep/er/c.txt", "sub/x.log", "y.log":
        write(src / name, "x")


exclude_unmatched = shown("--exclude gone* matches nothing", names=PLAIN | WEIGHTS, options=["--exclude", "gone*"])(
    lambda src: base(src)
)

# --- the tests


@pytest.fixture
def src(tmp_path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:  # pytest makes them 0700; `nobody` has to get through
        if parent.owner() == tmp_path.owner() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    path = tmp_path / "src"
    path.mkdir()
    return path


@pytest.mark.parametrize("case, fragments, options, status", REFUSED)
def test_refused(case, fragments, options, status, src, run_moefs):
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


@pytest.mark.parametrize("case, fragments, not_said, names, options", SHOWN)
def test_shown(case, fragments, not_said, names, options, src, run_moefs, mount):
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


def test_name_of_a_virtual_file_is_taken(src, run_moefs, tmp_path):
    """Merging empties the second shard, so that the first becomes model.safetensors."""
    base(src)
    save_file({n: t for n, t in tensors(1).items() if "experts" in n}, src / TWO, metadata={"format": "pt"})
    write(src / "model.safetensors" / "x", "x")
    (tmp_path / "mnt").mkdir()
    result = run_moefs("mount", src, tmp_path / "mnt")
    assert result.returncode == 1
    assert "model.safetensors" in result.stderr
    assert not os.path.ismount(tmp_path / "mnt")


def run_as(moefs, src, *prefix):
    """moefs plan src by another user, who may not reach the build directory: a copy of the binary lies beside src."""
    copy = src.parent / "moefs"
    shutil.copy(moefs, copy)
    copy.chmod(0o755)
    return subprocess.run([*prefix, str(copy), "plan", str(src)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", [TWO, "README.md", "config.json", INDEX, "sub"])
def test_unreadable(name, src, moefs):
    base(src)
    (src / "sub").mkdir()
    (src / name).chmod(0)
    result = run_as(moefs, src, *(NOBODY if os.geteuid() == 0 else ()))
    assert result.returncode == 1
    assert name in result.stderr
    assert "Permission denied" in result.stderr
    assert "root_squash" not in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can be refused as root")
def test_unreadable_by_root(src, moefs):
    """Root without its capabilities stands for root on a root-squashed network file system."""
    base(src)
    (src / TWO).chmod(0o600)
    os.chown(src / TWO, 65534, 65534)
    result = run_as(moefs, src, "setpriv", "--bounding-set=-all")
    assert result.returncode == 1
    assert TWO in result.stderr
    assert "Permission denied" in result.stderr
    assert "root_squash" in result.stderr


def limit_files(soft, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_soft_limit_of_open_files_is_raised(src, run_moefs):
    base(src)
    for i in range(40):
        write(src / f"{i}.txt", "x")
    result = run_moefs("plan", src, preexec_fn=limit_files(16, 256))
    assert result.returncode == 0, result.stderr


def test_too_few_open_files(src, run_moefs):
    base(src)
    for i in range(60):
        write(src / f"{i}.txt", "x")
    result = run_moefs("plan", src, preexec_fn=limit_files(32, 32))
    assert result.returncode == 1
    assert "65 files" in result.stderr and "limit is 32" in result.stderr


def test_special_files_are_never_opened(src, run_moefs):
    """inotify tells of every open."""
    base(src)
    os.mkfifo(src / "pipe")
    os.mkfifo(src / "weights.safetensors")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    assert fd >= 0
    try:
        watch = {
            libc.inotify_add_watch(fd, os.fsencode(src / name), 0x20): name  # IN_OPEN
            for name in ("pipe", "weights.safetensors", "README.md")
        }
        assert -1 not in watch
        result = run_moefs("plan", src)
        assert result.returncode == 0, result.stderr
        events = os.read(fd, 65536)
        opened = {watch[struct.unpack_from("i", events, at)[0]] for at in range(0, len(events), 16)}
    finally:
        os.close(fd)
    assert opened == {"README.md"}
