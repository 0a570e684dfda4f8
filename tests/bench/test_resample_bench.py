"""The resampling bench runs."""

from __future__ import annotations

import resample


def test_the_bench_times_every_metric_in_every_group() -> None:
    p = resample.table(400, 2)
    assert resample.seconds(p, resample.FIVE, 5, 1)[1] > 0
    assert resample.seconds(p, resample.OTHERS, 5, 1)[1] > 0
