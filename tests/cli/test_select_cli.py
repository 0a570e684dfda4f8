"""`fairtune select` and `fairtune compare` on the tiny study."""

from __future__ import annotations

import json

import pytest
from kit_cli import files, here
from kit_tiny import Tiny

Capture = pytest.CaptureFixture[str]


def test_select_picks_by_another_rule_and_objective_and_trains_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = files(tiny.place.out)
    words = ["select", "tiny", "--out", tiny.place.out]
    code, out, err = here([*words, "--rule", "1se"], monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert "pick by '1se':" in out
    more = ["--rule", "knee", "--objective", "worst_auc@age", "--objective", "auc",
            "--attribute", "sex", "--epoch", "best:auc", "--json"]  # fmt: skip
    code, out, err = here([*words, *more], monkeypatch, capsys)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["rule"] == "knee"
    assert found["objectives"] == ["worst_auc@sex", "auc"]
    assert files(tiny.place.out) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rule", "bset"], "unknown selection rule"),
        (["--rule", "knee"], "one objective"),
        (["--rule", "constraint"], "no constraints"),
        (["--attribute", "race"], "no such attribute"),
        (["--epoch", "best:worst_auc@sex"], "never by a fairness objective"),
    ],
)
def test_what_cannot_be_selected_is_said(
    tiny: Tiny, more: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    code, out, err = here(["select", "tiny", "--out", tiny.place.out, *more], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_compare_says_why_there_is_no_diagram(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    words = ["compare", "tiny", "--out", tiny.place.out]
    code, out, _ = here(words, monkeypatch, capsys)
    assert code == 0
    assert "no critical-difference diagram" in out
    figure = tiny.place.out.parent / "cd.svg"
    code, _, err = here([*words, "--figure", figure], monkeypatch, capsys)
    assert code == 2
    assert "no critical-difference diagram" in err
    assert not figure.exists()
    code, out, _ = here([*words, "--metric", "auc_gap", "--json"], monkeypatch, capsys)
    assert code == 0
    assert json.loads(out)["metric"] == "auc_gap"
