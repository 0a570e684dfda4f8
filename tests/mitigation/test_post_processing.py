"""Post-processing of tables: cross-fitted, one after another, with a cut of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from kit import tiny_recipe
from kit_post import member, table

from fairtune.errors import ConfigError, DataError, FairtuneError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import degenerate, evaluate_objectives
from fairtune.evaluation.thresholds import decide, fit_threshold, patient_folds
from fairtune.mitigation import MITIGATIONS, Mitigation, PostProcessing, post
from fairtune.training.recipe import Seeds

BOTH = ("group_temperature", "threshold_optimizer")


@dataclass
class Remembers:
    """A post-processing that knows the label of every row of a patient it was fitted on."""

    registered_name = "remembers"
    paper = formula = ""
    slots = clashes = idle = ()
    trains, mixes = False, True
    tasks = ("binary", "multiclass", "multilabel")
    fits: list[set[int]] = field(default_factory=list)
    met: list[set[int]] = field(default_factory=list)

    def fit(self, predictions: Predictions) -> Any:
        self.fits.append(set(predictions.patient.tolist()))
        return Remembered(dict(zip(predictions.patient.tolist(), predictions.label)), self)

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Any:
        raise NotImplementedError


@dataclass
class Remembered:
    """What `Remembers` found."""

    known: dict[int, Any]
    by: Remembers
    attribute = "sex"
    cut = None
    lacking = named = ()

    def apply(self, predictions: Predictions) -> Predictions:
        self.by.met.append(set(predictions.patient.tolist()))
        told = [float(patient in self.known) for patient in predictions.patient.tolist()]
        return replace(predictions, score=np.array(told))

    def to_json(self) -> dict[str, Any]:
        return {}


def members(*names: str, **fields: Any) -> tuple[Any, ...]:
    return tuple(member(name, **fields) for name in names)


@pytest.mark.parametrize("rows", [1, 3])
def test_no_row_is_read_with_what_was_fitted_on_its_patient(rows: int) -> None:
    p = table(n=150, rows=rows)
    knows: Any = Remembers()
    assert isinstance(knows, PostProcessing)
    made = post.cross_fitted((knows,), p)
    assert (made.score == 0).all()
    assert (post.apply(post.fit((knows,), p), p).score == 1).all()  # as in-sample would be
    everyone = set(p.patient.tolist())
    held = [met for fitted, met in zip(knows.fits[:5], knows.met[1:10:2]) if not fitted & met]
    assert len(held) == 5
    assert set().union(*held) == everyone
    assert all(fitted | met == everyone for fitted, met in zip(knows.fits[:5], held))


@pytest.mark.parametrize("names", [BOTH[:1], BOTH[1:], BOTH])
def test_the_scores_are_those_of_the_folds_that_thresholds_have(names: tuple[str, ...]) -> None:
    p = table()
    made = post.cross_fitted(members(*names), p)
    fold = patient_folds(p.patient, p.label, 5, 0)
    for k in range(5):
        expected = p.take(fold == k)
        rest = p.take(fold != k)
        for one in members(*names):  # by hand: each on the scores that the one before has made
            found = one.fit(rest)
            rest, expected = found.apply(rest), found.apply(expected)
        assert np.array_equal(made.score[fold == k], expected.score)
    assert made.cut == (0.5 if "threshold_optimizer" in names else None)
    assert np.array_equal(made.label, p.label)
    assert np.array_equal(post.cross_fitted(members(*names), p).score, made.score)


@pytest.mark.parametrize("names", [BOTH[:1], BOTH])
def test_models_of_folds_are_each_by_themselves(names: tuple[str, ...]) -> None:
    p = table(n=600)
    whole = replace(p, model=(np.arange(600) >= 300).astype(np.int64))
    made = post.cross_fitted(members(*names), whole)
    assert made.models == 2
    for one, half in zip(made.per_model(), (p.take(np.arange(300)), p.take(np.arange(300, 600)))):
        assert np.array_equal(one.score, post.cross_fitted(members(*names), half).score)
    # What is deployed is fitted on all of them together.
    assert post.to_json(post.fit(members(*names), whole)) == post.to_json(
        post.fit(members(*names), p)
    )


def test_without_any_a_table_is_left_alone() -> None:
    p = table()
    plain: Any = MITIGATIONS.parse("resample")
    assert post.post_processing((plain,)) == ()
    assert post.cross_fitted((plain,), p) is p
    assert post.fit((plain,), p) == ()
    assert post.apply((), p) is p


def test_steps_are_read_again_in_their_order() -> None:
    p = table()
    steps = post.fit(members(*BOTH), p)
    text = json.dumps(post.to_json(steps), allow_nan=False)
    again = post.from_json(json.loads(text))
    assert [step.name for step in again] == list(BOTH)
    fresh = table(seed=3)
    assert np.array_equal(post.apply(again, fresh).score, post.apply(steps, fresh).score)
    assert post.strangers(again, fresh) == ()
    known = fresh.attributes["sex"]
    strange = replace(fresh, attributes={"sex": replace(known, names=("F", "O"))})
    (first, second) = post.strangers(again, strange)
    count = int((known.codes == 1).sum())
    assert first.startswith(f"group_temperature: {count} of 400 rows are of no group of sex")
    assert second.startswith("threshold_optimizer: ")


def test_a_cut_takes_the_place_of_every_threshold() -> None:
    p = replace(table(), cut=0.7)
    expected = p.score >= 0.7
    for threshold in (ThresholdRule(), ThresholdRule("fixed", 0.1), 0.2, (0.2,)):
        assert np.array_equal(decide(p, threshold), expected)
    assert fit_threshold(p, ThresholdRule()) == 0.7
    tpr = Objective.parse("tpr")
    for threshold in (ThresholdRule(), 0.2):
        found = evaluate_objectives(p, [tpr], minimum=GroupMinimum(), threshold=threshold)
        assert found["tpr"] == expected[p.label == 1].mean()
    assert p.take(np.arange(9)).cut == 0.7
    assert degenerate(replace(p, cut=2.0)) == "every row is called class 0"
    two = replace(table(task="multilabel"), cut=0.7)
    assert np.array_equal(decide(two, ThresholdRule()), two.score >= 0.7)
    assert fit_threshold(two, ThresholdRule()) == (0.7, 0.7)
    assert {one.cut for one in two.per_target()} == {0.7}
    several = replace(p, model=np.arange(400) % 2)
    assert np.array_equal(decide(several, ThresholdRule()), expected)
    assert {one.cut for one in several.per_model()} == {0.7}


@pytest.mark.parametrize("name", BOTH)
def test_they_are_members_that_do_not_train(name: str) -> None:
    cls: Any = MITIGATIONS.get(name)
    assert (cls.trains, cls.slots, cls.mixes) == (False, (), True)
    assert isinstance(member(name), PostProcessing)
    assert not isinstance(member(name), Mitigation)
    recipe = tiny_recipe(mitigations=[{name: {"attribute": "sex"}}])
    plain = tiny_recipe()
    assert not recipe.mitigated
    assert recipe.identity() != plain.identity()
    assert recipe.key(Seeds()) != plain.key(Seeds())
    assert "mitigations" not in plain.canonical()
    readout = tiny_recipe(adaptation__mask="none", mitigations=[{name: {"attribute": "sex"}}])
    assert readout.solved
    assert readout.identity() != tiny_recipe(adaptation__mask="none").identity()
    with pytest.raises(FairtuneError, match="not an attribute of the recipe"):
        tiny_recipe(mitigations=[{name: {"attribute": "site"}}])


def test_they_follow_each_other_by_name_and_with_others() -> None:
    named = [{name: {"attribute": "sex"}} for name in ("threshold_optimizer", *BOTH[:1])]
    recipe = tiny_recipe(mitigations=[*named, {"resample": {"attribute": "sex"}}])
    assert recipe.mitigated
    acting = post.post_processing(recipe.mitigations)
    assert [type(one).registered_name for one in acting] == list(BOTH)  # type: ignore[attr-defined]
    other = tiny_recipe(
        mitigations=[{"threshold_optimizer": {"attribute": "sex", "objective": "accuracy_score"}}]
    )
    assert other.identity() != tiny_recipe(mitigations=named[:1]).identity()
    with pytest.raises(ConfigError):
        member("threshold_optimizer", constraint="fairness")


def test_another_kind_of_target_is_named() -> None:
    p = table(task="multiclass")
    with pytest.raises(DataError, match="'threshold_optimizer' is not made for this kind") as e:
        post.cross_fitted(members(*BOTH), p)
    assert (e.value.found, e.value.allowed) == ("multiclass", ["binary", "multilabel"])
    assert post.cross_fitted(members("group_temperature"), p).score.shape == (400, 3)
