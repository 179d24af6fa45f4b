"""Memory that runs out once the mount is up: it answers, or is gone and the log says why; never a dead mount."""

import os
import signal
import subprocess
import pytest
from conftest import is_mounted, wait_until
from mounting import daemon_of, shim
from mounting import mnt, src  # noqa: F401 (fixtures)

FOREVER = 1_000_000
ALLOCATIONS = 40  # up to the first that belongs to a read there are fewer; see the last test


def failing(moefs, first, count, **more):
    """The environment of a process in which these allocations behind mount(2) fail."""
    return {**os.environ, "LD_PRELOAD": str(shim(moefs, "malloc")), "MALLOC_SHIM": f"{first} {count}", **more}


def live(moefs, src, mnt, first, count):
    """(exit status, log, allocations that failed) of a mount that is looked at, where it answers, and ended."""
    log, failed = mnt.parent / f"log-{first}-{count}", mnt.parent / f"failed-{first}-{count}"
    environment = failing(moefs, first, count, MALLOC_SHIM_LOG=str(failed))
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
def test_no_dead_mount(moefs, src, mnt, count):
    """Whichever allocation behind mount(2) fails, alone or with all that follow."""
    seen = 0
    for first in range(ALLOCATIONS):
        status, log, failed = live(moefs, src, mnt, first, count)
        what = f"allocation {first}, {failed} failed: status {status}: {log}"
        assert not is_mounted(mnt), what
        assert status == 0 or (status == 1 and "error: " in log), what
        seen += failed > 0
    assert seen > 5, "hardly anything failed: this tests nothing"


def test_the_first_request(moefs, src, mnt):
    """Of all allocations behind mount(2) at least one is libfuse's for the kernel's first request, which it answers by
    an error that the kernel keeps to itself."""
    logs = [live(moefs, src, mnt, first, 1) for first in range(ALLOCATIONS)]
    assert any(status == 1 and "first request could not be answered" in log for status, log, _ in logs)


def test_the_caller_is_told(moefs, src, mnt):
    """Of a daemon, too: before it is ready by its own message, and behind that because the mount does not answer."""
    messages = set()
    for first in range(12):
        log = mnt.parent / f"log-{first}"
        command = [moefs, "mount", "--log-file", log, src, mnt]
        done = subprocess.run(command, env=failing(moefs, first, 1), capture_output=True, text=True, timeout=30)
        if done.returncode == 0:
            subprocess.run([moefs, "umount", mnt], stderr=subprocess.DEVNULL)  # unless it has ended by now
        assert wait_until(lambda: not is_mounted(mnt) and daemon_of(mnt) is None), done.stderr
        if done.returncode == 0:
            continue
        assert done.returncode == 1 and "moefs: error: " in done.stderr
        messages.add(done.stderr.splitlines()[-1].partition("error: ")[2])
        if "it does not answer" in done.stderr or "has ended right after" in done.stderr:
            assert "error: serving the mount" in log.read_text()
    assert any("the kernel's first request" in message for message in messages)
    assert any("does not answer" in message or "has ended right after" in message for message in messages)
