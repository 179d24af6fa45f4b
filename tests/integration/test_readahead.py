"""Read-ahead from the helper process: what it populates, what it leaves alone, and that nothing depends on it.

Whether a page is cached is asked of the kernel (mincore of a mapping), never of moefs. A page that is not read by any
test and is cached all the same was populated for it.
"""

import ctypes
import mmap
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import is_mounted, wait_until
from headers import parse_header
from test_first_run import assert_same, put_together, read_tensors, take_apart
from mounting import alive, in_namespace, mount_descriptor, mount_in_group, skip_without_mtab, user_files
from mounting import memory_group, public  # noqa: F401 (fixtures)

MIB = 1 << 20
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
OPTIONS = {
    "default": (),
    "off": ("--readahead", "off"),
    "1M": ("--readahead", "1M"),
    "2M": ("--readahead", "2M", "--kernel-read-ahead", "0"),
    "64M": ("--readahead", "64M"),
}


@pytest.fixture(autouse=True)
def own_options(monkeypatch):
    """What is counted here depends on them."""
    monkeypatch.delenv("MOEFS_TEST_OPTIONS", raising=False)


@pytest.fixture(scope="module")
def src(tmp_path_factory, moefs):
    """A per-expert qwen3_moe of 100 MB, half of it in each of two files."""
    path = tmp_path_factory.mktemp("src") / "src"
    sizes = ("--layers", "2", "--experts", "16", "--hidden", "1024", "--intermediate", "512", "--shards", "2")
    subprocess.run([moefs, "sample", *sizes, "qwen3_moe", path], check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="module")
def expected(src):
    parts, others = take_apart(read_tensors(src), "per-expert")
    return {to: put_together(parts, others, to) for to in ("merged", "in-out")}


def largest(directory):
    return max(Path(directory).glob("*.safetensors"), key=lambda path: path.stat().st_size)


