"""The machine under the benchmark: page cache, CPU accounting, mounts."""

import ctypes
import mmap
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

CACHESTAT = 451  # the system call's number, the same on every architecture
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")
MADV_HUGEPAGE, MADV_POPULATE_WRITE = 14, 23  # Linux 5.14


def cached_share(path):
    """Which part of the file is in the page cache; None where the kernel (< 6.5) cannot say."""
    size = os.path.getsize(path)
    fd = os.open(path, os.O_RDONLY)
    where, found = (ctypes.c_uint64 * 2)(0, size), (ctypes.c_uint64 * 5)()
    answer = ctypes.CDLL(None, use_errno=True).syscall(CACHESTAT, fd, where, found, 0)
    os.close(fd)
    return found[0] * PAGE / max(size, PAGE) if answer == 0 else None


def largest(directory):
    """Its largest weight file."""
    return max(Path(directory).glob("*.safetensors"), key=os.path.getsize)


def drop(paths):
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm(paths):
    buffer = bytearray(4 << 20)
    for path in paths:
        if (cached_share(path) or 0) < 0.999:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def read_ahead(path):
    """KiB that the kernel reads ahead on the file system of path."""
    device = os.stat(path).st_dev
    return int(Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text())


def available_memory():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no MemAvailable in /proc/meminfo")


def have_memory(size):
    """Touches `size` bytes of free memory, or what there is of it. A virtual machine may have given what it does not use
    back to its host (free page reporting): each page then costs the first who touches it microseconds, which would be
    measured instead of the file system."""
    size = min(size, available_memory() // 2) // PAGE * PAGE
    if size > 0:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(MADV_HUGEPAGE)
            memory.madvise(MADV_POPULATE_WRITE)


class Clock:
    """CPU time of the whole machine since it was made: what was stolen, what was used."""

    def __init__(self):
        self.start = self.read()

    @staticmethod
    def read():
        return [int(field) for field in open("/proc/stat").readline().split()[1:9]]

    def shares(self):
        user, nice, system, idle, iowait, irq, softirq, steal = (b - a for a, b in zip(self.start, self.read()))
        total = user + nice + system + idle + iowait + irq + softirq + steal
        return {"steal": steal / max(1, total), "busy": 1 - (idle + iowait) / max(1, total)}


def process_cpu(pid):
    """CPU-seconds of the process and its children: moefs' readahead helper is one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / TICK + sum(process_cpu(child) for child in children)


def process_status(pid, field):
    """Bytes of VmRSS, VmHWM, RssAnon."""
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def process_read(pid):
    """Bytes that the process has got from read and pread, and bytes that it had fetched from a disk."""
    fields = dict(line.split(": ") for line in open(f"/proc/{pid}/io"))
    return int(fields["rchar"]), int(fields["read_bytes"])


def is_mounted(path):
    return any(line.split()[4] == str(path) for line in open("/proc/self/mountinfo"))


class Server:
    """A mount whose daemon runs as our child: unmounted and gone behind the with block."""

    def __init__(self, command, mount_point, preexec=None):
        self.command, self.path, self.preexec = [str(part) for part in command], Path(mount_point), preexec

    def __enter__(self):
        self.path.mkdir(exist_ok=True)
        self.log = open(f"{self.path}.log", "w+b")
        start = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=self.preexec
        )
        while not is_mounted(self.path):
            if self.process.poll() is not None:
                raise RuntimeError(f"{shlex.join(self.command)}: {Path(self.log.name).read_text()}")
            time.sleep(0.001)
        os.statvfs(self.path)
        self.ready_seconds = time.perf_counter() - start
        self.pid = self.process.pid
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            print(f"bench: does not end: {shlex.join(self.command)}: {Path(self.log.name).read_text()}", file=sys.stderr)
            self.process.kill()
            self.process.wait()
            subprocess.run(["umount", "-l", str(self.path)], check=False)
        self.log.close()
        os.unlink(self.log.name)
        if not is_mounted(self.path):
            self.path.rmdir()
