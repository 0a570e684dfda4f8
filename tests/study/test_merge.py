"""Rows of one storage copied into another: whole, once, and never over another study's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kit_ledger import Keyed, Search, execute, journal, open_ledger, sqlite

from fairtune.errors import StudyError
from fairtune.study.family import Family
from fairtune.study.invariants import violations
from fairtune.study.ledger import Claim, Complete, Failed, Ledger, Outcome
from fairtune.study.merge import MERGED, Merged, merge
from fairtune.study.place import Place
from fairtune.study.rows import Row, counts, current, due
from fairtune.study.worker import Exit, Limits, StopFlag, work

QUICK = Limits(idle=0.02, failures=99)
PHASES = ("baseline", "search")


def here(tmp_path: Path) -> Place:
    return Place(tmp_path / "to", "s")


def there(tmp_path: Path) -> str:
    (tmp_path / "from").mkdir(exist_ok=True)
    return sqlite(tmp_path / "from")


def told(row: Row) -> dict[str, Any]:
    """What a row says but for the numbers that a merge gives anew."""
    said = vars(row).copy()
    for name in ("number", "root"):
        said.pop(name)
    return said


def every(ledger: Ledger) -> dict[str, list[Row]]:
    return {phase: ledger.rows(phase) for phase in PHASES}


def flaky(times: int) -> Callable[[Sequence[Claim]], Iterator[tuple[Claim, Outcome]]]:
    """Fail every run at its first `times` attempts, as what may be tried again."""

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            failed = Failed("error", "a node", retry=True)
            done = Complete([0.5], {"note": claim.number}, {"floor": -0.1})
            yield claim, failed if claim.attempt < times else done

    return run


def test_a_study_moves_whole_with_its_attempts(tmp_path: Path) -> None:
    source = there(tmp_path)
    with open_ledger(source) as old:
        phases = [Keyed(["a", "b"]), Search(4)]
        assert work(old, phases, flaky(1), QUICK, StopFlag()) is Exit.DONE
        old.set_attr("plan", {"budget": {"trials": 4}})
        old.set_attr("opening:1", {"when": "now"}, phase="final")
        before = every(old)
    assert [len(rows) for rows in before.values()] == [4, 8]
    done = merge(here(tmp_path), source)
    assert done.made
    assert {p: n for p, n in done.copied.items() if n} == {"baseline": 4, "search": 8}
    with open_ledger(here(tmp_path).url, create=False) as new:
        after = every(new)
        assert {p: list(map(told, rows)) for p, rows in after.items()} == {
            p: list(map(told, rows)) for p, rows in before.items()
        }
        assert violations(after, 4) == []
        assert new.attrs()["plan"] == {"budget": {"trials": 4}}
        assert new.attrs()[MERGED] == [source]
        assert new.attrs("final") == {"opening:1": {"when": "now"}}
        # And it goes on from there.
        more = [Keyed(["a", "b"]), Search(6)]
        assert work(new, more, execute(), QUICK, StopFlag()) is Exit.DONE
        assert violations(every(new), 6) == []


def test_a_second_merge_changes_nothing(tmp_path: Path) -> None:
    source = there(tmp_path)
    with open_ledger(source) as old:
        work(old, [Keyed(["a"]), Search(3)], flaky(1), QUICK, StopFlag())
    merge(here(tmp_path), source)
    with open_ledger(here(tmp_path).url, create=False) as new:
        before = every(new)
        done = merge(here(tmp_path), source)
        assert every(new) == before
    assert not done.made
    assert set(done.copied.values()) == {0}
    assert (done.known["baseline"], done.known["search"]) == (1, 3)


@pytest.mark.parametrize("rows", range(1, 8))
def test_a_merge_cut_short_is_completed(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "from").mkdir()
    source = journal(tmp_path / "from")
    place = Place(tmp_path, "s", journal(tmp_path))
    with open_ledger(source) as old:
        work(old, [Keyed(["a"]), Search(2)], flaky(1), QUICK, StopFlag())
        work(old, [Keyed(["a"]), Search(3)], nan, QUICK, StopFlag())
        before = every(old)
    assert sum(map(len, before.values())) == 7
    add, left = Family.add, iter(range(rows))

    def cut(self: Family, phase: str, trial: Any) -> int:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return add(self, phase, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Family, "add", cut)
        try:
            merge(place, source)
        except KeyboardInterrupt:
            assert rows < 7
    merge(place, source)
    with open_ledger(place.url, create=False) as new:
        after = every(new)
    assert {p: list(map(told, found)) for p, found in after.items()} == {
        p: list(map(told, found)) for p, found in before.items()
    }
    assert violations(after, 3) == []


def nan(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
    for claim in claims:
        yield claim, Failed("nan")


def of(labels: str, url: str, outcome: Outcome, **options: Any) -> None:
    """Run the baselines `labels` in the storage at `url`, each with one outcome."""
    with open_ledger(url, **options) as ledger:

        def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
            for claim in claims:
                yield claim, outcome

        work(ledger, [Keyed(list(labels))], run, QUICK, StopFlag())


def test_results_of_two_clusters_come_together(tmp_path: Path) -> None:
    source, place = there(tmp_path), Place(tmp_path, "s", journal(tmp_path))
    of("abc", source, Complete([0.1]))
    of("cd", place.url, Complete([0.2]))
    of("e", place.url, Failed("nan"))
    of("e", source, Complete([0.3]))
    of("f", place.url, Failed("nan"))
    of("f", source, Failed("nan"))
    done = merge(place, source)
    assert (done.copied["baseline"], done.known["baseline"], done.left) == (3, 1, [])
    with open_ledger(place.url, create=False) as ledger:
        rows = ledger.rows("baseline")
    told = {r.attrs["label"]: (r.values and r.values[0], r.reason) for r in current(rows).values()}
    assert told == {
        "a": (0.1, None), "b": (0.1, None), "c": (0.2, None), "d": (0.2, None),
        "e": (0.3, None), "f": (None, "nan"),
    }  # fmt: skip
    assert violations({"baseline": rows}, None) == []
    assert set(merge(place, source).copied.values()) == {0}


def test_what_waits_for_its_next_try_is_tried_in_the_target(tmp_path: Path) -> None:
    source, place = there(tmp_path), Place(tmp_path, "s", journal(tmp_path))
    with open_ledger(source) as old:
        (claim,) = old.claim([Keyed(["a"])], at_most=1)
        old.give_back(claim, "the node was needed")
    merge(place, source)
    with open_ledger(place.url, create=False) as new:
        assert len(due(new.rows("baseline"))) == 1
        work(new, [Keyed(["a"])], execute(), QUICK, StopFlag())
        assert counts(new.rows("baseline"))["complete"] == 1


def test_runs_under_way_are_left_and_said(tmp_path: Path) -> None:
    source, place = there(tmp_path), Place(tmp_path, "s", journal(tmp_path))
    with open_ledger(source) as old, open_ledger(place.url) as new:
        claim, done_there = old.claim([Keyed(["a", "b"])], at_most=2)
        (other,) = new.claim([Keyed(["b"])], at_most=1)
        old.finish(done_there, Complete([0.5]))
        done = merge(place, source)
        assert done.left == [f"baseline 1, {source}", "baseline 1, here"]
        assert set(done.copied.values()) == {0}
        old.finish(claim, Complete([0.5]))
        new.finish(other, Failed("nan"))
        assert merge(place, source).copied["baseline"] == 2


def test_another_study_is_refused_with_the_fields(tmp_path: Path) -> None:
    source, place = there(tmp_path), Place(tmp_path, "s", journal(tmp_path))
    of("a", source, Complete([0.5]), identity={"space": 2})
    of("b", place.url, Complete([0.5]))
    with pytest.raises(StudyError, match="'space' differs") as error:
        merge(place, source)
    assert "two studies" in str(error.value)
    with open_ledger(place.url, create=False) as ledger:
        assert len(ledger.rows("baseline")) == 1
        assert MERGED not in ledger.attrs()


def test_nothing_is_made_for_a_study_that_is_not_there(tmp_path: Path) -> None:
    source = there(tmp_path)
    open_ledger(source, name="other").close()
    with pytest.raises(StudyError, match="there is no study 's'"):
        merge(here(tmp_path), source)
    assert not (tmp_path / "to").exists()
    with pytest.raises(StudyError, match="from another storage"):
        merge(Place(tmp_path, "other", source), source)


def test_directions_must_be_the_same(tmp_path: Path) -> None:
    source, place = there(tmp_path), Place(tmp_path, "s", journal(tmp_path))
    open_ledger(source, directions=["minimize"]).close()
    open_ledger(place.url).close()
    with pytest.raises(StudyError, match="directions"):
        merge(place, source)


@pytest.mark.needs("postgres")
def test_a_laptops_study_moves_to_a_server(tmp_path: Path, postgres_url: str) -> None:
    source = there(tmp_path)
    with open_ledger(source) as old:
        work(old, [Search(3)], flaky(1), QUICK, StopFlag())
        before = old.rows()
    place = Place(tmp_path, "s", postgres_url)
    merge(place, source)
    with open_ledger(place.url, create=False) as new:
        assert list(map(told, new.rows())) == list(map(told, before))
        assert work(new, [Search(5)], execute(), QUICK, StopFlag()) is Exit.DONE
        assert violations({"search": new.rows()}, 5) == []
    assert merge(place, source) == Merged(copied=dict.fromkeys(["search"], 0), known={"search": 3})
