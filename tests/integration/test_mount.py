"""A mount's life: becoming a daemon, what is refused and how, signals, unmounting, dying.

What the bytes are is other tests' business; here a file's contents matter only where they prove that it is served.
"""

import os
import subprocess
import time

import pytest
from conftest import is_mounted, mounts, wait_until
from mounting import NOBODY, alive, daemon, daemon_of, in_namespace, refused, skip_without_mtab, user_files, write_checkpoint
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
