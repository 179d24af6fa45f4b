"""moefs convert: the bytes, names and modes of `cp -r` of the mount, whatever ends it, and what it refuses."""

import fcntl
import os
import pty
import re
import shutil
import signal
import stat
import struct
import subprocess
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_until
from headers import parse_header
from mounting import in_namespace, refused, src  # noqa: F401 (src is a fixture)
from test_first_run import (
    ARCHITECTURES,
    LAYOUTS,
    ORIGINAL,
    SIZES,
    assert_same,
    put_together,
    read_tensors,
    take_apart,
)
from test_large_units import arrays  # noqa: F401 (a fixture)
from test_large_units import put_together as put_large_together
from test_large_units import write as write_large

# A build with ASan keeps 256 MB of freed memory otherwise; others do not read it.
NO_QUARANTINE = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"
SLOW = {**os.environ, "MOEFS_FAULT": "delay:ms=10"}


def contents(directory):
    """{path: (type and mode, bytes)} of all that a directory holds, itself too."""
    found = {".": (directory.stat().st_mode, None)}
    for path in directory.rglob("*"):
        data = None if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(directory))] = (path.stat().st_mode, data)
    return found


def copy_of_mount(mount, source, copy, *options):
    with mount(source, *options) as m:
        subprocess.run(["cp", "-r", str(m.path), str(copy)], check=True)
    return contents(copy)


def convert(run_moefs, source, out, *options, **keywords):
    """Its one line on standard output."""
    done = run_moefs("convert", *options, source, out, **keywords)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.endswith(".incomplete")]
    said = re.fullmatch(rf"{re.escape(str(out))}: (\d+) tensors, (\d+) bytes in (\d+) files, \d+\.\d s\n", done.stdout)
    assert said, done.stdout
    tensors = [name for path in files if path.suffix == ".safetensors" for name in parse_header(path.read_bytes()).tensors]
    assert [int(n) for n in said.groups()] == [len(tensors), sum(path.stat().st_size for path in files), len(files)]


# ---- the bytes ----


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_files_of_the_mount(run_moefs, mount, tmp_path, architecture, target):
    source, out = tmp_path / "src", tmp_path / "out"
    assert run_moefs("sample", architecture, source, "--layout", ORIGINAL[architecture], *SIZES).returncode == 0
    convert(run_moefs, source, out, "--to", target)
    parts, others = take_apart(read_tensors(source), ORIGINAL[architecture])
    assert_same(read_tensors(out), put_together(parts, others, target))
    assert contents(out) == copy_of_mount(mount, source, tmp_path / "copy", "--to", target)


@pytest.mark.parametrize(
    "options",
    [
        ("--max-shard-size", "400"),
        ("--to", "per-expert", "--jobs", 1),
        ("--jobs", 64, "--cache-size", "1M"),
        ("--exclude", "tokenizer.json", "--exclude", "assets/*"),
    ],
)
def test_subdirectories_modes_and_options(run_moefs, mount, src, tmp_path, options):  # noqa: F811
    (src / "tokenizer.json").chmod(0o400)
    (src / "assets").chmod(0o555)
    (src / "empty").touch()
    convert(run_moefs, src, tmp_path / "out", *options)
    plan_options = [o for pair in zip(options[::2], options[1::2]) if pair[0] not in ("--jobs", "--cache-size") for o in pair]
    assert contents(tmp_path / "out") == copy_of_mount(mount, src, tmp_path / "copy", *plan_options)


def test_an_empty_directory_and_a_relative_name(run_moefs, src, tmp_path):  # noqa: F811
    (tmp_path / "there").mkdir(mode=0o700)
    convert(run_moefs, src, tmp_path / "there")
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o700  # as it was
    assert run_moefs("convert", "src", "out/", cwd=tmp_path).returncode == 0
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "there"))


