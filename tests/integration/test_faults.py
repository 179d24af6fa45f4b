"""A reader sees the right bytes or an error, never short and never stale; and the same read succeeds once the fault is
gone. Sources that change while mounted: what changes the bytes is EIO, what only moves the name is served on.

All reads here are O_DIRECT: they reach the daemon. A page that is already cached keeps the bytes it had."""
import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import oracle
from checkpoints import expert_name, make

PIECE = 1 << 16
# Copies alone, gathers, and both with units smaller than a matrix.
WAYS = {"copy": ("per-expert", "merged", "256M"), "gather": ("in-out", "merged", "256M"),
        "small-cache": ("in-out", "per-expert", "1M")}
BROKEN = {errno.EIO, errno.ENOTCONN, errno.ECONNABORTED}


class Case:
    """A source, its mount's options and what the mount must hold."""

    def __init__(self, tmp_path, way="copy", shards=3, how="natural", **keywords):
        layout, self.to, cache = WAYS[way]
        sizes = {"experts": 3, "inner": 101, "hidden": 203, "dtype": torch.float32} | keywords
        self.checkpoint = make(11, shards=shards, how=how, layout=layout, **sizes)
        self.src = self.checkpoint.write(tmp_path / "src")
        self.expected = oracle.convert(self.checkpoint, self.to)
        self.want = oracle.write(self.expected, self.src, tmp_path / "want")
        self.options = ["--to", self.to, "--cache-size", cache]
        self.weights = sorted(self.expected.files)

    def contents(self, name):
        return (self.want / name).read_bytes()

    def shard_of(self, block, proj="gate", expert=0):
        name = expert_name(block.name, block.layout, proj, expert)
        return next(f for f, names in self.checkpoint.shards.items() if name in names)


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.pread64.restype = ctypes.c_ssize_t
LIBC.pread64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]


def read_piece(fd, offset, length=PIECE):
    """The bytes of one call, or the errno as a negative number. Not os.pread, which hides EINTR by trying again."""
    buffer = ctypes.create_string_buffer(length)
    n = LIBC.pread64(fd, buffer, length, offset)
    return buffer.raw[:n] if n >= 0 else -ctypes.get_errno()


