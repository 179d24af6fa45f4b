"""What the tests of mounts share: a source, a mount point, users, daemons and the device."""

import ctypes
import os
import shutil
import signal
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import raw
from conftest import is_mounted, start_watchdog, stop_watchdog, wait_until

EXPERTS, INNER, HIDDEN = 3, 4, 6
LIBC = ctypes.CDLL(None, use_errno=True)


def write_checkpoint(directory):
    """A per-expert qwen3_moe of two layers in two shards, with a subdirectory."""
    rng = np.random.default_rng()
    shards = {}
    for layer in range(2):
        tensors = {f"model.layers.{layer}.norm.weight": raw.random_tensor(rng, "BF16", (HIDDEN,))}
        for expert in range(EXPERTS):
            for proj, shape in (("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN)), ("down", (HIDDEN, INNER))):
                name = f"model.layers.{layer}.mlp.experts.{expert}.{proj}_proj.weight"
                tensors[name] = raw.random_tensor(rng, "BF16", shape)
        shards[f"model-{layer + 1:05d}-of-00002.safetensors"] = tensors
    raw.Checkpoint(
        {"model_type": "qwen3_moe", "num_experts": EXPERTS, "num_hidden_layers": 2},
        {name: tensor for tensors in shards.values() for name, tensor in tensors.items()},
        {file: list(tensors) for file, tensors in shards.items()},
    ).write(directory)
    for file in shards:
        (directory / file).chmod(0o644)  # the writer makes it 0600
    (directory / "tokenizer.json").write_bytes(os.urandom(3_000_000))
    (directory / "assets" / "deep").mkdir(parents=True)
    (directory / "assets" / "deep" / "note.txt").write_text("hello")
    return directory


@pytest.fixture
def src(tmp_path):
    return write_checkpoint(tmp_path / "src")


@pytest.fixture
def mnt(tmp_path):
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while is_mounted(path):
        subprocess.run(["umount", "-l", str(path)], check=True)


def daemon_of(path):
    """Pid of the daemon that serves a mount point, by its command line. Its readahead helper has the same one."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"mount" in words and os.fsencode(path) in words:
            found[int(process.name)] = int(parent)
    return next((pid for pid, parent in found.items() if parent not in found), None)


@contextmanager
def daemon(run_moefs, src, path, *options, **keywords):
    """`moefs mount` as users call it; the daemon's pid. It is gone afterwards."""
    done = run_moefs("mount", *options, src, path, **keywords)
    assert done.returncode == 0, done.stderr
    pid = daemon_of(path)
    watchdog = start_watchdog(pid, path, 100)
    try:
        yield pid
    finally:
        if is_mounted(path):
            subprocess.run(["umount", "-l", str(path)], check=True)
        gone = wait_until(lambda: not alive(pid), 5)
        if not gone:
            os.kill(pid, signal.SIGKILL)
        stop_watchdog(watchdog)
    assert gone, "the daemon outlived its mount"


def alive(pid):
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def refused(run_moefs, *arguments, status=1, **keywords):
    """The message of a command that must fail, and must print nothing else."""
    done = run_moefs(*arguments, **keywords)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("moefs: warning: ")]
    error = next(i for i, line in enumerate(lines) if line.startswith("moefs: error: "))
    assert all(line.startswith("  ") for line in lines[error + 1 :])
    return "\n".join(lines[error:])


def shim(moefs, name):
    """A library for LD_PRELOAD: tests/support/NAME_shim.c, built with the program."""
    if b"__asan_init" in Path(moefs).read_bytes():
        pytest.skip("a sanitizer's runtime wants to be loaded first")
    found = Path(os.environ.get(f"{name.upper()}_SHIM_LIBRARY", Path(moefs).parent.parent / f"tests/support/lib{name}_shim.so"))
    assert found.is_file(), "the shims are built with the program"
    return found


def as_nobody(*command, **keywords):
    return subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=60,
        **keywords,
    )


@pytest.fixture
def public():
    """A directory that every user reaches, as pytest's are not."""
    path = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"


PRIVATE = """mount --make-rprivate / 2>/dev/null || ! grep -q ' shared:' /proc/self/mountinfo || exit 77
"""


def in_namespace(script, *arguments):
    """A shell script in a mount namespace of its own; the arguments are its $1, $2, ...

    Nothing of it may be seen outside. In a plain chroot `/` is no mount point that could be made private; where some
    mount still propagates there, the test is skipped."""
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "unchanged", "sh", "-ec", PRIVATE + script, "sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip("/ is no mount point and mounts propagate here: what the test mounts would be seen outside")
    return done


def device_node(path, mode):
    """A second /dev/fuse with a mode of its own: the machine's may be for root only, or for everybody."""
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    path.chmod(mode)
    return path


def skip_without_mtab():
    """For tests in which an ordinary user unmounts."""
    if not os.path.exists("/etc/mtab"):
        pytest.skip("there is no /etc/mtab: fusermount3 cannot unmount for an ordinary user")


def user_files(moefs, src, public, mode):
    """What an ordinary user can reach: binary, source, mount point; and a /dev/fuse."""
    mnt = public / "mnt"
    mnt.mkdir()
    os.chown(mnt, 65534, 65534)
    program, copy = shutil.copy(moefs, public / "moefs"), shutil.copytree(src, public / "src")
    return device_node(public / "fuse", mode), program, copy, mnt


def remount(path, flags):
    """The system call alone: mount(8) adds the options that it finds in mountinfo, each release its own."""
    MS_REMOUNT, MS_NOSUID, MS_NODEV = 32, 2, 4
    flags |= MS_REMOUNT | MS_NOSUID | MS_NODEV
    if LIBC.mount(b"none", os.fsencode(path), None, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), "remount")


def mount_descriptor(path):
    """What a privileged helper does for an unprivileged daemon: opens /dev/fuse and mounts it."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions"
    MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    if LIBC.mount(b"src", os.fsencode(path), b"fuse.moefs", ctypes.c_ulong(flags), options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return fd


class MemoryGroup:
    """A memory control group of version 1 or 2 below this process's own; None where none can be made."""

    def __init__(self, limit):
        self.path = None
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "memory":
                base, name = Path("/sys/fs/cgroup/memory" + group), "memory.limit_in_bytes"
            elif controllers == "":
                base, name = Path("/sys/fs/cgroup" + group), "memory.max"
            else:
                continue
            path = base / f"moefs-test-{os.getpid()}"
            try:
                path.mkdir()
                (path / name).write_text(str(limit))
            except OSError:
                if path.is_dir():
                    path.rmdir()
                continue
            self.path = path
            return

    def close(self):
        if self.path:
            wait_until(lambda: not (self.path / "cgroup.procs").read_text())
            self.path.rmdir()


@pytest.fixture
def memory_group():
    made = []

    def make(limit):
        made.append(MemoryGroup(limit))
        if made[-1].path is None:
            pytest.skip("no memory control group can be made here (root, and the memory controller, are needed)")
        return made[-1].path

    yield make
    for group in made:
        group.close()


def mount_in_group(moefs, group, src, mnt, *options):
    """(process, what it has said so far) of a mount in the foreground that has begun to answer."""
    command = f'echo $$ >"{group}/cgroup.procs"; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-ec", command, "sh", moefs, "mount", "-f", *options, src, mnt], stderr=open(f"{mnt}.log", "wb")
    )
    assert wait_until(lambda: is_mounted(mnt) or process.poll() is not None, 30)
    os.statvfs(mnt)
    return process
