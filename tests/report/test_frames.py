"""The figures' tables: each number is what its definition says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from kit import tiny_fields
from kit_language import network_spec
from kit_study import units
from scipy.stats import rankdata

from fairtune.config import parse
from fairtune.evaluation.objectives import Objective
from fairtune.models.backbone import describe
from fairtune.report.costs import covered, kilowatt_hours
from fairtune.report.crossings import crossing_frame
from fairtune.report.effects import ridge
from fairtune.report.figures import tradeoff
from fairtune.report.front import bar_frame, objective_frame, point_frame
from fairtune.report.importance import importance_frame, part_of
from fairtune.report.network import network_frame, parts_of
from fairtune.report.scored import on_test
from fairtune.report.tables import Tables, candidate_frame
from fairtune.report.trials import mask_frame
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.rows import SEARCH, results
from fairtune.training.recipe import Recipe


@pytest.fixture(scope="module")
def outcome(view: Overview) -> Outcome:
    found = Outcome.load(view)
    assert found is not None
    return found


def two_objectives(view: Overview) -> Overview:
    """The study as if it had also maximised the AUC, and trial 1 broke a constraint."""
    primary, second = view.judge.primary, Objective.parse("auc")
    rows = {
        phase: [
            row
            if row.values is None or "auc" not in row.attrs
            else replace(
                row,
                values=(row.values[0], float(row.attrs["auc"])),
                constraints={"auc>=0.9": 0.1 if row.number == 0 else -0.1},
            )
            for row in found
        ]
        for phase, found in view.rows.items()
    }
    return replace(view, judge=replace(view.judge, objectives=(primary, second)), rows=rows)


def test_every_objective_of_a_confirmed_recipe(view: Overview) -> None:
    candidates = view.candidates()
    assert not len(objective_frame(view, candidates))
    frame = objective_frame(two_objectives(view), candidates).set_index("label")
    for c in candidates:
        assert frame.loc[c.label, "seeds"] == len(c.values)
        assert frame.loc[c.label, "worst_auc@sex"] == pytest.approx(c.confirmed)
        assert frame.loc[c.label, "worst_auc@sex"] <= frame.loc[c.label, "auc"]


def test_several_objectives_are_drawn_in_panels(view: Overview, tables: Tables) -> None:
    axes = tuple(map(Objective.parse, ("worst_auc@sex", "auc", "auc_gap@sex")))
    points = point_frame(two_objectives(view), axes)
    bars = bar_frame(tables.groups.head(0), axes)
    found = tradeoff.figure(replace(tables, axes=axes, points=points, bars=bars))
    assert found is not None
    plot = found.plot
    assert plot.layout.yaxis.domain[0] > plot.layout.yaxis2.domain[1]
    assert plot.layout.xaxis2.autorange == "reversed"
    assert plot.layout.xaxis.autorange is None
    assert "violate a constraint" in found.caption
    drawn = {trace.name: len(trace.x) for trace in plot.data if trace.xaxis == "x2"}
    assert drawn["violates a constraint"] == (~points["feasible"]).sum()
    assert drawn["on the front"] == points["front"].sum()
    assert found.data["on the front"].dropna().sum() == points["front"].sum()


def test_points_have_signs_and_constraints(view: Overview) -> None:
    both = two_objectives(view)
    axes = (both.judge.primary, Objective.parse("auc_gap@sex"))
    frame = point_frame(both, axes)
    assert (frame["phase"] == "search").sum() == len(results(view.rows[SEARCH]))
    assert (~frame["feasible"]).sum() == (frame["number"] == 1).sum() > 0
    front = frame[frame["front"]]
    assert front["feasible"].all()
    may = frame[frame["feasible"]]
    for _, point in may.iterrows():
        beaten = (may["worst_auc@sex"] >= point["worst_auc@sex"]) & (
            may["auc_gap@sex"] <= point["auc_gap@sex"]
        )
        strictly = (may["worst_auc@sex"] > point["worst_auc@sex"]) | (
            may["auc_gap@sex"] < point["auc_gap@sex"]
        )
        assert point["front"] == (not (beaten & strictly).any())


def test_a_planted_effect_is_found_and_noise_is_called_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (40, 12))
    weights, explained = ridge(x, 0.7 + 0.05 * x[:, 3] + rng.normal(0, 0.02, 40))
    assert weights.argmax() == 3
    assert weights[3] == pytest.approx(0.05, abs=0.015)
    assert explained > 0.6
    flat, said = ridge(x, rng.normal(0.7, 0.02, 40))
    assert said < 0.2
    assert np.abs(flat).max() < 0.01


def test_leaving_out_by_the_hat_matrix_is_leaving_out() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(15, 3)), rng.normal(size=15)
    _, explained = ridge(x, y)
    errors, plain = [], []
    for i in range(15):
        keep = np.arange(15) != i
        plain.append((y[i] - y[keep].mean()) ** 2)
        errors.append([])
        for penalty in np.logspace(-1, 4, 26):
            # The same rows stay centred as in the full table: the shortcut is exact for a mean
            # that is left out as well only with the full table's centre.
            own = x[keep] - x.mean(axis=0)
            design = np.c_[np.ones(14), own]
            shrink = np.diag([0.0, *[penalty] * 3])
            beta = np.linalg.solve(design.T @ design + shrink, design.T @ y[keep])
            errors[-1].append((y[i] - np.r_[1.0, x[i] - x.mean(axis=0)] @ beta) ** 2)
    best = np.sum(errors, axis=0).min()
    assert explained == pytest.approx(1 - best / np.sum(plain))


def test_importance_finds_the_parameter_that_decides(view: Overview) -> None:
    assert part_of("optim.lr") == "optim.lr"
    assert part_of("adaptation.mask.bits.norm.0") == "mask: norm"
    assert part_of("adaptation.mask.cutoff.attn.cut") == "mask: attn"
    rows = [r for r in view.rows[SEARCH] if r.params and r.values is not None]
    rates = rankdata([r.params["optim.lr"] for r in rows])
    many = [
        replace(row, number=i * 100 + row.number, key=f"{i}-{row.key}", values=(float(rate),))
        for i in range(4)
        for row, rate in zip(rows, rates)
        if row.state == "complete"
    ]
    frame = importance_frame(replace(view, rows={**view.rows, SEARCH: many}))
    assert frame["share"].sum() == pytest.approx(1.0)
    assert frame["parameter"].iloc[0] == "optim.lr"
    assert frame["share"].iloc[0] > frame["chance"].iloc[0]
    assert not len(importance_frame(replace(view, rows={**view.rows, SEARCH: many[:7]})))


def test_the_drawing_holds_every_parameter_once(tables: Tables) -> None:
    model = units()
    parts = parts_of(model)
    assert set(parts) == {"norm", "attn", "mlp"}
    assert tables.run is not None
    cells = network_frame(tables.run.recipe, model)
    assert cells["parameters"].sum() == model.total
    mask = set(tables.run.recipe.adaptation.mask)
    for cell in cells[cells["part"].notna()].to_dict("records"):
        members = parts[cell["part"]][int(cell["stage"].split()[1]) - 1]
        assert cell["share"] == pytest.approx(len(members & mask) / len(members))
        assert cell["method"] == ("direct" if members & mask else "")
    assert cells["stage"].iloc[-1] == "head"


def of_towers(mask: str, usage: object = "classify") -> Recipe:
    """Return a recipe on two towers, the texts' trained by LoRA."""
    fields = tiny_fields(adaptation={"mask": mask, "method": {"text": {"lora": {"rank": 2}}}})
    return parse(Recipe, {**fields, "usage": usage})


