"""The empty figure that all others are drawn into."""

from __future__ import annotations

import pytest

from fairtune.report.figure import blank


@pytest.mark.parametrize("panels", [1, 2, 3, 4])
def test_panels_of_every_height_lie_inside_the_figure_and_apart(panels: int) -> None:
    for height in range(480, 1000, 7):
        plot = blank(height, panels=panels, gap=84)
        axes = [plot.layout[f"yaxis{i or ''}"] for i in [0, *range(2, panels + 1)]]
        if panels == 1:
            assert axes[0].domain is None
            continue
        ends = [end for axis in reversed(axes) for end in axis.domain]
        assert ends == sorted(ends)
        assert (ends[0], ends[-1]) == (pytest.approx(0, abs=1e-9), 1)
        assert all(0 <= end <= 1 for end in ends)