@pytest.mark.parametrize("jobs", [1, 7, 16])
@pytest.mark.parametrize("source,target", [("per-expert", "in-out"), ("in-out", "merged"), ("merged", "interleaved")])
def test_large_units(run_moefs, tmp_path, arrays, source, target, jobs):  # noqa: F811
    write_large(tmp_path / "src", put_large_together(*arrays, source))
    convert(run_moefs, tmp_path / "src", tmp_path / "out", "--from", source, "--to", target, "--jobs", jobs)
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    tensors = parse_header(data).tensors
    want = put_large_together(*arrays, target)
    assert tensors.keys() == want.keys()
    for name, array in want.items():
        _, shape, begin, end = tensors[name]
        assert np.array_equal(np.frombuffer(data[begin:end], np.uint16).reshape(shape), array), name


def test_memory_is_bounded(moefs, run_moefs, tmp_path):
    """600 MB are converted in 4 buffers of 4 MiB and a cache of 16 MiB."""
    sizes = ("--layers", 1, "--experts", 64, "--hidden", 2048, "--intermediate", 768, "--sparse")
    assert run_moefs("sample", "qwen3_moe", tmp_path / "src", *sizes).returncode == 0
    command = ["convert", "--to", "in-out", "--jobs", "4", "--cache-size", "16M", tmp_path / "src", tmp_path / "out"]
    process = subprocess.Popen([moefs, *command], stdout=subprocess.DEVNULL, env={**os.environ, "ASAN_OPTIONS": NO_QUARANTINE})
    peak = 0  # KiB, of this program alone: ru_maxrss would count pytest, of which the process is a fork
    while process.poll() is None:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.002)
    assert process.returncode == 0
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) > 600_000_000
    shutil.rmtree(tmp_path / "out")
    assert 1 << 10 < peak < 96 << 10, f"{peak} KiB"


# ---- what ends it ----


@pytest.fixture(params=["absent", "empty"])
def out(request, tmp_path):
    """A destination that must be as it was in the end."""
    path = tmp_path / "out"
    if request.param == "empty":
        path.mkdir()
    yield path
    assert path.exists() == (request.param == "empty")
    assert not path.exists() or os.listdir(path) == []


@pytest.mark.parametrize("fault", ["error:file=0", "error:file=1,nth=2", "error:file=2,errno=12"])
def test_a_source_that_fails(run_moefs, src, out, fault):  # noqa: F811
    done = run_moefs("convert", src, out, env={**os.environ, "MOEFS_FAULT": fault})
    assert (done.returncode, done.stdout) == (1, "")
    said = rf"error: {out}/\S+: cannot compute bytes \d+ to \d+: (Input/output error|Cannot allocate memory)"
    assert re.search(said, done.stderr), done.stderr


def begun(moefs, source, out, *options):
    """A conversion that is slow, once it has a file open."""
    command = [moefs, "convert", "--jobs", "2", "--cache-size", "1M", *options, source, out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=SLOW)
    wait_until(lambda: list(out.glob(".*.incomplete")) or process.poll() is not None, 30)
    return process


@pytest.fixture
def large(run_moefs, tmp_path):
    """So many reads that a test comes between them."""
    sizes = ("--layers", 8, "--experts", 32, "--hidden", 128, "--intermediate", 64, "--shards", 1)
    assert run_moefs("sample", "qwen3_moe", tmp_path / "large", *sizes).returncode == 0
    return tmp_path / "large"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(moefs, large, out, number):
    process = begun(moefs, large, out)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert f"moefs: error: interrupted: {out} is left as it was" in errors


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_source_that_changes(moefs, large, out, change):
    process = begun(moefs, large, out)
    shard = large / "model.safetensors"
    if change == "time":
        os.utime(shard, (time.time() + 5, time.time() + 5))
    else:
        os.truncate(shard, shard.stat().st_size - 1)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert "model.safetensors: cannot compute bytes " in errors


def test_a_filesystem_that_is_full(moefs, src, tmp_path):  # noqa: F811
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=1M none "$1"; "$2" convert "$3" "$1/out" || { ls -A "$1"; exit 9; }'
    done = in_namespace(script, tmp_path / "disk", moefs, src)
    assert (done.returncode, done.stdout) == (9, "")
    needed, free = map(int, re.search(r"out: (\d+) bytes are needed, and its filesystem has (\d+) free", done.stderr).groups())
    size = sum(path.stat().st_size for path in src.rglob("*") if path.is_file())
    assert size * 0.9 < needed < size + (20 << 12) and free <= 1 << 20