def test_the_drawing_of_two_towers_is_one_below_the_other() -> None:
    model = describe(network_spec())
    cells = network_frame(of_towers("image.attn:5,text.attn:1,logit_scale"), model)
    stages = list(dict.fromkeys(cells["stage"]))
    assert cells["parameters"].sum() == model.total
    assert stages == [
        "image.stem", "image.pos", *(f"image block {i}" for i in range(1, 7)),
        "image.final_norm", "image.projection", "text.stem", "text.pos", "text block 1",
        "text block 2", "text.projection", "logit_scale", "head",
    ]  # fmt: skip
    on = cells[cells["share"] > 0].set_index("stage")
    assert on["part"].fillna("").to_dict() == {
        "image block 6": "attn", "text block 2": "attn", "logit_scale": "", "head": "",
    }  # fmt: skip
    assert on["method"].to_dict() == {
        "image block 6": "direct", "text block 2": "lora", "logit_scale": "direct",
        "head": "direct",
    }  # fmt: skip
    assert set(cells["part"].dropna()) == {"norm", "attn", "mlp"}
    contrastive = network_frame(of_towers("image.attn:5", "contrastive"), model)
    assert list(contrastive["stage"]) == list(cells["stage"])[:-1]


def test_switches_of_two_towers_are_apart(view: Overview) -> None:
    """Blocks of one number are two columns, also where every recipe trains both or none."""
    model, rules = describe(network_spec()), ("attn:1", "norm:0,attn:1", "text,image.mlp.fc1:0")
    rows = [
        replace(row, recipe={"adaptation": {"mask": rules[i % len(rules)]}})
        for i, row in enumerate(view.rows[SEARCH])
    ]
    table, switches = mask_frame(replace(view, units=model, rows={**view.rows, SEARCH: rows}))
    found = {(s["type"], s["depth"]) for s in switches.to_dict("records")}
    assert {("image.attn", 1), ("text.attn", 1), ("image.norm", 0), ("text.norm", 0)} <= found
    assert ("image.mlp.fc1.weight +1", 0) in found
    assert ("text.rest", None) in {(t, None) for t, _ in found}
    for switch in switches.to_dict("records"):
        assert len({model.tower_of(unit) for unit in switch["units"]}) == 1
    assert len(table.columns) == 2 + len(switches)


