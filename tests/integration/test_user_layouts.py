"""Layouts in a user's own file: what they make, and what is said about a malformed one (file, line, key)."""

import json
import os

import numpy as np
import pytest
import raw

BLOCK = "model.layers.0.mlp"
E, I, H = 3, 5, 7

MEGATRON = """{
  "summary": "Megatron-like: the expert's number ends the name",
  "spell": {"gate up": "linear_fc1", "down": "linear_fc2"},
  "weight": {
    "name": "{block}.experts.{proj}.weight{expert}",
    "gate up": "(proj inner) hidden",
    "down": "hidden inner"
  },
  "rename": [
    ["model.layers.{layer}.{block}.weight", "decoder.layers.{layer}.{block}.weight"],
    ["model.embed_tokens.{block}", "embedding.word_embeddings.{block}"],
    ["lm_head.weight", "output_layer.weight"]
  ]
}
"""


def experts(rng, dtype="BF16"):
    """(per-expert tensors, {gate: [E, I, H], up: [E, I, H], down: [E, H, I]})"""
    shapes = {"gate": (E, I, H), "up": (E, I, H), "down": (E, H, I)}
    whole = {p: raw.random_tensor(rng, dtype, s) for p, s in shapes.items()}
    return {
        f"{BLOCK}.experts.{e}.{p}_proj.weight": raw.Tensor(dtype, t.elements[e]) for p, t in whole.items() for e in range(E)
    }, {p: t.elements for p, t in whole.items()}


def others(rng):
    return {
        name: raw.random_tensor(rng, "F32", (2, 3))
        for name in (
            "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight",
            "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.bias", "model.layers.01.odd.weight",
            "model.layers.x.odd.weight",
        )
    }  # fmt: skip


def source(tmp_path, seed=1, shards=2):
    rng = np.random.default_rng(seed)
    tensors, whole = experts(rng)
    rest = others(rng)
    checkpoint = raw.make(tensors | rest, raw.config_of("qwen3_moe", E), shards=shards, rng=rng)
    return checkpoint.write(tmp_path / "src"), tensors, whole, rest


