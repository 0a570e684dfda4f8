"""Every mask space in a study file: it validates, starts with anchors, draws and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit_ledger import sqlite
from kit_plan import plan, score_by, vit

from fairtune.adaptation import SPACES
from fairtune.config import Config
from fairtune.errors import FairtuneError
from fairtune.study.ledger import Ledger, Options
from fairtune.study.opening import identity
from fairtune.study.phases import ANCHORS, BaselinePhase, SearchPhase
from fairtune.study.plan import Plan
from fairtune.study.rows import SEARCH
from fairtune.study.samplers import Sampler
from fairtune.study.samplers.random import Random
from fairtune.study.samplers.tpe import Tpe
from fairtune.study.search import phases
from fairtune.study.worker import Exit, Limits, StopFlag, work

WRITTEN: dict[str, Any] = {
    "topk": {"topk": {"types": ["norm", "attn", "mlp"], "share": 0.5}},
    "hybrid": {"hybrid": {"flips": 2}},
}
UNITS = vit(12)


def of(mask: Any, trials: int = 40) -> Plan:
    space = {"optim.lr": {"float": [1e-4, 1e-2], "log": True}, "adaptation.mask": mask}
    return plan(UNITS, space=space, baselines=[], confirm={"top": 0}, budget={"trials": trials})


def run(folder: Path, made: Plan, sampler: Sampler) -> list[Any]:
    with Ledger.open(
        sqlite(folder),
        "s",
        directions=["maximize"],
        identity=identity(made),
        create=True,
        options=Options(sampler=sampler, patience=20.0),
    ) as ledger:
        share = score_by(lambda recipe: len(recipe["adaptation"]["mask"]) / 150)
        assert work(ledger, phases(made), share, Limits(), StopFlag()) is Exit.DONE
        return list(ledger.rows(SEARCH))


@pytest.mark.parametrize("name", list(SPACES))
def test_a_study_with_this_space_draws_masks(name: str, tmp_path: Path) -> None:
    made = of(WRITTEN.get(name, name), trials=5)
    rows = run(tmp_path, made, Tpe(startup=3) if name == "hybrid" else Random())
    assert len(rows) == 5
    known = made.dimensions()
    prefix = f"adaptation.mask.{name}."
    assert {n for n in known if n.startswith(prefix)} == known.keys() - {"optim.lr"}
    assert not made.space.conditional(UNITS)
    for row in rows:
        assert row.params.keys() == known.keys()
        assert all(known[n].contains(v) for n, v in row.params.items())
        drawn = made.space.draw(lambda n, _, row=row: row.params[n], UNITS)
        assert drawn["adaptation.mask"] == list(row.recipe["adaptation"]["mask"])
    assert len({row.digest for row in rows}) > 2


@pytest.mark.parametrize("name", ["bits", "cutoff", "interval", "gate", "hybrid"])
def test_every_anchor_can_be_said(name: str) -> None:
    made = of(name)
    anchors = SearchPhase(made, BaselinePhase(made)).anchors()
    assert [a.attrs["label"] for a in anchors] == list(ANCHORS)


def test_a_budget_has_the_anchors_that_keep_it() -> None:
    made = of({"topk": {"share": 0.3}})
    labels = [a.attrs["label"] for a in SearchPhase(made, BaselinePhase(made)).anchors()]
    assert labels == ["norm:all", "none", "block:last-3"]


def test_names_of_spaces_stand_beside_rules_in_one_of() -> None:
    made = of({"one_of": ["none", "cutoff", {"topk": {"count": 4}}]})
    names = list(made.dimensions())
    assert names[1:4] == [
        "adaptation.mask",
        "adaptation.mask.cutoff.norm.cut",
        "adaptation.mask.cutoff.norm.side",
    ]
    assert sum(n.startswith("adaptation.mask.topk.") for n in names) == 36
    assert made.space.conditional(UNITS)
    assert [next(iter(s)) for s in made.space.mask_spaces()] == ["cutoff", "topk"]


def test_a_resume_with_another_limit_is_refused(tmp_path: Path) -> None:
    run(tmp_path, of({"topk": {"share": 0.5}}, trials=1), Random())
    with pytest.raises(FairtuneError, match="'mask_spaces' differs"):
        run(tmp_path, of({"topk": {"share": 0.6}}, trials=1), Random())


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"cutoff": {"typs": ["attn"]}}, "did you mean 'types'"),
        ("topk", "either count or share"),
        ({"topk": {"count": 2, "share": 0.5}}, "either count or share"),
        ({"one_of": ["gate", "gate"]}, "twice"),
        ({"one_of": ["topk"]}, "either count or share"),
    ],
)
def test_a_wrong_space_is_refused_with_its_place(mask: Any, words: str) -> None:
    with pytest.raises(FairtuneError, match=words) as caught:
        of(mask)
    assert "study.yaml:" in str(caught.value)
    assert issubclass(SPACES.get("cutoff"), Config)
