"""Runs the small C programs of this directory that take many cases at once (cases.h)."""

import os
import struct
import subprocess
from pathlib import Path

BUILD = Path(os.environ.get("MOEFS_BUILD", Path(__file__).resolve().parents[2] / "build"))


def run_cases(program, cases):
    """The program's whole output for these cases (bytes each)."""
    stdin = b"".join(struct.pack("<Q", len(case)) + case for case in cases)
    done = subprocess.run([str(BUILD / "tests" / "support" / program)], input=stdin, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
    return done.stdout


def split_answers(output):
    """Answers that begin with their length, as bytes."""
    at = 0
    while at < len(output):
        (length,) = struct.unpack_from("<Q", output, at)
        yield output[at + 8 : at + 8 + length]
        at += 8 + length
