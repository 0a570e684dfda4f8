"""A study whose model is an endpoint: what it asks for, and what an outage costs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit import session, tiny_fields
from kit_endpoints import SIDE, Answer, Scripted, written
from kit_tiny import Tiny

from fairtune.errors import EndpointAway, FairtuneError
from fairtune.study.dry import estimate
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH
from fairtune.study.worker import Exit


def asking(model: Path, **changes: Any) -> dict[str, Any]:
    """Return the changes that make the tiny study one of readouts on an endpoint."""
    recipe = tiny_fields(model={"name": str(model), "image_size": SIDE}, optim={})
    recipe["adaptation"] = {"mask": "none"}
    space = {"optim.l2": {"float": [1e-3, 1.0], "log": True}}
    small = {"baselines": ["linear_readout"], "confirm": {"top": 0, "seeds": 1}}
    return {"recipe": recipe, "space": space, "budget": {"trials": 2}, **small, **changes}


def fresh(tmp_path: Path) -> Tiny:
    return Tiny(Place(tmp_path / "out", "tiny"), session(tmp_path / "out"))


def test_a_dry_run_asks_for_nothing(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        mine = fresh(tmp_path)
        text = estimate(mine.plan(asking(written(tmp_path, script.url))), mine.session)
        assert not script.asked
    assert "is asked for nothing by --dry-run" in text
    assert "space: 1 parameters" in text
    assert "2 search" in text


def test_a_mask_space_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        model = written(tmp_path, script.url)
        for change in (
            {"space": {"adaptation.mask": "auto_peft1", "optim.lr": {"float": [1e-4, 1e-2]}}},
            {"baselines": ["linear_readout", "fullft"]},
        ):
            fields = asking(model, **change)
            fields["recipe"]["optim"] = {} if "space" in change else {"lr": 1e-3}
            if "space" in change:
                del fields["recipe"]["adaptation"]
            with pytest.raises(FairtuneError, match="has no units that a mask could name"):
                fresh(tmp_path).search(**fields)
        assert not script.asked


def test_an_outage_fails_no_row_and_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    # The endpoint answers twice, is away, and then is there again.
    down = [Answer(code=503)] * 3
    with Scripted(Answer(), Answer(), *down, Answer()) as script:
        model = written(tmp_path, script.url, retries=2, batch=20)
        mine, fields = fresh(tmp_path), asking(model)
        with pytest.raises(EndpointAway, match="attempt 3 of 3"):
            mine.search(**fields)
        rows = [row for phase in mine.view.rows.values() for row in phase]
        assert [(row.state, row.reason) for row in rows] == [("failed", "stopped")]
        again = fresh(tmp_path)
        assert again.search(**fields) is Exit.DONE
        answers = again.session.ground(again.plan(fields).base).backbone.answers
        assert answers is not None
        counts = answers.counts()
        assert counts.requests == len(script.asked)
        ground = again.session.ground(again.plan(fields).base)
        images = sum(len(ground.pack.rows(name)) for name in ("train", "val"))
        assert counts.answered <= images
        assert counts.sent == counts.answered + 3 * 20
        done = [row for row in again.view.rows[SEARCH] if row.state == "complete"]
        assert len(done) == 2
