"""The bench of vision-language runs: both ways agree, and its table says what its file says."""

from __future__ import annotations

from pathlib import Path

import language
import language_page
import torch
from kit_pairs import Pairs


def test_both_ways_of_scoring_agree_and_are_told(tmp_path: Path) -> None:
    pairs = Pairs(tmp_path)
    found = language.measure(
        pairs.session,
        rounds=1,
        epochs=12,
        dataset=str(pairs.data),
        model=str(pairs.model),
        target="abnormal",
        size=32,
        weights="none",
    )
    assert found["largest_difference"] < 1e-4
    assert found["loss"]["readout"] < found["loss"]["readout_published"]
    surroundings = {"command": "c", "commit": None, "machine": {"cpu": "m"}}
    told = "\n".join(language_page.pairs(found | surroundings))
    for name in ("zero_shot", "readout_published", "texts"):
        assert f"{found['seconds'][name]:.3g}" in told
    assert len(language_page.brief(found)) == 2 + 3


def test_lars_goes_towards_the_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 8, generator=generator)
    label = (features[:, 0] > 0).float()
    short, long = (language.published_probe(features, label, epochs) for epochs in (20, 400))
    assert long < short
