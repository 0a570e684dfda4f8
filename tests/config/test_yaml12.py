"""YAML by the 1.2 core schema, with the place of everything and nothing hidden."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtune.config.yaml12 import Located, dumps, loads, plain_scalar, read
from fairtune.errors import ConfigError, Problems

CORE = [
    # https://yaml.org/spec/1.2.2/#103-core-schema, and what 1.1 would have made of the word
    ("null", None),
    ("~", None),
    ("", None),
    ("none", "none"),
    ("true", True),
    ("True", True),
    ("FALSE", False),
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("0", 0),
    ("-19", -19),
    ("+12", 12),
    ("010", 10),
    ("0o14", 12),
    ("0x3A", 58),
    ("-0x1", "-0x1"),
    ("0b1", "0b1"),
    ("1_000", "1_000"),
    ("12:30", "12:30"),
    ("190:20:30", "190:20:30"),
    ("1e-3", 1e-3),
    ("12e03", 12000.0),
    ("-2E+05", -200000.0),
    ("0.", 0.0),
    ("-0.0", -0.0),
    (".5", 0.5),
    ("+.5", 0.5),
    (".", "."),
    ("1e", "1e"),
    ("e3", "e3"),
    (".inf", math.inf),
    ("-.Inf", -math.inf),
    ("+.INF", math.inf),
    ("inf", "inf"),
    ("nan", "nan"),
    ("2001-12-14", "2001-12-14"),
    ("=", "="),
    ("1.2.3", "1.2.3"),
    ("٣", "٣"),
]


@pytest.mark.parametrize(("text", "value"), CORE)
def test_a_plain_word_means_what_the_core_schema_says(text: str, value: object) -> None:
    found = loads(f"key: {text}").data["key"]
    assert found == value
    assert type(found) is type(value)
    assert plain_scalar(text) == value


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_not_a_number(text: str) -> None:
    assert math.isnan(loads(text).data)


@pytest.mark.parametrize("quoted", ["'1'", '"true"', "'null'", '"1e-3"', "|-\n  1", ">-\n  true"])
def test_a_quoted_word_is_text(quoted: str) -> None:
    assert isinstance(loads(f"key: {quoted}").data["key"], str)


@pytest.mark.parametrize("key", ["1", "yes", "null", "1e-3", "2.0", "true"])
def test_a_key_is_text_as_it_stands(key: str) -> None:
    assert loads(f"{key}: 1").data == {key: 1}


def test_an_empty_document_is_nothing() -> None:
    assert loads("").data is None
    assert loads("# only a comment\n").data is None


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(blacklist_categories=["Cs"])),
    st.sampled_from([text for text, _ in CORE] + ["<<", "*a", "&a", "!a", "- x", "a: b", "# c"]),
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(blacklist_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Compare with types: 1 is not True, and 1 is not 1.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@settings(max_examples=200)
@given(documents)
def test_what_is_written_is_read_back_equal(data: Any) -> None:
    assert same(loads(dumps(data)).data, data)


def test_equal_parts_are_written_out_each_time() -> None:
    part = {"rank": 4}
    text = dumps({"a": part, "b": part})
    assert "*" not in text
    assert loads(text).data == {"a": part, "b": part}


def test_written_order_is_kept() -> None:
    assert list(loads(dumps({"z": 1, "a": 2, "m": 3})).data) == ["z", "a", "m"]


REFUSED = [
    ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key 'a' stands twice"),
    ("a: {b: 1, b: 2}", "f.yaml:1:11: the key 'b' stands twice"),
    ("a: 1\n'a': 2", "f.yaml:2:1: the key 'a' stands twice"),
    ("x:\n  <<: {a: 1}\n", "f.yaml:2:3: merge keys are not read here"),
    ("a: !!str 1", "f.yaml:1:4: the tag '!!str' is not read here"),
    ("a: !!str 'x'", "f.yaml:1:4: the tag '!!str' is not read here"),
    ("a: !mine {b: 1}", "f.yaml:1:4: the tag '!mine' is not read here"),
    ("- !!set {a}", "f.yaml:1:3: the tag '!!set' is not read here"),
    ("!k a: 1", "f.yaml:1:1: the tag '!k' is not read here"),
    ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: the tag '!!python/object/apply:os"),
    ("a: &x 1\nb: *x\n", "f.yaml:2:4: aliases are not read here"),
    ("a: &x [1, *x]", "f.yaml:1:11: aliases are not read here"),
    ("? [1, 2]\n: 3", "f.yaml:1:3: a key must be a plain word"),
    ("a: [1, 2\nb: 3", "f.yaml:2:2: not valid YAML"),
    ("a: 1\n---\nb: 2", "f.yaml:2:1: not valid YAML"),
    ("a: \x01", "f.yaml: not valid YAML"),
    ("a: *nobody", "f.yaml:1:4: not valid YAML"),
    ("\ta: 1", "f.yaml:1:1: not valid YAML"),
    ("n: " + "9" * 5000, "f.yaml:1:4: the number has too many digits"),
    ("[" * 700 + "]" * 700, "f.yaml: the document is nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[m[:60] for _, m in REFUSED])
def test_what_does_not_mean_what_it_shows_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, "f.yaml")
    assert str(caught.value).startswith(message)


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = "a: &x {c: 1}\nd: {<<: *x}\na: !t 2\nb: 1\nb: 2\n"
    with pytest.raises(Problems) as caught:
        loads(text, "f.yaml")
    places = [str(problem.where) for problem in caught.value.problems]
    assert places == ["f.yaml:2:5", "f.yaml:2:9", "f.yaml:3:1", "f.yaml:3:4", "f.yaml:5:1"]


def test_nested_aliases_do_not_explode() -> None:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(Problems) as caught:
        loads("\n".join(["l0: &l0 [lol]", *levels]))
    assert len(caught.value.problems) == 29 * 9


TEXT = """\
recipe:
  optim: {lr: 1e-3, epochs: 4}
objectives:
  - auc
  - worst_auc@age
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), "f.yaml:1:1"),
        (("recipe",), "f.yaml:1:1"),
        (("recipe", "optim", "epochs"), "f.yaml:2:21"),
        (("objectives", 1), "f.yaml:5:5"),
        (("recipe", "optim", "absent", "deeper"), "f.yaml:2:3"),
        (("nowhere",), "f.yaml:1:1"),
    ],
)
def test_places_are_counted_from_one(path: tuple[str | int, ...], place: str) -> None:
    assert loads(TEXT, "f.yaml").where(path) == place


def test_a_document_without_places_says_its_name() -> None:
    assert Located({"a": 1}, name="from code").where(("a",)) == "from code"


def test_read_takes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("größe: 1", encoding="utf-8")
    assert read(path).data == {"größe": 1}
    assert read(path).name == str(path)
    assert read(path, name="short").name == "short"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the file") as caught:
        read(tmp_path / "absent.yaml")
    assert "absent.yaml" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read the file"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("größe: 1".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(tmp_path / "latin.yaml")
