"""Retraining and the one opening of the test, on a real tiny study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kit_tiny import COMMAND, Tiny

from fairtune.adaptation import Rule
from fairtune.compat.masks import write_mask
from fairtune.errors import ConfigError, FairtuneError, Interrupted, ModelError, StudyError
from fairtune.experiment.gate import LEDGER
from fairtune.experiment.run import Unwatched
from fairtune.study.final import OPENING, Wanted, choose, finetune_study, test_table
from fairtune.study.masks import with_mask
from fairtune.study.outcome import Outcome
from fairtune.study.rows import CONFIRM, FINAL


def lines(tiny: Tiny) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (tiny.place.out / LEDGER).read_text().splitlines()]


def openings(tiny: Tiny) -> int:
    return sum(name.startswith(OPENING) for name in tiny.view.attrs)


def test_the_pick_and_every_baseline_are_tested_in_one_recorded_opening(tiny: Tiny) -> None:
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    assert list(outcome.tested) == ["search-1", "linear_readout", "norm:all"]
    assert outcome.openings == 1
    (line,) = lines(tiny)
    assert line["command"] == COMMAND
    assert line["study"] == "tiny"
    assert line["split"] == tiny.view.base.data.split
    digests = {run.card["digest"] for t in outcome.tested.values() for run in t.runs}
    assert set(line["digests"]) == digests
    assert openings(tiny) == 1
    (stored,) = (v for k, v in tiny.view.attrs.items() if k.startswith(OPENING))
    assert stored == line


def test_final_rows_stand_once_with_the_figures_of_the_runs(tiny: Tiny) -> None:
    rows = tiny.view.rows[FINAL]
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    runs = {run.key: (t, i) for t in outcome.tested.values() for i, run in enumerate(t.runs)}
    assert sorted(row.key for row in rows) == sorted(runs)
    assert {row.state for row in rows} == {"complete"}
    for row in rows:
        tested, i = runs[row.key]
        assert row.attrs["label"] == tested.label
        assert row.replicate == i
        assert 0 <= row.attrs["test/auc"] <= 1
        assert row.values == (pytest.approx(row.values[0]),)  # type: ignore[index]
    confirm = {row.key for row in tiny.view.rows[CONFIRM]}
    assert not confirm & set(runs)


def test_the_same_command_again_opens_and_trains_nothing(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    before = sorted((mine.place.out / "runs").glob("*/*"))
    first = json.loads((mine.place.folder / "metrics.json").read_text())

    class Never(Unwatched):
        def poll(self) -> str | None:
            raise AssertionError("something is trained")

    outcome = finetune_study(
        mine.view, mine.session, Wanted(seeds=2), command=COMMAND, watch=lambda *_: Never()
    )
    assert len(lines(mine)) == openings(mine) == outcome.openings == 1
    assert sorted((mine.place.out / "runs").glob("*/*")) == before
    assert len(mine.view.rows[FINAL]) == 6
    assert json.loads((mine.place.folder / "metrics.json").read_text()) == first


def test_another_seed_opens_again_and_adds_only_what_is_new(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    outcome = mine.finetune(seeds=3)
    assert outcome.openings == len(lines(mine)) == openings(mine) == 2
    assert len(mine.view.rows[FINAL]) == 9
    assert {len(t.runs) for t in outcome.tested.values()} == {3}
    fewer = mine.finetune(seeds=1)
    assert fewer.openings == 2
    assert {len(t.runs) for t in fewer.tested.values()} == {1}


def test_a_stopped_run_leaves_the_test_closed(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    polls = []

    class Stops(Unwatched):
        def poll(self) -> str | None:
            polls.append(1)
            return "SIGINT" if len(polls) > 3 else None

    with pytest.raises(Interrupted, match="test split stays closed") as caught:
        finetune_study(
            mine.view, mine.session, Wanted(seeds=4), command="c", watch=lambda *_: Stops()
        )
    assert caught.value.found == "SIGINT"
    assert len(lines(mine)) == openings(mine) == 1
    assert len(mine.view.rows[FINAL]) == 6


def test_train_and_val_chooses_nothing_on_validation(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    told: list[dict] = []  # type: ignore[type-arg]

    class Told(Unwatched):
        def epoch(self, report, values):  # type: ignore[no-untyped-def]
            told.append(dict(values))
            assert not len(report.scores)

    outcome = finetune_study(
        mine.view, mine.session, Wanted(rows="train+val", seeds=1), command="c",
        watch=lambda *_: Told(),
    )  # fmt: skip
    assert told
    assert all(values == {} for values in told)
    candidates = {c.label: c for c in mine.view.candidates()}
    for label, tested in outcome.tested.items():
        (run,) = tested.runs
        assert run.recipe.fit.rows == "train+val"
        assert not (run.folder / "val.parquet").exists()
        cuts = [r.operating["threshold"] for r in candidates[label].runs]
        assert run.operating["threshold"] == pytest.approx(np.median(cuts))
        epochs = [mine.view.judge.epoch_of(r) for r in candidates[label].runs]
        assert run.recipe.optim.epochs == int(np.median(epochs))
    assert outcome.openings == 2
    rows = [row for row in mine.view.rows[FINAL] if row.recipe["fit"]["rows"] == "train+val"]
    assert len(rows) == 3


def test_train_and_val_needs_confirm_runs(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    with pytest.raises(StudyError, match="takes epochs and threshold from confirm runs"):
        mine.finetune(rows="train+val", trial=2)
    assert len(lines(mine)) == 1


def test_a_trial_takes_the_place_of_the_pick(tiny: Tiny) -> None:
    chosen, others = choose(tiny.view, Wanted(trial=2))
    row = tiny.view.rows["search"][1]
    assert chosen.label == "search-trial-2"
    assert chosen.digest == row.digest
    assert [c.label for c in others] == ["search-trial-2", "linear_readout", "norm:all"]
    with pytest.raises(StudyError) as caught:
        choose(tiny.view, Wanted(trial=9))
    assert caught.value.allowed == [1, 2, 3, 4]


def test_a_rule_that_cannot_be_used_is_refused_before_anything_runs(tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(tiny.view, Wanted(rule="bset"))
    assert caught.value.found == "bset"
    with pytest.raises(StudyError, match="one objective"):
        choose(tiny.view, Wanted(rule="knee"))


def test_another_rule_changes_the_pick_and_not_what_is_tested(tiny: Tiny) -> None:
    labels = {"search-1", "linear_readout", "norm:all"}
    for rule in ("minimax", "dto", "es", "1se"):
        chosen, others = choose(tiny.view, Wanted(rule=rule))
        assert others[0] is chosen
        assert {c.label for c in others} == labels


def test_a_rule_takes_everything_else_from_the_best_recipe(tiny: Tiny) -> None:
    recipe = with_mask("attn:0-1", None, tiny.view)
    best = tiny.view.candidates()[0].recipe
    assert recipe.adaptation.mask == Rule.parse("attn:0-1").mask(tiny.view.units).units
    assert recipe.optim == best.optim
    chosen, others = choose(tiny.view, Wanted(recipe=recipe))
    assert [c.label for c in others] == ["search-mask", "linear_readout", "norm:all"]
    assert chosen.recipe == recipe


def test_a_mask_that_is_a_baseline_is_tested_once(tiny: Tiny) -> None:
    view = tiny.view
    same = next(c for c in view.candidates() if c.label == "norm:all")
    _, others = choose(view, Wanted(recipe=same.recipe))
    assert [c.label for c in others] == ["search-mask", "linear_readout"]


def test_a_vector_of_fairtune_needs_its_layout(tiny: Tiny, tmp_path: Path) -> None:
    units = tiny.view.units
    mask = Rule.parse("norm:0,mlp:3-4").mask(units)
    path = tmp_path / "mask.npy"
    write_mask(path, mask, "auto_peft1", units)
    assert with_mask(str(path), "auto_peft1", tiny.view).adaptation.mask == mask.units
    with pytest.raises(ConfigError, match="which module a bit means"):
        with_mask(str(path), None, tiny.view)
    with pytest.raises(ModelError, match="length of layout"):
        with_mask(str(path), "auto_peft2", tiny.view)


def test_a_recipe_json_brings_everything_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    run = Outcome.load(tiny.view).tested["norm:all"].runs[0]  # type: ignore[union-attr]
    assert with_mask(str(run.folder / "recipe.json"), None, tiny.view) == run.recipe
    card = json.loads((run.folder / "recipe.json").read_text())
    card["recipe"]["data"]["split"] = "another"
    (tmp_path / "recipe.json").write_text(json.dumps(card))
    recipe = with_mask(str(tmp_path / "recipe.json"), None, tiny.view)
    mine = tiny.copy(tmp_path / "out")
    with pytest.raises(StudyError, match="one split"):
        mine.finetune(recipe=recipe)
    assert len(lines(mine)) == 1


def test_a_recipe_json_of_a_train_and_val_run_is_fitted_on_train_again(
    tiny: Tiny, tmp_path: Path
) -> None:
    run = Outcome.load(tiny.view).tested["norm:all"].runs[0]  # type: ignore[union-attr]
    card = json.loads((run.folder / "recipe.json").read_text())
    card["recipe"]["fit"]["rows"] = "train+val"
    (tmp_path / "recipe.json").write_text(json.dumps(card))
    assert with_mask(str(tmp_path / "recipe.json"), None, tiny.view).fit.rows == "train"


@pytest.mark.parametrize("text", ["attn:0-99", "conv:all", "attn", "none.json", "{"])
def test_a_mask_that_does_not_fit_is_refused(tiny: Tiny, text: str) -> None:
    with pytest.raises(FairtuneError):
        with_mask(text, None, tiny.view)


def test_the_table_marks_the_pick_and_has_every_recipe(tiny: Tiny) -> None:
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    table = test_table(outcome).splitlines()
    assert table[1].split() == [
        "recipe", "seeds", "worst_auc@sex", "auc", "auc_gap@sex", "worst_auc@age", "auc_gap@age",
    ]  # fmt: skip
    assert [line.split()[0] for line in table[2:]] == ["*", "linear_readout", "norm:all"]
    assert table[2].split()[2] == "2"
    mine = [row for row in tiny.view.rows[FINAL] if row.attrs["label"] == "search-1"]
    mean = np.mean([row.values[0] for row in mine])  # type: ignore[index]
    assert float(table[2].split()[3]) == pytest.approx(mean, abs=6e-4)


# The library's names are no tests.
test_table.__test__ = False  # type: ignore[attr-defined]
