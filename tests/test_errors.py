"""Messages a user reads, and what they say when several things are wrong at once."""

from __future__ import annotations

import inspect
import pickle

import pytest

from fairtune import errors
from fairtune.errors import (
    ConfigError,
    DataError,
    FairtuneError,
    Interrupted,
    ModelError,
    Problems,
    RunError,
    StorageError,
    StudyError,
    did_you_mean,
    raise_all,
)

KINDS = [ConfigError, DataError, ModelError, RunError, StudyError, Interrupted, StorageError]


def test_a_message_says_where_what_found_allowed_and_do() -> None:
    error = ConfigError(
        "unknown metric",
        where="study.yaml:3:5 (objectives.0)",
        found="acu",
        allowed=["auc", "worst_auc"],
        todo="did you mean 'auc'?",
    )
    assert str(error).splitlines() == [
        "study.yaml:3:5 (objectives.0): unknown metric",
        "  found:   'acu'",
        "  allowed: auc, worst_auc",
        "  do:      did you mean 'auc'?",
    ]


def test_parts_that_are_absent_leave_no_line() -> None:
    assert str(DataError("no rows")) == "no rows"


@pytest.mark.parametrize("found", [0, "", False, [], 0.0])
def test_a_falsy_finding_is_shown(found: object) -> None:
    assert f"found:   {found!r}" in str(DataError("bad", found=found))


@pytest.mark.parametrize(
    ("allowed", "shown"),
    [
        ("a number", "a number"),
        (("a", "b"), "a, b"),
        (3, "3"),
        ((), "nothing"),
        (iter("ab"), "a, b"),
    ],
)
def test_allowed_is_listed(allowed: object, shown: str) -> None:
    assert str(DataError("bad", allowed=allowed)).endswith(f"allowed: {shown}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_caught_as_one_and_survives_a_process(kind: type[FairtuneError]) -> None:
    known = {"reason": "nan"} if kind is RunError else {}
    error = kind("broken", **known, where="here", found=[1, "x"], allowed=["y"], todo="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.found == [1, "x"]
    with pytest.raises(FairtuneError, match="broken"):
        raise again


def test_several_problems_survive_a_process() -> None:
    error = Problems("study.yaml", [ConfigError("one"), DataError("two", where="t.csv:4")])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert [type(p) for p in again.problems] == [ConfigError, DataError]


def test_problems_are_numbered_and_counted() -> None:
    error = Problems("study.yaml", [ConfigError("one"), ConfigError("two", found=2)])
    assert str(error).splitlines() == [
        "study.yaml: 2 problems",
        "1. one",
        "2. two",
        "  found:   2",
    ]


def test_raise_all_passes_when_there_is_nothing() -> None:
    raise_all("study.yaml", [])


def test_raise_all_raises_a_single_problem_itself() -> None:
    only = StudyError("closed")
    with pytest.raises(StudyError) as caught:
        raise_all("study.yaml", [only])
    assert caught.value is only


def test_raise_all_raises_several_together() -> None:
    parts = [ConfigError("one"), DataError("two")]
    with pytest.raises(Problems) as caught:
        raise_all("study.yaml", parts)
    assert caught.value.problems == tuple(parts)


@pytest.mark.parametrize(
    ("word", "known", "answer"),
    [
        ("fairclp", ["fairclip", "erm"], "did you mean 'fairclip'?"),
        ("LORA", ["LoRA", "bitfit"], "did you mean 'LoRA'?"),
        ("group-dro", ["group_dro"], "did you mean 'group_dro'?"),
        ("zebra", ["fairclip", "erm"], None),
        ("x", [], None),
    ],
)
def test_did_you_mean(word: str, known: list[str], answer: str | None) -> None:
    assert did_you_mean(word, known) == answer


def test_did_you_mean_reads_an_iterator() -> None:
    assert did_you_mean("rnak", iter(["rank"])) == "did you mean 'rank'?"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    named = {kind.__name__ for kind in KINDS}
    tree = inspect.getdoc(errors) or ""
    assert all(name in tree for name in named)
    direct = {kind.__name__ for kind in FairtuneError.__subclasses__() if kind is not Problems}
    assert direct == named
