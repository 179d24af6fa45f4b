"""`moefs plan --json` says what the mount would hold and where each byte comes from; both are checked against the
oracle's files and the source's."""
import itertools
import json
import shutil

import pytest

import oracle
from checkpoints import LAYOUTS, make
from headers import read_header


def header_of(path):
    """{name: (dtype, shape, offset in the file, length)}"""
    return {name: (t.dtype, t.shape, t.begin, t.end - t.begin) for name, t in read_header(path).tensors.items()}


def plan(run_moefs, src, *options):
    done = run_moefs("plan", src, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("source,to", list(itertools.product(LAYOUTS, (*LAYOUTS, "v5", "original"))))
def test_plan_says_what_is_mounted(run_moefs, tmp_path, source, to):
    how = [(0, None), (4, "random"), (4, "by-proj"), (3, "natural")][LAYOUTS.index(source)]
    checkpoint = make(5, shards=how[0], how=how[1], layout=source, model_type="qwen3_vl_moe", odd=True)
    src = checkpoint.write(tmp_path / "src")
    expected = oracle.convert(checkpoint, to)
    want = oracle.write(expected, src, tmp_path / "want")
    said = plan(run_moefs, src, "--to", to)

    weights = sorted(expected.files)
    files = [*weights, *([expected.index_name] if expected.index else [])]
    assert {f["name"]: f["size"] for f in said["files"]} == {f: (want / f).stat().st_size for f in files}
    assert {f["name"]: f["verbatim"] for f in said["files"] if f["verbatim"]} == \
           {f: t for f, t in expected.files.items() if isinstance(t, str)}
    assert {t["name"]: (t["file"], t["dtype"], t["shape"], t["offset"], t["length"]) for t in said["tensors"]} == \
           {name: (f, *where) for f in weights for name, where in header_of(want / f).items()}
    assert said["totals"]["tensors"] == len(said["tensors"])
    assert said["totals"]["bytes"] == sum(t["length"] for t in said["tensors"])
    assert said["totals"]["weight_files"] == len(weights)
    assert said["totals"]["source_tensors"] == len(checkpoint.tensors)
    assert said["totals"]["source_files"] == len(checkpoint.shards)
    assert [g["block"] for g in said["groups"] if g["from"] != g["to"]] == expected.converted
    assert all((g["experts"], g["inner"], g["hidden"]) == (3, 5, 7) for g in said["groups"])


@pytest.mark.parametrize("source,to", list(itertools.product(LAYOUTS, LAYOUTS)))
def test_where_bytes_come_from(run_moefs, tmp_path, source, to):
    checkpoint = make(6, shards=3, how="random", layout=source, odd=True)
    src = checkpoint.write(tmp_path / "src")
    want = oracle.write(oracle.convert(checkpoint, to), src, tmp_path / "want")
    stored = {name: (f, *where) for f in checkpoint.shards for name, where in header_of(src / f).items()}
    transposed = "in-out" in (source, to) and source != to
    for tensor in plan(run_moefs, src, "--to", to)["tensors"]:
        wanted = (want / tensor["file"]).read_bytes()[tensor["offset"]:tensor["offset"] + tensor["length"]]
        copied = b""
        for s in tensor["sources"]:
            file, _, _, begin, length = stored[s["tensor"]]
            assert s["file"] == file and begin <= s["offset"] <= begin + length
            if not s.get("computed"):
                assert s["offset"] + s["length"] <= begin + length
                copied += (src / file).read_bytes()[s["offset"]:s["offset"] + s["length"]]
        computed = any(s.get("computed") for s in tensor["sources"])
        assert computed == (transposed and tensor["converted"]), tensor["name"]
        if not computed:
            assert copied == wanted, tensor["name"]
        assert tensor["converted"] == (tensor["name"] not in checkpoint.tensors or computed)


def test_same_plan_for_a_copy(run_moefs, tmp_path):
    src = make(6, shards=5, how="random", odd=True).write(tmp_path / "src")
    shutil.copytree(src, tmp_path / "copy")
    assert plan(run_moefs, src) == plan(run_moefs, tmp_path / "copy")
