"""How mounts end: signals, unmounting, dying daemons, and mount points that are descriptors."""

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import is_mounted, wait_until
from mounting import LIBC, alive, daemon, daemon_of, in_namespace, mount_descriptor, refused
from mounting import mnt, public, src  # noqa: F401 (fixtures)

# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(mount, src, number):
    with mount(src) as m:
        (m / "config.json").read_bytes()
        assert m.kill(number) == 0
        assert not is_mounted(m.path)
        assert os.listdir(m.path) == []


def test_signal_lets_readers_finish(mount, src):
    """Unmounted at once, served until the last descriptor is closed."""
    with mount(src) as m, open(m / "tokenizer.json", "rb") as file:
        want = (src / "tokenizer.json").read_bytes()
        assert file.read(10) == want[:10]
        m.may_die = True
        m.process.terminate()
        assert wait_until(lambda: not is_mounted(m.path))
        with pytest.raises(FileNotFoundError):
            open(m / "tokenizer.json", "rb")
        assert wait_until(lambda: "still open somewhere" in m.log.read_text(), 5)
        assert m.process.poll() is None
        assert file.read() == want[10:]
        file.close()
        assert m.process.wait(10) == 0


def test_second_signal_ends_at_once(mount, src):
    with mount(src) as m, open(m / "tokenizer.json", "rb", buffering=0) as file:
        m.may_die = True
        m.process.terminate()
        assert wait_until(lambda: not is_mounted(m.path))
        m.process.terminate()
        assert m.process.wait(10) == 0
        with pytest.raises(OSError) as failure:
            os.pread(file.fileno(), 10, 2_900_000)
        assert failure.value.errno == errno.ENOTCONN


def test_second_signal_leaves_the_next_mount_alone(mount, run_moefs, src):
    """The first mount is detached and still read; another now lies at the same place."""
    with mount(src) as m, open(m / "tokenizer.json", "rb"):
        m.may_die = True
        m.process.terminate()
        assert wait_until(lambda: not is_mounted(m.path))
        with daemon(run_moefs, src, m.path, "-o", "allow_other"):
            m.process.terminate()
            assert m.process.wait(10) == 0
            assert (m / "config.json").read_bytes() == (src / "config.json").read_bytes()


def test_a_signal_leaves_the_mount_above_alone(mount, src):
    """Something else has been mounted over it: the daemon ends, says what it leaves behind, and takes nothing away."""
    with mount(src) as m:
        m.may_die = True
        subprocess.run(["mount", "-t", "tmpfs", "above", m.path], check=True)
        (m.path / "file").write_text("somebody else's")
        m.process.terminate()
        assert m.process.wait(10) == 1
        assert (m.path / "file").read_text() == "somebody else's"
        assert "another mount lies over this one" in m.log.read_text()
        subprocess.run(["umount", m.path], check=True)
        with pytest.raises(OSError) as failure:
            os.listdir(m.path)
        assert failure.value.errno == errno.ENOTCONN


def test_a_signal_finds_a_mount_that_was_moved(moefs, src, tmp_path):
    """Where it is now: not in the tree any more, and nothing at its first place is touched."""
    script = """
        mount -t tmpfs around "$3"; mkdir "$3/first" "$3/second"
        "$1" mount -f "$2" "$3/first" 2>"$3/log" &
        while ! grep -q "mounted at" "$3/log"; do sleep 0.01; done
        mount --move "$3/first" "$3/second"
        mount -t tmpfs another "$3/first"; echo here >"$3/first/file"
        cat "$3/second/assets/deep/note.txt"; echo
        kill $!; wait $!; echo "status $?"
        cat "$3/first/file"; grep -c " $3/second " /proc/self/mountinfo || :
        cat "$3/log"
    """
    place = tmp_path / "place"
    place.mkdir()
    done = in_namespace(script, moefs, src, place)
    hello, status, here, none, *log = done.stdout.splitlines()
    assert (hello, status, here, none) == ("hello", "status 0", "here", "0"), done.stderr
    assert log[-2:] == [
        f"moefs: {place}/first: the mount is now at {place}/second, and is unmounted there",
        f"moefs: {place}/first: no longer mounted",
    ]


