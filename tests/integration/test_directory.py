"""What real checkpoint directories look like, and what is refused: each case is a function that makes the directory.

The expected listing is written down in the case; contents that pass through are compared with the source's own.
"""

import concurrent.futures
import contextlib
import ctypes
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest
from directory_cases import (
    INDEX, LFS, NOBODY, ONE, PLAIN, REFUSED, SHOWN, TWO, WEIGHTS, base, check_refused, check_shown, config,
    hf_cache, index_of, refused, shard, shown, write,
)
from directory_cases import src  # noqa: F401 (a fixture)


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


@refused("config.json has 4194305 bytes, more than the 4194304")
def config_too_large(src):
    base(src)
    write(src / "config.json", json.dumps(config()).ljust((4 << 20) + 1))


@shown(names=PLAIN | WEIGHTS)
def config_as_large_as_it_may_be(src):
    base(src)
    write(src / "config.json", json.dumps(config()).ljust(4 << 20))


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
def cache_below_a_link(src):
    """The hub's directory leads to a larger disk: links above the model's folder are the user's own."""
    snapshot = hf_cache(src / "disk")
    (src / "hub").symlink_to("disk")
    return src / "hub" / snapshot.relative_to(src / "disk")


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


@refused("without a refs/main", "there is none: download incomplete")
def cache_repository_without_snapshots(src):
    repository = hf_cache(src).parent.parent
    shutil.rmtree(repository / "snapshots")
    shutil.rmtree(repository / "refs")
    (repository / "snapshots").mkdir()
    return repository


def secret(src):
    """A file that no checkpoint may show: it lies outside of everything that belongs to SRC."""
    write(src.parent / "outside" / "secret.txt", "secret")
    return src.parent / "outside"


@refused("links that lead out of", "shadow", "--follow-symlinks")
def cache_blobs_are_a_link(src):
    """<repo>/blobs -> outside must not allow links to lead there."""
    snapshot = src / "evil" / "snapshots" / "abc123"
    base(snapshot)
    (src / "evil" / "blobs").symlink_to(secret(src))
    (snapshot / "shadow").symlink_to(secret(src) / "secret.txt")
    return snapshot


@refused("links that lead out of", "shadow")
def cache_blobs_are_a_link_to_the_top(src):
    snapshot = cache_blobs_are_a_link(src)
    (src / "evil" / "blobs").unlink()
    (src / "evil" / "blobs").symlink_to("/")
    return snapshot


@refused("links that lead out of", TWO, "--follow-symlinks")
def cache_blobs_are_a_link_beside_them(src):
    """Only a directory of that name is the cache's, even if the link stays in the model's folder."""
    snapshot = hf_cache(src)
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(blobs.with_name("elsewhere"))
    blobs.symlink_to("elsewhere")
    return snapshot


@refused("snapshots/abc123 is a symbolic link")
def cache_revision_is_a_link(src):
    """The cache's model folder is given, and its snapshot leads to a directory of somebody else."""
    base(secret(src))
    repository = src / "evil"
    write(repository / "refs" / "main", "abc123")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "abc123").symlink_to(secret(src))
    return repository


@refused("snapshots/abc123 is a symbolic link")
def cache_snapshots_are_a_link(src):
    base(secret(src) / "abc123")
    repository = src / "evil"
    write(repository / "refs" / "main", "abc123")
    (repository / "snapshots").symlink_to(secret(src))
    return repository


@refused("without a refs/main")
def cache_refs_are_a_link(src):
    """What refs/main says is printed: it must not be another directory's."""
    repository = hf_cache(src).parent.parent
    shutil.rmtree(repository / "refs")
    write(secret(src) / "main", "secret")
    (repository / "refs").symlink_to(secret(src))
    return repository


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


@refused("more than 262144 paths", "--exclude")
def links_fan_out(src):
    """62 directories with two links each to the next: 2^62 paths."""
    base(src)
    for i in range(62):
        (src / f"d{i}").mkdir()
    for i in range(61):
        for side in "ab":
            (src / f"d{i}" / side).symlink_to(f"../d{i + 1}")


