"""A study whose runs are shared, read and gone on with on a machine that made none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from kit import session
from kit_tiny import COMMAND, Tiny

from fairtune.errors import StorageError
from fairtune.experiment.gate import LEDGER
from fairtune.remote import Remote
from fairtune.report.export import export
from fairtune.report.write import write
from fairtune.study.outcome import Outcome
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, SEARCH, results
from fairtune.study.select import select
from fairtune.study.worker import Exit


@pytest.fixture
def elsewhere(tiny: Tiny, tmp_path: Path) -> Tiny:
    """Another machine: the same storage, an empty results folder, the runs at a URL."""
    shared, made = (tmp_path / "shared").as_uri(), tiny.copy(tmp_path / "one")
    here = Place(made.place.out, "tiny", None, shared)
    for done in sorted(here.out.glob("runs/*/*/DONE")):
        assert here.runs.get(done.parent.name) is not None
    return Tiny(Place(tmp_path / "two", "tiny", here.url, shared), tiny.session)


def text(found: Outcome | None) -> str:
    assert found is not None
    return json.dumps(found.to_json())


def test_it_is_selected_and_reported_from_an_empty_folder(
    tiny: Tiny, elsewhere: Tiny, tmp_path: Path
) -> None:
    one, two = tiny.view, elsewhere.view
    for rule in ("best", "minimax"):
        picked = [select(view, view.candidates(), rule).to_json() for view in (one, two)]
        assert picked[0] == picked[1]
    assert text(Outcome.load(one)) == text(Outcome.load(two))
    assert export(two, tmp_path / "export", ["trials", "groups", "epochs"], "csv").missing == 0
    assert write(two, form="md").read_text().count("search-1")
    # A URL without any of the runs: they are missing, as they are from an empty folder.
    nowhere = Place(tmp_path / "three", "tiny", two.place.url, (tmp_path / "none").as_uri())
    assert not Tiny(nowhere, tiny.session).view.candidates()[0].runs


def test_it_is_gone_on_with_where_nothing_was_trained(elsewhere: Tiny) -> None:
    rows = {phase: len(found) for phase, found in elsewhere.view.rows.items()}
    assert elsewhere.search() is Exit.DONE
    assert {phase: len(found) for phase, found in elsewhere.view.rows.items()} == rows
    before = text(Outcome.load(elsewhere.view))
    assert text(elsewhere.finetune(COMMAND)) == before
    # Tested runs are read, so that the split stays closed.
    assert not (elsewhere.place.out / LEDGER).exists()


def test_a_run_that_cannot_be_shared_goes_back_and_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "baselines": {"of": ["linear_readout"], "lr_points": 1},
        "budget": {"trials": 1},
        "confirm": {"top": 0, "seeds": 1},
    }
    place = Place(tmp_path / "one", "tiny", None, (tmp_path / "shared").as_uri())
    mine = Tiny(place, session(tmp_path / "one"))
    real = Remote.put

    def refuse(self: Remote, files: Mapping[str, Path]) -> None:
        raise StorageError("the bucket is full", where=self.url)

    monkeypatch.setattr(Remote, "put", refuse)
    with pytest.raises(StorageError, match="bucket is full"):
        mine.search(**small)
    made = sorted((tmp_path / "one").rglob("DONE"))
    assert len(made) == 1
    before = made[0].read_bytes()
    (row,) = mine.view.rows[BASELINE]
    assert (row.state, row.reason) == ("failed", "stopped")
    assert not list((tmp_path / "shared").rglob("DONE"))
    monkeypatch.setattr(Remote, "put", real)
    assert mine.search(**small) is Exit.DONE
    assert made[0].read_bytes() == before
    everywhere = {path.parent.name for path in (tmp_path / "shared").rglob("DONE")}
    rows = [row for phase in (BASELINE, SEARCH) for row in results(mine.view.rows[phase])]
    assert {row.key for row in rows} == everywhere
    assert len(rows) == 2


def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(
    tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    place = Place(tmp_path / "one", "tiny", None, (tmp_path / "file").as_uri())
    mine = Tiny(place, tiny.session)
    with pytest.raises(StorageError, match="cannot write"):
        mine.search()
    assert not any(mine.view.rows.values())


def test_no_run_says_where_it_lay(tiny: Tiny, elsewhere: Tiny, tmp_path: Path) -> None:
    found = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert len({path.name for path in found}) > 8
    for path in found:
        content = path.read_bytes()
        for folder in (tmp_path, tiny.place.out, tiny.session.settings.cache):
            assert str(folder).encode() not in content, path
