"""The figures of an edit and its controls, against other libraries and against what runs give."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fairlearn.metrics import equalized_odds_difference
from kit import AP, session, tiny_recipe
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fairtune.config import shipped
from fairtune.data.batch import normalise
from fairtune.editing.edit import Edit
from fairtune.errors import ConfigError, DataError
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.thresholds import decide, fit_threshold
from fairtune.experiment.arms import Fitting, fitted, noise_like
from fairtune.experiment.assess import assess
from fairtune.experiment.assessed import FROZEN, RETRAINED, Arm, Assessment
from fairtune.experiment.gate import LEDGER, Gate
from fairtune.experiment.tables import probabilities
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train

EDIT = {"attribute": "sex", "mode": {"two_point": {"lr": 0.03}}, "queries": 48}
FEW = GroupMinimum(5, 2, 2)
NAMES = ("none", "edit", "random", "reweighted", "early")
L2 = 1e-2
"""Of a softmax over two groups both vectors are penalised: half of it acts on their difference."""


@dataclasses.dataclass(frozen=True)
class Made:
    held: Session
    recipe: Recipe
    found: Assessment

    @property
    def ground(self) -> Ground:
        return self.held.ground(self.recipe)

    @property
    def edit(self) -> Edit:
        edit = self.ground.edit(self.recipe)
        assert edit is not None
        return edit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All the X-rays, so that groups have enough patients for figures of their own."""
    held = session(tmp_path_factory.mktemp("out"))
    asked = tiny_recipe(adaptation__mask="none", data__where={}, edit={"dne": EDIT})
    recipe = held.resolve(asked)
    return Made(held, recipe, assess(recipe, held))


def embedded(made: Made, rows: np.ndarray, edit: Edit | None) -> np.ndarray:
    """Return embeddings of rows, written out from the pixels on."""
    pack, spec = made.ground.pack, made.ground.spec
    image = torch.from_numpy(pack.images(rows)).permute(0, 3, 1, 2).float() / 255
    if edit is not None:
        image = image + edit.full
        image = image.clamp(0, 1) if edit.clamp else image
    with torch.inference_mode():
        return made.ground.backbone.embed(normalise(image, spec.mean, spec.std)).double().numpy()


def head(
    x: np.ndarray, y: np.ndarray, l2: float, weight: np.ndarray | None = None
) -> LogisticRegression:
    """Return scikit-learn's solution of mean loss + l2/2 |w|^2 over standardised features."""
    model = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000)
    return model.fit(x, y, sample_weight=weight)


def scaled(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    mean, sd = train.mean(axis=0), train.std(axis=0)
    sd[sd < 1e-12] = 1.0
    return [(x - mean) / sd for x in (train, *others)]


def arm_edit(made: Made, arm: Arm) -> Edit | None:
    return {"edit": made.edit, "random": noise_like(made.edit)}.get(arm.name)


@pytest.mark.parametrize("name", ["none", "edit", "random"])
def test_who_reads_the_attribute(made: Made, name: str) -> None:
    ground, arm = made.ground, made.found.arm(name)
    rows, val = ground.fit_rows(made.recipe), ground.val_rows(made.recipe)
    y, truth = ground.pack.groups(rows, "sex"), ground.pack.groups(val, "sex")
    edit = arm_edit(made, arm)
    seen = embedded(made, val, edit)
    train, moved = scaled(embedded(made, rows, None), seen)
    frozen = head(train, y, L2 / 2).decision_function(moved)
    assert arm.figures[FROZEN].value == pytest.approx(roc_auc_score(truth, frozen), abs=2e-3)
    train, seen = scaled(embedded(made, rows, edit), seen)
    again = head(train, y, L2 / 2).decision_function(seen)
    assert arm.figures[RETRAINED].value == pytest.approx(roc_auc_score(truth, again), abs=2e-3)
    for figure in (FROZEN, RETRAINED):
        assert arm.figures[figure].low < arm.figures[figure].value < arm.figures[figure].high


def test_a_head_is_read_where_it_was_fitted_without_edit(made: Made) -> None:
    for name in ("none", "reweighted", "early"):
        figures = made.found.arm(name).figures
        assert figures[FROZEN] == figures[RETRAINED] == made.found.arm("none").figures[FROZEN]


@pytest.mark.parametrize("name", ["none", "edit"])
def test_the_task_head_is_that_of_a_run(made: Made, name: str) -> None:
    recipe = made.recipe if name == "edit" else made.recipe.unedited()
    (result,) = train([Job(recipe, Seeds())], made.held)
    ground = made.ground
    val = ground.val_rows(recipe)
    label, score = ground.labels(val), result.epochs[-1].scores[:, 0]
    figures = made.found.arm(name).figures
    assert figures["auc"].value == pytest.approx(roc_auc_score(label, score))
    sex = ground.pack.groups(val, "sex")
    by_group = [roc_auc_score(label[sex == k], score[sex == k]) for k in (0, 1)]
    assert figures["worst_auc"].value == pytest.approx(min(by_group))
    assert figures["auc_gap"].value == pytest.approx(max(by_group) - min(by_group))
    assert [g.figures["auc"].value for g in made.found.arm(name).groups] == pytest.approx(by_group)
    table = ground.pack.predictions(val, probabilities(result.epochs[-1].scores, "binary"))
    called = decide(table, ThresholdRule())
    truth = equalized_odds_difference(label, called, sensitive_features=sex)
    assert figures["eo_diff"].value == pytest.approx(truth)


def test_the_reweighted_head_gives_every_cell_the_same_say(made: Made) -> None:
    ground = made.ground
    rows, val = ground.fit_rows(made.recipe), ground.val_rows(made.recipe)
    y, sex = ground.labels(rows), ground.pack.groups(rows, "sex")
    cell = 2 * sex + y
    weight = len(cell) / (4 * np.bincount(cell)[cell])
    train, seen = scaled(embedded(made, rows, None), embedded(made, val, None))
    score = head(train, y, L2, weight).decision_function(seen)
    value = made.found.arm("reweighted").figures["auc"].value
    assert value == pytest.approx(roc_auc_score(ground.labels(val), score), abs=2e-3)


def test_noise_has_the_norm_of_the_edit(made: Made) -> None:
    edit, noise = made.found.arm("edit").norms, made.found.arm("random").norms
    assert noise["l2"] == pytest.approx(edit["l2"], rel=1e-5)
    assert noise["linf"] != pytest.approx(edit["linf"], rel=1e-2)
    # Also where cells of the grid have different numbers of pixels.
    odd = Edit(torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(3)), 32, clamp=False)
    drawn = noise_like(odd)
    assert drawn.norms()["l2"] == pytest.approx(odd.norms()["l2"], rel=1e-5)
    assert (drawn.value.shape, drawn.clamp) == (odd.value.shape, False)