@shown(names=PLAIN | WEIGHTS, options=["--exclude", "d*"])
def links_fan_out_excluded(src):
    links_fan_out(src)


@shown(
    "not shown", "lead back to themselves",
    names=PLAIN | WEIGHTS | {"a", "a/notes.txt", "a/b", "a/b/notes.txt", "b", "b/notes.txt", "b/a", "b/a/notes.txt"},
)
def two_directories_that_lead_to_each_other(src):
    """Each is read once, and shown on both ways to it."""
    base(src)
    for name, other in ("ab", "ba"):
        write(src / name / "notes.txt", name)
        (src / name / other).symlink_to(f"../{other}")


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


@pytest.mark.parametrize("case, fragments, options, status", REFUSED[__name__])
def test_refused(case, fragments, options, status, src, run_moefs):
    check_refused(case, fragments, options, status, src, run_moefs)


@pytest.mark.parametrize("case, fragments, not_said, names, options", SHOWN[__name__])
def test_shown(case, fragments, not_said, names, options, src, run_moefs, mount):
    check_shown(case, fragments, not_said, names, options, src, run_moefs, mount)


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
    assert "66 files" in result.stderr and "limit is 32" in result.stderr


@contextlib.contextmanager
def opens(*paths):
    """A function that gives those of the paths (by name) that were opened, or in which something was; inotify tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    assert fd >= 0

    def opened():
        names = set()
        with contextlib.suppress(BlockingIOError):
            while events := os.read(fd, 65536):
                at = 0
                while at < len(events):
                    number, _, _, length = struct.unpack_from("iIII", events, at)
                    names.add(watch[number])
                    at += 16 + length
        return names

    try:
        watch = {libc.inotify_add_watch(fd, os.fsencode(path), 0x20): path.name for path in paths}  # IN_OPEN
        assert -1 not in watch
        yield opened
    finally:
        os.close(fd)


def test_special_files_are_never_opened(src, run_moefs):
    base(src)
    os.mkfifo(src / "pipe")
    os.mkfifo(src / "weights.safetensors")
    with opens(src / "pipe", src / "weights.safetensors", src / "README.md") as opened:
        result = run_moefs("plan", src)
        assert result.returncode == 0, result.stderr
        assert opened() == {"README.md"}


@pytest.mark.parametrize("deep", [False, True], ids=["directory", "above"])
def test_a_directory_exchanged_for_a_link_is_not_followed(deep, src, run_moefs):
    """Somebody who may write to SRC exchanges a directory for a link that leads out, again and again while SRC is
    opened. moefs opens SRC or refuses it, but never opens what the link leads to."""
    base(src)
    inside = src / "sub" / "deep" if deep else src / "sub"
    outside = src.parent / "outside" / "deep" if deep else src.parent / "outside"
    for i in range(30):
        write(inside / f"{i}.txt", "inside")
        write(outside / f"{i}.txt", "outside")
    link = src.parent / "link"
    link.symlink_to(src.parent / "outside")
    libc = ctypes.CDLL(None, use_errno=True)
    names = [ctypes.c_char_p(os.fsencode(path)) for path in (src / "sub", link)]
    statuses, ended = set(), threading.Event()

    def exchange():
        while not ended.is_set():
            assert libc.renameat2(-100, names[0], -100, names[1], 2) == 0  # RENAME_EXCHANGE
            time.sleep(0.0002)

    with opens(outside) as opened, concurrent.futures.ThreadPoolExecutor(1) as pool:
        exchanging = pool.submit(exchange)
        end = time.monotonic() + 4
        try:
            while time.monotonic() < end:
                result = run_moefs("plan", src)
                assert result.returncode in (0, 1), result.stderr
                statuses.add(result.returncode)
        finally:
            ended.set()
        exchanging.result()
        assert opened() == set()
    assert 1 in statuses  # it was in the way
