"""Half a minute of what `make soak` does for an hour, with faults twice as dense."""

from __future__ import annotations

import pytest
from soak import FAULTS, soak


@pytest.mark.needs("postgres")
@pytest.mark.slow  # half a minute of faults; fewer seconds meet too few of them at once
def test_half_a_minute_of_random_faults_breaks_no_rule() -> None:
    tally = soak(30.0, seed=1, trials=100, pause=(0.05, 0.5))
    assert tally.studies >= 1
    assert sum(tally.faults.values()) >= len(FAULTS)
