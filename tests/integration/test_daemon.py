"""What the caller of `moefs mount` leaves to the daemon, and must not: descriptors, signals, limits, a log that is a pipe."""

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import is_mounted, wait_until
from mounting import NOBODY, daemon, daemon_of, in_namespace, refused, shim, skip_without_mtab, user_files
from mounting import mnt, public, src  # noqa: F401 (fixtures)


def descriptors(pid):
    """{number: what it is} of a process."""
    return {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def children(pid):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "stat").read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_the_callers_descriptors_are_closed(run_moefs, src, mnt, tmp_path):
    """A pipe's reader sees its end, and a lock is released, when the caller is done."""
    reader, writer = os.pipe()
    lock = os.open(tmp_path / "lock", os.O_WRONLY | os.O_CREAT)
    theirs = {os.readlink(f"/proc/self/fd/{fd}") for fd in (writer, lock)}
    log = tmp_path / "log"
    with daemon(run_moefs, src, mnt, "--log-file", log, pass_fds=(writer, lock)) as pid:
        os.close(writer)
        os.close(lock)
        for process in (pid, *children(pid)):
            assert theirs.isdisjoint(descriptors(process).values())
        assert str(log) in descriptors(pid).values()
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""
        assert (mnt / "tokenizer.json").read_bytes() == (src / "tokenizer.json").read_bytes()
    os.close(reader)


def test_umount_where_the_caller_ignores_its_children(moefs, src, public):
    """An ordinary user's umount waits for fusermount3."""
    skip_without_mtab()
    script = f"""
        mount --bind "$1" /dev/fuse
        {NOBODY} env --ignore-signal=CHLD "$2" mount "$3" "$4"
        {NOBODY} env --ignore-signal=CHLD "$2" umount "$4"; echo "status $?"
        grep -c " $4 " /proc/self/mountinfo || :
    """
    done = in_namespace(script, *user_files(moefs, src, public, 0o666))
    assert done.stdout.splitlines() == ["status 0", "0"], done.stderr


def test_the_daemon_waits_for_its_children(moefs, src, mnt):
    """Whatever the caller ignores: wait() would find no child and give no status."""

    def ignoring(*arguments):
        command = ["env", "--ignore-signal=CHLD", moefs, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    with daemon(ignoring, src, mnt) as pid:
        status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    assert not ignored >> (signal.SIGCHLD - 1) & 1


def test_refusals_where_the_caller_ignores_its_children(moefs, src, mnt):
    command = ["env", "--ignore-signal=CHLD", moefs, "mount", "-o", "no_such_option", src, mnt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no_such_option" in done.stderr


def test_a_log_file_at_its_limit(run_moefs, src, mnt, tmp_path):
    """Lines that the file does not take are lost; the mount stays."""
    log = tmp_path / "log"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    environment = {**os.environ, "MOEFS_FAULT": "error:every=1"}
    with daemon(run_moefs, src, mnt, "--log-file", log, env=environment, preexec_fn=limit):
        for _ in range(3):
            with pytest.raises(OSError) as failure:
                (mnt / "tokenizer.json").read_bytes()
            assert failure.value.errno == errno.EIO
        assert log.stat().st_size == 100
        assert os.listdir(mnt)


def test_a_log_file_that_is_a_pipe(run_moefs, src, mnt, tmp_path):
    """Without a reader it is refused. A reader that does not read loses lines, and delays nothing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert f"--log-file {pipe}: a pipe that nobody has opened" in refused(run_moefs, "mount", "--log-file", pipe, src, mnt)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with daemon(run_moefs, src, mnt, "--log-file", pipe):
        assert b"mounted at" in os.read(reader, 65536)
        filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(filler, bytes(65536))
        os.close(filler)
        os.truncate(src / "tokenizer.json", 1000)
        with pytest.raises(OSError):
            (mnt / "tokenizer.json").read_bytes()  # says so in the log
        assert os.read(reader, 65536).strip(b"\0") == b""
    os.close(reader)


@pytest.mark.parametrize("what,message", [("die", "died before it was ready: Killed"),
                                          ("end", "ended before it was ready, with exit status 3")])
def test_a_daemon_that_ends_early(moefs, run_moefs, src, mnt, what, message):
    environment = {**os.environ, "LD_PRELOAD": str(shim(moefs, "setsid")), "SETSID_SHIM": what}
    assert refused(run_moefs, "mount", src, mnt, env=environment) == f"moefs: error: the daemon {message}"
    assert not is_mounted(mnt)


def test_a_daemon_whose_end_is_not_seen(moefs, src, mnt):
    """A caller that ignores its children is no reason to say how they ended."""
    environment = {**os.environ, "LD_PRELOAD": str(shim(moefs, "setsid")), "SETSID_SHIM": "die"}
    command = ["env", "--ignore-signal=CHLD", moefs, "mount", src, mnt]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "the daemon died before it was ready: Killed" in done.stderr


def test_a_caller_that_does_not_wait(moefs, src, mnt, tmp_path):
    """It is killed before the mount is ready: the daemon takes the mount down."""
    environment = {**os.environ, "LD_PRELOAD": str(shim(moefs, "setsid")), "SETSID_SHIM": "orphan"}
    log = tmp_path / "log"
    done = subprocess.run([moefs, "mount", "--log-file", log, src, mnt], env=environment, timeout=60)
    assert done.returncode == -9
    assert wait_until(lambda: log.exists() and "no longer mounted" in log.read_text())
    assert "the caller did not wait for the mount: taking it down" in log.read_text()
    assert wait_until(lambda: daemon_of(mnt) is None) and not is_mounted(mnt)


def test_no_more_processes(moefs, src, public):
    """Limits of processes hold for ordinary users alone."""
    script = f"""
        mount --bind "$1" /dev/fuse
        setpriv --reuid 65533 --regid 65533 --clear-groups prlimit --nproc=0 "$2" mount "$3" "$5"
    """
    files = user_files(moefs, src, public, 0o666)
    other = public / "other"
    other.mkdir()
    os.chown(other, 65533, 65533)
    done = in_namespace(script, *files, other)
    assert done.returncode == 1 and "moefs: error: fork: Resource temporarily unavailable" in done.stderr


def test_a_mount_that_is_not_in_the_mount_table(moefs, src, mnt, tmp_path):
    """It could not be found again when it is to end, so it is taken down at once."""
    fake = tmp_path / "proc"
    (fake / "self" / "fd").mkdir(parents=True)
    (fake / "self" / "mountinfo").write_text("")
    script = 'mount --bind "$1" /proc; "$2" mount -f "$3" "$4" || echo "status $?"; umount /proc; grep -c " $4 " /proc/self/mountinfo || :'
    done = in_namespace(script, fake, moefs, src, mnt)
    assert done.stdout.splitlines() == ["status 1", "0"], done.stderr
    assert f"{mnt}: mounted, but not in /proc/self/mountinfo" in done.stderr
