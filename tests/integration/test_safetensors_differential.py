"""Mutated files, given to moefs and to the safetensors library: what moefs accepts the library accepts with the same
table, and what only the library accepts is on the list of docs/safetensors.md ("Refused beyond the reference")."""

import json
import os
import random
import re
import struct

import pytest
from drivers import run_cases
from safetensors import SafetensorError, deserialize

# The list: what moefs' message says, and one header that shows it (with one byte of data).
BYTE = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
EXTRA_RULES = {
    "does not begin with '{'": f' {{"a":{BYTE}}}',
    "its entry is not an object": '{"a":["U8",[1],[0,1]]}',
    "dtype is not a string": '{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}',
    "a tensor's name is empty": f'{{"":{BYTE}}}',
    "a string holds U+0000": f'{{"a\\u0000":{BYTE}}}',
    "the name is given twice in the header": f'{{"a":{BYTE},"\\u0061":{BYTE}}}',
    "__metadata__ has the key 'k' twice": f'{{"__metadata__":{{"k":"1","k":"2"}},"a":{BYTE}}}',
    "shape has more than 64 numbers": '{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,1]}}' % ",".join("1" * 65),
    "a number above 1e308": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1.5e308}}',
}
PATTERNS = [re.escape(rule).replace("'k'", "'.*'") for rule in EXTRA_RULES]

DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "F8_E8M0": 8, "BF16": 16, "F32": 32, "C64": 64, "U64": 64}
NAMES = ["a", "b", "e.10", "é", "😀", "q\"\\", "__metadata__", "", "x/y", "\n", "\x7f"]
VALUES = ["0", "1", "-1", "-0", "1.0", "1e2", "01", "18446744073709551615", "18446744073709551616", "null", "true", "[]", "{}",
          '"x"', '"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', "1e999", "1e-999", "0e999", "NaN", "[0,1]", "[1,0]", '{"U8":null}', '["U8",[1],[0,1]]',
          '{"k":"v"}', '{"k":1}', "[" * 60 + "]" * 60, "[" * 123 + "]" * 123, "[" * 124 + "]" * 124, "[" * 130 + "]" * 130]
BYTES = [b" ", b"\n", b"\t", b"\0", b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"0", b"9", b"-", b"e", b".", b"\xff", b"\xc3", b"u", b"/"]


def as_file(header, data, n=None):
    return struct.pack("<Q", len(header) if n is None else n) + header + data


def random_parts(rng):
    """A valid table, as (name, [(field, text)]), and its data."""
    parts, at = [], 0
    for name in rng.sample(NAMES[:6], rng.randint(0, 4)):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.choice([0, 1, 2, 4, 8]) for _ in range(rng.randint(0, 3))]
        bits = DTYPES[dtype]
        for n in shape:
            bits *= n
        end = at + (bits + 7) // 8
        parts.append((name, [("dtype", json.dumps(dtype)), ("shape", json.dumps(shape)), ("data_offsets", f"[{at},{end}]")]))
        at = end
    return parts, rng.randbytes(at)


def mutate_parts(rng, parts):
    """Members: dropped, doubled, renamed, reordered, given other values."""
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        if not parts:
            return
        i = rng.randrange(len(parts))
        name, fields = parts[i]
        fields = list(fields)
        j = rng.randrange(len(fields)) if fields else None
        kind = rng.randrange(9)
        if kind == 0:
            rng.shuffle(parts)
            continue
        if kind == 1:
            parts.insert(rng.randrange(len(parts) + 1), parts[i])
            continue
        if kind == 2:
            name = rng.choice(NAMES)
        elif kind == 3:
            fields.insert(rng.randrange(len(fields) + 1), ("x", rng.choice(VALUES)))
        elif kind == 4 and fields:
            fields.insert(rng.randrange(len(fields) + 1), fields[j])
        elif kind == 5 and fields:
            del fields[j]
        elif kind == 6 and fields:
            fields[j] = (fields[j][0], rng.choice(VALUES))
        elif kind == 7 and fields:
            numbers = re.sub(r"\d+", lambda match: rng.choice([match[0], *VALUES[:9]]), fields[j][1])
            fields[j] = (fields[j][0], numbers)
        elif kind == 8:
            rng.shuffle(fields)
        parts[i] = (name, fields)