def read_pieces(m, case, names=None):
    """[(file, offset, right bytes, bytes or -errno)] of all weight files, cold."""
    out = []
    for name in names or case.weights:
        want = case.contents(name)
        fd = os.open(m / name, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.fstat(fd).st_size == len(want)
            for offset in range(0, len(want), PIECE):
                out.append((name, offset, want[offset:offset + PIECE], read_piece(fd, offset)))
        finally:
            os.close(fd)
    return out


def assert_right_or_eio(pieces):
    """Nothing but right bytes and EIO. Returns how many of each there were."""
    for name, offset, want, got in pieces:
        assert got in (want, -errno.EIO), f"{name} at {offset}: {got if isinstance(got, int) else len(got)}"
    failed = sum(got == -errno.EIO for *_, got in pieces)
    return len(pieces) - failed, failed


def assert_all_right(m, case, names=None):
    right, failed = assert_right_or_eio(read_pieces(m, case, names))
    assert failed == 0 and right > 0


def log_lines(m, *words):
    return [line for line in m.log.read_text(errors="replace").splitlines() if all(w in line for w in words)]


# ---- the fault layer ----


@pytest.mark.parametrize("way", WAYS)
def test_error_goes_away(mount, tmp_path, way):
    """All reads fail while the trigger is there; afterwards the same reads succeed: no error was cached."""
    case, trigger = Case(tmp_path, way), tmp_path / "broken"
    with mount(case.src, *case.options, env={"MOEFS_FAULT": f"error:trigger={trigger}"}) as m:
        trigger.touch()
        right, failed = assert_right_or_eio(read_pieces(m, case))
        # A header is held in memory; all else has to be read.
        assert failed >= len(case.weights) and right <= len(case.weights)
        assert log_lines(m, case.weights[0]), "one line that names file, range and cause"
        trigger.unlink()
        assert_all_right(m, case)


def test_failed_reads_do_not_flood_the_log(mount, tmp_path):
    """Neither of weights nor of files that pass through: ten lines in ten seconds, of both together."""
    case, trigger = Case(tmp_path), tmp_path / "broken"
    with mount(case.src, *case.options, env={"MOEFS_FAULT": f"error:trigger={trigger}"}) as m:
        trigger.touch()
        for _ in range(40):
            for name in ("config.json", case.weights[0]):
                fd = os.open(m / name, os.O_RDONLY | os.O_DIRECT)
                assert read_piece(fd, os.fstat(fd).st_size // 2) == -errno.EIO
                os.close(fd)
        assert 1 <= len(log_lines(m, "config.json: reading")) <= 30
        assert 10 <= len(log_lines(m, "Input/output error")) <= 30, "of 80"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", ["error:nth=1", "error:nth=7", "error:every=2", "error:every=5"])
def test_error_now_and_then(mount, tmp_path, way, rule):
    case, trigger = Case(tmp_path, way), tmp_path / "broken"
    with mount(case.src, *case.options, env={"MOEFS_FAULT": f"{rule},trigger={trigger}"}) as m:
        trigger.touch()
        seen = [assert_right_or_eio(read_pieces(m, case)) for _ in range(2)]
        assert sum(failed for _, failed in seen) >= 1, "the fault did not fire"
        trigger.unlink()
        assert_all_right(m, case)


@pytest.mark.parametrize("way", WAYS)
def test_error_in_a_range(mount, tmp_path, way):
    """A bad sector: what needs it fails, time and again, and nothing else does."""
    case = Case(tmp_path, way)
    size = os.path.getsize(case.src / sorted(case.checkpoint.shards)[0])
    rule = f"error:file=0,begin={size // 2},end={size // 2 + 10}"
    with mount(case.src, *case.options, env={"MOEFS_FAULT": rule}) as m:
        first = read_pieces(m, case)
        right, failed = assert_right_or_eio(first)
        assert failed >= 1 and right >= 1
        assert [p[3] == -errno.EIO for p in first] == [p[3] == -errno.EIO for p in read_pieces(m, case)]


def test_buffered_reader_and_copy(mount, tmp_path):
    """Through the page cache: cp fails loudly, the file keeps its size, and the next cp is right."""
    case, trigger = Case(tmp_path, "gather"), tmp_path / "broken"
    with mount(case.src, *case.options, env={"MOEFS_FAULT": f"error:trigger={trigger}"}) as m:
        trigger.touch()
        done = subprocess.run(["cp", "-r", m.path, tmp_path / "bad"], capture_output=True, text=True)
        assert done.returncode != 0 and "Input/output error" in done.stderr
        for name in case.weights:
            assert (m / name).stat().st_size == len(case.contents(name))
        trigger.unlink()
        subprocess.run(["cp", "-r", m.path, tmp_path / "good"], check=True)
    oracle.assert_same_directory(tmp_path / "good", case.want)


def test_mapped_reader_dies_loudly(mount, tmp_path):
    """A page that cannot be read is SIGBUS for who maps it: not zeros."""
    case, trigger = Case(tmp_path, "gather"), tmp_path / "broken"
    script = ("import mmap, sys; f = open(sys.argv[1], 'rb'); "
              "m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ); sum(m[:])")
    with mount(case.src, *case.options, env={"MOEFS_FAULT": f"error:trigger={trigger}"}) as m:
        trigger.touch()
        done = subprocess.run([sys.executable, "-c", script, m / case.weights[0]], capture_output=True)
        assert done.returncode == -signal.SIGBUS
        trigger.unlink()
        assert subprocess.run([sys.executable, "-c", script, m / case.weights[0]]).returncode == 0


def test_slow_source(mount, tmp_path):
    """Readers of slow blocks wait for one computation, and get the right bytes."""
    case = Case(tmp_path, "gather")
    name, wrong = case.weights[0], []
    want = case.contents(name)

    def read(m, n):
        fd = os.open(m / name, os.O_RDONLY | os.O_DIRECT)
        for offset in range(0, len(want), len(want) // 4):
            if os.pread(fd, 5000, offset) != want[offset:offset + 5000]:
                wrong.append((n, offset))
        os.close(fd)

    with mount(case.src, *case.options, env={"MOEFS_FAULT": "delay:ms=20"}) as m:
        threads = [threading.Thread(target=read, args=(m, n)) for n in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert wrong == []


@pytest.mark.parametrize("text", ["", "error", "error:nth=x", "explode:nth=1", "error:nth=0"])
def test_fault_text_that_means_nothing(moefs, tmp_path, text):
    """A test that asks for a fault that does not exist must not pass for want of one."""
    case = Case(tmp_path)
    (tmp_path / "mnt").mkdir()
    done = subprocess.run([moefs, "mount", case.src, tmp_path / "mnt"], capture_output=True, text=True,
                          env={**os.environ, "MOEFS_FAULT": text})
    if done.returncode == 0:
        subprocess.run([moefs, "umount", tmp_path / "mnt"], check=True)
    assert (done.returncode == 0) == (text == ""), done.stderr


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_short_and_interrupted_preads(moefs, mount, tmp_path, way, seed):
    """The whole program under a pread that is short or EINTR at random."""
    shim = Path(os.environ.get("PREAD_SHIM", moefs.parent.parent / "tests" / "support" / "libpread_shim.so"))
    if not shim.exists():
        reason = f"no {shim}: meson builds it beside the unit tests"
        print(reason)
        pytest.skip(reason)
    case = Case(tmp_path, way, odd=True)
    preload = ":".join(filter(None, [os.environ.get("LD_PRELOAD"), str(shim)]))
    asan = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "verify_asan_link_order=0"]))
    with mount(case.src, *case.options,
               env={"LD_PRELOAD": preload, "PREAD_SHIM_SEED": str(seed), "ASAN_OPTIONS": asan}) as m:
        assert_all_right(m, case)
        oracle.assert_same_directory(m.path, case.want)


# ---- sources that change while they are mounted ----


def settle():
    """Time stamps of files are as coarse as the kernel's tick."""
    time.sleep(0.02)


def spoiled(case, m, shard):
    """Reads that need this shard fail; the others are right."""
    right, failed = assert_right_or_eio(read_pieces(m, case))
    assert failed >= 1 and right >= 1
    assert len(log_lines(m, shard)) >= 1
    return failed


def needs_source(case, m):
    """The number of pieces that fail when nothing of the source can be read."""
    return sum(got == -errno.EIO for *_, got in read_pieces(m, case))


@pytest.mark.parametrize("way", ["copy", "gather"])
@pytest.mark.parametrize("keep", [0, 8, 0.5, -1])
def test_truncated(mount, tmp_path, way, keep):
    case = Case(tmp_path, way)
    shard = case.shard_of(case.checkpoint.blocks[0])
    size = os.path.getsize(case.src / shard)
    with mount(case.src, *case.options) as m:
        settle()
        os.truncate(case.src / shard, int(size * keep) if isinstance(keep, float) else keep % size)
        spoiled(case, m, shard)


def test_log_of_a_tensor_from_several_shards(mount, tmp_path, monkeypatch):
    """Gate and up lie in different shards and become one matrix: the log blames no shard that is whole."""
    monkeypatch.setitem(WAYS, "turned", ("per-expert", "in-out", "256M"))
    case = Case(tmp_path, "turned", how="round-robin")
    shard = case.shard_of(case.checkpoint.blocks[0], "up")
    assert shard != case.shard_of(case.checkpoint.blocks[0], "gate")
    with mount(case.src, *case.options) as m:
        settle()
        os.truncate(case.src / shard, 1000)
        spoiled(case, m, shard)
        assert all(shard in line for line in log_lines(m, "from source shard"))
        assert log_lines(m, "gate_up_proj", "from several source shards: Input/output error")


def test_grown(mount, tmp_path):
    case = Case(tmp_path)
    shard = case.shard_of(case.checkpoint.blocks[0])
    with mount(case.src, *case.options) as m:
        settle()
        with open(case.src / shard, "ab") as f:
            f.write(b"x")
        spoiled(case, m, shard)


@pytest.mark.parametrize("way", ["copy", "gather"])
def test_overwritten(mount, tmp_path, way):
    """The same size, other bytes: EIO rather than a mixture."""
    case = Case(tmp_path, way)
    shard = case.shard_of(case.checkpoint.blocks[0])
    with mount(case.src, *case.options) as m:
        settle()
        with open(case.src / shard, "r+b") as f:
            f.seek(-100, os.SEEK_END)
            f.write(b"x" * 100)
        failed = spoiled(case, m, shard)
        assert len(log_lines(m, shard)) < failed + len(case.weights), "one line, not one a read"


def test_other_header_with_the_old_time(mount, tmp_path):
    """Size and mtime as before, the header not: somebody put the time back."""
    case = Case(tmp_path)
    shard = case.shard_of(case.checkpoint.blocks[0])
    before = os.stat(case.src / shard)
    with mount(case.src, *case.options) as m:
        settle()
        with open(case.src / shard, "r+b") as f:
            f.seek(12)
            f.write(b"#")
        os.utime(case.src / shard, ns=(before.st_atime_ns, before.st_mtime_ns))
        spoiled(case, m, shard)


def replace(path):
    other = path.with_name("other")
    other.write_bytes(b"y" * path.stat().st_size)
    other.rename(path)


HARMLESS = {
    "renamed over": replace,
    "unlinked": lambda path: path.unlink(),
    "renamed away": lambda path: path.rename(path.with_name(path.name + ".away")),
    "hard-linked": lambda path: os.link(path, path.with_name(path.name + ".link")),
    "chmod": lambda path: path.chmod(0o400),
    "chown": lambda path: os.chown(path, 1, 1),
}


@pytest.mark.parametrize("way", ["copy", "gather"])
@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_change(mount, tmp_path, way, what):
    """The held bytes are still right: reading goes on, and one line says what happened."""
    case = Case(tmp_path, way)
    if what == "chown" and os.geteuid() != 0:
        reason = "only root can give a file away"
        print(reason)
        pytest.skip(reason)
    with mount(case.src, *case.options) as m:
        assert_all_right(m, case, case.weights[:1])
        settle()
        for shard in case.checkpoint.shards:
            HARMLESS[what](case.src / shard)
        for _ in range(3):
            assert_all_right(m, case)
        for shard in case.checkpoint.shards:
            assert len(log_lines(m, shard)) == 1, m.log.read_text()


def test_whole_source_removed(mount, tmp_path):
    """Pruning a cache must not kill a training run."""
    case = Case(tmp_path, "gather")
    with mount(case.src, *case.options) as m:
        subprocess.run(["rm", "-r", case.src], check=True)
        oracle.assert_same_directory(m.path, case.want)


def test_changed_file_beside_the_weights(mount, tmp_path):
    """The rule holds for what passes through as well."""
    case = Case(tmp_path)
    with mount(case.src, *case.options) as m:
        settle()
        (case.src / "tokenizer.json").write_bytes(b'{"version": "2.0"}\n')
        fd = os.open(m / "tokenizer.json", os.O_RDONLY | os.O_DIRECT)
        assert read_piece(fd, 0) == -errno.EIO
        os.close(fd)
        assert_all_right(m, case)


# ---- the daemon dies ----


READER = """
import mmap, os, random, sys
fds = [os.open(p, os.O_RDONLY | (os.O_DIRECT if n % 2 else 0)) for n, p in enumerate(sys.argv[2:])]
sizes = [os.fstat(fd).st_size for fd in fds]
maps = [mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) for fd in fds]
print("reading", flush=True)
while True:
    k = random.randrange(len(fds))
    if sys.argv[1] == "map":
        maps[k].madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(fds[k], 0, 0, os.POSIX_FADV_DONTNEED)
        at = random.randrange(sizes[k])
        maps[k][at:at + 100000]
    else:
        try:
            os.pread(fds[k], 100000, random.randrange(sizes[k]))
            os.posix_fadvise(fds[k], 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as e:
            sys.exit(e.errno)
"""


@pytest.mark.parametrize("way", ["copy", "gather"])
def test_killed_under_load(mount, run_moefs, tmp_path, way):
    """Readers get an error at once, `moefs umount` cleans up, and a new mount on the same mount point works."""
    case = Case(tmp_path, way)
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    readers = []
    try:
        with mount(case.src, *case.options, at=mnt, env={"MOEFS_FAULT": "delay:ms=2"}) as m:
            files = [mnt / name for name in case.weights]
            readers = [subprocess.Popen([sys.executable, "-c", READER, kind, *files], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE) for kind in ("pread", "map") * 4]
            for r in readers:
                assert r.stdout.readline() == b"reading\n"
            time.sleep(0.3)
            assert [r.poll() for r in readers] == [None] * len(readers)
            m.kill(signal.SIGKILL)
            killed = time.monotonic()
            for n, r in enumerate(readers):
                status = r.wait(5)
                # An error number, or SIGBUS on a mapping (whose Python may also fail at its next fadvise).
                assert -status == signal.SIGBUS or status in BROKEN or (n % 2 and status == 1), status
            assert time.monotonic() - killed < 5
            with pytest.raises(OSError) as gone:
                os.stat(mnt / "config.json")
            assert gone.value.errno in BROKEN
            done = run_moefs("umount", mnt)
            assert done.returncode == 0, done.stderr
            assert os.listdir(mnt) == []
    finally:
        for r in readers:
            r.kill()
            r.wait()
            r.stdout.close()
            r.stderr.close()
    with mount(case.src, *case.options, at=mnt) as m:
        oracle.assert_same_directory(m.path, case.want)


def test_mounting_over_a_dead_mount(mount, run_moefs, tmp_path):
    """The mount point of a daemon that died: a new mount works, or is refused and says what to do first."""
    case = Case(tmp_path)
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with mount(case.src, *case.options, at=mnt) as m:
        m.kill(signal.SIGKILL)
        done = run_moefs("mount", case.src, mnt)
        if done.returncode:
            assert done.returncode == 1 and str(mnt) in done.stderr and "umount" in done.stderr
        run_moefs("umount", mnt)
        run_moefs("umount", mnt)
    with mount(case.src, *case.options, at=mnt) as m:
        oracle.assert_same_directory(m.path, case.want)
