"""scripts/bench: moefs against the raw file, a FUSE server that answers from memory, the offline conversion in torch,
and transformers' own loading of the original. Everything in one run, A and B interleaved, medians."""

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import limited
import machine
import mapped
import report
from operations import OPERATIONS, WHOLE_FILE, measure_in_child
from machine import Clock, Server, available_memory, cached_share, drop, process_cpu, process_read, process_status, warm

HERE = Path(__file__).resolve().parent
GB = 1e9
STEAL_LIMIT = 0.02

# name: (arguments of `moefs sample`, --to)
MODELS = {
    "merge": (["--like", "qwen3-30b-a3b"], "v5"),
    "transpose": (["--like", "qwen3-vl-30b-a3b"], "v5"),
    "interleave": (["--like", "gpt-oss-20b"], "merged"),
    "identity": (["--like", "qwen3-30b-a3b"], "original"),
}
SCALES = {
    "Qwen3-30B": ["--like", "qwen3-30b-a3b"],
    "207,360 expert tensors": ["--layers", "180", "--experts", "384", "--shards", "61", "qwen3_moe"],
}
NEED_TORCH = ("mmap-1", "mmap-4", "pread", "fastsafetensors")
PARTS = ("read", "mapped", "copy", "memory", "container", "load", "mount")
LIMITED = {"memory": limited.measure_passes, "container": limited.measure_daemon}
MEASURES = {"mapped": mapped.measure, **LIMITED}


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dir", help="where the data goes, a directory of its own in here; deleted at the end", default=tempfile.gettempdir())
    parser.add_argument("--tmpfs", help="a tmpfs to convert to", default="/dev/shm")
    parser.add_argument("--build", help=argparse.SUPPRESS, type=Path, required=True)  # scripts/bench makes it
    parser.add_argument("--repeat", help="measurements of each; the median counts", type=int, default=5)
    parser.add_argument("--layers", help="layers of the samples that are read", type=int, default=3)
    parser.add_argument("--load-layers", help="layers of the sample that transformers loads", type=int, default=6)
    parser.add_argument("--gib", help="of a file, at most this much is read", type=float, default=2)
    parser.add_argument("--models", help="which samples", default=",".join(MODELS))
    parser.add_argument("--operations", help="which ways of reading", default=",".join(OPERATIONS))
    parser.add_argument("--source", help="states of the source's page cache", default="warm,cold")
    parser.add_argument("--parts", help="which parts", default=",".join(PARTS))
    parser.add_argument("--variant", help="another moefs beside the first: NAME=[BINARY] OPTIONS of mount", action="append", default=[])
    parser.add_argument("--quick", help="small data, once: does this script work?", action="store_true")
    parser.add_argument("--json", help="all measurements", metavar="FILE")
    parser.add_argument("--svg", help="a chart", metavar="FILE")
    arguments = parser.parse_args()
    for name, allowed in (("models", MODELS), ("operations", OPERATIONS), ("parts", PARTS), ("source", ("warm", "cold"))):
        chosen = [item for item in getattr(arguments, name).split(",") if item]
        if wrong := [item for item in chosen if item not in allowed]:
            parser.error(f"--{name}: {wrong[0]}: not one of {', '.join(allowed)}")
        setattr(arguments, name, chosen)
    if arguments.quick:
        arguments.repeat, arguments.layers, arguments.load_layers = 1, 1, 1
        arguments.gib = min(arguments.gib, 0.25)
    return arguments