def cached(path):
    """Bytes of the file that are in the page cache, by mincore; nothing is read by asking."""
    size = os.path.getsize(path)
    fd = os.open(path, os.O_RDONLY)
    where = LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    assert where != ctypes.c_void_p(-1).value
    states = (ctypes.c_ubyte * -(-size // PAGE))()
    assert LIBC.mincore(where, size, states) == 0
    LIBC.munmap(where, size)
    return sum(state & 1 for state in states) * PAGE


def helper_of(pid):
    """Pid of the daemon's helper, also of one that is a zombie; None without one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text()
        except OSError:
            continue
        name, rest = fields[fields.index("(") + 1 : fields.rindex(")")], fields.rpartition(")")[2].split()
        if name in ("moefs-readahead", "moefs") and int(rest[1]) == pid:  # it renames itself, perhaps not yet
            return int(process.name)
    return None


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


# The ways of reading: a whole file's bytes


def read_mapped(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        return bytes(mapping)


def read_buffered(path):
    with open(path, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(MIB), b""))


def read_by_four(path):
    """Four threads, each its quarter, through one descriptor."""
    size = os.path.getsize(path)
    data, fd, failures = bytearray(size), os.open(path, os.O_RDONLY), []

    def read(begin, end):
        try:
            for at in range(begin, end, 300_000):
                part = os.pread(fd, min(300_000, end - at), at)
                data[at : at + len(part)] = part
        except OSError as error:
            failures.append(error)

    borders = [size * i // 4 for i in range(5)]
    threads = [threading.Thread(target=read, args=pair) for pair in zip(borders, borders[1:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert not failures
    return bytes(data)


WAYS = {"mmap": read_mapped, "read": read_buffered, "four-threads": read_by_four}


def tensors_of(directory, way):
    tensors = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        data = way(path)
        for name, (_, shape, begin, end) in parse_header(data).tensors.items():
            tensors[name] = np.frombuffer(data[begin:end], np.uint16).reshape(shape)
    return tensors


@pytest.mark.parametrize("to", ("merged", "in-out"))
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_same_bytes(mount, src, expected, options, way, to):
    with mount(src, "--to", to, *options) as m:
        assert (helper_of(m.pid) is None) == ("off" in options)
        assert_same(tensors_of(m.path, way), expected[to])
        assert "read-ahead is off" not in m.log.read_text()


# What is populated


def read_sequence(path, end, *, begin=0, step=128 << 10):
    """Reads [begin, end) in requests of `step`; the descriptor stays open until the generator is closed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        for at in range(begin, end, step):
            assert os.pread(fd, step, at)
        yield
    finally:
        os.close(fd)


@pytest.mark.parametrize("to", ("merged", "in-out"))
def test_pages_ahead_of_a_sequential_reader(mount, src, to):
    """After 8 MiB, at least half a window of as much is there; without read-ahead, what the kernel reads ahead."""
    most = {}
    for option in ("off", "32M"):
        with mount(src, "--to", to, "--readahead", option) as m:
            path = largest(m.path)
            for _ in read_sequence(path, 8 * MIB):
                wait_until(lambda path=path: cached(path) >= 12 * MIB, 3 if option == "off" else 20)
                most[option] = cached(path)
    assert most["off"] <= 10 * MIB
    assert 12 * MIB <= most["32M"] <= 40 * MIB


def test_the_window_is_bounded(mount, src):
    """A reader that stays where it is gets no more than its window, which is no more than what was read for it: the
    kernel's own read-ahead may be two windows of 1 MiB further on, and a range ends at a whole MiB."""
    for readahead, read, bound in (("4M", 16, 16 + 2 + 4 + 1), ("64M", 6, 2 * (6 + 2) + 1)):
        with mount(src, "--readahead", readahead) as m:
            path = largest(m.path)
            for _ in read_sequence(path, read * MIB):
                assert wait_until(lambda path=path: cached(path) >= (read + 1) * MIB)
                time.sleep(0.3)
                assert cached(path) <= bound * MIB


def test_a_reader_of_a_header_causes_nothing(mount, src):
    with mount(src) as m:
        path = largest(m.path)
        for _ in read_sequence(path, MIB // 4):
            time.sleep(0.3)
            assert cached(path) <= 2 * MIB


def test_random_reads_populate_nothing(mount, src):
    with mount(src, "--readahead", "64M") as m:
        path = largest(m.path)
        rng, size, fd = random.Random(1), os.path.getsize(path), os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        pages = rng.sample(range(size // PAGE), 600)
        for page in pages:
            os.pread(fd, PAGE, page * PAGE)
        time.sleep(0.3)
        assert cached(path) == len(pages) * PAGE
        os.close(fd)


def test_scattered_megabytes_populate_next_to_nothing(mount, src):
    """Each is 1 MiB of a different 4; the kernel's own read-ahead adds to it with and without the option."""
    found = {}
    for option in ("off", "64M"):
        with mount(src, "--readahead", option) as m:
            path = largest(m.path)
            size, fd = os.path.getsize(path), os.open(path, os.O_RDONLY)
            places = list(range(0, size - MIB, 4 * MIB))
            random.Random(2).shuffle(places)
            for place in places:
                os.pread(fd, MIB, place)
            time.sleep(0.3)
            found[option] = cached(path)
            os.close(fd)
    assert found["64M"] <= found["off"] + 2 * MIB


def test_direct_reads_populate_nothing(mount, src):
    with mount(src) as m:
        path = largest(m.path)
        fd, buffer = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, MIB)
        for at in range(0, 16 * MIB, MIB):
            assert os.preadv(fd, [buffer], at) == MIB
        time.sleep(0.3)
        os.close(fd)
        assert cached(path) == 0


def test_requests_of_the_helper_are_no_readers(mount, src):
    """It would follow itself to the end of the file otherwise."""
    with mount(src, "--readahead", "4M", "--kernel-read-ahead", "0") as m:
        path = largest(m.path)
        for _ in read_sequence(path, 8 * MIB):
            assert wait_until(lambda: cached(path) >= 9 * MIB)
            time.sleep(0.5)
            assert cached(path) <= 14 * MIB


def test_what_is_closed_is_not_populated_further(mount, src):
    """A slow source: much is ordered and little done when the reader closes its file."""
    with mount(src, "--readahead", "64M", env={"MOEFS_FAULT": "delay:ms=20"}) as m:
        path = largest(m.path)
        for _ in read_sequence(path, 5 * MIB):
            pass
        assert wait_until(lambda: cached(path) == (time.sleep(0.5), cached(path))[1], 30)
        assert cached(path) <= 24 * MIB


# What the helper holds


def test_the_helper_holds_nothing_but_its_socket(mount, src):
    with mount(src) as m:
        helper = helper_of(m.pid)
        # it closes what it has inherited when it first runs
        assert wait_until(lambda: len(os.listdir(f"/proc/{helper}/fd")) == 4)
        held = {int(fd): os.readlink(f"/proc/{helper}/fd/{fd}") for fd in os.listdir(f"/proc/{helper}/fd")}
        assert sorted(held) == [0, 1, 2, 3] and held[3].startswith("socket:")
        assert [held[fd] for fd in range(3)] == ["/dev/null"] * 3
        for thread in os.listdir(f"/proc/{helper}/task"):  # behind readers and daemon where the cores are busy
            assert os.sched_getscheduler(int(thread)) == os.SCHED_BATCH
            assert os.getpriority(os.PRIO_PROCESS, int(thread)) == min(19, os.getpriority(os.PRIO_PROCESS, m.pid) + 10)
        for _ in read_sequence(largest(m.path), 16 * MIB):
            pass
        assert wait_until(lambda: len(os.listdir(f"/proc/{helper}/fd")) == 4)
    assert gone(helper)


def test_ordinary_user(moefs, src, public):  # noqa: F811
    """Mounted and read by a user other than root: the helper is the user's, too, and sees the mount."""
    skip_without_mtab()
    script = """
        mount --bind "$1" /dev/fuse
        nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
        setpriv --reuid 65534 --regid 65534 --clear-groups "$2" mount -f --readahead 8M "$3" "$4" 2>"$4.log" &
        while ! grep -q " $4 " /proc/self/mountinfo; do sleep 0.01; done
        for file in "$4"/*.safetensors; do nobody cat "$file"; done | sha256sum
        for process in $(cat /proc/$!/task/*/children); do stat -c %u /proc/$process; cat /proc/$process/comm; done
        nobody "$2" umount "$4"
        wait $!; echo ended $?
        grep -c "read-ahead is off" "$4.log" || :
    """
    paths = user_files(moefs, src, public, 0o666)
    (public / "mnt.log").touch()
    done = in_namespace(script, *paths)
    assert done.returncode == 0, done.stderr
    digest, uid, name, ended, off = done.stdout.splitlines()
    assert (uid, name, ended, off) == ("65534", "moefs-readahead", "ended 0", "0")
    assert re.match(r"[0-9a-f]{64} ", digest)


# Where it is off


def test_descriptor_as_mount_point(moefs, src, tmp_path):
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    fd = mount_descriptor(mnt)
    process = subprocess.Popen([moefs, "mount", "-f", src, f"/dev/fd/{fd}"], pass_fds=[fd], stderr=subprocess.PIPE)
    os.close(fd)
    try:
        name = largest(mnt).name
        assert len((mnt / name).read_bytes()) == os.path.getsize(mnt / name)
        assert helper_of(process.pid) is None
        subprocess.run(["umount", mnt], check=True)
        said = process.communicate(timeout=30)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        if is_mounted(mnt):
            subprocess.run(["umount", "-l", mnt], check=True)
    assert said.count("read-ahead is off: a mount given as /dev/fd/") == 1


def test_a_mount_that_the_helper_does_not_see(mount, src, expected):
    """Another file system lies over it; who has it open reads on."""
    with mount(src) as m:
        name = largest(m.path).name
        above = os.open(m.path, os.O_RDONLY | os.O_DIRECTORY)
        subprocess.run(["mount", "-t", "tmpfs", "nothing", m.path], check=True)
        try:
            helper = helper_of(m.pid)
            data = read_buffered(f"/proc/self/fd/{above}/{name}")
            assert wait_until(lambda: gone(helper))
            assert wait_until(lambda: "the helper does not see the mount" in m.log.read_text())
            assert m.log.read_text().count("read-ahead is off") == 1
        finally:
            subprocess.run(["umount", m.path], check=True)
            os.close(above)
        assert data == read_buffered(m.path / name)


@pytest.mark.parametrize("limit,on", [(64, False), (1024, True)])
def test_memory_limit(moefs, src, tmp_path, memory_group, limit, on):  # noqa: F811
    """100 MB of weights; the default cache of 256M is more than a quarter of 64 MiB and a quarter of 1 GiB."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    process = mount_in_group(moefs, memory_group(limit * MIB), src, mnt)
    try:
        said = Path(f"{mnt}.log").read_text()
        assert (helper_of(process.pid) is not None) == on
        assert ("read-ahead is off: this control group's memory limit is" in said) == (not on)
        assert (f"--cache-size is reduced to {limit * MIB // 4} bytes" in said) == (not on)
        for path in mnt.glob("*.safetensors"):
            read_buffered(path)
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert not is_mounted(mnt)


# Dying


READER = """
import mmap, os, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        for at in range(0, len(mapping), 4096):
            mapping[at]
"""


def start_readers(m, n):
    """Processes, since one that is killed by SIGBUS must not be this one."""
    paths = sorted(map(str, m.path.glob("*.safetensors")))
    return [subprocess.Popen([sys.executable, "-c", READER, *paths], stderr=subprocess.DEVNULL) for _ in range(n)]


def end_readers(readers):
    for reader in readers:
        if reader.poll() is None:
            reader.kill()
    for reader in readers:
        reader.wait(30)


@pytest.mark.parametrize("to", ("merged", "in-out"))
def test_helper_killed_under_load(mount, src, expected, to):
    with mount(src, "--to", to, env={"MOEFS_FAULT": "delay:ms=2"}) as m:
        helper, got = helper_of(m.pid), {}
        reader = threading.Thread(target=lambda: got.update(tensors_of(m.path, read_by_four)))
        reader.start()
        assert wait_until(lambda: cached(largest(m.path)) > 4 * MIB)
        os.kill(helper, signal.SIGKILL)
        assert wait_until(lambda: gone(helper)), "a zombie"
        reader.join(60)
        assert not reader.is_alive()
        assert_same(got, expected[to])
        assert wait_until(lambda: "the helper was ended by a signal: Killed" in m.log.read_text())
        assert m.log.read_text().count("read-ahead is off") == 1
        assert helper_of(m.pid) is None
        assert_same(tensors_of(m.path, read_mapped), expected[to])


@pytest.mark.parametrize("ms", (50, 1500))
def test_daemon_killed_under_load(mount, src, run_moefs, ms):
    """Readers are answered within 5 seconds however slow the source is, and the mount point can be cleared."""
    with mount(src, env={"MOEFS_FAULT": f"delay:ms={ms}"}) as m:
        helper, readers = helper_of(m.pid), start_readers(m, 3)
        try:
            time.sleep(0.5)
            assert not [reader for reader in readers if reader.poll() is not None]
            m.kill()
            begin = time.monotonic()
            assert wait_until(lambda: all(reader.poll() is not None for reader in readers), 5)
            assert wait_until(lambda: gone(helper), 5 - (time.monotonic() - begin))
            assert {reader.returncode for reader in readers} <= {-signal.SIGBUS, 1}
        finally:
            end_readers(readers)
        assert run_moefs("umount", m.path).returncode == 0
        assert not is_mounted(m.path)


def test_reader_killed_under_load(mount, src, run_moefs):
    with mount(src, env={"MOEFS_FAULT": "delay:ms=5"}) as m:
        for _ in range(3):
            readers = start_readers(m, 2)
            time.sleep(0.4)
            end_readers(readers)
        assert helper_of(m.pid)
        assert run_moefs("umount", m.path).returncode == 0
        m.may_die = True
        assert m.process.wait(30) == 0


def test_unmount_right_after_a_load(mount, src, run_moefs):
    for _ in range(10):
        with mount(src) as m:
            helper = helper_of(m.pid)
            for _ in read_sequence(largest(m.path), 12 * MIB, step=MIB):
                pass
            done = run_moefs("umount", m.path)
            assert done.returncode == 0, done.stderr
            m.may_die = True
            assert m.process.wait(30) == 0
            assert gone(helper)
            assert "read-ahead is off" not in m.log.read_text()


def test_signals_to_the_helper_are_the_daemons(mount, src):
    """As when a terminal's or a service's end is told to all processes: the daemon may serve for long after that."""
    with mount(src) as m:
        helper = helper_of(m.pid)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(helper, number)
        time.sleep(0.2)
        assert alive(helper)
    assert gone(helper)


@pytest.mark.parametrize(
    "value,message",
    [
        ("far", "--readahead far: neither a size"),
        ("0", "--readahead 0: 1M to 4G, or off"),
        ("8G", "--readahead 8G: 1M to 4G, or off"),
        ("on", "--readahead on: neither a size"),
    ],
)
def test_wrong_values(run_moefs, src, tmp_path, value, message):
    done = run_moefs("mount", "--readahead", value, src, tmp_path)
    assert done.returncode == 2 and message in done.stderr
