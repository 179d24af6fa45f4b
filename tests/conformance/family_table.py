"""A pytest plugin, the table of the families: one row a model type, printed when all tests have run."""

from collections import defaultdict

import pytest

TABLE = pytest.StashKey()
COLUMNS = ["loads", "v5", "stacked", "per-expert"]


class Row:
    """What became of one model type: its kind and conversion, a result for each column, and the first reason."""

    def __init__(self):
        self.kind, self.layout, self.results, self.reason = "", "", {}, ""


def pytest_configure(config):
    config.stash[TABLE] = defaultdict(Row)


@pytest.fixture(scope="session")
def family_rows(request):
    return request.config.stash[TABLE]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "family" in parameters and (report.when == "call" or not report.passed):
        row = item.config.stash[TABLE][parameters["family"]]
        row.results[parameters.get("via", "loads")] = report.outcome
        if call.excinfo and not row.reason:
            row.reason = call.excinfo.exconly().splitlines()[0]
    return report


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[TABLE]
    if not rows:
        return
    words = {"passed": "same", "failed": "FAILED", "skipped": "-", None: "-"}
    line = "{:26} {:10} {:28}" + " {:8}" * (len(COLUMNS) - 1) + " {:10} {}"
    terminalreporter.section("model types with experts, as transformers loads them and as they come back")
    terminalreporter.line(line.format("type", "kind", "--to v5", *COLUMNS, "reason").rstrip())
    for model_type, row in sorted(rows.items()):
        results = [words.get(row.results.get(column), "?") for column in COLUMNS]
        terminalreporter.line(line.format(model_type, row.kind, row.layout, *results, row.reason).rstrip())
    failed = [t for t, row in rows.items() if "failed" in row.results.values()]
    terminalreporter.line(f"{len(rows)} types, {len(failed)} failed" + (f": {', '.join(sorted(failed))}" if failed else ""))
