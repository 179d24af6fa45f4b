"""What is measured: ways of reading one weight file. Each operation runs in a process of its own (measure_in_child),
which says how long the reading itself took, how many bytes it got and what CPU time it needed."""

import json
import mmap
import os
import random
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

MIB = 1 << 20
DIRECT_BLOCK = 8 * MIB


def part_to_read(path, limit):
    """Where the reading begins and ends: the file's last bytes, since the first are embeddings, which no layout
    changes."""
    size = os.path.getsize(path)
    return max(0, size - limit) // DIRECT_BLOCK * DIRECT_BLOCK, size


def sequential(path, limit, _):
    """read() of 1 MiB."""
    buffer, (begin, _) = bytearray(MIB), part_to_read(path, limit)

    def run():
        done = 0
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            while n := file.readinto(buffer):
                done += n
        return done

    return run


def copy(path, limit, _):
    """coreutils' cp to /dev/null; always the whole file."""

    def run():
        subprocess.run(["cp", path, "/dev/null"], check=True)
        return os.path.getsize(path)

    return run


def direct(threads):
    """O_DIRECT by pread of 8 MiB, each thread its own part of the file."""

    def prepare(path, limit, _):
        begin, total = part_to_read(path, limit)
        part = -(-(total - begin) // threads // DIRECT_BLOCK) * DIRECT_BLOCK
        buffers = [mmap.mmap(-1, DIRECT_BLOCK) for _ in range(threads)]
        for buffer in buffers:
            buffer.write(bytes(DIRECT_BLOCK))

        def read_part(i):
            fd, done, at = os.open(path, os.O_RDONLY | os.O_DIRECT), 0, begin + i * part
            end = min(at + part, total)
            while at < end and (n := os.preadv(fd, [buffers[i]], at)):
                at, done = at + n, done + n
            os.close(fd)
            return done

        def run():
            if threads == 1:
                return read_part(0)
            with ThreadPoolExecutor(threads) as pool:
                return sum(pool.map(read_part, range(threads)))

        return run

    return prepare


def names_within(path, limit):
    """The names of the file's last tensors, of at least `limit` bytes together, in the order of their bytes."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    names, total = [], 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"], reverse=True):
        if total >= limit:
            break
        names.append(name)
        total += entry["data_offsets"][1] - entry["data_offsets"][0]
    return names[::-1]


def forget_page_cache_of(path):
    """Reading the header, to prepare, has brought pages in."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def safetensors(threads, **keywords):
    """safe_open, then get_tensor and clone of each tensor."""

    def prepare(path, limit, state):
        from safetensors import safe_open

        names = names_within(path, limit)
        if state != "raw-warm":
            forget_page_cache_of(path)

        def get(file, name):
            return file.get_tensor(name).clone().nbytes

        def run():
            with safe_open(path, "pt", **keywords) as file:
                if threads == 1:
                    return sum(get(file, name) for name in names)
                with ThreadPoolExecutor(threads) as pool:
                    return sum(pool.map(lambda name: get(file, name), names))

        return run

    return prepare


def fastsafetensors(path, limit, state):
    """Its nogds path; always the whole file."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def run():
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: [path]})
        buffers = loader.copy_files_to_device()
        done = sum(buffers.get_tensor(name).nbytes for name in loader.get_keys())
        buffers.close()
        loader.close()
        return done

    return run


def scattered(length, count):
    """pread of `length` bytes at random places of the file's second half; the same places for everyone in one repetition."""

    def prepare(path, limit, state, seed=0):
        size = os.path.getsize(path)
        choose = random.Random(seed)
        begin = size // 2  # behind the embeddings
        places = [choose.randrange(begin, max(begin + 1, size - length)) // 4096 * 4096 for _ in range(count)]
        buffer = bytearray(length)

        def run():
            fd, done = os.open(path, os.O_RDONLY), 0
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for place in places:
                done += os.preadv(fd, [buffer], place)
            os.close(fd)
            return done

        return run

    return prepare


OPERATIONS = {
    "read": (sequential, "read() of 1 MiB"),
    "cp": (copy, "cp to /dev/null"),
    "direct": (direct(1), "O_DIRECT 8 MiB"),
    "direct-8": (direct(8), "O_DIRECT 8 MiB, 8 threads"),
    "mmap-1": (safetensors(1), "safetensors mmap, get_tensor + clone"),
    "mmap-4": (safetensors(4), "the same, 4 threads"),
    "pread": (safetensors(1, backend="pread"), "safetensors pread backend"),
    "fastsafetensors": (fastsafetensors, "fastsafetensors"),
    "random-4k": (scattered(4096, 2000), "random 4 KiB"),
    "random-1m": (scattered(MIB, 200), "random 1 MiB"),
}
WHOLE_FILE = ("cp", "fastsafetensors")  # whatever the limit


def cpu_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure_in_child(name, path, limit, state, seed, before):
    """{"seconds", "cpu", "bytes"} of one operation. before() is called in the child between preparing and running."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            prepare = OPERATIONS[name][0]
            run = prepare(path, limit, state, seed) if name.startswith("random") else prepare(path, limit, state)
            before()
            cpu, start = cpu_seconds(), time.perf_counter()
            done = run()
            result = {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - cpu, "bytes": done}
            os.write(writing, json.dumps(result).encode())
            status = 0
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to be told
            print(f"bench: {name} of {path}: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status or not text:
        raise RuntimeError(f"{name} of {path} failed")
    return json.loads(text)


class PeakMemory:
    """The highest anonymous memory of this process between start and stop, looked at every 10 ms."""

    def __init__(self):
        self.peak, self.stopped = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def look(self):
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon:"):
                self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def watch(self):
        while not self.stopped.wait(0.01):
            self.look()

    def __enter__(self):
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.look()
        self.stopped.set()
        self.thread.join()
