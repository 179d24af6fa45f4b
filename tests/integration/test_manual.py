"""--help, the man page, the completion and the README speak of the same options."""

import re

import pytest
from conftest import ROOT

COMMANDS = ("mount", "umount", "convert", "plan", "verify", "sample", "layouts")
OPTION = re.compile(r"--[a-z][a-z0-9-]*")


def read(path):
    return (ROOT / path).read_text()


@pytest.fixture(scope="module")
def manual():
    return read("packaging/moefs.1").replace("\\-", "-").replace("\\fR", "").replace("\\fP", "")


def options_of(run_moefs, command):
    """The left column of its --help."""
    text = run_moefs(command, "--help").stdout
    found = {name for line in text.splitlines() if re.match(r" +(-\w, |)--", line) for name in OPTION.findall(line[:27])}
    assert "--help" in found
    return found


def completed(command):
    line = re.search(rf"\*,{command}\)\s*words='([^']*)'", read("packaging/moefs.bash"))
    return set(OPTION.findall(line.group(1)))


@pytest.mark.parametrize("command", COMMANDS)
def test_options(run_moefs, manual, command):
    options = options_of(run_moefs, command)
    assert completed(command) == options
    for option in options:
        assert re.search(rf"{option}\b", manual), f"{option} is not in the man page"
        if command in ("mount", "sample"):
            assert f"{option}" in read("README.md") or option == "--help", f"{option} is not in the README"


def test_the_manual_names_no_option_that_is_not_there(run_moefs, manual):
    known = set().union(*(options_of(run_moefs, command) for command in COMMANDS)) | {"--version"}
    assert set(OPTION.findall(manual)) <= known


def test_version(run_moefs, manual):
    assert run_moefs("--version").stdout.split("\n")[0] in manual.splitlines()[0]


def test_model_types_of_samples(run_moefs, manual, tmp_path):
    said = run_moefs("sample", "unheard-of", tmp_path / "x").stderr
    known = re.search(r"known: ([^)]*)\)", said).group(1).split(", ")
    assert len(known) >= 4
    for name in known:
        for text in (manual, read("README.md"), read("packaging/moefs.bash")):
            assert re.search(rf"\b{name}\b", text), name
