"""One process of the random-access test: does random reads of a mount and compares each with the oracle's file.

usage: access_worker.py SEED SECONDS MIN_READS GOT WANT   (two directories that must be equal)
Prints the number of reads; on a difference says where, and exits with 1. No pytest here: it must start fast, and it
must be killable when a page fault on the mount hangs.
"""
import mmap
import os
import random
import sys
import time
from pathlib import Path

from headers import read_header

PAGE = 4096


def borders(path):
    """Offsets at which something begins or ends: header, tensors, experts' slabs, pages, blocks, requests."""
    size = os.path.getsize(path)
    found = {0, 8, size}
    if path.suffix == ".safetensors":
        header = read_header(path)
        found.add(header.data)
        for _, shape, begin, end in header.tensors.values():
            found |= {begin, end}
            if len(shape) == 3 and end > begin:
                experts, rows, _ = shape
                slab = (end - begin) // experts
                found |= {begin + e * slab for e in range(experts)}
                found |= {begin + e * slab + slab // 2 for e in range(experts)}
                found |= {begin + r * (slab // rows) for r in range(min(rows, 8))}
    for step in (PAGE, 1 << 16, 1 << 17, 1 << 20):
        found |= {k * step for k in range(size // step + 1)} if size // step < 64 else \
                 {random.randrange(size // step) * step for _ in range(64)}
    return sorted(o for o in found if 0 <= o <= size)


class File:
    def __init__(self, got, want):
        self.path, self.want = got, want.read_bytes()
        self.size = len(self.want)
        self.borders = borders(want)
        self.open()
        self.private = self.shared = None
        if self.size:
            self.private = mmap.mmap(self.fd, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            self.shared = mmap.mmap(self.fd, self.size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)

    def open(self):
        self.fd = os.open(self.path, os.O_RDONLY)
        self.direct = os.open(self.path, os.O_RDONLY | os.O_DIRECT)

    def reopen(self):
        os.close(self.fd)
        os.close(self.direct)
        self.open()

    def range(self, rng):
        """A random range: anywhere, or around a border, and sometimes behind the end."""
        if rng.random() < 0.6 and self.borders:
            offset = max(0, rng.choice(self.borders) + rng.randint(-3, 3))
        else:
            offset = rng.randrange(self.size + PAGE)
        length = rng.choice([1, 2, rng.randint(1, 64), rng.randint(1, 5000), PAGE, 1 << 17, rng.randint(1, 1 << 19),
                             rng.randint(1, 3 << 20)])
        return offset, length


def pread_all(fd, offset, length):
    """pread may be short only at the end of the file; a short answer elsewhere is the bug that is looked for."""
    return os.pread(fd, length, offset)


def do_pread(rng, f):
    offset, length = f.range(rng)
    return offset, length, pread_all(f.fd, offset, length)


def do_direct(rng, f):
    offset, length = f.range(rng)
    if rng.random() < 0.5:
        offset, length = offset // PAGE * PAGE, -(-length // PAGE) * PAGE
    shift = rng.choice([0, 0, 1, 7, 512])  # an unaligned buffer too
    with mmap.mmap(-1, shift + length) as buffer, memoryview(buffer) as view, view[shift:] as part:
        n = os.preadv(f.direct, [part], offset)
        return offset, length, bytes(part[:n])


def do_mmap(rng, f, which):
    m = getattr(f, which)
    if m is None:
        return do_pread(rng, f)
    offset, length = f.range(rng)
    offset = min(offset, f.size)
    advice = rng.choice([None, None, mmap.MADV_RANDOM, mmap.MADV_SEQUENTIAL, mmap.MADV_DONTNEED, mmap.MADV_WILLNEED])
    if advice is not None:
        m.madvise(advice)
    if rng.random() < 0.2:
        # A fresh mapping of a part, at a page.
        start = offset // PAGE * PAGE
        if start < f.size:
            with mmap.mmap(f.fd, min(f.size - start, length + PAGE), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ,
                           offset=start) as part:
                return start, len(part), part[:]
    return offset, length, m[offset:offset + length]


def do_sendfile(rng, f):
    offset, length = f.range(rng)
    out = os.memfd_create("sendfile")
    try:
        sent = 0
        while sent < length and (n := os.sendfile(out, f.fd, offset + sent, length - sent)):
            sent += n
        return offset, length, os.pread(out, length, 0)
    finally:
        os.close(out)


def do_copy(rng, f):
    """From the beginning to the end in steps of one size, as cp does."""
    step = rng.choice([1 << 20, 1 << 17, 65536, 10007])
    out = bytearray()
    fd = os.open(f.path, os.O_RDONLY)
    try:
        while piece := os.read(fd, step):
            out += piece
    finally:
        os.close(fd)
    return 0, f.size + 1, bytes(out)


def do_drop(rng, f):
    """The page cache of the file is thrown away: what follows reaches the daemon."""
    os.posix_fadvise(f.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return do_pread(rng, f)


def do_reopen(rng, f):
    f.reopen()
    return do_pread(rng, f)


OPERATIONS = [(do_pread, 30), (do_direct, 25), (lambda r, f: do_mmap(r, f, "private"), 15),
              (lambda r, f: do_mmap(r, f, "shared"), 15), (do_sendfile, 8), (do_drop, 6), (do_reopen, 3), (do_copy, 1)]


def main():
    seed, seconds, least = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    got, want = Path(sys.argv[4]), Path(sys.argv[5])
    rng = random.Random(seed)
    random.seed(seed)
    files = [File(got / p.relative_to(want), p) for p in sorted(want.rglob("*")) if p.is_file() and p.stat().st_size]
    operations, weights = zip(*OPERATIONS)
    reads, end = 0, time.monotonic() + seconds
    while reads < least or time.monotonic() < end:
        f = rng.choice(files)
        operation = rng.choices(operations, weights)[0]
        offset, length, bytes_read = operation(rng, f)
        if bytes_read != f.want[offset:offset + length]:
            expected = f.want[offset:offset + length]
            at = next((k for k, (a, b) in enumerate(zip(bytes_read, expected)) if a != b), "the end")
            sys.exit(f"seed {seed}, read {reads}: {getattr(operation, '__name__', 'mmap')} of {f.path} "
                     f"[{offset}, +{length}): {len(bytes_read)} bytes, {len(expected)} expected, differs at {at}")
        reads += 1
    print(reads)


main()
