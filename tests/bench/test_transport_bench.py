"""The bench of the distances runs, and its errors are those of solved problems."""

from __future__ import annotations

import transport


def test_every_case_is_timed() -> None:
    found = transport.times(1)
    assert set(found) == set(transport.CASES)
    assert all(took["median"] > 0 for took in found.values())


def test_errors_are_small_and_tell_solved_from_not() -> None:
    found = transport.errors(0.3, 2)
    assert found["converged"] == 1
    assert found["value"] < 1e-4 < found["short"]
    assert 0 < found["gradient"] < 1e-3
