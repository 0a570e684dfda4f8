"""`--set PATH=VALUE`."""

from __future__ import annotations

import copy

import pytest

from fairtune.config.overrides import apply, split
from fairtune.config.yaml12 import Located, loads
from fairtune.errors import ConfigError

TEXT = """\
name: s
recipe:
  optim: {lr: 1e-3, epochs: 8}
  empty:
space:
  optim.lr: {float: [1e-5, 1e-3], log: true}
objectives: [auc]
"""


def document() -> Located:
    """Return a fresh document."""
    return loads(TEXT, "s.yaml")


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("a.b=4", ("a", "b"), 4),
        ("a=1e-3", ("a",), 1e-3),
        ("a=yes", ("a",), "yes"),
        ("a=", ("a",), None),
        ("a==x", ("a",), "=x"),
        ("a=[1, two]", ("a",), [1, "two"]),
        ("a={float: [1e-5, 1], log: true}", ("a",), {"float": [1e-5, 1], "log": True}),
        (" a =b=c", ("a",), "b=c"),
    ],
)
def test_split(word: str, path: tuple[str, ...], value: object) -> None:
    assert split(word) == (path, value)


@pytest.mark.parametrize("word", ["", "a", "=1", ".a=1", "a.=1", "a..b=1"])
def test_another_form_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="an override is written PATH=VALUE") as caught:
        split(word)
    assert caught.value.found == word


def test_a_value_that_is_no_yaml_is_placed_in_the_override() -> None:
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        split("a.b=[1, 2")
    assert str(caught.value.where).startswith("--set a.b:1:")


def test_values_are_replaced_in_order_and_the_document_stays() -> None:
    before = document()
    kept = copy.deepcopy(before.data)
    after = apply(before, ["recipe.optim.lr=1", "recipe.optim={epochs: 2}", "recipe.optim.lr=3"])
    assert after.data["recipe"]["optim"] == {"epochs": 2, "lr": 3}
    assert before.data == kept


def test_a_path_under_space_is_one_key() -> None:
    after = apply(document(), ["space.optim.lr={float: [1, 2]}", "space.adaptation.mask=none"])
    assert after.data["space"] == {"optim.lr": {"float": [1, 2]}, "adaptation.mask": "none"}


def test_the_whole_space_can_be_replaced() -> None:
    assert apply(document(), ["space={}"]).data["space"] == {}


def test_absent_and_empty_parents_are_made() -> None:
    after = apply(document(), ["recipe.data.dataset=nih", "recipe.empty.x=1"])
    assert after.data["recipe"]["data"] == {"dataset": "nih"}
    assert after.data["recipe"]["empty"] == {"x": 1}


def test_an_empty_document_can_be_filled() -> None:
    assert apply(loads(""), ["a.b=1"]).data == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("name.x=1", "'name' is a value, not a mapping"),
        ("objectives.0=1", "'objectives' is a value, not a mapping"),
        ("recipe.optim.lr.x.y=1", "'recipe.optim.lr' is a value, not a mapping"),
    ],
)
def test_a_path_through_a_value_is_refused(word: str, place: str) -> None:
    with pytest.raises(ConfigError, match=place) as caught:
        apply(document(), [word])
    assert caught.value.found == word


def test_a_document_that_is_a_list_is_not_dropped() -> None:
    with pytest.raises(ConfigError, match="the document is a value, not a mapping"):
        apply(loads("[1, 2]"), ["a=1"])


def test_a_fault_in_an_override_is_placed_there_and_not_in_the_file() -> None:
    after = apply(document(), ["recipe.optim.lr=fast", "space.optim.lr=wide"])
    assert after.where(("recipe", "optim", "lr")) == "--set recipe.optim.lr"
    assert after.where(("space", "optim.lr", "float")) == "--set space.optim.lr"
    assert after.where(("recipe", "optim", "epochs")) == "s.yaml:3:21"


def test_a_later_override_takes_the_place_of_an_earlier_one() -> None:
    after = apply(document(), ["recipe.optim.lr=1", "recipe.optim={lr: 2}"])
    assert after.where(("recipe", "optim", "lr")) == "--set recipe.optim"
    assert apply(after, ["recipe={}"]).where(("recipe", "optim", "lr")) == "--set recipe"
