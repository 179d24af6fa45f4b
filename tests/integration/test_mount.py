"""A mount's life: becoming a daemon, what is refused and how, signals, unmounting, dying.

What the bytes are is other tests' business; here a file's contents matter only where they prove that it is served.
"""

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import is_mounted, mounts, wait_until
from mounting import LIBC, NOBODY, alive, daemon, daemon_of, in_namespace, mount_descriptor, refused, skip_without_mtab, user_files, write_checkpoint
from mounting import mnt, public, src  # noqa: F401 (fixtures)

# Becoming a daemon


def test_daemon_returns_when_the_mount_answers(run_moefs, src, mnt):
    with daemon(run_moefs, src, mnt) as pid:
        assert (mnt / "config.json").read_bytes() == (src / "config.json").read_bytes()
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
        run_moefs("umount", mnt, check=True)
        assert wait_until(lambda: not alive(pid))
    assert os.listdir(mnt) == []


def test_mount_options(run_moefs, src, mnt):
    with daemon(run_moefs, src, mnt):
        (found,) = [m for m in mounts() if m[0] == str(mnt)]
    assert found[1:3] == ("fuse.moefs", str(src))
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= set(found[3].split(","))


@pytest.mark.parametrize("name", ["with,comma", "back\\slash", "sp ace", "a\\,b", "new\nline", "é日"])
def test_odd_source_names(run_moefs, tmp_path, mnt, name):
    src = write_checkpoint(tmp_path / name)
    with daemon(run_moefs, src, mnt):
        assert [m[2] for m in mounts() if m[0] == str(mnt)] == [str(src)]
        assert (mnt / "assets/deep/note.txt").read_text() == "hello"


