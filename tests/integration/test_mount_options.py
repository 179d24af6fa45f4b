"""The options that change how bytes are read, and never which: the same bytes under each, and what each is there for."""

import ctypes
import mmap
import os
import subprocess
from pathlib import Path

import pytest
from test_first_run import assert_same, put_together, read_tensors, take_apart

CACHESTAT = 451  # the system call's number
OPTIONS = {
    "default": (),
    "read-ahead-0": ("--kernel-read-ahead", "0"),
    "read-ahead-4M": ("--kernel-read-ahead", "4M"),
    "source-kept": ("--source-cache", "keep"),
    "source-dropped": ("--source-cache", "drop"),
    "passthrough": ("--passthrough",),
    "all": ("--passthrough", "--source-cache", "drop", "--kernel-read-ahead", "2M", "--cache-size", "1M"),
}
DIRECT_BLOCK = 1 << 20


@pytest.fixture(autouse=True)
def own_options(monkeypatch):
    """Options are what is tested here."""
    monkeypatch.delenv("MOEFS_TEST_OPTIONS", raising=False)


@pytest.fixture
def src(tmp_path, run_moefs):
    """A per-expert qwen3_moe of some megabytes, on the disk and not in the page cache."""
    path = tmp_path / "src"
    sizes = ("--layers", 2, "--experts", 4, "--hidden", 512, "--intermediate", 200)
    assert run_moefs("sample", *sizes, "qwen3_moe", path).returncode == 0
    (path / "tokenizer.json").write_bytes(os.urandom(3_000_000))
    drop(path.iterdir())
    return path


def drop(paths):
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def cached_pages(paths):
    """Pages of these files that are in the page cache; None where the kernel (< 6.5) cannot say."""
    total, libc = 0, ctypes.CDLL(None, use_errno=True)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        where, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
        answer = libc.syscall(CACHESTAT, fd, where, found, 0)
        os.close(fd)
        if answer != 0:
            return None
        total += found[0]
    return total


