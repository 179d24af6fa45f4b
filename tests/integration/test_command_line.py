"""What holds of every command: help, wrong usage, output that cannot be written."""

import json

import pytest
from directory_cases import config, tensors, write
from headers import read_header
from safetensors.numpy import save_file

COMMANDS = ("mount", "umount", "plan", "verify", "sample", "layouts")
SHARD = "model.safetensors"
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def src(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    write(src / "config.json", config())
    save_file(tensors(0) | tensors(1), src / SHARD)
    return src


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(run_moefs, command):
    done, asked = run_moefs("help", command), run_moefs(command, "--help")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == asked.stdout
    assert done.stdout.startswith(f"usage: moefs {command} ")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_of_no_command(run_moefs):
    assert run_moefs("help").stdout == run_moefs("--help").stdout
    done = run_moefs("help", "remount")
    assert done.returncode == 2 and "remount: no such command" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("mount", "--help"), ("layouts",), ("plan", "SRC"), ("plan", "SRC", "--json"),
     ("plan", "SRC", "--explain", GATE_UP), ("verify", "SRC"), ("verify", "SRC", "--json"), ("sample", "qwen3_moe", "NEW")],
    ids=" ".join,
)  # fmt: skip
def test_output_that_cannot_be_written_is_a_failure(run_moefs, tmp_path, src, arguments):
    paths = {"SRC": src, "NEW": tmp_path / "new"}
    with open("/dev/full", "w") as full:
        done = run_moefs(*(paths.get(a, a) for a in arguments), stdout=full)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("moefs: error")]
    assert errors == ["moefs: error: cannot write standard output: No space left on device"]


@pytest.mark.parametrize("option", ["--to", "--from"])
@pytest.mark.parametrize("command", [("plan", "SRC"), ("mount", "SRC", "MNT"), ("verify", "SRC")], ids=lambda c: c[0])
def test_an_unknown_layout_is_wrong_usage(run_moefs, tmp_path, src, command, option):
    paths = {"SRC": src, "MNT": tmp_path}
    arguments = [paths.get(a, a) for a in command]
    done = run_moefs(*arguments, option, "mergd")
    assert done.returncode == 2 and f"{option} mergd: unknown layout; did you mean merged?" in done.stderr
    done = run_moefs(*arguments, option, "nonsense")
    assert done.returncode == 2 and "did you mean" not in done.stderr and "Known: per-expert, merged" in done.stderr
    done = run_moefs(*arguments, option)
    assert done.returncode == 2 and f"{option}: needs a value, LAYOUT; `moefs {command[0]} --help`" in done.stderr
    # a file that is not there is no wrong usage: it may be there the next time
    done = run_moefs(*arguments, option, "./nonsense.json")
    assert done.returncode == 1 and "./nonsense.json" in done.stderr


def test_explains_as_json(run_moefs, src):
    done = run_moefs("plan", src, "--explain", GATE_UP, "--json")
    said = json.loads(done.stdout)
    listed = [t for t in json.loads(run_moefs("plan", src, "--json").stdout)["tensors"] if t["name"] == GATE_UP]
    for key in ("name", "dtype", "shape", "file", "offset", "length", "converted"):
        assert said[key] == listed[0][key]
    assert said["shape"] == [2, 6, 5] and said["holds"].startswith("gate up: expert")
    assert said["group"]["block"] == "model.layers.0.mlp" and said["group"]["to"] == "merged"
    header = read_header(src / SHARD).tensors
    names = [f"model.layers.0.mlp.experts.{e}.{p}_proj.weight" for e in range(2) for p in ("gate", "up")]
    assert [s["tensor"] for s in said["sources"]] == names
    for source in said["sources"]:
        entry = header[source["tensor"]]
        assert (source["dtype"], source["shape"], source["file"]) == (entry.dtype, entry.shape, SHARD)
        assert (source["runs"], source["bytes"], source["computed"]) == (1, entry.end - entry.begin, False)
    passing = json.loads(run_moefs("plan", src, "--explain", "other.0", "--json").stdout)
    assert (passing["group"], passing["holds"], passing["converted"]) == (None, None, False)
    assert [s["tensor"] for s in passing["sources"]] == ["other.0"]
    done = run_moefs("plan", src, "--explain", "no.such", "--json")
    assert done.returncode == 1 and done.stdout == "" and "--explain no.such" in done.stderr


def test_many_notes_are_counted(run_moefs, src):
    excludes = [f"--exclude=no-{i}" for i in range(40)]
    done = run_moefs("plan", src, *excludes)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("moefs: warning: --exclude")]
    assert done.returncode == 0 and len(warnings) == 16
    assert "moefs: ... and 24 more warnings" in done.stderr.splitlines()
