"""The rules of the safetensors container, one violated at a time."""
import json
import struct

import pytest
from safetensors import SafetensorError, safe_open

from checkpoints import build, write_raw
from test_bad_input import refused, write


def entry(dtype="U8", shape=(1,), offsets=(0, 1)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def text(**tensors):
    return json.dumps(tensors).encode()


HUGE = 1 << 62

# case: (header, data, says). The file is called bad.safetensors; `length` replaces the header's length.
HEADERS = {
    "no data at all": (None, b"", []),
    "seven bytes": (None, b"\x01\x00\x00\x00\x00\x00\x00", ["7"]),
    "a header of more than 100 MB": (None, struct.pack("<Q", 100_000_001) + b"{}" + b" " * 100, ["100000001"]),
    "a header longer than the file": (None, struct.pack("<Q", 1000) + b"{}", ["1000"]),
    "a header length near 2^64": (None, struct.pack("<Q", 2**64 - 4) + b"{}", []),
    "an empty header": (b"", b"", []),
    "not UTF-8": (b'{"\xff": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x", []),
    "not JSON": (b"hello", b"", []),
    "an array": (b"[]", b"", []),
    "a number": (b"1", b"", []),
    "cut in the middle": (text(a=entry())[:-5], b"x", []),
    "something behind the object": (text(a=entry()) + b"x", b"x", []),
    "two objects": (text(a=entry()) + b"{}", b"x", []),
    "a raw control character": (b'{"a\x01": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x", []),
    "a lone surrogate": (b'{"\\ud800": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x", []),
    "an integer with a leading zero": (b'{"a": {"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', b"x", ["a"]),
    "a fraction": (b'{"a": {"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', b"x", ["a"]),
    "an exponent": (b'{"a": {"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', b"x", ["a"]),
    "a negative size": (text(a=entry(shape=[-1])), b"x", ["a"]),
    "a size above 2^64": (text(a=entry(shape=[2**64])), b"x", ["a"]),
    "a string as a size": (text(a=entry(shape=["1"])), b"x", ["a"]),
    "no dtype": (text(a={"shape": [1], "data_offsets": [0, 1]}), b"x", ["a", "dtype"]),
    "no shape": (text(a={"dtype": "U8", "data_offsets": [0, 1]}), b"x", ["a", "shape"]),
    "no data_offsets": (text(a={"dtype": "U8", "shape": [1]}), b"x", ["a", "data_offsets"]),
    "dtype twice": (b'{"a": {"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x", ["a", "dtype"]),
    "three data_offsets": (text(a=entry(offsets=[0, 1, 2])), b"x", ["a"]),
    "one data_offset": (text(a=entry(offsets=[0])), b"x", ["a"]),
    "an unknown dtype": (text(a=entry(dtype="F12")), b"x", ["a", "F12"]),
    "a dtype in lower case": (text(a=entry(dtype="u8")), b"x", ["a", "u8"]),
    "metadata that is a list": (b'{"__metadata__": [], "a": ' + json.dumps(entry()).encode() + b"}", b"x",
                                ["__metadata__"]),
    "metadata with a number": (b'{"__metadata__": {"n": 1}, "a": ' + json.dumps(entry()).encode() + b"}", b"x",
                               ["__metadata__"]),
    "a tensor that is a number": (b'{"a": 1}', b"", ["a"]),
    "the first tensor does not begin at 0": (text(a=entry(offsets=[1, 2])), b"xy", ["a", "1"]),
    "a hole": (text(a=entry(), b=entry(offsets=[2, 3])), b"xyz", ["b", "2"]),
    "an overlap": (text(a=entry(shape=[2], offsets=[0, 2]), b=entry(shape=[2], offsets=[1, 3])), b"xyz", ["b", "1"]),
    "an end before its beginning": (text(a=entry(shape=[1], offsets=[1, 0])), b"x", ["a"]),
    "a product above 2^64": (text(a=entry(shape=[HUGE, HUGE, 0], offsets=[0, 0])), b"", ["a"]),
    "a product of bits above 2^64": (text(a=entry(dtype="F64", shape=[HUGE], offsets=[0, 0])), b"", ["a"]),
    "half a byte": (text(a=entry(dtype="F4", shape=[1], offsets=[0, 1])), b"x", ["a", "F4"]),
    "more bytes than the shape": (text(a=entry(shape=[1], offsets=[0, 2])), b"xy", ["a", "2"]),
    "fewer bytes than the shape": (text(a=entry(dtype="F32", shape=[2], offsets=[0, 4])), b"wxyz", ["a", "4", "8"]),
    "bytes behind the last tensor": (text(a=entry()), b"xy", []),
    "the file is cut": (text(a=entry(shape=[9], offsets=[0, 9])), b"12345678", []),
    "a deep nest": (b'{"a":' * 200 + b"1" + b"}" * 200, b"", []),
}

# What the reference's reader lets pass and its README or a C program's needs forbid (docs/safetensors.md lists them).
STRICTER = {
    "white space before the object": (b" " + text(a=entry()), b"x", []),
    "a name twice": (b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", b"x",
                     ["a"]),
    "a name twice, once escaped": (b'{"a":' + json.dumps(entry()).encode() + b',"\\u0061":' +
                                   json.dumps(entry()).encode() + b"}", b"x", ["a"]),
    "an empty name": (b'{"":' + json.dumps(entry()).encode() + b"}", b"x", []),
    "NUL in a name": (b'{"a\\u0000b":' + json.dumps(entry()).encode() + b"}", b"x", []),
    "a tensor as an array": (b'{"a": ["U8",[1],[0,1]]}', b"x", ["a"]),
}


@pytest.mark.parametrize("case", [*HEADERS, *STRICTER])
def test_container(run_moefs, tmp_path, case):
    header, data, says = (HEADERS | STRICTER)[case]
    src = write(build(1), tmp_path)
    index = json.loads((src / "model.safetensors.index.json").read_text())
    index["weight_map"]["bad"] = "bad.safetensors"
    (src / "model.safetensors.index.json").write_text(json.dumps(index))
    bad = src / "bad.safetensors"
    if header is None:
        bad.write_bytes(data)
    else:
        write_raw(bad, header, data)
    if case in HEADERS:
        with pytest.raises(SafetensorError):  # the reference refuses it too
            with safe_open(bad, "pt") as f:
                list(f.keys())
    refused(run_moefs, tmp_path, src, says=["bad.safetensors", *says])


def test_container_that_is_just_right(mount, tmp_path):
    """The neighbours of the cases above that the reference accepts."""
    src = write(build(1), tmp_path)
    header = (b'{"__metadata__": null, "a": {"dtype":"U8","extra":[{}],"shape":[],"data_offsets":[0,1]},'
              b'"zero": {"dtype":"F64","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[1,1]},'
              b'"\\u00e9\\/": {"dtype":"F4","shape":[2],"data_offsets":[1,2]}}\n\t \r ')
    write_raw(src / "good.safetensors", header, b"xy")
    index = json.loads((src / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {"a": "good.safetensors", "zero": "good.safetensors", "é/": "good.safetensors"}
    (src / "model.safetensors.index.json").write_text(json.dumps(index))
    with safe_open(src / "good.safetensors", "np") as f:
        assert sorted(f.keys()) == ["a", "zero", "é/"]
    with mount(src) as m:
        assert (m / "good.safetensors").read_bytes() == (src / "good.safetensors").read_bytes()
