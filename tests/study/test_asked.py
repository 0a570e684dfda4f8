"""What `status` says of orders and of points that wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from kit_ledger import journal
from kit_plan import plan, score_by

from fairtune.cli.watch import lines
from fairtune.study.enqueue import Wanted, enqueue
from fairtune.study.follow import State, state_of
from fairtune.study.ledger import Claim, Failed, Outcome
from fairtune.study.opening import open_study
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.search import phases
from fairtune.study.tend import retry, stop, tended
from fairtune.study.worker import Limits, StopFlag, work

PLAN = plan(baselines=[], confirm={"top": 0}, budget={"trials": 4})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path, "tiny", journal(tmp_path))
    open_study(place, PLAN, create=True).close()
    return place


def told(place: Place) -> tuple[State, str]:
    state = state_of(Overview.load(place))
    return state, "\n".join(lines(state))


def order(place: Place, *, now: bool = False) -> None:
    with tended(place) as study:
        stop(study, now=now)


def test_an_order_is_shown_until_somebody_goes_on(place: Place) -> None:
    seen: list[tuple[State, str]] = []

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        order(place)
        seen.append(told(place))
        yield claims[0], Failed("nan")

    assert told(place)[0].stop is None
    with open_study(place, PLAN, create=False) as ledger:
        work(ledger, phases(PLAN), run, Limits(), StopFlag())
    (during, said), (after, later) = seen[0], told(place)
    assert during.stop is not None
    assert during.stop.left == ("search 1",)
    assert "its workers leave after search 1" in said
    assert after.stop is not None
    assert after.stop.left == ()
    assert f"stopped by `fairtune stop`, {after.stop.at[:10]} " in later
    assert during.to_json()["stop"]["left"] == ("search 1",)
    with tended(place) as study:
        retry(study, ["1"])
    # That is no run yet.
    assert told(place)[0].stop is not None
    with open_study(place, PLAN, create=False) as ledger:
        assert ledger.claim(phases(PLAN), at_most=1)
        assert told(place)[0].stop is None


def test_an_order_for_now_says_so(place: Place) -> None:
    with open_study(place, PLAN, create=False) as ledger:
        ledger.claim(phases(PLAN), at_most=1)
        order(place, now=True)
        assert "leave at the next step of search 1" in told(place)[1]


def test_points_are_shown_until_they_begin(place: Place) -> None:
    for mask in ("block:0", "block:1"):
        with tended(place) as study:
            enqueue(Overview.load(place), study.family, Wanted(mask))
    state, said = told(place)
    assert state.enqueued == ("block:0", "block:1")
    assert "enqueued: block:0, block:1" in said
    with open_study(place, PLAN, create=False) as ledger:
        queue = phases(PLAN, lambda: _points(place))
        work(ledger, queue, score_by(lambda recipe: 0.5), Limits(runs=2), StopFlag())
    assert told(place)[0].enqueued == ("block:1",)


def _points(place: Place) -> list:  # type: ignore[type-arg]
    from fairtune.study.queued import points_of

    return points_of(Overview.load(place).search)
