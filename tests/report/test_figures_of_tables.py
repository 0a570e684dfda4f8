"""Every figure in a table is the one that evaluation gives."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from kit_page import Page
from sklearn.metrics import roc_auc_score, roc_curve

from fairtune.evaluation.floor import noise_floor
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.scoring import group_table
from fairtune.evaluation.values import questions
from fairtune.report.costs import cost_frame
from fairtune.report.scored import PERMUTATIONS, on_test
from fairtune.report.tables import Tables
from fairtune.report.words import ends, number, signed, with_ends
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.select import corrected


@pytest.fixture(scope="module")
def outcome(view: Overview) -> Outcome:
    found = Outcome.load(view)
    assert found is not None
    return found


def test_groups_overall_worst_and_gap(view: Overview, outcome: Outcome, page: Page) -> None:
    for label, tested in outcome.tested.items():
        model = on_test(tested)
        truth = group_table(
            model.predictions,
            ["auc"],
            ["sex", "age"],
            minimum=view.judge.validation.minimum,
            threshold=model.threshold,
            floors=False,
        )
        head = f"{label} (pick)" if label == outcome.pick else label
        names = {None: {"auc": "all patients", "worst_auc": "worst group", "auc_gap": "gap"}}
        for attribute in ("sex", "age"):
            shown = page.table(f"AUC by {attribute}, test")
            own = truth[(truth["attribute"] == attribute) | truth["attribute"].isna()]
            for row in own.to_dict("records"):
                name = row["group"] or names[None].get(row["metric"])
                if name is None or not row["eligible"]:
                    continue
                assert shown[name][head].startswith(number(row["value"]))
                if row["metric"] == "auc" or row["attribute"] is None:
                    assert shown[name][head] == with_ends(row["value"], row["low"], row["high"])
                    low, _, high = shown[name]["n"].partition("–")
                    assert int(low) <= row["n"] <= int(high or low)


def test_noise_floor_is_that_of_evaluation(view: Overview, outcome: Outcome, page: Page) -> None:
    model = on_test(outcome.tested[outcome.pick])
    gap = Objective.parse("auc_gap@age")
    asked = questions(model.predictions, [gap], view.judge.validation.minimum, model.threshold)
    floor = noise_floor(asked, gap, permutations=PERMUTATIONS)
    shown = page.table("AUC by age, test")["noise floor of the gap"][f"{outcome.pick} (pick)"]
    assert shown == f"mean {number(floor.mean)}, 95 % {number(floor.upper)}"


def test_differences_and_bounds(outcome: Outcome, page: Page, view: Overview) -> None:
    primary = view.judge.primary
    shown = page.table(f"Difference in {primary}, test")
    assert set(shown) == set(outcome.differences)
    for label, d in outcome.differences.items():
        b = outcome.bounds[f"{primary} vs {label}"]
        assert shown[label]["difference [95 %]"] == with_ends(d.value, d.low, d.high, sign=True)
        assert shown[label]["bounds after Holm"] == ends(b.low, b.high)


def test_who_pays(outcome: Outcome, page: Page) -> None:
    for (label, attribute), changes in outcome.harms.items():
        shown = page.table(f"Change of each group by {attribute}, test")
        for c in changes:
            row = shown[f"{c.group}, against {label}"]
            assert row["change [95 %]"] == f"{signed(c.change)} {ends(c.low, c.high)}"
            assert row["pick"] == number(c.pick)
            assert (row[""] != "") == c.harmed
    assert "The gap narrowed by" in page.prose or "The gap widened by" in page.prose


def test_stages_beside_each_other(view: Overview, outcome: Outcome, page: Page) -> None:
    primary = view.judge.primary
    shown = page.table(f"{primary}, by stage")
    fix = corrected(view, view.candidates())
    assert fix is not None
    for c in view.candidates():
        row = shown[f"{c.label} (pick)" if c.label == outcome.pick else c.label]
        assert row["search"] == number(c.searched)
        assert row["confirm"] == f"{number(c.confirmed)} (2 seeds)"
        assert row["corrected for choice"] == (
            number(fix.corrected) if c.label == fix.pick else "–"
        )
        if c.label in outcome.tested:
            mean = outcome.tested[c.label].mean(view, primary)
            assert row["test"] == f"{number(mean)} (2 seeds)"


def test_roc_is_the_empirical_curve(outcome: Outcome, tables: Tables) -> None:
    model = on_test(outcome.tested[outcome.pick])
    p = model.predictions
    sex = p.attribute("sex")
    for name, own in tables.roc[tables.roc["kind"] == "curve"].groupby("group"):
        rows = sex.codes == sex.names.index(str(name))
        area = float(np.trapezoid(own["tpr"], own["fpr"]))
        assert area == pytest.approx(roc_auc_score(p.label[rows], p.score[rows]), abs=0.02)
        fpr, tpr, _ = roc_curve(p.label[rows], p.score[rows], drop_intermediate=False)
        for x, y in zip(own["fpr"], own["tpr"]):
            assert tpr[fpr <= x + 1e-9].max() <= y + 1e-9
            assert y <= tpr[fpr >= x - 1e-9].min() + 1e-9 or np.isclose(fpr, x).any()


def test_operating_points_are_rates_at_the_frozen_threshold(
    outcome: Outcome, tables: Tables
) -> None:
    model = on_test(outcome.tested[outcome.pick])
    p, sex = model.predictions, model.predictions.attribute("sex")
    for row in tables.roc[tables.roc["kind"] == "operating"].to_dict("records"):
        mine = sex.codes == sex.names.index(row["group"])
        called = p.score >= model.threshold
        assert row["tpr"] == pytest.approx(called[mine & (p.label == 1)].mean())
        assert row["fpr"] == pytest.approx(called[mine & (p.label == 0)].mean())


def test_history_has_every_trial_and_a_rising_incumbent(view: Overview, tables: Tables) -> None:
    search = tables.trials[tables.trials["phase"] == "search"]
    assert len(search) == 10
    assert set(search["state"]) == {"complete", "pruned", "failed"}
    best = search["incumbent"].dropna()
    done = search[search["state"] == "complete"]
    assert best.iloc[-1] == pytest.approx(done["value"].max())
    assert list(best) == sorted(best)
    for row, stored in zip(search.to_dict("records"), view.rows["search"]):
        assert row["number"] == stored.number + 1
        if stored.values is not None:
            assert row["value"] == stored.values[0]


def test_masks_are_compressed_without_loss(view: Overview, tables: Tables) -> None:
    rows = {row.digest: row for row in view.rows["search"]}
    assert list(tables.masks["value"]) == sorted(tables.masks["value"], reverse=True)
    for digest, flags in tables.masks.drop(columns=["number", "value"]).iterrows():
        units = {u for i, on in flags.items() if on for u in tables.switches["units"][i]}
        assert units == set(rows[str(digest)].recipe["adaptation"]["mask"])
    assert set(tables.switches["type"]) == {"norm", "attn", "mlp"}


def test_costs(view: Overview, tables: Tables, page: Page) -> None:
    costs = tables.costs.set_index("phase")
    assert costs.loc["search", "saved"] == 2
    assert costs.loc["confirm", "median"] == 6
    assert page.table("Runs, time and energy by phase")["search"]["epochs saved"] == "2"
    # One after another, 10 s apart, as on a real device; then the same from two processes.
    start = datetime(2026, 1, 1, tzinfo=UTC)
    apart = [replace(row, finished=start + timedelta(seconds=10 * row.number), worker="a")
             for row in view.rows["search"]]  # fmt: skip
    for rows in (apart, [replace(row, worker=f"{row.number}", finished=start) for row in apart]):
        found = cost_frame(replace(view, rows={**view.rows, "search": rows})).set_index("phase")
        assert found.loc["search", "seconds"] == pytest.approx(8 * 6 + 3)
    together = [replace(row, finished=start) for row in apart]
    found = cost_frame(replace(view, rows={**view.rows, "search": together})).set_index("phase")
    assert found.loc["search", "seconds"] == pytest.approx(6)