def test_calibration_bins_hold_all_rows_of_a_group(outcome: Outcome, tables: Tables) -> None:
    p = on_test(outcome.tested[outcome.pick]).predictions
    sex = p.attribute("sex")
    assert "X" not in set(tables.calibration["group"])
    for name, own in tables.calibration.groupby("group"):
        rows = sex.codes == sex.names.index(str(name))
        assert own["n"].sum() == rows.sum()
        assert (own["n"] >= 10).all()
        assert np.average(own["observed"], weights=own["n"]) == pytest.approx(p.label[rows].mean())
        assert np.average(own["predicted"], weights=own["n"]) == pytest.approx(
            p.score[rows].mean()
        )
        assert list(own["predicted"]) == sorted(own["predicted"])
        assert own["observed"].between(own["low"], own["high"]).all()


def test_missed_disease_and_sensitivity_by_hand(outcome: Outcome, tables: Tables) -> None:
    for recipe, own in tables.operating.groupby("recipe", sort=False):
        model = on_test(outcome.tested[str(recipe)])
        p = model.predictions
        cut = np.sort(p.score[p.label == 0])[::-1][int(np.floor(0.1 * (p.label == 0).sum()))]
        for row in own.to_dict("records"):
            mine = np.ones(len(p), dtype=bool)
            if row["group"] is not None:
                groups = p.attribute(row["attribute"])
                mine = groups.codes == groups.names.index(row["group"])
            missed = ((p.label == 1) & (p.score < model.threshold))[mine].mean()
            assert row["missed"] == pytest.approx(1000 * missed)
            assert row["missed_low"] <= row["missed"] <= row["missed_high"]
            found = (p.score > cut)[mine & (p.label == 1)].mean()
            assert row["sensitivity"] == pytest.approx(found, abs=0.05)
        assert "X" not in set(own["group"].dropna())


