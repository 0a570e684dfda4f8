"""Where a study lies, and how its folder remembers that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit_ledger import journal, open_ledger, sqlite

from fairtune.errors import StudyError
from fairtune.study.overview import Overview
from fairtune.study.place import Place, studies_in
from fairtune.study.places import check_home, studies_at
from fairtune.study.storages import is_missing
from fairtune.study.storages.address import absolute

SERVER = "postgresql://me:s3cret@db.example/studies"


def test_without_a_storage_it_is_sqlite_beside_the_results(tmp_path: Path) -> None:
    place = Place(tmp_path, "s")
    assert place.url == f"sqlite:///{tmp_path.resolve()}/s/study.db"
    assert place.remembered is None
    assert place.is_missing
    place.remember()
    Place(tmp_path, "s", place.url).remember()
    assert not place.folder.exists()


def test_local_is_one_server_of_the_results_folder(tmp_path: Path) -> None:
    assert Place(tmp_path, "s", "local").url == f"local:{tmp_path.resolve()}/postgres"
    assert Place(tmp_path, "", "local").url == Place(tmp_path, "t", "local").url
    assert Place(tmp_path, "s", "local").is_missing
    Place(tmp_path, "s", "local").remember()
    assert Place(tmp_path, "s").url == f"local:{tmp_path.resolve()}/postgres"
    (tmp_path / "s").rename(tmp_path / "t")
    assert studies_in(tmp_path) == ["t"]


def test_a_password_is_never_written_down_and_the_error_says_what_to_give(tmp_path: Path) -> None:
    Place(tmp_path, "s", SERVER).remember()
    assert "s3cret" not in (tmp_path / "s" / "storage.json").read_text()
    with pytest.raises(StudyError, match=r"password is not stored[\s\S]*FAIRTUNE_STORAGE") as told:
        _ = Place(tmp_path, "s").url
    assert told.value.found == "postgresql://me:***@db.example/studies"
    assert Place(tmp_path, "s", SERVER).url == SERVER
    Place(tmp_path, "s", "postgresql://me@db.example/studies").remember()
    assert Place(tmp_path, "s").url == "postgresql://me@db.example/studies"


@pytest.mark.parametrize(
    ("given", "remembered"),
    [
        ("a.db", "sqlite:///{}/a.db"),
        ("sqlite:///a.db?timeout=3", "sqlite:///{}/a.db?timeout=3"),
        ("journal:j/a.log", "journal:{}/j/a.log"),
        ("local:pg", "local:{}/pg"),
        ("grpc://login1:13000", "grpc://login1:13000"),
        ("mysql://h/d", "mysql://h/d"),
        ("local", "local"),
    ],
)
def test_a_file_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, remembered: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = remembered.format(tmp_path.resolve())
    assert absolute(given) == absolute(expected) == expected
    Place(tmp_path / "out", "s", given).remember()
    assert Place(tmp_path / "out", "s").remembered == expected


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_a_damaged_note_is_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "storage.json").write_text(content)
    with pytest.raises(StudyError, match="cannot be read where the study lies"):
        _ = Place(tmp_path, "s").url
    assert Place(tmp_path, "s", "a.db").url == "a.db"


def test_a_study_is_not_made_a_second_time_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    open_ledger(Place(tmp_path, "s").url, "s").close()
    check_home(Place(tmp_path, "s"))
    check_home(Place(tmp_path, "s", sqlite(tmp_path / "s")))
    elsewhere = Place(tmp_path, "s", journal(tmp_path))
    with pytest.raises(StudyError, match="lies in another storage") as told:
        check_home(elsewhere)
    assert told.value.allowed == Place(tmp_path, "s").url
    assert "fairtune merge s --from" in str(told.value)
    open_ledger(elsewhere.url, "s").close()
    check_home(elsewhere)
    elsewhere.remember()
    check_home(Place(tmp_path, "s", journal(tmp_path)))
    with pytest.raises(StudyError, match="lies in another storage") as told:
        check_home(Place(tmp_path, "s", f"journal:{tmp_path}/other.log"))
    assert told.value.allowed == absolute(journal(tmp_path))


def test_an_empty_database_hinders_no_other_storage(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    open_ledger(Place(tmp_path, "s").url, "other").close()
    check_home(Place(tmp_path, "s", journal(tmp_path)))


def test_readers_find_a_study_without_being_told_its_storage(tmp_path: Path) -> None:
    Place(tmp_path, "s", journal(tmp_path)).remember()
    open_ledger(journal(tmp_path), "s").close()
    assert studies_at(Place(tmp_path, "")) == [Place(tmp_path, "s")]
    with pytest.raises(StudyError, match="not made by fairtune"):
        Overview.load(Place(tmp_path, "s"))
    with pytest.raises(StudyError, match=r"no such study[\s\S]*allowed: s"):
        Overview.load(Place(tmp_path, "t"))
    assert json.loads((tmp_path / "s" / "storage.json").read_text()) == {
        "storage": absolute(journal(tmp_path))
    }
    assert not is_missing(Place(tmp_path, "s").url)
