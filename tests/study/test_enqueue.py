"""Points that people want tried: what the space cannot say is refused, the rest is tried next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_ledger import journal
from kit_plan import plan, score_by, vit

from fairtune.errors import ConfigError, FairtuneError, ModelError, StudyError
from fairtune.study.enqueue import Enqueued, Wanted, enqueue
from fairtune.study.ledger import Claim, Failed, Ledger, Outcome
from fairtune.study.opening import open_study
from fairtune.study.overview import Overview
from fairtune.study.phases import SearchPhase
from fairtune.study.place import Place
from fairtune.study.plan import Plan
from fairtune.study.queued import PREFIX, points_of, waiting
from fairtune.study.rows import SEARCH, Row, roots
from fairtune.study.search import phases
from fairtune.study.tend import tended
from fairtune.study.worker import Limits, StopFlag, work

LR = {"float": [1e-4, 1e-2], "log": True}


@pytest.fixture
def made() -> Plan:
    return plan(baselines=[], confirm={"top": 0}, budget={"trials": 5})


@pytest.fixture
def place(tmp_path: Path, made: Plan) -> Place:
    return opened(tmp_path, made)


def opened(folder: Path, made: Plan) -> Place:
    place = Place(folder, "tiny", journal(folder))
    open_study(place, made, create=True).close()
    return place


def add(place: Place, mask: str | None = None, *words: str, **more: Any) -> Enqueued:
    with tended(place) as study:
        return enqueue(Overview.load(place), study.family, Wanted(mask, words=words, **more))


def search(place: Place, made: Plan, execute: Any = None) -> list[Row]:
    with open_study(place, made, create=False) as ledger:
        parts = phases(made, lambda: points_of(ledger.attrs()))
        run = execute or score_by(lambda recipe: 0.5)
        work(ledger, parts, run, Limits(), StopFlag())
        return ledger.rows()


def card(folder: Path, recipe: Any, name: str = "recipe.json") -> str:
    path = folder / name
    path.write_text(json.dumps({"recipe": recipe, "judged_by": {}}))
    return str(path)


def test_points_come_after_the_anchors_in_their_order(place: Place, made: Plan) -> None:
    first = add(place, "block:last-2", "optim.lr=3e-4")
    second = add(place, "norm:0,attn:2", label="by hand")
    assert (first.before, second.before) == (0, 1)
    assert first.fields == ["optim.lr 0.0003 (--set)"]
    assert second.fields == ["optim.lr 0.001 (middle of its range)"]
    rows = search(place, made)
    assert [(r.kind, r.attrs.get("label")) for r in rows[:3]] == [
        ("anchor", "norm:all"), ("enqueued", "block:last-2"), ("enqueued", "by hand"),
    ]  # fmt: skip
    assert [row.kind for row in rows[3:]] == ["search", "search"]
    assert rows[1].recipe["optim"]["lr"] == 3e-4
    assert rows[1].params["optim.lr"] == 3e-4
    assert rows[1].params.keys() == made.dimensions().keys()
    assert rows[2].digest == second.point.digest
    # Part of the budget, not beside it.
    assert len(roots(rows)) == 5
    assert waiting(points_of(Overview.load(place).search), rows) == []


def test_a_worker_that_runs_sees_what_was_added_meanwhile(place: Place, made: Plan) -> None:
    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        if claims[0].number == 2:
            add(place, "block:0")
        yield from score_by(lambda recipe: 0.5)(claims)

    rows = search(place, made, run)
    assert [row.kind for row in rows] == ["anchor", "search", "search", "enqueued", "search"]


def test_two_workers_try_a_point_once(place: Place, made: Plan) -> None:
    add(place, "block:0")
    search_ = [open_study(place, made, create=False) for _ in range(2)]
    for ledger in search_:
        ledger.reap()
    claims = []
    for _ in range(2):
        for ledger in search_:
            parts = phases(made, lambda ledger=ledger: points_of(ledger.attrs()))
            claims += ledger.claim(parts, at_most=1)
    assert sorted(claim.proposal.kind for claim in claims) == [
        "anchor", "enqueued", "search", "search",
    ]  # fmt: skip
    for ledger in search_:
        ledger.close()


def test_a_point_that_was_drawn_meanwhile_is_not_tried_again(place: Place, made: Plan) -> None:
    anchor = SearchPhase(made, phases(made)[0]).anchors()[0]
    add(place, "norm:all")
    rows = search(place, made)
    assert [row.kind for row in rows].count("enqueued") == 0
    assert rows[0].digest == anchor.digest


def test_what_was_run_is_refused_unless_it_is_asked_for(place: Place, made: Plan) -> None:
    search(place, made)
    with pytest.raises(StudyError, match="was run already") as error:
        add(place, "norm:all")
    assert error.value.found == "search 1"
    done = add(place, "norm:all", again=True)
    assert done.notes == [
        "the search has ended (budget.trials: 5 trials): it is tried once `fairtune search` "
        "allows more"
    ]
    more = plan(baselines=[], confirm={"top": 0}, budget={"trials": 7})
    rows = search(place, more)
    again = [row for row in rows if row.kind == "enqueued"]
    assert [(row.replicate, row.digest) for row in again] == [(1, rows[0].digest)]
    assert again[0].key != rows[0].key


def test_a_point_waits_once(place: Place) -> None:
    add(place, "block:0")
    with pytest.raises(StudyError, match="waits to be tried already"):
        add(place, "block:0")
    assert len(points_of(Overview.load(place).search)) == 1


def test_a_point_that_failed_for_good_is_left_to_retry(place: Place, made: Plan) -> None:
    def broken(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, Failed("nan")

    search(place, made, broken)
    with pytest.raises(StudyError, match="failed for good") as error:
        add(place, "norm:all", again=True)
    assert "fairtune retry" in str(error.value.todo)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("block:0", "optim.lr=1"), StudyError, "no such value"),
        (("block:0", "optim.rl=1e-3"), ConfigError, "did you mean 'optim.lr'?"),
        (("block:0", "optim.lr"), ConfigError, "written PATH=VALUE"),
        (("stem",), StudyError, "mask space cannot say this mask"),
        (("nrm:all",), ModelError, ""),
        ((None,), ConfigError, "which mask?"),
    ],
)
def test_what_the_space_cannot_say_is_refused(
    place: Place, words: tuple[str, ...], kind: type[FairtuneError], said: str
) -> None:
    with pytest.raises(kind) as error:
        add(place, *words)
    assert said in str(error.value)
    assert not any(name.startswith(PREFIX) for name in Overview.load(place).search)


def test_a_recipe_gives_every_searched_field(place: Place, made: Plan, tmp_path: Path) -> None:
    given = made.recipe({"adaptation.mask": "attn:all", "optim.lr": 7e-4})
    done = add(place, card(tmp_path, given.to_json(), "mine.json"))
    assert (done.point.digest, done.point.label) == (given.identity(), "mine")
    assert done.fields == ["optim.lr 0.0007 (recipe.json)"]
    assert done.notes == []
    other = given.to_json()
    other["optim"]["epochs"] += 3
    other["optim"]["lr"] = 9e-4
    done = add(place, card(tmp_path, other))
    assert done.notes == ["of recipe.json the study keeps its own: optim.epochs"]
    rows = search(place, made)
    assert [row.recipe["optim"]["lr"] for row in rows if row.kind == "enqueued"] == [7e-4, 9e-4]


ONE = {"adaptation.method": {"one_of": ["direct", {"lora": {"rank": {"int": [2, 16]}}}]}}
BY_TYPE = {
    "adaptation.method.attn": {"one_of": ["direct", {"lora": {"rank": {"int": [2, 16]}}}]},
    "adaptation.method.mlp": {"one_of": ["direct", {"lora": {"rank": 4}}]},
}


@pytest.mark.parametrize("methods", [ONE, BY_TYPE])
def test_the_recipe_of_every_trial_can_be_given_back(
    tmp_path: Path, methods: dict[str, Any]
) -> None:
    space = {
        "optim.lr": LR,
        "adaptation.mask": "auto_peft1",
        **methods,
        "fit.augment": {"one_of": ["none", "light"]},
        "optim.weight_decay": {"one_of": [0.0, {"float": [1e-4, 1e-1], "log": True}]},
        "mitigations": {
            "subset_of": ["group_dro", {"sam": {"rho": {"float": [0.01, 0.1]}}}], "max": 2,
        },
    }  # fmt: skip
    made = plan(space=space, baselines=["norm:all"], confirm={"top": 0}, budget={"trials": 16})
    rows = search(opened(tmp_path, made), made)
    (tmp_path / "other").mkdir()
    other = opened(tmp_path / "other", made)
    for row in rows:
        done = add(other, card(tmp_path, row.recipe), again=True)
        assert (done.point.digest, done.notes) == (row.digest, [])


def test_a_fairtune_vector_is_a_mask(tmp_path: Path) -> None:
    made = plan(vit(12), baselines=[], confirm={"top": 0})
    place = opened(tmp_path, made)
    bits = np.zeros(36, dtype=np.int8)
    bits[[0, 5]] = 1
    np.save(tmp_path / "mask_0.7.npy", bits)
    done = add(place, str(tmp_path / "mask_0.7.npy"), layout="auto_peft1")
    assert done.point.label == "mask_0.7"
    assert done.point.values["adaptation.mask"]
    with pytest.raises(ConfigError, match="does not say which module"):
        add(place, str(tmp_path / "mask_0.7.npy"))


def test_without_a_searched_mask_fields_alone_make_a_point(tmp_path: Path) -> None:
    recipe = {
        "data": {"dataset": "d", "target": "t", "attributes": ["sex"]},
        "model": {"name": "m", "image_size": 32, "weights": "none"},
        "fit": {"precision": "fp32"},
        "adaptation": {"mask": "norm:all"},
    }
    made = plan(space={"optim.lr": LR}, recipe=recipe, baselines=[], confirm={"top": 0})
    place = opened(tmp_path, made)
    assert add(place, None, "optim.lr=2e-4").point.label == "enqueued"
    with pytest.raises(ConfigError, match="searches no mask"):
        add(place, "norm:all")
    with pytest.raises(ConfigError, match="which point"):
        add(place)


def test_a_study_without_its_file_is_one_message(place: Place) -> None:
    view = Overview.load(place)
    view = replace(view, search={k: v for k, v in view.search.items() if k != "definition"})
    with tended(place) as study, pytest.raises(StudyError, match="holds no study file"):
        enqueue(view, study.family, Wanted("block:0"))


def test_it_stays_a_pure_function_of_what_is_read(place: Place, made: Plan) -> None:
    add(place, "block:0")
    with Ledger.open(place.url, "tiny") as ledger:
        queue = points_of(ledger.attrs())
    first = SearchPhase(made, phases(made)[0], lambda: queue)
    rows = search(place, made)[:1]
    one, two = (first.propose({SEARCH: rows}, None) for _ in range(2))  # type: ignore[arg-type]
    assert one == two
    assert one is not None
    assert one.kind == "enqueued"