def layout_file(tmp_path, text, name="my.json"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_megatron_with_renames(mount, tmp_path):
    src, _, whole, rest = source(tmp_path)
    with mount(src, "--to", layout_file(tmp_path, MEGATRON)) as m:
        seen = raw.read_directory(m.path)
    want = {f"{BLOCK}.experts.linear_fc1.weight{e}": raw.Tensor("BF16", np.concatenate([whole["gate"][e], whole["up"][e]]))
            for e in range(E)}
    want |= {f"{BLOCK}.experts.linear_fc2.weight{e}": raw.Tensor("BF16", whole["down"][e]) for e in range(E)}
    names = {
        "lm_head.weight": "output_layer.weight",
        "model.embed_tokens.weight": "embedding.word_embeddings.weight",
        "model.layers.0.input_layernorm.weight": "decoder.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.gate.weight": "decoder.layers.0.mlp.gate.weight",
    }  # "01" and "x" are no integers, and a bias ends otherwise
    want |= {names.get(name, name): tensor for name, tensor in rest.items()}
    assert seen == want


def test_first_rename_that_fits_wins(mount, tmp_path):
    src, *_ = source(tmp_path)
    layout = json.loads(MEGATRON) | {"rename": [["{block}.weight", "first.{block}.w"], ["lm_head.weight", "second"]]}
    with mount(src, "--to", layout_file(tmp_path, json.dumps(layout))) as m:
        seen = raw.read_directory(m.path)
    assert "first.lm_head.w" in seen and "second" not in seen


@pytest.mark.parametrize("to", ["original", "merged", "stacked", "in-out"])
def test_there_and_back(mount, tmp_path, to):
    """--from takes the file too: layout and names are read back."""
    src, tensors, whole, rest = source(tmp_path, 2, 3)
    file = layout_file(tmp_path, MEGATRON)
    with mount(src, "--to", file) as there:
        with mount(there.path, "--from", file, "--to", to) as back, mount(src, "--to", to) as direct:
            seen = raw.read_directory(back.path)
            assert seen == raw.read_directory(direct.path)
    if to == "original":
        assert seen == tensors | rest


def test_from_one_file_to_another(mount, tmp_path):
    src, *_ = source(tmp_path)
    mine = layout_file(tmp_path, MEGATRON)
    other = layout_file(tmp_path, json.dumps({
        "weight": {"name": "{block}.all", "gate down up": "hidden (inner proj expert)"}}), "other.json")
    with mount(src, "--to", mine) as there, mount(there.path, "--from", mine, "--to", other) as m:
        seen = raw.read_directory(m.path)
    with mount(src, "--to", other) as m:
        assert seen == raw.read_directory(m.path)


def test_same_file_twice_changes_nothing(mount, tmp_path):
    src, *_ = source(tmp_path)
    mine = layout_file(tmp_path, MEGATRON)
    with mount(src, "--to", mine) as there, mount(there.path, "--from", mine, "--to", mine) as again:
        assert raw.read_directory(again.path) == raw.read_directory(there.path)


def test_name_without_a_slash(run_moefs, tmp_path):
    """A name that ends in .json is a file, wherever it lies."""
    src, *_ = source(tmp_path)
    layout_file(tmp_path, MEGATRON, "here.json")
    done = run_moefs("plan", src, "--to", "here.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "decoder.layers.0.mlp.gate.weight" in done.stdout
    assert "reading it back" in done.stderr or "--from here.json" in done.stderr


# pairs, and the tensor that does not come back: (its name, its name in the layout, what --from makes of that)
LOSSY = {
    "two pairs to one name": ([["a.{n}.w", "z.{n}"], ["model.layers.{n}.input_layernorm.weight", "z.{n}"]],
                              ("model.layers.0.input_layernorm.weight", "z.0", "a.0.w")),
    "a name that is there already": ([["x.weight", "lm_head.weight"]], ("lm_head.weight", "lm_head.weight", "x.weight")),
    "a swap": ([["lm_head.weight", "model.norm.weight"], ["model.norm.weight", "lm_head.weight"]], None),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSY)
def test_rename_without_a_way_back(run_moefs, mount, tmp_path, case):
    """Said when planning, for the first tensor; a way back that differs without a word would be garbage in a loader."""
    pairs, lost = LOSSY[case]
    src, tensors, _, rest = source(tmp_path)
    file = layout_file(tmp_path, json.dumps(json.loads(MEGATRON) | {"rename": pairs}))
    done = run_moefs("plan", src, "--to", file)
    assert done.returncode == 0, done.stderr
    with mount(src, "--to", file) as there, mount(there.path, "--from", file, "--to", "original") as m:
        back = raw.read_directory(m.path)
    assert ("no way back" in done.stdout + done.stderr) == (back != tensors | rest) == bool(lost)
    if lost:
        name, there, again = lost
        said = f"{name}: layout {file} calls it {there}, and --from {file} would read that name as {again}"
        assert said in done.stdout + done.stderr
        assert back == {again if n == name else n: t for n, t in (tensors | rest).items()}


@pytest.mark.parametrize("name", ['say "hi".json', "back\\slash.json", "line\nbreak\t\x01\x7f.json", "é€😀.json",
                                  b"not utf-8 \xff\xc3.json"], ids=ascii)
def test_plan_as_json_with_any_file_name(run_moefs, tmp_path, name):
    src, *_ = source(tmp_path)
    file = tmp_path / os.fsdecode(name)
    file.write_text(MEGATRON)
    done = run_moefs("plan", src, "--to", file, "--json", errors="surrogateescape")
    assert done.returncode == 0, done.stderr
    groups = json.loads(done.stdout)["groups"]
    assert groups and all(group["to"] == str(file) for group in groups)


def test_rename_that_collides(run_moefs, tmp_path):
    src, *_ = source(tmp_path)
    layout = json.loads(MEGATRON) | {"rename": [["lm_head.weight", "model.norm.weight"]]}
    done = run_moefs("plan", src, "--to", layout_file(tmp_path, json.dumps(layout)))
    assert done.returncode == 1
    assert "model.norm.weight: there would be two tensors of this name" in done.stderr


# ---- malformed files: the text, the line and what is said ----

GOOD = """{
  "summary": "good",
  "weight": {
    "name": "{experts}.{proj}",
    "gate up": "expert (proj inner) hidden",
    "down": "expert hidden inner"
  }
}
"""


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


MALFORMED = {
    # what is no JSON, or no object
    "empty": ("", 1, "is empty"),
    "no JSON": ("layout\n", 1, "not valid JSON"),
    "cut": (GOOD.rstrip()[:-1], 8, "not valid JSON"),
    "trailing comma": (changed('hidden inner"', 'hidden inner",'), 7, "not valid JSON"),
    "single quotes": (changed('"good"', "'good'"), 2, "not valid JSON"),
    "comment": (changed('  "weight"', '  // mine\n  "weight"'), 3, "not valid JSON"),
    "two values": (GOOD + "{}\n", 9, "not valid JSON"),
    "NUL": (changed("good", "go\\u0000od"), 2, "not valid JSON"),
    "not UTF-8": (changed("good", "go\udcffod"), 2, "not valid JSON"),
    "deep": ("[" * 200, 1, "not valid JSON"),
    "list": ("[]", 1, "a layout is a JSON object"),
    "text": ('"merged"', 1, "a layout is a JSON object"),
    "null": ("null", 1, "a layout is a JSON object"),
    "nothing": ("{}", 1, "weight: is missing"),
    # keys
    "summary": (changed('"good"', "3"), 2, "summary: is not a text"),
    "generic": (changed('"good",', '"good",\n  "generic": "yes",'), 3, "generic: is neither true nor false"),
    "unknown key": (changed('"good",', '"good",\n  "sumary": "x",'), 3, "sumary: is neither a part (an object) nor a key"),
    "name outside": (changed('"good",', '"good",\n  "name": "x",'), 3, "name: is not a key of a layout"),
    "key twice": (changed('"good",', '"good",\n  "summary": "x",'), 3, "summary: is given twice"),
    "key twice within": (changed('"down"', '"gate up"'), 6, "gate up: is given twice"),
    "key twice, escaped": (changed('"down"', '"\\u0067ate up"'), 6, "gate up: is given twice"),
    "part twice": (changed("  }\n}", '  },\n  "weight": {}\n}'), 8, "weight: is given twice"),
    "no weight": (changed('"weight"', '"wieght"'), 1, "weight: is missing"),
    "part is a text": (changed("  }\n}", '  },\n  "bias": "none"\n}'), 8, "bias: is neither a part"),
    "block": (changed('"good",', '"good",\n  "block": 1,'), 3, "block: is not a text with the one hole {layer}"),
    "block without a hole": (changed('"good",', '"good",\n  "block": "layers.moe",'), 3, "block: is not a text"),
    "block with two": (changed('"good",', '"good",\n  "block": "layers.{layer}.{layer}",'), 3, "block: is not a text"),
    "block with another": (changed('"good",', '"good",\n  "block": "{block}.{layer}",'), 3, "block: is not a text"),
    # spellings
    "spell is a number": (changed('"good",', '"good",\n  "spell": 3,'), 3, "spell: is neither a text"),
    "spell has two words": (changed('"good",', '"good",\n  "spell": "w1 w2",'), 3, "spell: needs three words"),
    "spell has four": (changed('"good",', '"good",\n  "spell": "w1 w2 w3 w4",'), 3, "spell: needs three words"),
    "spell with braces": (changed('"good",', '"good",\n  "spell": "w1 {w} w3",'), 3, "spell: a word is empty or holds a brace"),
    "spell of an unknown projection": (
        changed('"good",', '"good",\n  "spell": {"gate": "a",\n    "router": "b"},'), 4, "spell.router: is not made of"),
    "spell by a number": (changed('"good",', '"good",\n  "spell": {"gate": 1},'), 3, "spell.gate: is not a word"),
    "spell by two words": (changed('"good",', '"good",\n  "spell": {"gate": "a b"},'), 3, "spell.gate: is not a word"),
    "no word for a set": (changed('"gate up"', '"up down gate"').replace('    "down": "expert hidden inner"\n', "").replace(
        'hidden",', 'hidden"'), 5, "weight.up down gate: no word says how these projections are spelled"),
    # parts
    "name missing": (changed('    "name": "{experts}.{proj}",\n', ""), 3, "weight.name: is missing"),
    "name is a list": (changed('"{experts}.{proj}"', "[]"), 4, "weight.name: is not a text"),
    "unknown projection": (changed('"down"', '"dwon"'), 6, "weight.dwon: is neither name nor option nor made of"),
    "projection twice": (changed('"gate up"', '"gate up gate"'), 5, "weight.gate up gate: is neither"),
    "two spaces": (changed('"gate up"', '"gate  up"'), 5, "weight.gate  up: is neither"),
    "axes are a list": (changed('"expert hidden inner"', '["expert"]'), 6, "weight.down: is not a text of axes"),
    "option": (changed('hidden inner"', 'hidden inner",\n    "option": "--force"'), 7, "weight.option: the only option"),
    "down is missing": (changed('    "down": "expert hidden inner"\n', "").replace('hidden",', 'hidden"'), 3,
                        "weight: has down in 0 kinds of tensor"),
    "gate in two": (changed('"down"', '"gate": "expert inner hidden",\n    "down"'), 3, "weight: has gate in 2 kinds"),
    "up is missing in the bias": (
        changed("  }\n}", '  },\n  "bias": {\n    "name": "{experts}.{proj}_b",\n    "gate": "expert inner",\n    '
                '"down": "expert hidden"\n  }\n}'), 8, "bias: has up in 0 kinds of tensor"),
    # names
    "name without {block}": (changed("{experts}.{proj}", "experts.{proj}"), 4, "weight.name: name \"experts."),
    "name is {block}": (changed("{experts}.{proj}", "{block}"), 4, "is nothing but {block}"),
    "name without {proj}": (changed(".{proj}", ".w"), 4, "weight.name: is the same for two kinds of tensor"),
    "brace open": (changed("{experts}.{proj}", "{experts}.{proj}.{expert"), 4, "weight.name: name"),
    "brace close": (changed("{experts}.{proj}", "{experts}.{proj}}"), 4, "a brace is not closed"),
    "empty hole": (changed("{experts}.{proj}", "{experts}.{}.{proj}"), 4, "a brace is not closed"),
    "holes touch": (changed("{experts}.{proj}", "{block}{expert}.{proj}"), 4, "two holes touch"),
    "two integers": (changed("{experts}.{proj}", "{experts}.{expert}.{proj}.{inner}"), 4, "has two integers"),
    "three holes": (changed("{experts}.{proj}", "{experts}.{a}.{proj}.{b}.{c}"), 4, "more than 2 holes"),
    "hole is a number": (changed("{experts}.{proj}", "{experts}.{16}.{proj}"), 4, "'16' is not an axis"),
    "hole is a grain": (changed("{experts}.{proj}", "{experts}.{inner/128}.{proj}"), 4, "'inner/128' is not an axis"),
    "hole is two words": (changed("{experts}.{proj}", "{experts}.{modality expert}.{proj}"), 4, "has no list of words"),
    "block twice": (changed("{experts}.{proj}", "{experts}.{block}.{proj}"), 4, "'block' is not an axis"),
    # axes
    "axis in both": (changed("{experts}.{proj}", "{experts}.{expert}.{proj}"), 5, "weight.gate up: has an axis that is in the name"),
    "axis twice": (changed("expert hidden inner", "expert hidden hidden"), 6, "weight.down: axes \"expert hidden hidden\": 'hidden' occurs twice"),
    "no proj": (changed("(proj inner)", "inner"), 5, "weight.gate up: holds several projections, but has no axis proj"),
    "parenthesis open": (changed("(proj inner)", "(proj inner"), 5, "a parenthesis is not closed"),
    "parenthesis closed": (changed("(proj inner)", "proj inner)"), 5, "unexpected ')'"),
    "nested": (changed("(proj inner)", "((proj) inner)"), 5, "unexpected '('"),
    "no axes inside": (changed("(proj inner)", "() proj inner"), 5, "unexpected ')'"),
    "capital": (changed("hidden inner", "Hidden inner"), 6, "unexpected 'H'"),
    "comma": (changed("hidden inner", "hidden, inner"), 6, "unexpected ','"),
    "grain 0": (changed("hidden inner", "hidden inner/0"), 6, "'inner/0' is malformed"),
    "grain missing": (changed("hidden inner", "hidden inner/"), 6, "'inner/' is malformed"),
    "number 0": (changed("hidden inner", "hidden inner 0"), 6, "'0' is malformed"),
    "number too large": (changed("hidden inner", "hidden inner 18446744073709551616"), 6, "is malformed"),
    "seven dimensions": (changed("hidden inner", "hidden inner a b c d"), 6, "more than 6 dimensions"),
    "seven axes in one": (changed("hidden inner", "hidden (inner a b c d e f)"), 6, "more than 6 axes"),
    # renames
    "rename is an object": (changed("  }\n}", '  },\n  "rename": {"a": "b"}\n}'), 8, "rename: is not a list of pairs"),
    "rename with three": (changed("  }\n}", '  },\n  "rename": [\n    ["a", "b"],\n    ["a", "b", "c"]]\n}'), 10,
                          "rename: holds something that is not a pair of texts"),
    "rename with a number": (changed("  }\n}", '  },\n  "rename": [["a", 1]]\n}'), 8, "rename: holds something"),
    "rename to nothing": (changed("  }\n}", '  },\n  "rename": [["a", ""]]\n}'), 8, "rename: holds something"),
    "rename with other holes": (
        changed("  }\n}", '  },\n  "rename": [["a", "b"],\n    ["a.{x}", "b.{y}"]]\n}'), 9, "\"a.{x}\" has no hole {y}"),
    "rename that drops a hole": (changed("  }\n}", '  },\n  "rename": [["a.{x}", "b"]]\n}'), 8, "do not have the same holes"),
    "rename with a hole twice": (changed("  }\n}", '  },\n  "rename": [["a.{x}.{x}", "b.{x}"]]\n}'), 8, "a hole is given twice"),
    "rename to a hole twice": (changed("  }\n}", '  },\n  "rename": [["a.{x}", "b.{x}.{x}"]]\n}'), 8, "do not have the same holes"),
    "rename with an open brace": (changed("  }\n}", '  },\n  "rename": [["a.{x", "b"]]\n}'), 8, "a brace is not closed"),
    "rename with holes that touch": (changed("  }\n}", '  },\n  "rename": [["x{n}{m}", "y{n}.{m}"]]\n}'), 8, "\"x{n}{m}\": two holes touch"),
    "rename with any text and a number": (changed("  }\n}", '  },\n  "rename": [["{block}{m}", "y{m}.{block}"]]\n}'), 8, "two holes touch"),
    "rename to holes that touch": (changed("  }\n}", '  },\n  "rename": [["x{n}.{m}", "y{n}{m}"]]\n}'), 8, "\"y{n}{m}\": two holes touch"),
    "rename with an empty hole": (changed("  }\n}", '  },\n  "rename": [["a.{}", "b.{}"]]\n}'), 8, "a brace is not closed"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(run_moefs, tmp_path, case):
    text, line, message = MALFORMED[case]
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    done = run_moefs("layouts", "--check", path)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.removeprefix("moefs: error: ")
    assert said.startswith(f"{path}:{line}: "), said
    assert message in said, said


@pytest.mark.parametrize("own", range(8, 18))
def test_axes_of_ones_own(run_moefs, tmp_path, own):
    """Together with those of the built-in layouts there may be so many; the message is about the file that has one more."""
    axes = " ".join("abcdefghijklmnopqrstuvwxyz"[i] for i in range(own))
    path = layout_file(tmp_path, GOOD.replace("hidden inner\"", f"hidden inner ({axes[:11]}) ({axes[12:23]}) ({axes[24:]})\"").replace(" ()", ""))
    done = run_moefs("layouts", "--check", path)
    if own <= 11:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1
        assert done.stderr.startswith(f"moefs: error: {path}:6: weight.down: axes "), done.stderr
        assert "'l' is one axis too many" in done.stderr


@pytest.mark.parametrize("option", ["--to", "--from"])
def test_plan_refuses_as_check_does(run_moefs, tmp_path, option):
    src, *_ = source(tmp_path)
    path = layout_file(tmp_path, MALFORMED["axis twice"][0])
    said = run_moefs("layouts", "--check", path).stderr
    done = run_moefs("plan", src, option, path)
    assert (done.returncode, done.stderr) == (1, said)


def test_check_prints_what_was_understood(run_moefs, tmp_path):
    path = layout_file(tmp_path, MEGATRON)
    done = run_moefs("layouts", "--check", path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("{block}.experts.linear_fc1.weight{expert}  [(proj inner) hidden]  holds gate up",
                 "{block}.experts.linear_fc2.weight{expert}  [hidden inner]  holds down",
                 "rename lm_head.weight to output_layer.weight"):
        assert text in done.stdout


def test_keys_in_texts_do_not_mislead(run_moefs, tmp_path):
    """The line is that of the key, not of the first place where its letters occur."""
    text = GOOD.replace('"good"', '"weight"').replace('"expert hidden inner"', '"hidden hidden"')
    done = run_moefs("layouts", "--check", layout_file(tmp_path, text))
    assert ":6: weight.down: " in done.stderr


@pytest.mark.parametrize("path,message", [("absent.json", "No such file"), (".", "Is a directory")])
def test_unreadable(run_moefs, tmp_path, path, message):
    done = run_moefs("layouts", "--check", tmp_path / path)
    assert done.returncode == 1 and f"{tmp_path / path}: {message}" in done.stderr


def test_too_large(run_moefs, tmp_path):
    done = run_moefs("layouts", "--check", layout_file(tmp_path, GOOD + " " * (1 << 20)))
    assert done.returncode == 1 and "is larger than" in done.stderr


@pytest.mark.parametrize("arguments", [["--check"], ["--chek", "x.json"], ["x.json"], ["--check", "a.json", "b.json"]])
def test_usage(run_moefs, arguments):
    assert run_moefs("layouts", *arguments).returncode == 2


def test_documented_example(run_moefs, mount, tmp_path):
    """docs/layouts.md: the file, what --check prints of it, and the two mounts."""
    text = (raw.Path(__file__).parents[2] / "docs/layouts.md").read_text().split("## A layout of one's own")[1]
    layout_file(tmp_path, text.split("```json\n")[1].split("```")[0], "trainer.json")
    command, _, rest = text.split("```\n$ ")[1].partition("\n")
    done = run_moefs(*command.split()[1:], cwd=tmp_path)
    assert done.stdout == rest.split("$ moefs")[0]
    src, tensors, whole, others = source(tmp_path)
    file = tmp_path / "trainer.json"
    with mount(src, "--to", file) as there, mount(there.path, "--from", file, "--to", "original") as back:
        seen = raw.read_directory(there.path)
        assert raw.read_directory(back.path) == tensors | others
    assert seen["model.layers.0.mlp.router.weight"] == others["model.layers.0.mlp.gate.weight"]
    assert seen[f"{BLOCK}.experts.linear_fc2.weight2"] == raw.Tensor("BF16", whole["down"][2])


def test_every_known_layout_is_a_good_file(run_moefs, tmp_path):
    """What moefs has built in is written in the same language."""
    known = json.loads((raw.Path(__file__).parents[2] / "layout/data/layouts.json").read_text())["layouts"]
    assert len(known) >= 9
    for name, layout in known.items():
        done = run_moefs("layouts", "--check", layout_file(tmp_path, json.dumps(layout), name + ".json"))
        assert done.returncode == 0, (name, done.stderr)
