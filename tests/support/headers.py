"""The one reader and writer of safetensors headers in the tests: JSON and nothing else, so that a test may look at a file
that neither moefs nor the safetensors library would accept."""

import json
from typing import NamedTuple


class Entry(NamedTuple):
    dtype: str
    shape: list
    begin: int  # offsets in the file, not in its data
    end: int


class Header(NamedTuple):
    metadata: dict  # None where there is none
    tensors: dict  # name -> Entry, in the header's order
    data: int  # where the tensors' bytes begin


def parse_header(raw):
    """Of a file's bytes, or of so many of them that the header is whole."""
    data = 8 + int.from_bytes(raw[:8], "little")
    members = json.loads(bytes(raw[8:data]))
    metadata = members.pop("__metadata__", None)
    tensors = {name: Entry(t["dtype"], t["shape"], *(data + at for at in t["data_offsets"])) for name, t in members.items()}
    return Header(metadata, tensors, data)


def read_header(path):
    with open(path, "rb") as file:
        prefix = file.read(8)
        return parse_header(prefix + file.read(int.from_bytes(prefix, "little")))


def pack_header(text, length=None):
    """The text of a header (bytes, or what json.dumps takes) behind its length, or behind another number."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text
