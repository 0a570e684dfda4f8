"""The test split is opened in one place, and every opening is on record first."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from kit import session, tiny_recipe

from fairtune.data.gatekeep import TestPass
from fairtune.errors import StorageError, StudyError
from fairtune.experiment.gate import LEDGER, Gate, Opening


def test_an_opening_is_written_before_the_pass_is_made(tmp_path: Path) -> None:
    told: list[Opening] = []

    def record(opening: Opening) -> None:
        assert not (tmp_path / "out" / LEDGER).exists()
        told.append(opening)

    gate = Gate(tmp_path / "out", record)
    made = gate.open("split-a", ["d1", "d2"], command="fairtune finetune", study="s")
    assert made.split_hash == "split-a"
    (line,) = (tmp_path / "out" / LEDGER).read_text().splitlines()
    data = json.loads(line)
    assert data == {
        "when": told[0].when,
        "command": "fairtune finetune",
        "split": "split-a",
        "digests": ["d1", "d2"],
        "study": "s",
    }
    assert gate.openings("split-a") == told


def test_openings_recorded_on_another_machine_count_once(tmp_path: Path) -> None:
    told: list[Opening] = []
    Gate(tmp_path / "one", told.append).open("a", ["d"], command="c", study="s")
    again = [Opening.of(json.loads(json.dumps(asdict(opening)))) for opening in told]
    for folder, count in (("one", 1), ("two", 1)):
        gate = Gate(tmp_path / folder, told.append, lambda: again)
        assert gate.openings("a") == told[:count]
        assert gate.openings("b") == []
    Gate(tmp_path / "two", told.append).open("a", ["e"], command="c", study="s")
    # Two of the same millisecond stand in any order.
    found = Gate(tmp_path / "two", None, lambda: again).openings("a")
    assert (len(found), set(found)) == (2, set(told))


def test_openings_are_counted_per_split_over_all_studies_of_the_folder(tmp_path: Path) -> None:
    for split, study in (("a", "one"), ("b", "one"), ("a", "two"), ("a", None)):
        Gate(tmp_path).open(split, ["d"], command="c", study=study)
    gate = Gate(tmp_path)
    assert [o.study for o in gate.openings("a")] == ["one", "two", None]
    assert len(gate.openings("b")) == 1
    assert gate.openings("c") == []


def test_what_cannot_be_recorded_is_not_opened(tmp_path: Path) -> None:
    def refuse(opening: Opening) -> None:
        raise StorageError("the study cannot be written")

    with pytest.raises(StorageError):
        Gate(tmp_path, refuse).open("a", ["d"], command="c")
    assert not (tmp_path / LEDGER).exists()
    (tmp_path / LEDGER).mkdir()
    with pytest.raises(OSError, match="directory"):
        Gate(tmp_path).open("a", ["d"], command="c")


def test_a_pass_cannot_be_had_elsewhere() -> None:
    with pytest.raises(StudyError, match="issued by the test gate only"):
        TestPass("split", "me")
    with pytest.raises(StudyError, match="issued by the test gate only"):
        TestPass("split", "me", object())


def test_test_rows_stay_closed_without_a_pass_or_with_that_of_another_split(
    tmp_path: Path,
) -> None:
    opened = session(tmp_path)
    recipe = opened.resolve(tiny_recipe())
    ground = opened.ground(recipe)
    other = Gate(tmp_path).open("another split", ["d"], command="c")
    with pytest.raises(StudyError, match="locked"):
        ground.pack.rows("test")
    with pytest.raises(StudyError, match="another split"):
        ground.pack.rows("test", test_pass=other)
    mine = Gate(tmp_path).open(str(recipe.data.split), ["d"], command="c")
    rows = ground.pack.rows("test", test_pass=mine)
    assert len(rows)
    for read in (
        lambda p: ground.loader(rows, 8, edit=None, test_pass=p),
        lambda p: ground.features(recipe, rows, test_pass=p),
        lambda p: ground.pack.labels(rows, test_pass=p),
        lambda p: ground.pack.images(rows, test_pass=p),
    ):
        for wrong in (None, other):
            with pytest.raises(StudyError):
                read(wrong)
        read(mine)


def test_features_of_test_rows_are_not_kept_for_who_has_no_pass(tmp_path: Path) -> None:
    opened = session(tmp_path)
    recipe = opened.resolve(tiny_recipe())
    ground = opened.ground(recipe)
    mine = Gate(tmp_path).open(str(recipe.data.split), ["d"], command="c")
    rows = ground.pack.rows("test", test_pass=mine)
    ground.features(recipe, rows, test_pass=mine)
    with pytest.raises(StudyError, match="locked"):
        ground.features(recipe, rows)
