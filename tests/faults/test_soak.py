"""A minute of what `make soak` does for an hour."""

from __future__ import annotations

import pytest
from soak import FAULTS, soak


@pytest.mark.needs("postgres")
@pytest.mark.slow  # a minute of faults; fewer seconds meet too few of them at once
def test_a_minute_of_random_faults_breaks_no_rule() -> None:
    tally = soak(60.0, seed=1)
    assert tally.studies >= 1
    assert sum(tally.faults.values()) >= len(FAULTS)
