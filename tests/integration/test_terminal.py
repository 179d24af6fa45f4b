"""Names come from files that others wrote: nothing in them reaches a terminal that it would obey.

What a command prints is read as bytes here. Allowed is printable text and the line breaks of moefs itself, each of
which begins a line that moefs begins so.
"""

import json
import os
import struct
import subprocess
import unicodedata

import numpy as np
import pytest
from directory_cases import config, tensors, write
from safetensors.numpy import save_file

ESCAPE = "\x1b]0;owned\x07\x1b[31mred"
# Names that a header may have: they are JSON texts.
TENSORS = {
    "escape": f"model.{ESCAPE}",
    "line break": "model.x\nmoefs: error: a line that moefs did not write",
    "carriage return": "model.x\rmoefs: all is well",
    "C1": "model.x\x9b31mred",
    "direction": "model.\u202ethgiew\u2066",
}
# Names that a file may have, as bytes.
FILES = {
    "escape": os.fsencode(ESCAPE),
    "line break": b"x\nmoefs: error: a line that moefs did not write",
    "carriage return": b"x\rall is well",
    "C1": b"x\x9b31mred",
    "no UTF-8": b"x\xff\xfe",
}


def run(moefs, *arguments):
    done = subprocess.run([moefs, *arguments], capture_output=True, timeout=60, check=False)
    for output in (done.stdout, done.stderr):
        text = output.decode()  # it is UTF-8
        bad = [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
        assert not bad, (bad, text)
        assert not any(line.startswith("moefs: error: a line that") for line in text.splitlines()), text
    return done


@pytest.fixture
def src(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    write(src / "config.json", config())
    return src


@pytest.fixture
def mnt(tmp_path):
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


@pytest.mark.parametrize("case", TENSORS)
def test_tensor_names(moefs, src, mnt, case):
    name = TENSORS[case]
    save_file(tensors(0) | tensors(1) | {name: np.zeros(3, np.float32)}, src / "model.safetensors")
    done = run(moefs, "plan", src)
    assert done.returncode == 0 and b"\\x" in done.stdout
    done = run(moefs, "plan", src, "--explain", name)
    assert done.returncode == 0 and b"\\x" in done.stdout
    done = run(moefs, "verify", src)
    assert done.returncode == 0
    done = run(moefs, "plan", src, "--explain", name + "?")
    assert done.returncode == 1 and b"\\x" in done.stderr
    done = run(moefs, "mount", src, mnt, "--to", name)
    assert done.returncode != 0 and b"\\x" in done.stderr
    header = json.dumps({name: {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (src / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    done = run(moefs, "plan", src)
    assert done.returncode == 1 and b"\\x" in done.stderr


@pytest.mark.parametrize("case", TENSORS)
def test_a_difference_names_the_tensor(moefs, src, tmp_path, case):
    name = TENSORS[case]
    other = tmp_path / "other"
    other.mkdir()
    write(other / "config.json", config())
    both = tensors(0) | tensors(1)
    save_file(both | {name: np.zeros(3, np.float32)}, src / "model.safetensors")
    save_file(both | {name: np.ones(3, np.float32)}, other / "model.safetensors")
    done = run(moefs, "verify", src, other, "--to", "original")
    assert done.returncode == 3 and b"\\x" in done.stdout, done


@pytest.mark.parametrize("case", FILES)
def test_file_names(moefs, src, mnt, case):
    name = FILES[case]
    save_file(tensors(0) | tensors(1), src / "model.safetensors")
    path = os.fsencode(src) + b"/" + name
    os.symlink("/etc/passwd", path)  # leaves SRC: said, by its name
    done = run(moefs, "plan", src)
    assert b"\\x" in done.stderr, done
    os.unlink(path)
    done = run(moefs, "plan", path)
    assert done.returncode == 1 and b"\\x" in done.stderr
    done = run(moefs, "mount", src, path)
    assert done.returncode == 1 and b"\\x" in done.stderr
    done = run(moefs, "umount", path)
    assert done.returncode == 1 and b"\\x" in done.stderr
    done = run(moefs, "layouts", "--check", path)
    assert done.returncode == 1 and b"\\x" in done.stderr
    done = run(moefs, name)
    assert done.returncode == 2 and b"\\x" in done.stderr
    done = run(moefs, "mount", b"--" + name)
    assert done.returncode == 2 and b"\\x" in done.stderr
    done = run(moefs, "sample", "qwen3_moe", path)
    assert done.returncode == 0 and b"\\x" in done.stdout
