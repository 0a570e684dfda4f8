"""What a rule for a learned edit says: which fields act, and how it is written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_dimensions import value_of
from kit_scene import dne, small

from fairtune.config import parse
from fairtune.config.registry import declared_dimensions, written
from fairtune.editing import EDITS, MODES, OBJECTIVES, EditRule
from fairtune.editing.edits.dne import UNSEARCHED, Dne
from fairtune.errors import ConfigError

OTHER: dict[str, Any] = {
    "mode": {"white": {"lr": 0.02}},
    "objective": "entropy",
    "lambda_sa": 3.0,
    "lambda_reg": 5.0,
    "regulariser": "l2",
    "utility_weight": 1.5,
    "refit_every": 2,
    "refit_rows": 9,
    "linf": 1,
    "clamp": False,
    "noise_resolution": 3,
    "channels": 3,
    "init_std": 0.05,
    "batch_size": 7,
    "queries": 31,
    "l2": 1.0,
    "seed": 4,
}
"""Another value of every field."""

BASES: dict[str, dict[str, Any]] = {
    "default": {},
    "random": {"mode": "random"},
    "refits": {"refit_every": 3},
    "utility alone": {"lambda_sa": 0.0, "utility_weight": 1.0, "refit_every": 3},
    "means": {"objective": "mean_match", "refit_every": 3},
    "unpunished": {"lambda_reg": 0.0},
}


def made(**fields: Any) -> str:
    base = {"queries": 20, "batch_size": 8, "channels": 1}
    return dne(**{**base, **fields}).make(small(channels=3).scene).edit.sha


def test_a_rule_is_one() -> None:
    rule = EDITS.parse("dne")
    assert isinstance(rule, EditRule)
    assert rule.acts
    assert rule.queries == 1000
    assert EDITS.parse(written(rule)) == rule


@pytest.mark.parametrize("name", BASES)
def test_idle_fields_are_those_that_change_no_edit(name: str) -> None:
    base = BASES[name]
    plain, rule = made(**base), dne(**base)
    changing = {
        field
        for field, value in OTHER.items()
        if field not in base and made(**{**base, field: value}) != plain
    }
    idle = set(rule.idle)
    assert not changing & idle
    # Whatever is not idle acts, on this scene too; those that the base sets itself apart.
    asked = set(OTHER) - set(base)
    assert asked - changing == idle & asked


def test_of_noise_only_what_draws_and_bounds_it_is_written() -> None:
    rule = dne(mode="random")
    assert set(rule.canonical()) == set(UNSEARCHED)
    assert rule.canonical()["mode"] == {"random": {"rms": 8.0}}


def test_fields_at_their_defaults_are_written() -> None:
    found = parse(Dne, {}).canonical()
    assert set(Dne.model_fields) - set(found) == {"refit_rows"}
    assert found["attribute"] is None
    assert found["objective"] == {"uniform": {}}


@given(st.data())
def test_every_declared_value_is_allowed_and_read_back(data: st.DataObject) -> None:
    fields = {
        name: data.draw(value_of(dimension), label=name)
        for name, dimension in declared_dimensions(Dne).items()
    }
    fields["mode"] = data.draw(st.sampled_from(list(MODES)))
    fields["objective"] = data.draw(st.sampled_from(list(OBJECTIVES)))
    rule = parse(Dne, fields)
    assert EDITS.parse(written(rule)) == rule
    assert set(rule.canonical()) | set(rule.idle) == set(Dne.model_fields)


def test_an_attribute_is_given_where_none_is_named() -> None:
    assert parse(Dne, {}).attributed("age*sex").attribute == "age*sex"
    assert dne(attribute="sex").attributed("age").attribute == "sex"
    assert parse(Dne, {}).attributed(None).attribute is None
    assert dne().pinned() == dne()


@pytest.mark.parametrize(
    "fields",
    [
        {"lambda_sa": -1.0},
        {"linf": 256},
        {"channels": 2},
        {"attribute": "a b"},
        {"mode": "whit"},
        {"objective": {"uniform": {"k": 1}}},
        {"batch_size": 0},
        {"l2": 0.0},
        {"lambda_sa": 0.0},
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dne(**fields)
