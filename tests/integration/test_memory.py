"""The daemon's memory: the cache's size, what each of its threads needs, and a fixed rest; less in a control group."""
import subprocess
from pathlib import Path

import pytest
from mounting import memory_group, mnt, mount_in_group  # noqa: F401 (fixtures)

CACHE_MIB = 64
REST_MIB = 64
READERS = 4

CASES = {
    # (layout of the source, target); 2 layers of 16 experts of 768 x 2048, twice: 0.6 GB, matrices of 6.3 and 3.1 MB
    "transpose": ("in-out", "merged"),
    "merge": ("per-expert", "merged"),
    "transpose-and-split": ("in-out", "per-expert"),
}
SIZES = ["--layers", "4", "--experts", "16", "--hidden", "2048", "--intermediate", "768", "--shards", "4", "--sparse"]


@pytest.mark.parametrize("case", CASES)
def test_resident_memory_is_bounded(run_moefs, mount, tmp_path, case):
    layout, to = CASES[case]
    made = run_moefs("sample", *SIZES, "--layout", layout, "qwen3_moe", tmp_path / "src")
    assert made.returncode == 0, made.stderr
    with mount(tmp_path / "src", "--to", to, "--cache-size", f"{CACHE_MIB}M") as m:
        if "libasan" in Path(f"/proc/{m.pid}/maps").read_text():
            pytest.skip("AddressSanitizer's own memory would be counted")
        files = sorted(m.path.glob("*.safetensors"))
        size = sum(f.stat().st_size for f in files)
        assert size > 4 * CACHE_MIB << 20  # or the cache would hold everything whatever its size
        readers = [subprocess.Popen(["cat", *files[n:], *files[:n]], stdout=subprocess.DEVNULL) for n in range(READERS)]
        for reader in readers:
            assert reader.wait(100) == 0
        threads = m.status("Threads")
        bound = CACHE_MIB + 2 * threads + REST_MIB
        peak, now = m.status("VmHWM") / 1024, m.status("VmRSS") / 1024
        print(f"{size / 1e9:.2f} GB: peak {peak:.0f} MiB, then {now:.0f} MiB; {threads} threads, bound {bound} MiB")
        assert now <= peak < bound


def test_many_readers_in_a_small_control_group(moefs, run_moefs, tmp_path, mnt, memory_group):  # noqa: F811
    """A thread for each of 32 readers, 2 MiB each, would be all that the group may have, and the daemon killed."""
    if b"__asan_init" in moefs.read_bytes():
        pytest.skip("AddressSanitizer's own memory would be counted")
    made = run_moefs("sample", *SIZES, "--layout", "in-out", "qwen3_moe", tmp_path / "src")
    assert made.returncode == 0, made.stderr
    daemon = mount_in_group(moefs, memory_group(64 << 20), tmp_path / "src", mnt, "--to", "merged")
    try:
        files = sorted(mnt.glob("*.safetensors"))
        command = ["dd", "of=/dev/null", "bs=1M", "iflag=direct", "count=8", "status=none"]
        readers = [subprocess.Popen([*command, f"if={files[n % len(files)]}", f"skip={4 * n}"]) for n in range(32)]
        assert [reader.wait(100) for reader in readers] == [0] * len(readers)
        assert daemon.poll() is None
        assert "8 threads answer requests instead of" in Path(f"{mnt}.log").read_text()
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0
