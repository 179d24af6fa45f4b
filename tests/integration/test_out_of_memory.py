"""Memory that runs out once the mount is up: it answers, or is gone and the log says why; never a dead mount."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import is_mounted, wait_until
from mounting import mnt, src  # noqa: F401 (fixtures)

FOREVER = 1_000_000
ALLOCATIONS = 40  # up to the first that belongs to a read there are fewer; see the last test


@pytest.fixture(scope="session")
def shim(moefs):
    path = Path(os.environ.get("MALLOC_SHIM_LIBRARY", moefs.parent.parent / "tests" / "support" / "libmalloc_shim.so"))
    if b"__asan_init" in moefs.read_bytes():
        pytest.skip("AddressSanitizer has an allocator of its own")
    assert path.is_file(), "the shim is built with the program"
    return path


def live(moefs, shim, src, mnt, first, count):
    """(exit status, log, allocations that failed) of a mount that is looked at, where it answers, and ended."""
    log, failed = mnt.parent / f"log-{first}-{count}", mnt.parent / f"failed-{first}-{count}"
    environment = {**os.environ, "LD_PRELOAD": str(shim), "MALLOC_SHIM": f"{first} {count}", "MALLOC_SHIM_LOG": str(failed)}
    with open(log, "wb") as output:
        process = subprocess.Popen([moefs, "mount", "-f", src, mnt], stdout=output, stderr=output, env=environment)
    try:
        wait_until(lambda: process.poll() is not None or "mounted at" in log.read_text(), 20)
        if process.poll() is None:
            subprocess.run(["stat", "-f", mnt], capture_output=True, timeout=20)  # answered, or an error
            process.send_signal(signal.SIGTERM)
        status = process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return status, log.read_text(), failed.stat().st_size if failed.exists() else 0


@pytest.mark.parametrize("count", [1, FOREVER], ids=["once", "for-good"])
def test_no_dead_mount(moefs, shim, src, mnt, count):
    """Whichever allocation behind mount(2) fails, alone or with all that follow."""
    seen = 0
    for first in range(ALLOCATIONS):
        status, log, failed = live(moefs, shim, src, mnt, first, count)
        what = f"allocation {first}, {failed} failed: status {status}: {log}"
        assert not is_mounted(mnt), what
        assert status == 0 or (status == 1 and "error: " in log), what
        seen += failed > 0
    assert seen > 5, "hardly anything failed: this tests nothing"


def test_the_first_request(moefs, shim, src, mnt):
    """Of all allocations behind mount(2) at least one is libfuse's for the kernel's first request, which it answers by
    an error that the kernel keeps to itself."""
    logs = [live(moefs, shim, src, mnt, first, 1) for first in range(ALLOCATIONS)]
    assert any(status == 1 and "first request could not be answered" in log for status, log, _ in logs)