@pytest.fixture(scope="session")
def passthrough_refusal(moefs, tmp_path_factory):
    """Why this moefs cannot pass through on this machine; None where it can."""
    path = tmp_path_factory.mktemp("refusal")
    (path / "mnt").mkdir()
    subprocess.run([moefs, "sample", "qwen3_moe", path / "src"], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run([moefs, "mount", "--passthrough", path / "src", path / "mnt"], stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        subprocess.run([moefs, "umount", path / "mnt"], check=True)
        return None
    assert done.returncode == 1 and "--passthrough: " in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def need_passthrough(options, refusal):
    if "--passthrough" in options and refusal:
        pytest.skip(refusal)


def read_direct(path):
    """The file's bytes by O_DIRECT, in blocks whose last one ends behind the file."""
    fd, size = os.open(path, os.O_RDONLY | os.O_DIRECT), os.path.getsize(path)
    data, buffer = bytearray(), mmap.mmap(-1, DIRECT_BLOCK)
    while len(data) < size:
        n = os.preadv(fd, [buffer], len(data))
        assert n == min(DIRECT_BLOCK, size - len(data))
        data += buffer[:n]
    os.close(fd)
    return bytes(data)


def read_mapped(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        return bytes(mapping)


@pytest.mark.parametrize("to", ("merged", "in-out", "per-expert"))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_same_bytes(mount, src, passthrough_refusal, options, to):
    need_passthrough(options, passthrough_refusal)
    expected = put_together(*take_apart(read_tensors(src), "per-expert"), to)
    drop(src.iterdir())
    with mount(src, "--to", to, *options) as m:
        direct = {path.name: read_direct(path) for path in m.path.iterdir()}
        mapped = {path.name: read_mapped(path) for path in m.path.iterdir()}
        assert_same(read_tensors(m.path), expected)
        for path in m.path.iterdir():
            assert path.read_bytes() == direct[path.name] == mapped[path.name], path.name
            if to == "per-expert" or not (path.suffix == ".safetensors" or path.name.endswith("index.json")):
                assert direct[path.name] == (src / path.name).read_bytes(), path.name


@pytest.mark.parametrize("size,kib", [(None, 1024), ("512K", 512), ("4M", 4096), ("0", None)])
def test_read_ahead(mount, src, size, kib):
    options = () if size is None else ("--kernel-read-ahead", size)
    with mount(src, *options) as m:
        device = os.stat(m.path).st_dev
        path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        found, log = int(path.read_text()), m.log.read_text()
        if kib is None:
            assert found == 128 and "read_ahead_kb" not in log
        elif os.access(path, os.W_OK):
            assert found == kib and "read_ahead_kb" not in log
        else:
            assert found == 128 and log.count(str(path)) == 1


@pytest.fixture
def weights(src):
    """The weight files, cold; skips where it cannot be seen, or not be done."""
    found = sorted(src.glob("*.safetensors"))
    for path in found:
        path.read_bytes()
    if not cached_pages(found):
        pytest.skip("this kernel (no cachestat) or file system (an overlay) does not show what is cached")
    drop(found)
    if cached_pages(found) > 0:
        pytest.skip(f"the file system of {src} keeps what it is told to drop")
    return found


@pytest.mark.parametrize("mode", ("keep", "drop"))
@pytest.mark.parametrize("to", ("merged", "in-out"))
def test_source_cache(mount, src, weights, mode, to):
    size = sum(path.stat().st_size for path in weights) // 4096
    with mount(src, "--to", to, "--source-cache", mode) as m:
        drop(weights)  # the headers were read for the plan
        for path in m.path.glob("*.safetensors"):
            path.read_bytes()
        cached = cached_pages(weights)
    assert cached > size * 0.9 if mode == "keep" else cached < size * 0.1, (cached, size)


@pytest.mark.parametrize("to", ("merged", "in-out"))
def test_a_cached_source_stays_cached(mount, src, weights, to):
    for path in weights:
        path.read_bytes()
    cached = cached_pages(weights)
    with mount(src, "--to", to, "--source-cache", "drop") as m:
        for _ in range(2):
            for path in m.path.glob("*.safetensors"):
                path.read_bytes()
            drop(m.path.glob("*.safetensors"))
        # the kernel may reclaim a few pages at any time; dropping takes whole windows, all of them here
        assert cached_pages(weights) >= 0.75 * cached


@pytest.mark.parametrize(
    "options,message",
    [
        (("--kernel-read-ahead", "far"), "--kernel-read-ahead far: not a size"),
        (("--kernel-read-ahead", "1000"), "--kernel-read-ahead 1000: whole KiB"),
        (("--kernel-read-ahead", "2G"), "--kernel-read-ahead 2G: whole KiB, at most 1G"),
        (("--source-cache", "some"), "--source-cache some: must be keep or drop"),
    ],
)
def test_wrong_values(run_moefs, src, tmp_path, options, message):
    done = run_moefs("mount", *options, src, tmp_path)
    assert done.returncode == 2 and message in done.stderr


def bytes_read_by(pid):
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["rchar"])


def test_passthrough_goes_past_the_daemon(mount, src, passthrough_refusal):
    need_passthrough(("--passthrough",), passthrough_refusal)
    with mount(src, "--to", "merged", "--passthrough") as m:
        before = bytes_read_by(m.pid)
        assert (m / "tokenizer.json").read_bytes() == (src / "tokenizer.json").read_bytes()
        assert bytes_read_by(m.pid) - before < 100_000
        with open(src / "tokenizer.json", "r+b") as file:  # then it is as the source's own file is
            file.write(b"another beginning")
        assert (m / "tokenizer.json").read_bytes() == (src / "tokenizer.json").read_bytes()


def test_no_passthrough_where_reads_must_fail(mount, src, passthrough_refusal):
    """A source that is made to fail is not handed to the kernel."""
    need_passthrough(("--passthrough",), passthrough_refusal)
    with mount(src, "--passthrough", env={"MOEFS_FAULT": "error:every=1"}) as m:
        with pytest.raises(OSError):
            (m / "tokenizer.json").read_bytes()
