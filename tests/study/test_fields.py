"""Which recipe fields can be searched, and how a value of each is checked."""

from __future__ import annotations

from typing import Any

import pytest

from fairtune.config import Choice, Config, Float
from fairtune.errors import ConfigError
from fairtune.study.fields import NOT_SEARCHED, PINNED, field_at, searchable
from fairtune.training.recipe import Recipe


def paths(cls: Any, prefix: str = "") -> set[str]:
    found = set()
    for name, info in cls.model_fields.items():
        inner = info.annotation
        if hasattr(inner, "model_fields") and inner is not Config:
            found |= paths(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_every_recipe_field_is_searched_or_kept_fixed() -> None:
    kept = {p for p in paths(Recipe) if p in NOT_SEARCHED or p.split(".")[0] in NOT_SEARCHED}
    assert set(searchable()) | kept == paths(Recipe)
    assert set(PINNED) <= kept


@pytest.mark.parametrize("path", sorted(searchable()))
def test_a_declared_range_holds_only_values_of_the_field(path: str) -> None:
    field = field_at(path)
    match field.declared:
        case None:
            assert path in (
                "adaptation.mask", "adaptation.method", "edit", "mitigations", "usage",
            )  # fmt: skip
        case Choice(options):
            for option in options:
                field.check(option)
        case range_:
            field.check(range_.low)
            field.check(range_.high)


def test_the_learning_rate_declares_its_range_although_it_has_no_default() -> None:
    assert field_at("optim.lr").declared == Float(1e-5, 1e-3, log=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optim.lr", 0.0), ("optim.lr", "1e-3"), ("optim.lr", True), ("optim.epochs", 2.0),
        ("optim.epochs", 0), ("optim.schedule", "linear"), ("fit.augment", True),
    ],
)  # fmt: skip
def test_a_value_the_field_would_not_take_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        field_at(path).check(value)
    assert caught.value.found == value


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("data.dataset", "fixed for a study"),
        ("model", "fixed for a study"),
        ("fit.precision", "fixed for a study"),
        ("optim", "unknown recipe field"),
        ("optim.lrr", "unknown recipe field"),
        ("", "unknown recipe field"),
        ("seed", "unknown recipe field"),
        ("mitigations.sinkhorn.weight", "unknown recipe field"),
    ],
)
def test_paths_that_are_no_searchable_field(path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        field_at(path)
    assert words in caught.value.what
    assert caught.value.found == path
