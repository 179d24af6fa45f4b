"""Mounts in a memory cgroup: with the reader, as in a container that has memory for about one copy of the model, where what
the page cache holds decides how fast the model is read again; and the daemon by itself with next to none."""

import os
import subprocess
import time
from pathlib import Path
from statistics import median

import machine
import report
from machine import drop, largest, process_read, warm
from operations import measure_in_child

SLACK = 400 << 20  # for what is not page cache
DAEMON_LIMIT = 256 << 20  # less than a model, and than what the daemon would take by default
OFF = "read-ahead is off"
DEFAULT_READAHEAD = "64M"


class MemoryLimit:
    """A memory cgroup of its own, version 1 or 2; OSError where none may be made."""

    def __init__(self, limit):
        root = Path("/sys/fs/cgroup")
        version_2 = (root / "cgroup.controllers").exists()
        self.path = (root if version_2 else root / "memory") / f"moefs-bench-{os.getpid()}"
        if version_2:
            (root / "cgroup.subtree_control").write_text("+memory")
        self.path.mkdir()
        (self.path / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(limit))

    def enter(self):
        """For preexec_fn."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except OSError:  # its last process is still being reaped
                time.sleep(0.05)


def read_passes(serve, source_files, size, passes):
    """[{"rate": GB/s, "from disk": bytes a byte}] of reading all of a mount again and again, the source cold at first.
    serve(preexec) gives the Server."""
    found = []
    with MemoryLimit(int(size * 1.1) + SLACK) as limit:
        drop(source_files)
        with serve(limit.enter) as mount:
            for _ in range(passes):
                before, start = process_read(mount.pid)[1], time.perf_counter()
                for path in sorted(mount.path.glob("*.safetensors")):
                    subprocess.run(["cp", path, "/dev/null"], check=True, preexec_fn=limit.enter)
                seconds = time.perf_counter() - start
                found.append({"rate": size / seconds / 1e9, "from disk": (process_read(mount.pid)[1] - before) / size})
    return found


def read_twice(serve, length, seed):
    """Two passes of a loader, GB/s, over the largest file of a mount whose daemon has DAEMON_LIMIT; then whether its log says
    that it reads nothing ahead."""
    with MemoryLimit(DAEMON_LIMIT) as limit, serve(limit.enter) as mount:
        path = str(largest(mount.path))
        rates = []
        for state in ("warm", "raw-warm"):  # the second pass finds what the first has left
            machine.have_memory(2 * length)
            result = measure_in_child("mmap-1", path, length, state, seed, lambda: None)
            rates.append(result["bytes"] / result["seconds"] / 1e9)
        return {"cold": rates[0], "again": rates[1], "said that it is off": OFF in Path(mount.log.name).read_text()}


def in_turn(bench, model, option, values, read):
    """{value: [read(serve, repetition), ...]} for mounts with each value of the option; what was read if no cgroup can be made."""
    runs = {value: [] for value in values}
    for i in range(bench.arguments.repeat):
        for value in values[:: 1 if i % 2 == 0 else -1]:
            try:
                runs[value].append(read(lambda preexec: bench.serve_moefs("moefs", *model, (option, value), preexec), i))
            except OSError as error:
                bench.leave_out(f"with a memory limit: {error}")
                return {}
    return runs


def measure_passes(bench, title, source, to):
    """Prints the table of --source-cache keep and drop; gives the runs."""
    files = sorted(source.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    runs = in_turn(bench, (source, to), "--source-cache", ["keep", "drop"], lambda serve, _: read_passes(serve, files, size, 3))
    rows = []
    for mode, found in runs.items():
        cells = [f"{median(run[i]['rate'] for run in found):.2f} ({median(run[i]['from disk'] for run in found):.2f})" for i in range(3)]
        rows.append([f"--source-cache {mode}", *cells])
    report.print_plain_table(
        f"{title}: {size / 1e9:.1f} GB read three times with memory for 1.1 of it", ["GB/s (from disk, per byte)", "first", "second", "third"], rows)
    return runs


def measure_daemon(bench, title, source, to):
    """Prints the table of --readahead by default and off; gives the runs."""
    files = sorted(source.glob("*.safetensors"))

    def read(serve, i):
        warm(files)
        return read_twice(serve, bench.limit, i)

    runs = in_turn(bench, (source, to), "--readahead", [DEFAULT_READAHEAD, "off"], read)
    rows = []
    for value, found in runs.items():
        passes = [f"{median(run[key] for run in found):.2f}" for key in ("cold", "again")]
        ratio = median(run["again"] / off["again"] for run, off in zip(found, runs["off"]))
        rows.append([f"--readahead {value}", *passes, f"{ratio:.2f}", f"{sum(run['said that it is off'] for run in found)} of {len(found)}"])
    report.print_plain_table(
        f"{title}: the daemon in a memory cgroup of {DAEMON_LIMIT >> 20} MiB, get_tensor + clone",
        ["", "cold, GB/s", "again, GB/s", "again / off", "said that it is off"], rows)
    return runs