def spell(rng, text):
    """A JSON string in one of its spellings."""
    if rng.random() < 0.2 and text:
        i = rng.randrange(len(text))
        if ord(text[i]) < 0x10000:
            inside = [json.dumps(part, ensure_ascii=False)[1:-1] for part in (text[:i], text[i + 1 :])]
            return f'"{inside[0]}\\u{ord(text[i]):04x}{inside[1]}"'
    return json.dumps(text, ensure_ascii=rng.random() < 0.5)


def header_text(rng, parts):
    def space():
        return rng.choice(["", "", "", "", " ", "\n"])

    members = []
    if rng.random() < 0.4:
        members.append('"__metadata__":' + rng.choice(['{"format":"pt"}', "null", '{"a":"\\u00e9","b":""}', *VALUES]))
    for name, fields in parts:
        inside = ",".join(f"{space()}{spell(rng, field)}{space()}:{space()}{value}" for field, value in fields)
        members.append(f"{spell(rng, name)}:{space()}{{{inside}}}{space()}")
    if rng.random() < 0.1:
        rng.shuffle(members)
    return (f"{{{','.join(members)}}}" + rng.choice(["", "", " ", "   \n"])).encode()


def random_file(rng):
    parts, data = random_parts(rng)
    mutate_parts(rng, parts)
    header = header_text(rng, parts)
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        at = rng.randrange(len(header) + 1)
        header = header[:at] + rng.choice([b"", *BYTES]) + header[at + rng.randint(0, 2) :]
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(data) + 1)] + rng.randbytes(rng.randint(0, 2))
    n = rng.choice([0, 1, len(header) - 1, len(header) + 1, 100_000_001, 2**64 - 1]) if rng.random() < 0.03 else None
    file = as_file(header, data, None if n is not None and n < 0 else n)
    return file[: rng.randrange(12)] if rng.random() < 0.01 else file


def reference_table(file):
    """{name: (dtype, shape, bytes)}, or None when the library refuses the file."""
    try:
        return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in deserialize(file)}
    except SafetensorError:
        return None


def answers(files):
    for line in run_cases("read_header", files).splitlines():
        answer = json.loads(line)
        if "error" in answer:
            yield None, bytes(answer["error"]).decode(errors="replace")
        else:
            yield answer["tensors"], None


def test_mutated_files_are_judged_as_by_the_library():
    seed = int(os.environ.get("MOEFS_SEED", "11"))
    print("MOEFS_SEED =", seed)
    rng = random.Random(seed)
    files = [random_file(rng) for _ in range(40000)]
    both = only_reference = 0
    for file, (table, error) in zip(files, answers(files), strict=True):
        expected = reference_table(file)
        if table is None:
            if expected is not None:
                assert any(re.search(pattern, error) for pattern in PATTERNS), (error, file)
                only_reference += 1
            continue
        assert expected is not None, file
        assert {name: (dtype, shape, file[begin:end]) for name, dtype, shape, begin, end in table} == expected, file
        assert [begin for _, _, _, begin, _ in table] == sorted(begin for _, _, _, begin, _ in table)
        both += 1
    print(f"{len(files)} files: {both} accepted by both, {only_reference} by the library alone")
    assert both > len(files) // 10 and only_reference > 100


@pytest.mark.parametrize("rule", EXTRA_RULES)
def test_each_extra_rule_is_one(rule):
    file = as_file(EXTRA_RULES[rule].encode(), b"\0")
    assert reference_table(file) is not None
    ((table, error),) = answers([file])
    assert table is None and rule in error
