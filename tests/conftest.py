"""Fixtures shared by the integration tests.

`moefs` is the binary under test; `run_moefs` runs one command of it; `mount` mounts a checkpoint. A mount never
outlives its test: a watchdog process kills the daemon when the test's time is up or when pytest itself dies, which a
time limit inside Python could not do (a thread in a page fault on a stuck mount holds the interpreter's lock).
"""

import os
import shlex
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

TEST_LIMIT = 120  # seconds; a test that needs more says so with @pytest.mark.timeout(N)
ROOT = Path(__file__).resolve().parent.parent
LOGS = pytest.StashKey[list]()


def pytest_configure(config):
    config.addinivalue_line("markers", "timeout(seconds): the limit of one test")


def pytest_collection_modifyitems(items):
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_LIMIT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for name, path in item.stash.get(LOGS, []):
            text = path.read_text(errors="replace") if path.exists() else "(no log)"
            report.sections.append((f"log of {name} ({call.when})", text[-20000:] or "(empty)"))
    return report


@pytest.fixture(scope="session")
def moefs():
    """Path of the binary: $MOEFS, or fs/moefs in $MOEFS_BUILD or in build/."""
    build = Path(os.environ.get("MOEFS_BUILD", ROOT / "build"))
    path = Path(os.environ.get("MOEFS", build / "fs" / "moefs")).resolve()
    if not path.is_file():
        pytest.exit(f"no moefs at {path}: build it, or name it in MOEFS", returncode=2)
    return path


@pytest.fixture(scope="session")
def run_moefs(moefs):
    """run_moefs("plan", src, ...) -> CompletedProcess with text output; keyword arguments go to subprocess.run."""

    def run(*arguments, timeout=60, **keywords):
        keywords.setdefault("stdout", subprocess.PIPE)
        keywords.setdefault("stderr", subprocess.PIPE)
        return subprocess.run([str(moefs), *map(str, arguments)], text=True, timeout=timeout, **keywords)

    return run


def unescape(text):
    """The octal escapes of /proc/*/mountinfo."""
    out, i = bytearray(), 0
    raw = os.fsencode(text)
    while i < len(raw):
        if raw[i : i + 1] == b"\\":
            out.append(int(raw[i + 1 : i + 4], 8))
            i += 4
        else:
            out.append(raw[i])
            i += 1
    return os.fsdecode(bytes(out))


def mounts():
    """[(mount point, file system type, source, options)] of /proc/self/mountinfo, oldest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, right = line.split(" - ", 1)
        fields, (kind, source, superblock) = left.split(), right.split(" ", 2)
        found.append((unescape(fields[4]), kind, unescape(source), f"{fields[5]},{superblock}"))
    return found


def is_mounted(path):
    """Without touching the mount, which may be dead."""
    return any(point == str(path) for point, *_ in mounts())


def wait_until(condition, seconds=10.0):
    """Polls; the last answer of condition()."""
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return answer


class Mount:
    """A mount by `moefs mount -f`: path (of the mount point), pid, log (what the daemon wrote to stderr)."""

    def __init__(self, path, process, log, watchdog):
        self.path, self.log = path, log
        self.process, self.watchdog = process, watchdog
        self.pid = process.pid
        self.may_die = False  # set by a test that kills the daemon

    def __fspath__(self):
        return str(self.path)

    def __truediv__(self, name):
        return self.path / name

    def status(self, field):
        """A number of /proc/PID/status: VmRSS and VmHWM are in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise KeyError(field)

    def kill(self, number=signal.SIGKILL):
        """Ends the daemon with a signal and waits for it; returns its exit status."""
        self.may_die = True
        self.process.send_signal(number)
        return self.process.wait(30)


def start_watchdog(pid, path, seconds):
    script = f'read -r -t {seconds} line || {{ kill -9 {pid}; umount -l "$1"; }} 2>/dev/null'
    return subprocess.Popen(["bash", "-c", script, "watchdog", str(path)], stdin=subprocess.PIPE)


def stop_watchdog(watchdog):
    if watchdog.poll() is None:
        watchdog.communicate(b"done\n")
    watchdog.stdin.close()


@pytest.fixture
def mount(moefs, request, tmp_path_factory):
    """`with mount(src, "--to", "v5", env={...}) as m:` mounts src at m.path and unmounts it behind the block.

    MOEFS_TEST_OPTIONS: options of every mount, before the test's own, which thereby win.
    The daemon must be alive at the end and leave with status 0 on SIGTERM, or the test fails. at= names the mount
    point (else a new directory)."""
    logs = request.node.stash.setdefault(LOGS, [])
    limit = request.node.get_closest_marker("timeout").args[0]

    @contextmanager
    def mounted(src, *options, env=None, at=None):
        path = Path(at) if at else tmp_path_factory.mktemp("mnt")
        log = tmp_path_factory.mktemp("log") / "moefs.log"
        logs.append((path.name, log))
        everywhere = shlex.split(os.environ.get("MOEFS_TEST_OPTIONS", ""))
        command = [str(moefs), "mount", "-f", *everywhere, *map(str, options), str(src), str(path)]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}
            )
        watchdog = start_watchdog(process.pid, path, limit)
        m = Mount(path, process, log, watchdog)
        try:
            wait_until(lambda: is_mounted(path) or process.poll() is not None, 30)
            if process.poll() is not None:
                pytest.fail(f"moefs mount ended with {process.returncode}: {log.read_text(errors='replace')}")
            os.statvfs(path)  # the kernel asks the daemon for it
            yield m
            if not m.may_die:
                assert process.poll() is None, f"the daemon died with {process.returncode}"
                process.terminate()
                try:
                    process.wait(3)
                except subprocess.TimeoutExpired:  # a loader's tensors may still be mapped: a second signal ends it
                    process.terminate()
                assert process.wait(30) == 0, "the daemon's exit status"
                assert not is_mounted(path), "still mounted after SIGTERM"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(30)
            if is_mounted(path):
                subprocess.run(["umount", "-l", str(path)], check=False)
            stop_watchdog(watchdog)

    return mounted