def test_differences_are_between_the_figures(made: Made) -> None:
    found = made.found
    for change in found.changes:
        a, b = found.arm("edit"), found.arm(change.against)
        expected = a.figures[change.figure].value - b.figures[change.figure].value
        assert change.change.value == pytest.approx(expected, abs=1e-9)
        assert change.change.low <= change.change.value <= change.change.high
    assert {c.against for c in found.changes} == {"none", "random", "reweighted"}


def test_figures_as_published_are_of_decisions_at_one_half(made: Made) -> None:
    ground = made.ground
    (result,) = train([Job(made.recipe, Seeds())], made.held)
    val = ground.val_rows(made.recipe)
    label, sex = ground.labels(val), ground.pack.groups(val, "sex")
    called = result.epochs[-1].scores[:, 0] >= 0
    rate = {
        (k, c): 100 * (called == c)[(sex == k) & (label == c)].mean()
        for k in (0, 1)
        for c in (0, 1)
    }
    told = made.found.arm("edit").released
    assert told["EO_n"] == pytest.approx(abs(rate[0, 0] - rate[1, 0]))
    assert told["EO_p"] == pytest.approx(abs(rate[0, 1] - rate[1, 1]))
    assert told["DI"] == pytest.approx(1 - rate[1, 1] / rate[0, 1])