def test_a_filesystem_that_becomes_full(moefs, src, tmp_path):  # noqa: F811
    """It has the bytes, but not the inodes."""
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o nr_inodes=6 none "$1"; "$2" convert "$3" "$1/out" || { ls -A "$1"; exit 9; }'
    done = in_namespace(script, tmp_path / "disk", moefs, src)
    assert (done.returncode, done.stdout) == (9, "")
    assert re.search(r"moefs: error: \S+/out/\S+: cannot (create the file|make the directory): No space left on device", done.stderr)


# ---- what is refused ----


def test_refused_destinations(run_moefs, src, tmp_path):  # noqa: F811
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    (tmp_path / "link").symlink_to(src)
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    for out, said in {
        "full": "is not empty (it holds kept)",
        "file": "Not a directory",
        "src": "the destination is the source directory itself",
        "link": "the destination is the source directory itself",
        "src/new": "the destination lies inside the source directory",
        "link/assets/new": "the destination lies inside the source directory",
        ".": "lies inside the destination",
        "none/new": "the directory in which it is to be made: No such file or directory",
    }.items():
        for more in ((), ("--dry-run",)):
            assert said in refused(run_moefs, "convert", *more, src, tmp_path / out), out
    assert contents(tmp_path) == before
    for options in (("--jobs", 0), ("--jobs", 65), ("--cache-size", "1K"), ("--to", "nonsense")):
        refused(run_moefs, "convert", *options, src, tmp_path / "out", status=2)


def test_a_limit_of_file_sizes(moefs, src, tmp_path):  # noqa: F811
    done = subprocess.run(["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", moefs, "convert", src, tmp_path / "out"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "out/tokenizer.json would have 3000000 bytes" in done.stderr and "(ulimit -f)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_read_only_filesystem(moefs, src, tmp_path):  # noqa: F811
    (tmp_path / "disk").mkdir()
    done = in_namespace('mount -t tmpfs -o ro none "$1"; "$2" convert "$3" "$1/out"', tmp_path / "disk", moefs, src)
    assert done.returncode == 1
    assert "out: cannot write there: Read-only file system" in done.stderr


def test_dry_run(run_moefs, src, tmp_path):  # noqa: F811
    done = run_moefs("convert", "--dry-run", "--max-shard-size", "400", src, tmp_path / "out")
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    convert(run_moefs, src, tmp_path / "out", "--max-shard-size", "400")
    files = {str(p.relative_to(tmp_path / "out")): p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file()}
    *listed, space, summary = done.stdout.splitlines()
    assert {line.split()[1]: int(line.split()[0]) for line in listed} == files
    assert re.fullmatch(r"space: \d+ bytes needed, \d+ free", space)
    assert f" {sum(files.values())} bytes in {len(files)} files; nothing was written" in summary


def test_without_fuse(moefs, src, tmp_path):  # noqa: F811
    (tmp_path / "dev").mkdir()
    (tmp_path / "mnt").mkdir()
    script = 'mount --bind "$1" /dev; touch /dev/null; "$2" convert "$3" "$4"; "$2" mount "$3" "$5"'
    done = in_namespace(script, tmp_path / "dev", moefs, src, tmp_path / "out", tmp_path / "mnt")
    assert done.returncode == 1 and "`moefs convert`" in done.stderr
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("columns", [40, 200])
def test_the_progress_line(moefs, large, tmp_path, columns):
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "MOEFS_FAULT": "delay:ms=3"}
    command = [moefs, "convert", "--max-shard-size", "1MB", "--jobs", "1", large, tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=env)
    os.close(terminal)
    said = b""
    try:
        while piece := os.read(reader, 4096):
            said += piece
    except OSError:  # EIO: nobody has the terminal open any more
        pass
    os.close(reader)
    assert process.wait() == 0
    lines = re.findall(rb"\r(\[[^\r\n\x1b]*)", said)
    assert lines and all(len(line) < columns for line in lines), said
    if columns == 200:
        assert re.search(rb"GB/s, \d+ s left, \d+ %, \d+ of \d+ files$", lines[-1]), said