@pytest.mark.parametrize("name", ["sp ace", "back\\slash", "a,b", "tab\t", "-f"])
def test_odd_mount_points(run_moefs, src, tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    with daemon(run_moefs, src, path):
        assert (path / "assets/deep/note.txt").read_text() == "hello"
        run_moefs("umount", path, check=True)
        assert not is_mounted(path)


def test_relative_paths(run_moefs, src, mnt):
    done = run_moefs("mount", "src", "mnt/", cwd=mnt.parent)
    assert done.returncode == 0, done.stderr
    assert is_mounted(mnt)
    assert run_moefs("umount", "./mnt//", cwd=mnt.parent).returncode == 0
    assert not is_mounted(mnt)


def test_log_file(run_moefs, src, mnt, tmp_path):
    log = tmp_path / "moefs.log"
    with daemon(run_moefs, src, mnt, "--log-file", log):
        assert f"mounted at {mnt}" in log.read_text()
    assert f"{mnt}: no longer mounted" in log.read_text()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_descriptors(moefs, src, mnt, closed):
    """A file of ours opened as descriptor 2 would be written to by the first message."""

    def close():
        for fd in closed:
            os.close(fd)

    assert subprocess.run([moefs, "mount", src, mnt], preexec_fn=close, timeout=30).returncode == 0
    pid = daemon_of(mnt)
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert (mnt / "tokenizer.json").read_bytes() == (src / "tokenizer.json").read_bytes()


def test_foreground_logs_to_stderr(mount, src):
    with mount(src) as m:
        assert f"moefs: {src}: mounted at {m.path}" in m.log.read_text()
    assert f"moefs: {m.path}: no longer mounted" in m.log.read_text()


def test_caller_does_not_wait_for_the_daemons_descriptors(run_moefs, src, mnt):
    """A caller that reads moefs's output to the end gets to the end."""
    begin = time.monotonic()
    with daemon(run_moefs, src, mnt, timeout=20):
        assert time.monotonic() - begin < 20


def test_interrupted_caller_leaves_no_mount(moefs, src, mnt):
    """Killed at any moment of mounting: either it had returned, or nothing stays."""
    for delay in (0, 0.002, 0.005, 0.01, 0.02):
        caller = subprocess.Popen([moefs, "mount", src, mnt], stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(delay)
        caller.kill()
        caller.wait()
        caller.stderr.close()
        pid = wait_until(lambda: daemon_of(mnt), 0.2)
        if pid and wait_until(lambda: not alive(pid), 1):
            assert not is_mounted(mnt)
        if is_mounted(mnt):
            (mnt / "config.json").read_bytes()  # it was ready before the kill
            subprocess.run([moefs, "umount", mnt], check=True)
        assert wait_until(lambda: daemon_of(mnt) is None)


# What is refused


def test_usage_errors(run_moefs, src, mnt):
    cases = {
        ("mount",): "expected SRC MNT",
        ("mount", src): "expected SRC MNT",
        ("mount", src, mnt, "x"): "expected SRC MNT",
        ("mount", "--no-such", src, mnt): "--no-such: unknown option",
        ("mount", "-z", src, mnt): "-z: unknown option",
        ("mount", src, mnt, "--to"): "--to: needs a value",
        ("mount", "--foreground=1", src, mnt): "takes no value",
        ("mount", "--lazy", src, mnt): "--lazy: unknown option",
        ("mount", "--cache-size", "1X", src, mnt): "not a size",
        ("mount", "--cache-size", "", src, mnt): "not a size",
        ("mount", "--cache-size", "-1", src, mnt): "not a size",
        ("mount", "--cache-size", "1.5G", src, mnt): "not a size",
        ("mount", "--cache-size", "99999999999999999999", src, mnt): "not a size",
        ("mount", "--cache-size", "99999999999999G", src, mnt): "not a size",
        ("mount", "--cache-size", "1023K", src, mnt): "at least 1048576",
        ("umount",): "expected MNT",
        ("umount", "a", "b"): "expected MNT",
        ("frobnicate",): "no such command",
    }
    for arguments, message in cases.items():
        assert message in refused(run_moefs, *arguments, status=2)
    assert run_moefs().returncode == 2
    assert not is_mounted(mnt)


@pytest.mark.parametrize("command", [(), ("mount",), ("umount",)])
def test_help(run_moefs, command):
    done = run_moefs(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: moefs")


def test_version(run_moefs):
    done = run_moefs("--version")
    assert done.returncode == 0 and done.stdout.startswith("moefs 0.")


@pytest.mark.parametrize("foreground", [(), ("-f",)])
def test_mount_point_absent_or_no_directory(run_moefs, src, tmp_path, foreground):
    absent = tmp_path / "absent"
    assert f"{absent}: no such directory" in refused(run_moefs, "mount", *foreground, src, absent)
    below = tmp_path / "no" / "where"
    assert "No such file or directory" in refused(run_moefs, "mount", *foreground, src, below)
    plain = tmp_path / "file"
    plain.write_text("")
    assert f"{plain}: not a directory" in refused(run_moefs, "mount", *foreground, src, plain)
    dangling = tmp_path / "link"
    dangling.symlink_to("nowhere")
    assert "No such file or directory" in refused(run_moefs, "mount", *foreground, src, dangling)


def test_mount_point_not_empty(run_moefs, src, mnt):
    (mnt / "mine").write_text("keep")
    message = refused(run_moefs, "mount", src, mnt)
    assert f"{mnt}: not empty (it holds mine)" in message and "-o nonempty" in message
    assert not is_mounted(mnt)
    with daemon(run_moefs, src, mnt, "-o", "nonempty"):
        assert not (mnt / "mine").exists()
    assert (mnt / "mine").read_text() == "keep"


def test_mount_point_through_a_link(run_moefs, src, mnt, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(mnt)
    assert run_moefs("mount", src, link).returncode == 0
    assert is_mounted(mnt)
    assert run_moefs("umount", link).returncode == 0
    assert not is_mounted(mnt)


def test_mount_point_is_one_already(run_moefs, src, mnt):
    with daemon(run_moefs, src, mnt):
        message = refused(run_moefs, "mount", src, mnt)
        assert f"{mnt}: already a mount point, of {src} (type fuse.moefs)" in message
    subprocess.run(["mount", "-t", "tmpfs", "nothing", mnt], check=True)
    assert "already a mount point, of nothing (type tmpfs)" in refused(run_moefs, "mount", src, mnt)
    with daemon(run_moefs, src, mnt, "-o", "nonempty"):
        assert (mnt / "config.json").exists()
        subprocess.run(["umount", mnt], check=True)
    assert not is_mounted(mnt)


def test_mount_point_and_source_apart(run_moefs, src, tmp_path):
    inside = src / "assets" / "mnt"
    inside.mkdir()
    for point, message in (
        (src, "is the source directory itself"),
        (src / ".." / "src", "is the source directory itself"),
        (inside, f"lies inside the source directory {src}"),
        (tmp_path, f"would hide the source directory {src}"),
        ("/", f"would hide the source directory {src}"),
    ):
        assert message in refused(run_moefs, "mount", src, point)
    link = tmp_path / "elsewhere"
    link.symlink_to(inside)
    assert "lies inside" in refused(run_moefs, "mount", src, link)
    # a neighbour whose name begins like the source's is no relation
    neighbour = tmp_path / "src-mnt"
    neighbour.mkdir()
    with daemon(run_moefs, src, neighbour):
        pass


def test_mount_point_above_a_snapshot(run_moefs, tmp_path, mnt):
    """SRC is an HF cache's model directory: neither it nor what lies in it can be the mount point."""
    model = tmp_path / "models--org--name"
    write_checkpoint(model / "snapshots" / "abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    (model / "mnt").mkdir()
    assert "lies inside the source directory" in refused(run_moefs, "mount", model, model / "mnt")
    assert "would hide the source directory" in refused(run_moefs, "mount", model, model)
    with daemon(run_moefs, model, mnt):
        assert (mnt / "config.json").exists()


def test_fuse_options(run_moefs, src, mnt):
    assert "read-only" in refused(run_moefs, "mount", "-o", "rw", src, mnt)
    assert "subtype" in refused(run_moefs, "mount", "-o", "allow_other,subtype=x", src, mnt)
    assert "-o max_read=65536" in refused(run_moefs, "mount", "-o", "max_read=65536", src, mnt)
    message = refused(run_moefs, "mount", "-o", "no_such_option", src, mnt)
    assert message == "moefs: error: libfuse refuses the mount options: unknown option(s): `-o no_such_option'"
    assert not is_mounted(mnt)
    with daemon(run_moefs, src, mnt, "-o", "allow_other", "-o", "noexec,nonempty"):
        (found,) = [m for m in mounts() if m[0] == str(mnt)]
    assert {"allow_other", "noexec"} <= set(found[3].split(","))


def test_log_file_that_cannot_be_opened(run_moefs, src, mnt, tmp_path):
    assert "--log-file" in refused(run_moefs, "mount", "--log-file", tmp_path / "no" / "log", src, mnt)
    assert not is_mounted(mnt)


def test_no_fuse_device(moefs, src, mnt, tmp_path):
    (tmp_path / "dev").mkdir()
    script = 'mount --bind "$1" /dev; touch /dev/null; "$2" mount "$3" "$4"'
    done = in_namespace(script, tmp_path / "dev", moefs, src, mnt)
    assert done.returncode == 1
    assert "/dev/fuse: No such file or directory" in done.stderr and "modprobe fuse" in done.stderr


def test_no_permission_for_the_fuse_device(moefs, src, public):
    script = f'mount --bind "$1" /dev/fuse; {NOBODY} "$2" mount "$3" "$4"'
    done = in_namespace(script, *user_files(moefs, src, public, 0o600))
    assert done.returncode == 1
    assert "/dev/fuse: Permission denied" in done.stderr


def test_ordinary_user(moefs, src, public):
    """Through fusermount3: mounted, read, busy, unmounted; and one ended by a signal."""
    skip_without_mtab()
    script = f"""
        mount --bind "$1" /dev/fuse
        {NOBODY} "$2" mount "$3" "$4"
        {NOBODY} cat "$4/assets/deep/note.txt"; echo
        {NOBODY} sh -c 'exec 3<"$2/config.json"; "$1" umount "$2"; echo busy $?' sh "$2" "$4" 2>&1
        {NOBODY} "$2" umount "$4"
        grep -c " $4 " /proc/self/mountinfo || :
        {NOBODY} "$2" mount -f "$3" "$4" &
        while ! grep -q " $4 " /proc/self/mountinfo; do sleep 0.01; done
        {NOBODY} stat -f "$4" >/dev/null
        kill $!; wait $!; echo ended $?
        grep -c " $4 " /proc/self/mountinfo || :
    """
    done = in_namespace(script, *user_files(moefs, src, public, 0o666))
    assert done.returncode == 0, done.stderr
    hello, busy, status, none, ended, again = done.stdout.splitlines()
    assert (hello, status, none, ended, again) == ("hello", "busy 1", "0", "ended 0", "0")
    assert "in use" in busy and "--lazy" in busy


def test_no_right_to_mount(moefs, src, mnt):
    """A container with /dev/fuse and without CAP_SYS_ADMIN; fusermount3 cannot help it either."""
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", moefs, "mount", src, mnt],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"moefs: error: {mnt}: cannot be mounted" in done.stderr
    assert "not permitted" in done.stderr
    assert not is_mounted(mnt) and daemon_of(mnt) is None


def test_bad_source_leaves_nothing(run_moefs, mnt, tmp_path):
    assert str(tmp_path / "absent") in refused(run_moefs, "mount", tmp_path / "absent", mnt)
    assert not is_mounted(mnt) and daemon_of(mnt) is None


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
        mount --make-rprivate /
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