def test_net_benefit_is_vickers_and_elkins(outcome: Outcome, tables: Tables) -> None:
    p = on_test(outcome.tested[outcome.pick]).predictions
    frame = tables.benefit
    assert frame["group"].iloc[0] == "all patients"
    for row in frame[frame["group"] == "all patients"].to_dict("records")[::10]:
        t = row["threshold"]
        called = p.score >= t
        right, wrong = (called & (p.label == 1)).mean(), (called & (p.label == 0)).mean()
        assert row["benefit"] == pytest.approx(right - wrong * t / (1 - t))
        everyone = p.label.mean() - (1 - p.label.mean()) * t / (1 - t)
        assert row["all"] == pytest.approx(everyone)
        assert row["low"] < row["benefit"] < row["high"]


def test_crossings_hide_small_cells(view: Overview, outcome: Outcome, tables: Tables) -> None:
    frame = tables.crossings
    assert len(frame) == 6
    small = (
        frame[frame["row"] == "X"]
        if (frame["row"] == "X").any()
        else frame[frame["column"] == "X"]
    )
    assert not small["shown"].any()
    assert small[["value", "low", "high"]].isna().all().all()
    assert frame["n"].isna().all()  # a hidden count would follow from the others
    known = on_test(outcome.tested[outcome.pick])
    everyone = replace(
        known.predictions,
        attributes={
            k: a if k == "age" else replace(a, codes=a.codes % 2)
            for k, a in known.predictions.attributes.items()
        },
    )
    whole = crossing_frame(view, replace(known, predictions=everyone))
    assert whole["n"].sum() == len(known.predictions)


def test_incumbents_and_what_fresh_seeds_say(view: Overview, tables: Tables) -> None:
    frame = tables.overtuning
    assert list(frame["searched"]) == sorted(frame["searched"])
    assert (frame["trial"].iloc[1:].to_numpy() == frame["until"].iloc[:-1].to_numpy()).all()
    last = frame.iloc[-1]
    best = tables.candidates.set_index("label").loc["search-1"]
    assert last["searched"] == best["searched"]
    assert last["confirmed"] == pytest.approx(best["confirmed"])
    assert last["low"] <= last["confirmed"] <= last["high"]
    assert last["seeds"] == 2


def test_device_time_counts_what_overlaps_once() -> None:
    assert covered([(0.0, 10.0), (5.0, 12.0), (20.0, 21.0)]) == 13.0
    assert covered([(0.0, 10.0), (2.0, 3.0)]) == 10.0
    assert covered([]) == 0.0
    assert kilowatt_hours(3600.0, 100.0) == pytest.approx(0.1)


def test_the_energy_says_what_it_assumes(tables: Tables) -> None:
    from fairtune.report.costs_grid import costs

    assumed, given = costs(tables), costs(tables, 250.0)
    assert assumed is not None
    assert given is not None
    assert "100 W (an assumption, not a measurement" in assumed.notes[0]
    assert "250 W (as given" in given.notes[0]
    seconds = float(tables.costs["seconds"].sum())
    cells = dict(zip(given.columns, (cell.text for cell in given.rows[-1])))
    assert cells["energy (estimate)"] == f"{seconds * 250 / 3.6e6:.2g} kWh"
    assert isinstance(tables.costs, pd.DataFrame)


def test_a_test_split_without_enough_of_a_group_leaves_its_column_empty(
    view: Overview, outcome: Outcome
) -> None:
    few = view.judge.validation.model_copy(update={"min_group": {"n": 10_000}})
    strict = replace(view, judge=replace(view.judge, validation=few))
    tested = next(iter(outcome.tested.values()))
    assert tested.known(strict, view.judge.primary) is None
    assert tested.known(view, view.judge.primary) == tested.mean(view, view.judge.primary)
    frame = candidate_frame(strict, view.candidates(), outcome, None, None)
    assert frame["test"].isna().all()
    assert (frame["test_seeds"] > 0).any()