def test_signal_finishes_the_reads_in_hand(mount, src):
    """A slow read that the daemon has begun is answered although it is told twice to end."""
    with mount(src, env={"MOEFS_FAULT": "delay:ms=700"}) as m:
        fd = os.open(m / "tokenizer.json", os.O_RDONLY | os.O_DIRECT)
        got = []
        reader = threading.Thread(target=lambda: got.append(os.preadv(fd, [mmap.mmap(-1, 4096)], 0)))
        reader.start()
        time.sleep(0.2)
        m.may_die = True
        m.process.terminate()
        assert wait_until(lambda: not is_mounted(m.path))
        m.process.terminate()
        assert m.process.wait(10) == 0
        reader.join(10)
        os.close(fd)
        assert got == [4096]


def test_unmounting_by_others_ends_the_daemon(mount, src):
    with mount(src) as m:
        subprocess.run(["umount", m.path], check=True)
        m.may_die = True
        assert m.process.wait(10) == 0


def test_many_lives(moefs, src, mnt):
    """A signal at any moment of mounting in the foreground: it always ends, and never leaves a mount. The status is
    that of a failure where the mount was not ready yet."""
    for step in range(25):
        process = subprocess.Popen([moefs, "mount", "-f", src, mnt], stderr=subprocess.DEVNULL)
        if step % 2:
            wait_until(lambda: is_mounted(mnt) or process.poll() is not None)
        time.sleep(step * 0.0005)
        process.terminate()
        assert process.wait(20) in (0, 1, -signal.SIGTERM)
        assert not is_mounted(mnt)


# umount


def test_umount_refuses_what_is_not_ours(run_moefs, mnt, tmp_path):
    assert f"{mnt}: nothing is mounted there" in refused(run_moefs, "umount", mnt)
    assert "No such file" in refused(run_moefs, "umount", tmp_path / "no" / "where")
    assert "nothing is mounted there" in refused(run_moefs, "umount", tmp_path / "absent")
    assert "not of moefs" in refused(run_moefs, "umount", "/proc")
    subprocess.run(["mount", "-t", "tmpfs", "nothing", mnt], check=True)
    assert "a mount of nothing (type tmpfs), not of moefs" in refused(run_moefs, "umount", mnt)
    assert is_mounted(mnt)


def test_umount_in_use(run_moefs, src, mnt):
    with daemon(run_moefs, src, mnt) as pid:
        with open(mnt / "tokenizer.json", "rb") as file:
            message = refused(run_moefs, "umount", mnt)
            assert f"{mnt}: in use" in message and "--lazy" in message
            assert is_mounted(mnt)
            assert run_moefs("umount", "--lazy", mnt).returncode == 0
            assert not is_mounted(mnt)
            assert file.read() == (src / "tokenizer.json").read_bytes()
            assert alive(pid)
        assert wait_until(lambda: not alive(pid))


def test_umount_inside_the_mount_is_not_the_mount(run_moefs, src, mnt):
    with daemon(run_moefs, src, mnt):
        assert "nothing is mounted there" in refused(run_moefs, "umount", mnt / "assets")
        assert is_mounted(mnt)


# Dying


def end_slowly_beside_the_next(mount, src, at):
    """The first daemon ends when the second one's mount has taken its place. Whether the second got the device number
    of the first."""
    with mount(src, at=at) as first:
        device = os.stat(at).st_dev
        os.kill(first.pid, signal.SIGSTOP)
        try:
            first.may_die = True
            # the system call alone: umount(8) asks the file system first, and would wait
            assert LIBC.umount2(os.fsencode(at), 0) == 0, os.strerror(ctypes.get_errno())
            with mount(src, at=at) as second:
                same = os.stat(at).st_dev == device
                os.kill(first.pid, signal.SIGCONT)
                assert first.process.wait(30) == 0
                assert "config.json" in os.listdir(at)
                assert is_mounted(at) and second.process.poll() is None
                return same
        finally:
            if first.process.poll() is None:
                os.kill(first.pid, signal.SIGCONT)


def test_a_slow_end_leaves_the_next_mount_alone(mount, src, tmp_path):
    """Both mounts get the same device number: the kernel gives it out anew as soon as the first is gone, unless
    somebody else on this machine mounts something in between."""
    at = tmp_path / "mnt"
    at.mkdir()
    if not any(end_slowly_beside_the_next(mount, src, at) for _ in range(5)):
        pytest.skip("no device number was given out anew in five tries: somebody else mounts at the same time")


def test_dead_mount_is_named_unmounted_and_mounted_again(mount, run_moefs, src):
    with mount(src) as m:
        m.kill(signal.SIGKILL)
        with pytest.raises(OSError) as failure:
            os.statvfs(m.path)
        assert failure.value.errno == errno.ENOTCONN
        message = refused(run_moefs, "mount", src, m.path)
        assert f"{m.path}: a dead mount of {src}" in message and f"moefs umount {m.path}" in message
        assert "a dead mount" in refused(run_moefs, "mount", "-o", "nonempty", src, m.path)
        assert run_moefs("umount", m.path).returncode == 0
        with daemon(run_moefs, src, m.path):
            assert (m / "assets/deep/note.txt").read_text() == "hello"


