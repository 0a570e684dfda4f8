"""The bench of mitigations: its methods are recipes, and its page says what its files say."""

from __future__ import annotations

from typing import Any

import mitigating_page
import pytest
import yaml
from mitigating import METHODS, STUDY
from mitigation_steps import members

from fairtune.config.yaml12 import loads
from fairtune.mitigation import MITIGATIONS
from fairtune.study.checks import members_of
from fairtune.study.schema import build_study


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_study(name: str) -> None:
    data = yaml.safe_load(STUDY.read_text())
    data["recipe"]["optim"]["head_lr"] = 0.001
    data["space"]["optim.lr"]["float"] = [0.00003, 0.0005]
    data["space"]["mitigations"] = {"one_of": [METHODS[name]]}
    study = build_study(loads(yaml.safe_dump(data, sort_keys=False), "s.yaml"))
    found = [member.name for member in members_of(study.space.get("mitigations"))]
    assert found == ([] if METHODS[name] == "none" else [next(iter(_name(METHODS[name])))])


def _name(written: Any) -> dict[str, Any]:
    return written if isinstance(written, dict) else {written: {}}


def test_every_mitigation_of_ours_is_measured() -> None:
    named = {next(iter(_name(m))) for m in METHODS.values() if m != "none"}
    assert set(MITIGATIONS) - named == {"sinkhorn_as_released"}


def row(name: str, change: tuple[float, float, float] | None) -> dict[str, Any]:
    figure = {"value": 0.7, "se": 0.02}
    against = {}
    if change is not None:
        value, low, high = change
        against["ERM"] = {
            "worst_auc@group": {"value": value, "low": low, "high": high},
            "groups": [
                {"group": "plain", "change": -0.05, "harmed": True, "certain": False},
                {"group": "marked", "change": 0.1, "harmed": False, "certain": False},
            ],
        }
    return {
        "method": name,
        "validation": [0.7, 0.8],
        "test": {"auc": figure, "worst_auc@group": figure, "auc_gap@group": figure},
        "against": against,
    }


def test_the_page_says_who_is_served_better_and_who_is_harmed() -> None:
    rows = [
        row("ERM", None),
        row("good", (0.1, 0.05, 0.15)),
        row("bad", (-0.1, -0.15, -0.05)),
        row("even", (0.01, -0.05, 0.05)),
    ]
    arm = {"arm": "biased", "n": {"test marked": 360}, "rows": rows}
    made = {
        "strength": 0.95, "seed": 0, "trials": 4, "seeds": 5, "arms": [arm],
        "command": "c", "commit": None,
    }  # fmt: skip
    text = "\n".join(mitigating_page.planted([made]))
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert lines["good"].endswith("plain -0.050 (uncertain) | better |")
    assert "+0.100 [+0.050, +0.150]" in lines["good"]
    assert lines["bad"].endswith("| worse |")
    assert lines["even"].endswith("| cannot tell |")
    assert "0.800" in lines["ERM"]
    assert "### Validation with the bias of training" in text


def test_a_step_of_every_mitigation_is_timed_and_told() -> None:
    assert {
        m if isinstance(m, str) else next(iter(m)) for (m,) in [v for v in members().values() if v]
    } == {
        n
        for n in MITIGATIONS
        if MITIGATIONS.get(n).trains  # type: ignore[attr-defined]
    }
    took = {
        "plain": {"milliseconds": 10.0, "ratio": 1.0},
        "sam": {"milliseconds": 20.0, "ratio": 2.0},
    }
    found = {
        "repetitions": 3, "batch": 64, "command": "c", "commit": None, "machine": {"cpu": "m"},
        "nothing kept": took, "frozen blocks kept": took,
    }  # fmt: skip
    assert "| sam | 20 | 20 | 2.00 | 2.00 |" in mitigating_page.steps(found)
