"""docs/architectures.md is what scripts/architectures-table makes of the data, and the data is as the docs say."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "layout" / "data"


def types():
    entries = json.loads((DATA / "architectures.json").read_text())["architectures"]
    return [t for entry in entries for t in entry["types"]]


def test_the_page_is_up_to_date():
    command = [sys.executable, ROOT / "scripts" / "architectures-table", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_type_is_in_the_page_and_in_moefs_once(run_moefs):
    page = (ROOT / "docs" / "architectures.md").read_text()
    said = run_moefs("layouts").stdout
    for model_type in types():
        pattern = rf"(?<![\w-]){re.escape(model_type)}(?![\w-])"
        assert re.search(pattern, page), model_type
        assert re.search(pattern, said), model_type
    assert len(types()) == len(set(types()))


def test_the_data_is_short():
    lines = sum(len((DATA / name).read_text().splitlines()) for name in ("architectures.json", "layouts.json"))
    assert lines < 300


def test_no_architecture_is_named_in_code():
    """A new model is data: the C sources know none. (Comments may give examples.)"""
    sources = [p for folder in ("layout", "fs") for p in (ROOT / folder).glob("*.[ch]")]
    assert len(sources) > 20
    code = {p.name: re.sub(r"/\*.*?\*/", "", p.read_text(), flags=re.DOTALL) for p in sources}
    named = [f"{name}: {t}" for name, text in code.items() for t in types()
             if re.search(rf"(?<![\w-]){re.escape(t)}(?![\w-])", text)]
    assert named == []
