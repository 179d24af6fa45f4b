#!/usr/bin/env python3
"""embed.py NAME FILE: prints a C file that holds FILE's bytes as embedded_NAME (layout/base/embedded.h)."""

import sys

COLUMNS = 20


def main() -> None:
    name, path = sys.argv[1:]
    with open(path, "rb") as file:
        data = file.read()
    print('#include "layout/base/embedded.h"\n')
    print(f"const char embedded_{name}[] = {{")
    # The NUL behind the text is not counted: a C string for those who want one.
    for at in range(0, len(data) + 1, COLUMNS):
        print("    " + ", ".join(f"{byte:#04x}" for byte in (data + b"\0")[at : at + COLUMNS]) + ",")
    print("};")
    print(f"const size_t embedded_{name}_length = sizeof embedded_{name} - 1;")


main()
