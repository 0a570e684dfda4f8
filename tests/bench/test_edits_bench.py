"""The bench of searches of an edit runs, and its table says what its file says."""

from __future__ import annotations

import edits
import edits_page

from fairtune.editing import MODES


def test_every_mode_is_searched_and_told() -> None:
    found = edits.measure(queries=80, seeds=1)
    assert {row["mode"] for row in found["rows"]} == set(MODES)
    assert all(row["queries"] <= 80 for row in found["rows"])
    told = "\n".join(
        edits_page.searches(found | {"command": "c", "commit": None, "machine": {"cpu": "m"}})
    )
    for objective in edits.OBJECTIVES:
        assert f"### {objective}" in told
    brief = edits_page.brief(found)
    assert len(brief) == 2 + len(edits.cases())
    best = next(row for row in found["rows"] if row["mode"] == edits.RECOMMENDED)
    assert f"| `{edits.RECOMMENDED}` | {best['cos']:.3f} ({best['cosines'][0]:.3f}) |" in told


def test_a_search_is_the_same_again() -> None:
    first, second = (edits.search("fzoo", "uniform", 64, 0) for _ in range(2))
    assert first["cos"] == second["cos"]
    assert first["queries"] == second["queries"] == 64


def test_a_head_that_is_refitted_tells_the_groups_as_before() -> None:
    sgd = {"white": {"optimizer": "sgd"}}
    moved = edits.search(sgd, "uniform", 320, 0)
    refitted = edits.search(sgd, "uniform, head refitted", 320, 0)
    assert refitted["moved"] > 1.5 * moved["moved"]
    assert refitted["accuracy"] == edits.before(0)
