"""Which files of a directory are the weights, and what their index and headers must say: cases as in test_directory.py."""

import os
import shutil
import socket
import struct

import numpy as np
import pytest
from directory_cases import (
    INDEX, LFS, ONE, PLAIN, REFUSED, SHOWN, TWO, WEIGHTS, base, check_refused, check_shown, config, index_of,
    refused, shard, shown, tensors, write,
)
from directory_cases import src  # noqa: F401 (a fixture)
from safetensors.numpy import save_file


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


@shown(names=PLAIN | WEIGHTS, not_said=["there is no index"])
def without_an_index_but_numbered(src):
    base(src)
    (src / INDEX).unlink()


@shown(
    "there is no index", "also lora.safetensors (--exclude hides a file)", names=PLAIN | WEIGHTS | {"lora.safetensors"}
)
def without_an_index_and_a_file_of_another_kind(src):
    without_an_index_but_numbered(src)
    save_file({"lora.weight": np.zeros(3, np.float32)}, src / "lora.safetensors")


@refused("also lora.safetensors", "--exclude", "lora_A.weight")
def without_an_index_and_an_adapter_that_cannot_stay(src):
    without_an_index_but_numbered(src)
    name = "base_model.model.model.layers.0.mlp.experts.0.gate_proj.lora_A.weight"
    save_file({name: np.zeros((4, 5), np.float32)}, src / "lora.safetensors")


@refused("lora.safetensors", ONE, "no index to decide", "--exclude")
def without_an_index_and_a_tensor_twice(src):
    without_an_index_but_numbered(src)
    shard(src / "lora.safetensors", 0)


TRAINER = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_1.pth", "training_args.bin",
    "random_states_0.pkl", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
)


@shown(names=PLAIN | WEIGHTS | set(TRAINER), not_said=["not converted"])
def what_a_trainer_saves(src):
    """Its state beside the weights, which are no weights."""
    base(src)
    for name in TRAINER:
        write(src / name, "state")


@refused("no safetensors weights\n")
def only_what_a_trainer_saves(src):
    base(src, weights=False)
    for name in TRAINER:
        write(src / name, "state")


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


@shown("not shown, an index that is not looked at", "extra-07.safetensors.index.json and 12 more", names=PLAIN | WEIGHTS)
def other_indexes_too_large(src):
    """Holes: they take no room, and 20 GiB to read."""
    base(src)
    for i in range(20):
        write(src / f"extra-{i:02}.safetensors.index.json", "")
        os.truncate(src / f"extra-{i:02}.safetensors.index.json", 1 << 30)


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


def what_is_no_file(make):
    def case(src):
        base(src, weights=False)
        make(src / "model.safetensors")

    case.__name__ = make.__name__
    return case


@refused("no safetensors weights", "model.safetensors is a directory and not a file")
@what_is_no_file
def weights_name_of_a_directory(path):
    path.mkdir()


@refused("no safetensors weights", "model.safetensors is a fifo and not a file")
@what_is_no_file
def weights_name_of_a_fifo(path):
    os.mkfifo(path)


@refused("no safetensors weights", "model.safetensors is a socket and not a file")
@what_is_no_file
def weights_name_of_a_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@refused("no safetensors weights", "model.safetensors is a link loop and not a file")
@what_is_no_file
def weights_name_of_a_link_loop(path):
    path.symlink_to(path.name)


@refused("no safetensors weights", "09.safetensors is a directory and not a file", "and 4 more")
def weights_names_of_many_directories(src):
    base(src, weights=False)
    for i in range(2, 14):
        (src / f"{i:02}.safetensors").mkdir()


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
    REFUSED[__name__].append(
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


# --- the tests


@pytest.mark.parametrize("case, fragments, options, status", REFUSED[__name__])
def test_refused(case, fragments, options, status, src, run_moefs):
    check_refused(case, fragments, options, status, src, run_moefs)


@pytest.mark.parametrize("case, fragments, not_said, names, options", SHOWN[__name__])
def test_shown(case, fragments, not_said, names, options, src, run_moefs, mount):
    check_shown(case, fragments, not_said, names, options, src, run_moefs, mount)


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
