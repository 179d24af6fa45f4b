"""Random reads in every way a program can read a file, from several processes at once, against the oracle's files."""
import mmap
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import oracle
from checkpoints import make

SEED = int(os.environ.get("MOEFS_SEED", random.randrange(1 << 30)))
WORKER = Path(__file__).parent.parent / "support" / "access_worker.py"
PROCESSES = 4
SECONDS = float(os.environ.get("MOEFS_SECONDS", "2"))  # of each case; more for a long run by hand


def run_workers(got, want, seconds, least):
    print(f"MOEFS_SEED={SEED}")
    workers = [subprocess.Popen([sys.executable, WORKER, str(SEED + n), str(seconds), str(least), got, want],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in range(PROCESSES)]
    try:
        results = [(w, *w.communicate(timeout=90)) for w in workers]
    finally:
        for w in workers:
            w.kill()
    for w, _, err in results:
        assert w.returncode == 0, err
    reads = sum(int(out) for _, out, _ in results)
    print(f"{reads} reads")
    return reads


CASES = {
    # (source layout, target, dtype, cache): gathers with units far smaller than an expert's matrix, and plain copies
    "gather-f32-small-cache": ("in-out", "merged", torch.float32, "1M"),
    "gather-bf16": ("in-out", "per-expert", torch.bfloat16, "256M"),
    "gather-f16-small-cache": ("merged", "in-out", torch.float16, "1M"),
    "gather-f64-small-cache": ("per-expert", "in-out", torch.float64, "2M"),
    "copy-bf16": ("per-expert", "merged", torch.bfloat16, "256M"),
}


@pytest.mark.parametrize("case", CASES)
def test_random_reads(mount, tmp_path, case):
    layout, to, dtype, cache = CASES[case]
    checkpoint = make(7, shards=3, how="random", layout=layout, dtype=dtype, layers=2, experts=3, inner=301,
                      hidden=517, odd=True)
    src = checkpoint.write(tmp_path / "src")
    want = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / "want")
    with mount(src, "--to", to, "--cache-size", cache) as m:
        assert run_workers(m.path, want, SECONDS, 500) >= 4 * 500
        oracle.assert_same_directory(m.path, want)


def test_tiny_files_read_at_an_offset(mount, tmp_path):
    """Files below one page: a buffered read hides a wrong offset, O_DIRECT does not."""
    checkpoint = make(7, shards=2, experts=2, inner=2, hidden=3, layers=1, companions=False)
    src = checkpoint.write(tmp_path / "src")
    want = oracle.write(oracle.convert(checkpoint, "v5"), src, tmp_path / "want")
    with mount(src) as m:
        for path in (p for p in want.rglob("*") if p.is_file()):
            contents = path.read_bytes()
            fd = os.open(m / path.relative_to(want), os.O_RDONLY | os.O_DIRECT)
            try:
                for offset in range(len(contents) + 5):
                    for length in (1, 3, 4096):
                        buffer = mmap.mmap(-1, 8192)
                        n = os.preadv(fd, [memoryview(buffer)[:length]], offset)
                        assert buffer[:n] == contents[offset:offset + length], (path, offset, length)
            finally:
                os.close(fd)
        assert run_workers(m.path, want, 0.5, 200)


def test_past_the_end(mount, tmp_path):
    checkpoint = make(7, shards=3)
    src = checkpoint.write(tmp_path / "src")
    with mount(src) as m:
        for path in m.path.glob("*.safetensors"):
            size = path.stat().st_size
            for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
                fd = os.open(path, flags)
                whole = os.pread(fd, size + 100, 0)
                assert len(whole) == size
                assert os.pread(fd, 10, size - 1) == whole[-1:]
                for offset in (size, size + 1, size + 4096, size + (1 << 32), 1 << 62):
                    assert os.pread(fd, 10, offset) == b""
                os.close(fd)


def test_many_threads_on_the_same_bytes(mount, tmp_path):
    """64 threads ask for the same cold blocks at once, a small cache under them."""
    checkpoint = make(7, shards=1, layout="in-out", dtype=torch.float32, layers=1, experts=2, inner=200, hidden=300)
    src = checkpoint.write(tmp_path / "src")
    want = oracle.write(oracle.convert(checkpoint, "merged"), src, tmp_path / "want")
    name = next(p.name for p in want.glob("*.safetensors"))
    contents = (want / name).read_bytes()
    with mount(src, "--cache-size", "1M") as m:
        wrong, gate = [], threading.Barrier(64)

        def read(n):
            fd = os.open(m / name, os.O_RDONLY | os.O_DIRECT)
            try:
                gate.wait()
                for step in range(8):
                    offset = (n % 4) * 1000 + step * (len(contents) // 8)
                    if os.pread(fd, 70000, offset) != contents[offset:offset + 70000]:
                        wrong.append((n, step))
            finally:
                os.close(fd)

        threads = [threading.Thread(target=read, args=(n,)) for n in range(64)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert wrong == []