def test_what_the_model_was_asked(made: Made) -> None:
    asked = made.found.queries
    assert asked["steps"] == 48
    rows, val = len(made.ground.fit_rows(made.recipe)), made.found.rows
    once = -(-rows // 128) + -(-val // 128)
    assert asked["assessing"] == 3 * once
    assert made.found.patients == 60
    assert made.found.picture.shape == (1, 32, 32)
    assert np.abs(made.found.picture).max() == pytest.approx(made.found.arm("edit").norms["linf"])


def test_a_crossing_has_as_many_groups_as_it_has(tmp_path: Path) -> None:
    held = session(tmp_path)
    rule = {"attribute": "sex*age", "mode": {"random": {"rms": 4}}}
    recipe = tiny_recipe(adaptation__mask="none", data__where={}, edit={"dne": rule})
    found = assess(held.resolve(recipe), held, minimum=FEW)
    assert len(found.groups) == 4
    assert found.arm("edit").released == {}
    assert found.arm("edit").norms["rms"] == pytest.approx(4, rel=1e-4)
    assert 0 < found.arm("none").figures[RETRAINED].low < 1
    assert [g.name for g in found.arm("none").groups] == list(found.groups)
    assert found.trace == []


def test_test_rows_are_opened_once_for_all_arms(tmp_path: Path, made: Made) -> None:
    with pytest.raises(ConfigError, match="through a gate alone"):
        assess(made.recipe, made.held, split="test")
    found = assess(made.recipe, made.held, split="test", gate=Gate(tmp_path), command="me")
    (line,) = (tmp_path / LEDGER).read_text().splitlines()
    opening = json.loads(line)
    assert opening["command"] == "me"
    assert opening["digests"] == [made.recipe.identity()]
    assert (found.split, found.openings) == ("test", 1)
    assert found.rows == int((made.ground.pack.table.frame["split"] == "test").sum())
    assert found.arm("none").figures["auc"] != made.found.arm("none").figures["auc"]


def test_the_threshold_of_test_is_that_of_validation(tmp_path: Path, made: Made) -> None:
    gate = Gate(tmp_path)
    found = assess(made.recipe, made.held, split="test", gate=gate, command="me")
    ground = made.ground
    _, arms = fitted(Fitting.of(ground, made.recipe, "sex"), made.edit)
    (edit,) = (arm for arm in arms if arm.name == "edit")
    cut = fit_threshold(edit.task(ground.val_rows(made.recipe)), ThresholdRule())
    test_pass = gate.open(ground.pack.table.split_hash, ["x"], command="again")
    told = edit.task(ground.pack.rows("test", test_pass=test_pass), test_pass)
    sex = told.attribute("sex").codes
    truth = equalized_odds_difference(told.label, told.score >= cut, sensitive_features=sex)
    assert found.arm("edit").figures["eo_diff"].value == pytest.approx(truth)


def test_nothing_to_assess_is_refused(tmp_path: Path) -> None:
    held = session(tmp_path)
    with pytest.raises(ConfigError, match="no edit to assess"):
        assess(held.resolve(tiny_recipe(adaptation__mask="none")), held)


def test_one_value_among_training_rows_is_refused(tmp_path: Path) -> None:
    held = session(tmp_path)
    rule = {"attribute": "view", "mode": "white", "queries": 4}
    recipe = tiny_recipe(
        adaptation__mask="none",
        data={
            "dataset": "nih-cxr-64",
            "target": "abnormal",
            "attributes": ["view"],
            "where": AP,
        },
        edit={"dne": rule},
    )
    with pytest.raises(DataError, match="fewer than two groups"):
        assess(held.resolve(recipe), held)


def test_few_rows_leave_figures_out_and_say_nothing_of_them(tmp_path: Path) -> None:
    held = session(tmp_path)
    rule = {"attribute": "sex", "mode": "random"}
    recipe = tiny_recipe(adaptation__mask="none", edit={"dne": rule})
    found = assess(held.resolve(recipe), held)
    for name in ("worst_auc", "auc_gap", "eo_diff"):
        assert not found.arm("edit").figures[name].known
    assert not found.change("worst_auc").known
    assert found.change("auc").known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "rule"),
    [
        ("multilabel", "separator: '|', labels: [Effusion, Infiltration], negative: rest"),
        ("multiclass", "classes: {clear: [No Finding]}, other: finding"),
        ("multiclass", "classes: {clear: [No Finding], fluid: [Effusion]}, other: else"),
    ],
)
def test_other_kinds_of_label(task: str, rule: str, tmp_path: Path) -> None:
    """Three data sets that are packed anew, each with arms of its own."""
    shipped_spec = shipped.root("configs") / "datasets" / "nih-cxr-64.yaml"
    own = f"targets:\n  own: {{column: findings, {rule}}}\n"
    text = shipped_spec.read_text().replace("targets:\n", own)
    path = tmp_path / "own.yaml"
    path.write_text(text)
    held = session(tmp_path)
    recipe = tiny_recipe(
        adaptation__mask="none",
        data={"dataset": str(path), "target": "own", "attributes": ["sex"]},
        edit={"dne": EDIT | {"queries": 8}},
    )
    resolved = held.resolve(recipe)
    found = assess(resolved, held, minimum=FEW)
    (result,) = train([Job(resolved.unedited(), Seeds())], held)
    ground = held.ground(resolved)
    label, scores = ground.labels(ground.val_rows(resolved)), result.epochs[-1].scores
    assert ground.task == task
    if task == "multilabel":
        parts = [roc_auc_score(label[:, j], scores[:, j]) for j in range(2)]
    else:
        parts = [roc_auc_score(label == k, p) for k, p in enumerate(probabilities(scores, task).T)]
    figures = found.arm("none").figures
    assert figures["auc"].value == pytest.approx(np.mean(parts))
    assert figures["eo_diff"].known == (task == "multilabel")
    assert found.arm("edit").released == {}
    assert {arm.name for arm in found.arms if arm.figures["auc"].known} == set(NAMES)
