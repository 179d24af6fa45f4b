"""The index that moefs writes, compared with json.dumps(..., indent=2, sort_keys=True) + "\\n"."""

import json
import random

from drivers import run_cases, split_answers

TEXTS = ["", "a", "B", "a.10", "a.2", '"', "\\", "/", "\n\r\t\b\f", "\x01", "\x1f", "\x7f", "\x80", "é", "\ud7ff", "\ue000", "\uffff", "😀", "\U0010ffff"]
SCALARS = [None, True, False, 0, -1, 2**70, 0.5, 1e300, float("nan"), float("inf"), float("-inf"), "\0", "\ud800", "\udc00\ud800"]


def random_text(rng):
    return "".join(rng.choices(TEXTS, k=rng.randint(0, 3)))


def random_value(rng, depth):
    kind = rng.choice("sstoa") if depth < 4 else "s"
    if kind == "o":
        return {random_text(rng): random_value(rng, depth + 1) for _ in range(rng.randint(0, 4))}
    if kind == "a":
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return random_text(rng) if kind == "t" else rng.choice(SCALARS)


def random_index(rng):
    files = ["a.safetensors", "é.safetensors", "😀"]
    index = {"weight_map": {random_text(rng): rng.choice(files) for _ in range(rng.choice([0, 1, 5, 20]))}}
    if rng.random() < 0.8:
        index["metadata"] = {random_text(rng): random_value(rng, 0) for _ in range(rng.randint(0, 5))}
        if rng.random() < 0.5:
            index["metadata"]["total_size"] = random_value(rng, 2)
    if rng.random() < 0.2:
        index["other"] = random_value(rng, 0)
    return index


def source_text(rng, index):
    """The index in one of the many ways that JSON has to write it."""
    ascii_only = "\\ud" in json.dumps(index) and not _is_utf8(index)
    text = json.dumps(
        index,
        ensure_ascii=ascii_only or rng.random() < 0.5,
        indent=rng.choice([None, 0, 3, "\t"]),
        separators=rng.choice([None, (",", ":"), (" , ", " : ")]),
    )
    return (text.replace("/", "\\/") if rng.random() < 0.3 else text).encode()


def _is_utf8(index):
    try:
        json.dumps(index, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def test_random_indexes_equal_python_s():
    rng = random.Random(7)
    indexes = [random_index(rng) for _ in range(3000)]
    answers = list(split_answers(run_cases("rewrite_index", [source_text(rng, index) for index in indexes])))
    assert len(answers) == len(indexes)
    for index, answer in zip(indexes, answers):
        expected = {"metadata": {**index.get("metadata", {}), "total_size": 12}, "weight_map": index["weight_map"]}
        assert answer.decode("ascii") == json.dumps(expected, indent=2, sort_keys=True) + "\n"


def test_nesting_as_deep_as_it_is_read():
    value = []
    for _ in range(125):
        value = [value]
    index = {"metadata": {"a": value}, "weight_map": {}}
    (answer,) = split_answers(run_cases("rewrite_index", [json.dumps(index).encode()]))
    index["metadata"]["total_size"] = 12
    assert answer.decode() == json.dumps(index, indent=2, sort_keys=True) + "\n"
