"""What a mount shows besides the bytes: listings, inodes, attributes, permissions, and how many may read at once."""

import ctypes
import errno
import mmap
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import mounts
from mounting import LIBC, NOBODY, as_nobody, daemon, in_namespace, refused, remount, user_files
from mounting import mnt, public, src  # noqa: F401 (fixtures)


def test_statfs(mount, src):
    with mount(src) as m:
        size = sum(os.stat(p).st_size for p in m.path.rglob("*") if p.is_file())
        numbers = os.statvfs(m.path)
        assert numbers.f_frsize == 4096 and numbers.f_bsize == 1 << 20
        assert numbers.f_blocks == -(-size // 4096)
        assert (numbers.f_bfree, numbers.f_bavail, numbers.f_ffree) == (0, 0, 0)
        assert numbers.f_files == 1 + sum(1 for _ in m.path.rglob("*"))
        assert numbers.f_namemax == 255
        assert numbers.f_flag & os.ST_RDONLY


def listing(directory):
    """{path: (inode, type)} as readdir gives it, without stat."""
    found = {}
    for entry in os.scandir(directory):
        found[entry.name] = (entry.inode(), entry.is_dir(follow_symlinks=False))
        if entry.is_dir(follow_symlinks=False):
            found |= {f"{entry.name}/{k}": v for k, v in listing(entry.path).items()}
    return found


def test_readdir(mount, src):
    with mount(src) as m:
        assert set(listing(m.path)) == set(listing(src))
        for path, (inode, is_directory) in listing(m.path).items():
            status = os.lstat(m / path)
            assert status.st_ino == inode
            assert stat.S_ISDIR(status.st_mode) == is_directory
        raw = subprocess.run(["ls", "-fi", m.path], capture_output=True, text=True, check=True).stdout.split("\n")
        assert raw[0].split() == ["1", "."] and raw[1].split()[1] == ".."


@pytest.mark.parametrize("n", [0, 1, 3000])
def test_large_directory(mount, src, n):
    """More entries than one reply holds, names of every length up to the longest."""
    folder = src / "assets" / "many"
    folder.mkdir()
    names = {f"{i:05d}" + "x" * (i % 251) for i in range(n)}
    for name in names:
        (folder / name).write_text(name[:5])
    with mount(src) as m:
        for _ in range(2):  # the second from the kernel's cache
            found = os.listdir(m / "assets/many")
            assert len(found) == n and set(found) == names
        # seeking in a listing
        done = subprocess.run(["find", m.path, "-type", "f"], capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == n + 6
        for name in sorted(names)[:: max(1, n // 10)]:
            assert (m / "assets/many" / name).read_text() == name[:5]


def test_lookups(mount, src):
    with mount(src) as m:
        for _ in range(2):
            for name in ("absent", "config.jso", "config.json2", "assets/absent", "x" * 255, "é"):
                with pytest.raises(FileNotFoundError):
                    os.stat(m / name)
        with pytest.raises(NotADirectoryError):
            os.stat(m.path / "config.json" / "x")
        with pytest.raises(OSError) as failure:
            os.stat(m / ("x" * 256))
        assert failure.value.errno == errno.ENAMETOOLONG
        assert os.stat(m.path / "assets" / ".." / "config.json").st_ino == os.stat(m / "config.json").st_ino


def test_inodes_are_stable(mount, src):
    """Over mounts, and over caches that are dropped."""
    with mount(src) as m:
        first = listing(m.path)
        fd = os.open(m / "config.json", os.O_RDONLY)
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert listing(m.path) == first
        assert os.fstat(fd).st_ino == first["config.json"][0]
        os.close(fd)
        assert os.stat(m.path).st_ino == 1
    with mount(src) as m:
        assert listing(m.path) == first


class Handle(ctypes.Structure):
    """struct file_handle, as name_to_handle_at fills it: what an NFS server gives to its clients."""

    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_char * 128)]

    def __init__(self, path):
        super().__init__(bytes=128)
        if LIBC.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(self), ctypes.byref(ctypes.c_int()), 0) != 0:
            raise OSError(ctypes.get_errno(), "name_to_handle_at")

    def open(self, mount):
        root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
        fd = LIBC.open_by_handle_at(root, ctypes.byref(self), os.O_RDONLY)
        error = ctypes.get_errno()
        os.close(root)
        if fd < 0:
            raise OSError(error, "open_by_handle_at")
        return fd


def drop_inodes():
    Path("/proc/sys/vm/drop_caches").write_text("2")


def test_file_handles_outlive_the_kernels_caches(mount, src):
    with mount(src) as m:
        note, deep = Handle(m / "assets/deep/note.txt"), Handle(m / "assets/deep")
        for _ in range(2):
            fd = note.open(m.path)
            assert os.read(fd, 100) == b"hello"
            os.close(fd)
            fd = deep.open(m.path)
            assert os.listdir(fd) == ["note.txt"]
            assert "config.json" in os.listdir(f"/proc/self/fd/{fd}/../..")
            os.close(fd)
            drop_inodes()


def test_file_handles_end_with_their_mount(mount, src):
    """Inodes are numbered in the order of their names: the number of a file is another file's in the next mount."""
    with mount(src) as m:
        handles = [Handle(m / name) for name in ("assets/deep/note.txt", "assets/deep", "config.json")]
    (src / "another.txt").write_text("not the same file")
    with mount(src) as m:
        for cached in (False, True):
            for handle in handles:
                with pytest.raises(OSError) as failure:
                    os.close(handle.open(m.path))
                assert failure.value.errno == errno.ESTALE
            if not cached:
                subprocess.run(["ls", "-lR", m.path], check=True, stdout=subprocess.DEVNULL)
        assert (m / "assets/deep/note.txt").read_text() == "hello"
        assert "another.txt" in os.listdir(m.path)


def test_attributes(mount, src):
    (src / "config.json").chmod(0o755)
    (src / "tokenizer.json").chmod(0o640)
    (src / "model-00001-of-00002.safetensors").chmod(0o644)
    (src / "model-00002-of-00002.safetensors").chmod(0o600)
    (src / "assets").chmod(0o750)
    os.chown(src / "tokenizer.json", 12, 34)
    os.utime(src / "config.json", ns=(1, 1_000_000_007))
    os.utime(src / "model-00001-of-00002.safetensors", ns=(1, 1_700_000_000_000_000_001))
    os.utime(src / "model-00002-of-00002.safetensors", ns=(1, 1_600_000_000_000_000_000))
    os.utime(src / "model.safetensors.index.json", ns=(1, 1_900_000_000_000_000_000))
    newest = 1_700_000_000_000_000_001
    expected = {
        "config.json": (0o100644, 0, 0, 1_000_000_007),
        "tokenizer.json": (0o100640, 12, 34, os.stat(src / "tokenizer.json").st_mtime_ns),
        "model-00001-of-00002.safetensors": (0o100600, 0, 0, newest),
        "model-00002-of-00002.safetensors": (0o100600, 0, 0, newest),
        "model.safetensors.index.json": (0o100600, 0, 0, newest),
        "assets": (0o040750, 0, 0, os.stat(src / "assets").st_mtime_ns),
    }
    with mount(src) as m:
        for name, want in expected.items():
            s = os.stat(m / name)
            assert (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) == want, name
            assert s.st_blksize == 1 << 20
            assert s.st_blocks == -(-s.st_size // 512)
            assert s.st_nlink == (3 if name == "assets" else 1)
        for name in ("config.json", "tokenizer.json"):
            assert os.stat(m / name).st_size == os.stat(src / name).st_size


def test_permissions_hold_for_others(mount, src, public):
    (src / "tokenizer.json").chmod(0o600)
    path = public / "mnt"
    path.mkdir()
    with mount(src, "-o", "allow_other", at=path):
        assert as_nobody("cat", path / "assets/deep/note.txt").stdout == "hello"
        done = as_nobody("cat", path / "tokenizer.json")
        assert done.returncode == 1 and "Permission denied" in done.stderr
    path.rmdir()


def test_allow_root_is_for_root(moefs, src, public):
    """Others get neither names nor attributes, also where root or the owner has just asked for them."""
    script = f"""
        mount --bind "$1" /dev/fuse
        echo user_allow_other >"$5"; mount --bind "$5" /etc/fuse.conf
        {NOBODY} "$2" mount -o allow_root "$3" "$4"
        ls -lR "$4" >/dev/null; stat "$4/config.json" >/dev/null; cat "$4/assets/deep/note.txt"; echo
        {NOBODY} ls -lR "$4" >/dev/null; {NOBODY} cat "$4/config.json" >/dev/null
        for command in "stat $4/config.json" "stat $4/assets/deep" "ls $4" "ls $4/assets" "cat $4/config.json"; do
            setpriv --reuid 1234 --regid 1234 --clear-groups $command 2>&1 >/dev/null | grep -o "Permission denied" || echo "$command"
        done
        {NOBODY} cat "$4/assets/deep/note.txt"; echo
        {NOBODY} "$2" umount "$4"
    """
    Path("/etc/fuse.conf").touch()
    done = in_namespace(script, *user_files(moefs, src, public, 0o666), public / "fuse.conf")
    assert done.stdout.splitlines() == ["hello", *["Permission denied"] * 5, "hello"], done.stderr


def test_read_only(mount, src):
    with mount(src) as m:
        for attempt in (
            lambda: open(m / "config.json", "r+b"),
            lambda: open(m / "new", "wb"),
            lambda: os.truncate(m / "config.json", 0),
            lambda: os.unlink(m / "config.json"),
            lambda: os.mkdir(m / "new"),
            lambda: os.rename(m / "config.json", m / "new"),
            lambda: os.chmod(m / "config.json", 0o777),
            lambda: os.utime(m / "config.json"),
            lambda: os.symlink("x", m / "new"),
        ):
            with pytest.raises(OSError) as failure:
                attempt()
            assert failure.value.errno == errno.EROFS
        with pytest.raises(OSError) as failure:
            os.getxattr(m / "config.json", "user.x")
        assert failure.value.errno == errno.EOPNOTSUPP


def test_copies_can_be_changed(mount, src, public):
    """An ordinary user's copy takes the modes over: it can be added to, written over, copied again and removed."""
    mnt, home = public / "mnt", public / "home"
    mnt.mkdir()
    home.mkdir()
    os.chown(home, 65534, 65534)
    (src / "tokenizer.json").chmod(0o444)
    script = """
        cp -r "$1" "$2/copy"
        touch "$2/copy/new" "$2/copy/assets/new"
        for file in "$2"/copy/*.safetensors "$2/copy/config.json"; do echo more >>"$file"; done
        cp -rf "$1/." "$2/copy"
        diff -r "$1" "$2/copy" || :
        stat -c %a "$2/copy/tokenizer.json"
        rm -r "$2/copy"
        for path in "$1/config.json" "$1/new"; do echo more >>"$path" || :; done
        mkdir "$1/new" || :
        rm -f "$1/config.json" || :
    """
    with mount(src, "-o", "allow_other", at=mnt):
        done = as_nobody("sh", "-ec", script, "sh", mnt, home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"Only in {home}/copy/assets: new", f"Only in {home}/copy: new", "444"]
    assert done.stderr.count("Read-only file system") == 4, done.stderr
    mnt.rmdir()


def test_opening_never_truncates(mount, src):
    """Whoever has remounted it, and mounts that the caller has made: O_TRUNC comes with an open for reading."""
    with mount(src) as m:
        remount(m.path, 0)
        assert next(options for point, _, _, options in mounts() if point == str(m.path)).startswith("rw,")
        name = next(m.path.glob("*.safetensors")).name
        size = (m / name).stat().st_size
        for flags in (os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC, os.O_RDWR):
            with pytest.raises(OSError) as failure:
                os.open(m / name, flags)
            assert failure.value.errno == errno.EROFS
        assert (m / name).stat().st_size == size > 0
        assert len((m / name).read_bytes()) == size


def test_reading_past_the_end(mount, src):
    with mount(src) as m:
        for name in ("tokenizer.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
            size = os.stat(m / name).st_size
            fd = os.open(m / name, os.O_RDONLY)
            direct = os.open(m / name, os.O_RDONLY | os.O_DIRECT)
            whole = os.pread(fd, size + 1, 0)
            assert len(whole) == size
            for f in (fd, direct):
                buffer = mmap.mmap(-1, 1 << 16)
                for offset in (size - 1, size, size + 1, size + (1 << 40)):
                    n = os.preadv(f, [buffer], offset)
                    assert buffer[:n] == whole[offset:]
                os.close(f)


def test_directories_cannot_be_read(mount, src):
    with mount(src) as m:
        fd = os.open(m / "assets", os.O_RDONLY)
        with pytest.raises(IsADirectoryError):
            os.read(fd, 1)
        os.close(fd)


def test_two_mounts_of_one_source(mount, src):
    with mount(src) as one, mount(src, "--to", "in-out") as two:
        assert one.pid != two.pid
        name = "model-00001-of-00002.safetensors"
        assert (one / name).read_bytes() != (two / name).read_bytes()
        assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()
        one.kill(signal.SIGTERM)
        assert (two / "config.json").read_bytes() == (src / "config.json").read_bytes()


def test_a_mount_of_a_mount(mount, src):
    with mount(src) as one, mount(one.path, "--to", "per-expert") as two:
        assert (two / "assets/deep/note.txt").read_text() == "hello"


def test_more_readers_than_threads(mount, src):
    want = (src / "tokenizer.json").read_bytes()
    with mount(src, env={"MOEFS_FAULT": "delay:ms=50"}) as m:
        wrong = []

        def read():
            fd = os.open(m / "tokenizer.json", os.O_RDONLY | os.O_DIRECT)
            buffer = mmap.mmap(-1, 1 << 20)
            for offset in range(0, len(want), 1 << 20):
                n = os.preadv(fd, [buffer], offset)
                if buffer[:n] != want[offset : offset + (1 << 20)]:
                    wrong.append(offset)
            os.close(fd)

        readers = [threading.Thread(target=read) for _ in range(80)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
        assert wrong == []
        # the workers, the main thread, the one for signals; a sanitizer has one of its own
        assert m.status("Threads") <= 3 + max(32, 2 * os.cpu_count())


def test_few_descriptors(run_moefs, src, mnt):
    """The soft limit is raised; where the hard one is too low, the message says so."""
    for i in range(60):
        (src / "assets" / f"f{i}").write_text("x")

    def limit(soft, hard):
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with daemon(run_moefs, src, mnt, preexec_fn=limit(20, 1000)):
        assert (mnt / "assets" / "f59").read_text() == "x"
    assert "the limit is 20" in refused(run_moefs, "mount", src, mnt, preexec_fn=limit(20, 20))


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