class Bench:
    def __init__(self, arguments, work):
        self.arguments, self.work = arguments, work
        self.moefs = arguments.build / "fs" / "moefs"
        self.nullfs = arguments.build / "scripts" / "benchmark" / "nullfs"
        self.limit = int(arguments.gib * (1 << 30))
        self.small = ["--experts", "8"] if arguments.quick else []
        self.variants = {"moefs": (self.moefs, [])}
        for text in arguments.variant:
            name, _, rest = text.partition("=")
            words = shlex.split(rest)
            binary = words.pop(0) if words and "/" in words[0] and not words[0].startswith("-") else self.moefs
            self.variants[name] = (binary, words)
        self.measured = {part: {} for part in PARTS}
        self.left_out = []
        self.read_ahead = {}  # KiB, by system

    # Samples

    def sample(self, arguments, layers):
        """The sample's directory, or None with the reason printed. One made before is used again."""
        target = self.work / ("sample" + "".join(arguments[-1:]) + str(layers))
        if target.exists():
            return target
        for path in self.work.glob("sample*"):  # one at a time: they are large
            shutil.rmtree(path)
        layer_option = ["--layers", str(layers)] if layers else []
        done = subprocess.run([self.moefs, "sample", *layer_option, *self.small, *arguments, target], capture_output=True, text=True)
        if done.returncode:
            self.leave_out(f"sample {shlex.join(arguments)}: {done.stderr.strip()}")
            return None
        os.sync()
        return target

    def model(self, name):
        """The sample's directory and --to, or None with the reason printed."""
        arguments, to = MODELS[name]
        source = self.sample(arguments, self.arguments.layers)
        return source and (source, to)

    def leave_out(self, what):
        self.left_out.append(what)
        print(f"\nleft out: {what}", flush=True)

    # Servers

    def serve_moefs(self, variant, source, to, more=(), preexec=None):
        binary, options = self.variants[variant]
        point = self.work / "mnt"
        return Server([binary, "mount", "-f", "--to", to, *options, *more, source, point], point, preexec)

    def serve_nullfs(self, like):
        point = self.work / "null"
        return Server([self.nullfs, like, point], point)

    def make_likeness(self, source, to):
        """The mount's files with their headers and no weights, for nullfs: sparse."""
        like = self.work / "like"
        shutil.rmtree(like, ignore_errors=True)
        like.mkdir()
        with self.serve_moefs("moefs", source, to) as mount:
            for path in mount.path.glob("*.safetensors"):
                with open(path, "rb") as file, open(like / path.name, "wb") as copy:
                    length = file.read(8)
                    copy.write(length + file.read(int.from_bytes(length, "little")))
                    copy.truncate(path.stat().st_size)
        return like

    # Reading one file

    def measure_file(self, system, operation, source, to, like, state, seed):
        files = sorted(source.glob("*.safetensors"))
        (warm if state == "warm" else drop)(files)
        if state == "cold" and (share := max(cached_share(path) or 0 for path in files)) > 0.02:
            self.leave_out(f"{system}, {operation}: {share:.0%} of the source stayed in the page cache")
        if system == "raw file":
            return self.rate(operation, machine.largest(source), f"raw-{state}", seed, None)
        server = self.serve_nullfs(like) if system == "nullfs" else self.serve_moefs(system, source, to)
        with server as mount:
            self.read_ahead[system] = machine.read_ahead(mount.path)
            path = machine.largest(mount.path)
            return self.rate(operation, path, state, seed, mount.pid)

    def rate(self, operation, path, state, seed, pid):
        size = os.path.getsize(path)
        # the page cache's, and the reader's own
        machine.have_memory(2 * (size if operation in WHOLE_FILE else min(self.limit, size)))

        def before():
            if pid:
                os.write(writing, json.dumps([process_cpu(pid), *process_read(pid)]).encode())

        reading, writing = os.pipe()
        result = measure_in_child(operation, str(path), self.limit, state, seed, before)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            then = json.loads(pipe.read() or b"null")
        cpu, size = result["cpu"], result["bytes"]
        run = {"rate": size / result["seconds"] / GB}
        if pid:
            cpu += process_cpu(pid) - then[0]
            run["amplification"], run["from disk"] = ((now - was) / size for now, was in zip(process_read(pid), then[1:]))
            run["daemon_rss"] = process_status(pid, "VmHWM")
        run["cpu"] = cpu / (size / GB)
        return run

    def read_part(self, model, source, to):
        like = self.make_likeness(source, to)
        variants = list(self.variants)
        if to == "original" and self.can_pass_through(source):
            self.variants["passthrough"] = (self.moefs, ["--passthrough"])
            variants.append("passthrough")
        for state in self.arguments.source:
            systems = ["raw file", *([] if state == "cold" else ["nullfs"]), *variants]
            rows = {}
            for operation in self.arguments.operations:
                if operation == "fastsafetensors" and not self.has_fastsafetensors():
                    continue
                rows[OPERATIONS[operation][1]] = results = {system: [] for system in systems}
                for i in range(self.arguments.repeat):
                    for system in systems[i % len(systems) :] + systems[: i % len(systems)]:
                        results[system].append(self.measure_file(system, operation, source, to, like, state, i))
            self.measured["read"][f"{model}, source {state}"] = rows
            report.print_row_table(f"{model}, source {state}", rows, systems)

    def can_pass_through(self, source):
        try:
            with self.serve_moefs("moefs", source, "original", ("--passthrough",)):
                return True
        except RuntimeError as error:
            self.leave_out(str(error).strip().splitlines()[-1])
            return False

    def has_fastsafetensors(self):
        try:
            import fastsafetensors  # noqa: F401
        except ImportError as error:
            self.leave_out(f"fastsafetensors: {error}")
            return False
        return True

    # Copying all of it

    def copy_tree(self, source, target):
        os.sync()
        start = time.perf_counter()
        subprocess.run(["cp", "-r", source, target], check=True)
        os.sync()
        seconds = time.perf_counter() - start
        shutil.rmtree(target)
        return seconds

    def copy_mount(self, variant, source, to, target):
        with self.serve_moefs(variant, source, to) as mount:
            seconds = self.copy_tree(mount.path, target)
            return seconds, process_status(mount.pid, "VmHWM")

    def run_program(self, *arguments):
        done = subprocess.run([sys.executable, HERE / "programs.py", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"programs.py {shlex.join(map(str, arguments))}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def copy_part(self, model, source, to):
        files = sorted(source.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        places = {"disk": self.work / "copy"}
        # the source in the page cache, the copy, and the converter's model and its stacked half
        if available_memory() > 3.5 * size and shutil.disk_usage(self.arguments.tmpfs).free > size * 1.05:
            places["tmpfs"] = Path(tempfile.mkdtemp(prefix="bench-", dir=self.arguments.tmpfs)) / "copy"
        else:
            self.leave_out(f"{model} to tmpfs: {3.5 * size / GB:.0f} GB of memory and {size / GB:.0f} GB of tmpfs are needed")
        try:
            for place, target in places.items():
                self.compare_copies(model, place, target, source, to, files, size)
        finally:
            for target in places.values():
                shutil.rmtree(target, ignore_errors=True)
            if "tmpfs" in places:
                places["tmpfs"].parent.rmdir()

    def compare_copies(self, model, place, target, source, to, files, size):
        runs = {"cp -r of the source": [], "cp -r of the mount": [], "torch": []}
        peaks = {"cp -r of the source": [0], "cp -r of the mount": [], "torch": []}
        if place == "disk" or "torch" not in sys.modules or MODELS[model][1] == "original":
            del runs["torch"], peaks["torch"]
        for i in range(self.arguments.repeat):
            names = list(runs)
            for name in names[i % len(names) :] + names[: i % len(names)]:
                warm(files)
                machine.have_memory(int(2.5 * size))
                if name == "torch":
                    result = self.run_program("convert", source, target)
                    if i == 0:  # or it would be another conversion that is compared
                        with self.serve_moefs("moefs", source, to) as mount:
                            self.run_program("same", target, mount.path)
                    shutil.rmtree(target)
                    runs[name].append(result["seconds"])
                    peaks[name].append(result["rss"])
                elif name == "cp -r of the mount":
                    seconds, peak = self.copy_mount("moefs", source, to, target)
                    runs[name].append(seconds)
                    peaks[name].append(peak)
                else:
                    runs[name].append(self.copy_tree(source, target))
        self.measured["copy"][f"{model} to {place}"] = {"seconds": runs, "peak RSS": peaks}
        mounted = runs["cp -r of the mount"]
        rows = [
            [name, f"{median(seconds):.2f}", f"{size / median(seconds) / GB:.2f}",
             f"{median(a / b for a, b in zip(seconds, mounted)):.2f}", f"{max(peaks[name]) / 1e6:.0f}" if max(peaks[name]) else ""]
            for name, seconds in runs.items()
        ]
        report.print_plain_table(
            f"{model}: {size / GB:.1f} GB to {place}", ["", "s", "GB/s", "time / mount's", "peak RSS of the converter, MB"], rows)

    # Loading into transformers

    def load_part(self):
        arguments, to = MODELS["merge"]
        source = self.sample(arguments, self.arguments.load_layers)
        if not source:
            return
        files = sorted(source.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        if available_memory() < 2.5 * size:
            self.leave_out(f"from_pretrained: {2.5 * size / GB:.0f} GB of memory are needed")
            return
        runs = {"original": [], "mount": []}
        for i in range(self.arguments.repeat):
            for name in list(runs)[:: 1 if i % 2 == 0 else -1]:
                warm(files)
                machine.have_memory(2 * size)
                if name == "original":
                    runs[name].append(self.run_program("load", source))
                else:
                    with self.serve_moefs("moefs", source, to) as mount:
                        runs[name].append(self.run_program("load", mount.path))
        self.measured["load"] = runs
        rows = []
        for name, results in runs.items():
            medians = {key: median(result[key] for result in results) for key in results[0]}
            rows.append([name, f"{medians['load']:.2f}", f"{medians['seconds']:.2f}", f"{medians['anonymous'] / 1e6:.0f}", f"{medians['rss'] / 1e6:.0f}"])
        report.print_plain_table(
            f"from_pretrained, {size / GB:.1f} GB, source warm, mount cold",
            ["", "loaded, s", "and every page touched, s", "peak anonymous, MB", "peak RSS, MB"], rows)

    # Mounting

    def mount_part(self):
        rows = []
        for name, arguments in SCALES.items():
            if self.arguments.quick and "61" in arguments:
                arguments = ["--layers", "4", "--experts", "16", "--shards", "3", "qwen3_moe"]
            source = self.sample(["--sparse", *arguments], None)
            if not source:
                continue
            seconds, rss, peak = [], [], []
            for _ in range(self.arguments.repeat):
                with self.serve_moefs("moefs", source, "v5") as mount:
                    seconds.append(mount.ready_seconds)
                    rss.append(process_status(mount.pid, "VmRSS"))
                    peak.append(process_status(mount.pid, "VmHWM"))
            self.measured["mount"][name] = {"seconds": seconds, "rss": rss, "peak": peak}
            rows.append([name, f"{median(seconds) * 1000:.0f}", f"{median(rss) / 2**20:.0f}", f"{median(peak) / 2**20:.0f}"])
        report.print_plain_table("mounting (sparse sources)", ["", "ready, ms", "RSS, MiB", "peak RSS, MiB"], rows)

    # All of it

    def measure_model(self, model):
        for part in self.arguments.parts:
            if part in ("load", "mount") or (part in LIMITED and model not in ("merge", "transpose")):
                continue
            if not (made := self.model(model)):
                return
            if part in MEASURES:
                self.measured[part][model] = MEASURES[part](self, model, *made)
            else:
                (self.read_part if part == "read" else self.copy_part)(model, *made)

    def run(self):
        for model in self.arguments.models:
            self.measure_model(model)
        if "load" in self.arguments.parts:
            self.load_part()
        if "mount" in self.arguments.parts:
            self.mount_part()

    def charts(self):
        hidden = {OPERATIONS[name][1] for name in ("random-4k", "random-1m")}
        panels = []
        for title, rows in self.measured["read"].items():
            shown = {label: report.summary(row) for label, row in rows.items() if label not in hidden}
            if title.endswith("warm") and shown:
                panels.append((f"{title}: GB/s", shown))
        return panels


def describe(bench):
    """What a reader of the figures has to know."""
    version = subprocess.run([bench.moefs, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    kind = subprocess.run(["stat", "-f", "-c", "%T", bench.work], capture_output=True, text=True).stdout.strip()
    return {
        "moefs": version, "kernel": platform.release(), "processor": processor, "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * machine.PAGE, "source file system": kind, "uid": os.geteuid(),
        "repeat": bench.arguments.repeat, "layers": bench.arguments.layers,
        "gib": bench.arguments.gib, "variants": {name: [str(binary), *options] for name, (binary, options) in bench.variants.items()},
        "load average before": os.getloadavg()[0],
    }


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        import torch

        torch.set_num_threads(1)  # imported once for all children; no pool of threads may exist before a fork
    except ImportError:
        arguments.operations = [name for name in arguments.operations if name not in NEED_TORCH]
        arguments.parts = [part for part in arguments.parts if part not in ("load", "mapped", "container")]
        print("without torch: no safetensors, no mapped loaders, no conversion in torch, no from_pretrained")
    work = Path(tempfile.mkdtemp(prefix="moefs-bench-", dir=arguments.dir))
    clock = Clock()
    try:
        bench = Bench(arguments, work)
        about = describe(bench)
        print(f"{about['moefs']}, kernel {about['kernel']}, {about['cores']} cores ({about['processor']}), "
              f"{about['memory'] / 2**30:.0f} GiB, source on {about['source file system']}, "
              f"medians of {arguments.repeat}, load average before {about['load average before']:.1f}", flush=True)
        bench.run()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    about.update(clock.shares(), left_out=bench.left_out, read_ahead=bench.read_ahead)
    print(f"\nload average after: {os.getloadavg()[0]:.1f}")
    print("read-ahead of the mounts, KiB: " + ", ".join(f"{name} {value}" for name, value in bench.read_ahead.items()))
    print(f"CPU time stolen by the host: {about['steal']:.1%}"
          + ("  MORE THAN 2%: compare ratios at most" if about["steal"] > STEAL_LIMIT else ""))
    if about["load average before"] > 0.3:
        print("The machine was not idle before: compare ratios at most")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"about": about, **bench.measured}, file, indent=1)
    if arguments.svg and (panels := bench.charts()):
        subtitle = (f"{about['cores']} cores, kernel {about['kernel']}, source warm, page cache of the mount cold, "
                    f"medians of {arguments.repeat}; steal {about['steal']:.1%}")
        report.write_svg(arguments.svg, panels, ["raw file", "nullfs", *bench.variants], subtitle)


if __name__ == "__main__":
    main()
