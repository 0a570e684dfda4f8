"""The critical-difference diagram."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np

from fairtune.evaluation.ranks import compare_methods
from fairtune.report.figures.ranks import svg

SVG = "{http://www.w3.org/2000/svg}"


def test_every_method_stands_at_its_rank_and_cliques_are_bars() -> None:
    values = np.tile([4.0, 3.0, 2.0, 1.0], (12, 1))
    names = ["pick", "<b>&", "norm:all", "fullft"]
    means = compare_methods(values, names).means
    assert means is not None
    page = ET.fromstring(svg(means, "worst_auc on test"))
    texts = [e.text for e in page.iter(f"{SVG}text")]
    for name, rank in means.ranks.items():
        assert f"{name} ({rank:.2f})" in texts
    assert f"critical difference {means.critical:.2f}" in texts
    bars = [e for e in page.iter(f"{SVG}line") if e.get("stroke-width") == "4"]
    assert len(bars) == len(means.alike) == 3
    starts = [float(str(p.get("d")).split()[0].removeprefix("M")) for p in page.iter(f"{SVG}path")]
    assert starts == sorted(starts)
    steps = np.diff(starts)
    assert np.allclose(steps, steps[0], atol=0.2)
    assert "mean ranks" in str(page.get("aria-label"))
