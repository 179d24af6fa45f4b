"""Loaders that map a weight file, with loader threads and torch's own: a cold mount with and without read-ahead, beside
everything that bounds it: the same mount warm, the converted file on the disk warm, nullfs, and two threads that only
populate a cold mount."""

import ctypes
import mmap
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import machine
import operations
import report

GB = 1e9
PAGE = machine.PAGE
WARM_SERVED = 0.05  # CPU-seconds a GB; a server that worked more than that was asked for pages
MADV_POPULATE_READ = 22  # Linux 5.14
POPULATORS = 2


def torch_with(threads, prepare):
    """prepare, in a process whose torch computes with this many threads."""

    def prepare_with(path, limit, state):
        import torch

        torch.set_num_threads(threads)
        return prepare(path, limit, state)

    return prepare_with


def to_gpu(path, limit, state):
    """safetensors' load_file to the GPU; always the whole file."""
    import torch
    from safetensors.torch import load_file

    torch.zeros(1, device="cuda").cpu()  # the driver's start is not the file system's
    if state != "raw-warm":
        operations.forget_page_cache_of(path)

    def run():
        tensors = load_file(path, device="cuda")
        torch.cuda.synchronize()
        return sum(tensor.nbytes for tensor in tensors.values())

    return run


def populate(threads):
    """MADV_POPULATE_READ, each thread its own part: pages are brought into the page cache and nothing is copied."""

    def prepare(path, limit, _):
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        begin, end = operations.part_to_read(path, limit)
        fd = os.open(path, os.O_RDONLY)
        memory = mmap.mmap(fd, end, flags=mmap.MAP_PRIVATE)
        os.close(fd)
        part = -(-(end - begin) // threads // PAGE) * PAGE

        def populate_part(i):
            at = begin + i * part
            length = max(0, min(part, end - at))
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + at
            if madvise(address, -(-length // PAGE) * PAGE, MADV_POPULATE_READ):
                raise OSError(ctypes.get_errno(), "MADV_POPULATE_READ")
            return length

        def run():
            with ThreadPoolExecutor(threads) as pool:
                return sum(pool.map(populate_part, range(threads)))

        return run

    return prepare


def readers():
    """{label: operation}"""
    cores = os.cpu_count()
    found = {}
    for loaders, threads in ((1, 1), (4, 1), (1, cores), (4, cores)):
        label = f"{loaders} loader thread{'s' if loaders > 1 else ''}, torch's {threads}"
        found[label] = torch_with(threads, operations.safetensors(loaders))
    if os.path.exists("/dev/nvidiactl"):
        found["load_file to the GPU"] = to_gpu
    return found


class Mapped:
    """The measurements of one model. bench: run.py's, for its samples, servers and arguments."""

    def __init__(self, bench, source, to):
        self.bench, self.source, self.to = bench, source, to
        self.files = sorted(source.glob("*.safetensors"))
        self.like = bench.make_likeness(source, to)
        self.converted = bench.work / "converted"
        with bench.serve_moefs("moefs", source, to) as mount:
            shutil.rmtree(self.converted, ignore_errors=True)
            self.converted.mkdir()
            for path in mount.path.glob("*.safetensors"):
                shutil.copyfile(path, self.converted / path.name)
        os.sync()

    def serve(self, system):
        if system == "nullfs":
            return self.bench.serve_nullfs(self.like)
        if system in ("alone", "populate"):
            return self.bench.serve_moefs("moefs", self.source, self.to, ("--readahead", "off"))
        return self.bench.serve_moefs("moefs" if system == "warm" else system, self.source, self.to)

    def systems(self):
        return ["converted file", "nullfs", "alone", *self.bench.variants, "warm", "populate"]

    def measure(self, system, reader):
        operation = populate(POPULATORS) if system == "populate" else reader
        if system == "converted file":
            path = machine.largest(self.converted)
            machine.warm([path])
            return self.rate(operation, path, "raw-warm", None)
        machine.warm(self.files)
        with self.serve(system) as mount:
            path = machine.largest(mount.path)
            if system == "warm":
                machine.warm([path])
            run = self.rate(operation, path, "raw-warm" if system == "warm" else "warm", mount.pid)
        if system == "warm" and run["served"] > WARM_SERVED:
            self.bench.leave_out("nothing, but a warm mount was asked for pages again: something takes the page cache away")
        return run

    def rate(self, operation, path, state, pid):
        whole = operation is to_gpu
        # the page cache's, and the reader's own
        machine.have_memory(2 * (os.path.getsize(path) if whole else self.bench.limit))
        before = machine.process_cpu(pid) if pid else 0
        operations.OPERATIONS["mapped"] = (operation, "")
        result = operations.measure_in_child("mapped", str(path), self.bench.limit, state, 0, lambda: None)
        served = (machine.process_cpu(pid) if pid else 0) - before
        size = result["bytes"] / GB
        return {"rate": size / result["seconds"], "cpu": result["cpu"] / size, "served": served / size}


def measure(bench, title, source, to):
    """Prints the table; gives {label: {system: [{"rate": GB/s, "cpu", "served": CPU-seconds a GB of the reader, of who serves}]}}."""
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    needed = 2 * size + 3 * bench.limit  # two copies in the page cache; the mount's pages, the reader's memory
    if machine.available_memory() < needed:
        bench.leave_out(f"{title}, mapped: {needed / GB:.0f} GB of memory are needed")
        return {}
    mapped = Mapped(bench, source, to)
    systems, rows = mapped.systems(), {}
    for label, reader in readers().items():
        rows[label] = results = {system: [] for system in systems}
        for i in range(bench.arguments.repeat):
            for system in systems[i % len(systems) :] + systems[: i % len(systems)]:
                results[system].append(mapped.measure(system, reader))
    table = []
    for label, results in rows.items():
        cells = [label]
        for runs in results.values():
            rate, cpu, served = (median(run[key] for run in runs) for key in ("rate", "cpu", "served"))
            cells.append(f"{rate:.2f} ({cpu:.2f} + {served:.2f})")
        cells += [f"{report.ratio(results, 'moefs', base):.2f}" for base in ("nullfs", "alone", "warm", "populate")]
        table.append(cells)
    header = ["GB/s (CPU s/GB of the reader + the servers)", *systems, *(f"moefs / {base}" for base in ("nullfs", "alone", "warm", "populate"))]
    report.print_plain_table(f"{title}, mapped: cold mounts, and what bounds them", header, table)
    shutil.rmtree(mapped.converted)
    return rows
