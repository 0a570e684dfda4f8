"""The note beside a trial: what it says, and that a person's own words stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fairtune.report.notes import is_current, mark_of, merged, note, plain
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, Row, results


@pytest.fixture(scope="module")
def row(view: Overview) -> Row:
    return results(view.rows[SEARCH])[0]


def test_a_note_has_mask_value_interval_and_groups(view: Overview, row: Row) -> None:
    said = note(view, row)
    assert row.values is not None
    assert f"`{row.attrs['mask']}`" in said
    assert f"worst\\_auc@sex on validation: **{row.values[0]:.3f}** [0." in said
    lines = [line for line in said.splitlines() if line.startswith("| ")]
    assert len(lines) == 5  # head, all patients, two groups, one that is too small
    assert "| all patients | 0." in said
    assert "| X | n too small |  | – | – |" in said
    # Names of groups are data: nothing of them may act as markup.
    assert "<script>" not in said
    assert "&lt;script&gt;" in said


def test_without_the_run_the_row_speaks(view: Overview, row: Row, tmp_path: Path) -> None:
    far = replace(view, place=Place(tmp_path, "tested", view.place.url))
    said = note(far, row)
    assert row.values is not None
    assert f"worst\\_auc@sex {row.values[0]:.3f}" in said
    assert "AUC: sex/" in said


def test_a_note_says_why_a_trial_ended(view: Overview, row: Row) -> None:
    ended = [r for r in view.rows[SEARCH] if r.state in ("pruned", "failed")]
    by_state = {r.state: note(view, r) for r in ended}
    assert "Pruned: below the median of its rung" in by_state["pruned"]
    assert "Failed: oom: ran out of memory at secret" in by_state["failed"]
    assert "/home" not in by_state["failed"]
    unfair = replace(row, constraints={"auc >= 0.7": 0.1, "no_harm(0.02)": -0.1})
    assert "Violates auc &gt;= 0.7" in note(view, unfair)
    assert "no\\_harm" not in note(view, unfair)


def test_words_of_a_person_stay_and_a_note_is_written_once(row: Row) -> None:
    mark = mark_of(row, with_run=True)
    first = merged("", "ours", mark)
    assert is_current(first, row, with_run=True)
    assert is_current(first, row, with_run=False)
    assert not is_current(merged("", "ours", mark_of(row, with_run=False)), row, with_run=True)
    assert not is_current(first, replace(row, state="failed"), with_run=True)
    edited = first + "\nlook at this one\n"
    again = merged(edited, "new", mark)
    assert again.startswith("new\n")
    assert again.rstrip().endswith("look at this one")
    assert merged(again, "new", mark) == again
    # A note from before ours is kept whole.
    assert merged("mine", "ours", mark).rstrip().endswith("mine")
    assert not is_current("mine", row, with_run=False)


def test_markdown_does_not_act() -> None:
    assert plain("a|b_*`<i>`\n# c") == "a\\|b\\_\\*\\`&lt;i&gt;\\` \\# c"
