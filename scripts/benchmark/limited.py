"""Reading a mount with memory for about one copy of the model: what the page cache then holds decides how fast the model
is read again. The daemon and the reader are in one memory cgroup, as in a container."""

import os
import subprocess
import time
from pathlib import Path

from machine import drop, process_read

SLACK = 400 << 20  # for what is not page cache


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