def test_dead_mount_with_open_files(mount, run_moefs, src):
    with mount(src) as m, open(m / "tokenizer.json", "rb", buffering=0) as file:
        m.kill(signal.SIGKILL)
        with pytest.raises(OSError) as failure:
            os.pread(file.fileno(), 10, 2_900_000)
        assert failure.value.errno == errno.ENOTCONN
        assert "--lazy" in refused(run_moefs, "umount", m.path)
        assert run_moefs("umount", "--lazy", m.path).returncode == 0
        with daemon(run_moefs, src, m.path):
            assert (m / "assets/deep/note.txt").read_text() == "hello"


def test_readers_get_an_error_when_the_daemon_is_killed(mount, src):
    with mount(src, env={"MOEFS_FAULT": "delay:ms=60000"}) as m:
        failures = []

        def read():
            try:
                (m / "tokenizer.json").read_bytes()
            except OSError as failure:
                failures.append(failure.errno)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        time.sleep(0.3)
        begin = time.monotonic()
        m.kill(signal.SIGKILL)
        for reader in readers:
            reader.join(10)
        assert time.monotonic() - begin < 5
        assert len(failures) == 4 and set(failures) <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}


def test_fault_text_that_is_wrong(run_moefs, src, mnt):
    environment = {**os.environ, "MOEFS_FAULT": "nonsense"}
    assert "nonsense" in refused(run_moefs, "mount", src, mnt, env=environment)
    assert not is_mounted(mnt)


def test_read_errors_are_eio_and_pass(mount, src):
    trigger = src.parent / "broken"
    want = (src / "tokenizer.json").read_bytes()
    with mount(src, env={"MOEFS_FAULT": f"error:trigger={trigger}"}) as m:
        trigger.touch()
        for name in ("tokenizer.json", "model-00001-of-00002.safetensors"):
            with pytest.raises(OSError) as failure:
                (m / name).read_bytes()
            assert failure.value.errno == errno.EIO
        trigger.unlink()
        assert (m / "tokenizer.json").read_bytes() == want
        assert os.stat(m / "tokenizer.json").st_size == len(want)
        assert "tokenizer.json" in m.log.read_text()


# The mount point is a descriptor


@pytest.mark.parametrize("foreground", [False, True])
def test_descriptor_as_mount_point(moefs, src, mnt, foreground):
    fd = mount_descriptor(mnt)
    command = [moefs, "mount", *(["-f"] if foreground else []), src, f"/dev/fd/{fd}"]
    if foreground:
        process = subprocess.Popen(command, pass_fds=[fd], stderr=subprocess.DEVNULL)
    else:
        subprocess.run(command, pass_fds=[fd], check=True, timeout=30)
    os.close(fd)
    assert (mnt / "tokenizer.json").read_bytes() == (src / "tokenizer.json").read_bytes()
    assert sorted(os.listdir(mnt)) == sorted(os.listdir(src))
    if foreground:
        process.terminate()  # the mount is not its own: it ends, and the mount is dead
        assert process.wait(10) == 0
        with pytest.raises(OSError) as failure:
            os.listdir(mnt)
        assert failure.value.errno == errno.ENOTCONN
        subprocess.run(["umount", mnt], check=True)
    else:
        pid = daemon_of(f"/dev/fd/{fd}")
        subprocess.run(["umount", mnt], check=True)
        assert wait_until(lambda: not alive(pid))


def test_descriptors_that_are_no_mount(run_moefs, src, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        fd = file.fileno()
        assert "not an open /dev/fuse" in refused(run_moefs, "mount", src, f"/dev/fd/{fd}", pass_fds=[fd])
    assert "Bad file descriptor" in refused(run_moefs, "mount", src, "/dev/fd/777")
    assert "not the number" in refused(run_moefs, "mount", src, "/dev/fd/x")
    assert "not the number" in refused(run_moefs, "mount", src, "/dev/fd/")
    assert "stdin, stdout and stderr" in refused(run_moefs, "mount", src, "/dev/fd/0")
    with open("/dev/fuse", "r+b", buffering=0) as unmounted:
        fd = unmounted.fileno()
        refused(run_moefs, "mount", src, f"/dev/fd/{fd}", pass_fds=[fd])
