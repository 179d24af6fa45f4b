"""A pytest plugin (-p without_torch) that leaves out the test files that need torch, and names them at the end.

Whether a file needs it is read from its imports and from those of the modules beside it, without running any.
"""

import ast
from functools import cache
from pathlib import Path

HEAVY = ("torch", "transformers", "veomni", "safetensors.torch", "huggingface_hub")
TESTS = Path(__file__).resolve().parent
left_out = []


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def needs_torch(path):
    for name in imports(path):
        if name.startswith(HEAVY):
            return True
        for folder in (path.parent, TESTS):
            module = folder / (name.replace(".", "/") + ".py")
            if module != path and module.is_file() and needs_torch(module):
                return True
    return False


def pytest_ignore_collect(collection_path):
    if collection_path.suffix == ".py" and collection_path.is_file() and needs_torch(collection_path):
        left_out.append(collection_path)
        return True
    return None


def pytest_terminal_summary(terminalreporter):
    names = sorted({str(path.relative_to(TESTS.parent)) for path in left_out if path.name.startswith("test_")})
    terminalreporter.write_line(f"left out, since they need torch: {', '.join(names) or 'none'}")
