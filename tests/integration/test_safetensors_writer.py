"""The header that moefs writes, compared with the one that the safetensors library writes for the same tensors."""

import ctypes
import hashlib
import random
import struct

from drivers import run_cases
from safetensors import TensorSpec, serialize

# The library's names of dtypes (what safetensors.torch.save_file passes on), the format's, and bytes of an element.
# F6 has no name there: no framework has it.
DTYPES = [
    ("bool", "BOOL", 1),
    ("float4_e2m1fn_x2", "F4", 1),
    ("uint8", "U8", 1),
    ("int8", "I8", 1),
    ("float8_e5m2", "F8_E5M2", 1),
    ("float8_e4m3fn", "F8_E4M3", 1),
    ("float8_e8m0fnu", "F8_E8M0", 1),
    ("float8_e4m3fnuz", "F8_E4M3FNUZ", 1),
    ("float8_e5m2fnuz", "F8_E5M2FNUZ", 1),
    ("int16", "I16", 2),
    ("uint16", "U16", 2),
    ("float16", "F16", 2),
    ("bfloat16", "BF16", 2),
    ("int32", "I32", 4),
    ("uint32", "U32", 4),
    ("float32", "F32", 4),
    ("complex64", "C64", 8),
    ("float64", "F64", 8),
    ("int64", "I64", 8),
    ("uint64", "U64", 8),
]
PIECES = ["a", "e.2", "e.10", "Z", '"', "\\", "/", "\n", "\r\t\b\f", "\x01", "\x1f", "\x7f", "é", "€", "😀", "\uffff", " "]
BUFFER = ctypes.create_string_buffer(1 << 16)
METADATA = {"format": "pt"}


def random_tensors(rng):
    tensors = {}
    few = rng.sample(DTYPES, rng.randint(1, 4))
    for _ in range(rng.choice([0, 1, 2, 5, 20])):
        name = "".join(rng.choices(PIECES, k=rng.randint(1, 4)))
        dtype = rng.choice(few)
        shape = [rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4]))]
        if dtype[1] == "F4" and not shape:
            shape = [2]
        tensors[name] = (dtype, shape)
    return tensors


def reference_header(tensors):
    specs = {}
    for name, ((dtype, _, size), shape) in tensors.items():
        length = size
        for n in shape:
            length *= n
        specs[name] = TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(BUFFER), data_len=length)
    file = serialize(specs, METADATA)
    return bytes(file[: 8 + struct.unpack("<Q", file[:8])[0]])


def case(tensors):
    lines = []
    for name, ((_, dtype, _), shape) in tensors.items():
        if dtype == "F4":  # two in a byte: the frameworks count bytes, the header elements
            shape = shape[:-1] + [2 * shape[-1]]
        raw = name.encode()
        numbers = " ".join(map(str, [len(shape), *shape, len(raw)]))
        lines.append(f"{dtype} {numbers} ".encode() + raw + b"\n")
    return b"".join(lines)


def test_random_headers_equal_the_library_s():
    rng = random.Random(20240517)
    sets = [random_tensors(rng) for _ in range(5000)]
    output = run_cases("write_header", map(case, sets))
    at = 0
    for tensors in sets:
        expected = reference_header(tensors)
        assert output[at : at + len(expected)] == expected, tensors
        at += len(expected)
    assert at == len(output)


def test_the_vector_has_its_hash():
    by_name = {dtype[0]: dtype for dtype in DTYPES}
    tensors = {
        "b": (by_name["bfloat16"], [2]),
        "a": (by_name["float16"], [1]),
        "e.10": (by_name["float32"], [0, 3]),
        "e.2": (by_name["float32"], []),
        "i": (by_name["int64"], [1]),
        'q"\n\x01é': (by_name["bool"], [1]),
    }
    header = run_cases("write_header", [case(tensors)])
    assert len(header) == 8 + 384
    # i = [3], e.10 is empty, e.2 = 7, b = [1, 2], a = [1], the last one True
    data = struct.pack("<qf", 3, 7.0) + bytes.fromhex("803f0040") + bytes.fromhex("003c") + b"\1"
    digest = hashlib.sha256(header + data).hexdigest()
    assert digest == "dee5434d23fd4169e335e15c653d960973980f014e60d85c55e0c63cc58b237e"
