"""A worker's events as sinks are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kit_ledger import SPACE, Search, execute, open_ledger

from fairtune.experiment.sink import Sinks
from fairtune.study.execute import Event
from fairtune.study.rows import Complete, Failed, Pruned
from fairtune.study.told import ToSinks
from fairtune.training.observer import Epoch


class Tape(Sinks):
    """Keeps what would be told."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder, "s")
        self.told: list[tuple[Any, ...]] = []

    def begin(self, run: Any, params: Mapping[str, Any]) -> None:
        self.told.append(("begin", run, dict(params)))

    def epoch(self, run: Any, number: int, values: Mapping[str, Any]) -> None:
        self.told.append(("epoch", run, number, dict(values)))

    def end(self, run: Any, state: str, values: Mapping[str, Any]) -> None:
        self.told.append(("end", run, state, dict(values)))


def test_claims_epochs_and_outcomes_are_told(tmp_path: Path) -> None:
    tape = Tape(tmp_path)
    tell = ToSinks(tape, "s", ["auc", "worst_auc@age"])
    report = Epoch(1, 4, np.zeros((1, 1), np.float32), 0.6, 0.7, 2.0, 100)
    with open_ledger(tmp_path, directions=["maximize", "maximize"]) as ledger:
        (claim,) = ledger.claim([Search(1)], 1)
        tell(Event("claim", claim))
        tell(Event("epoch", claim, report, {"auc": 0.8}))
        done = Complete([0.9, 0.7], {"seconds": 5.0, "degenerate": None}, {"auc >= 0.7": -0.2})
        tell(Event("finish", claim, outcome=done))
        tell(Event("finish", claim, outcome=Pruned(2, [0.6, 0.5], {"epochs": 2.0}, "slow")))
        tell(Event("finish", claim, outcome=Failed("oom", "at /home/me")))
        ledger.give_back(claim)
    (begin, run, params), epoch, complete, pruned, failed = tape.told
    assert (begin, run.phase, run.number, run.key) == ("begin", "search", 1, claim.proposal.key)
    assert {name: params[f"params.{name}"] for name in SPACE} == dict(claim.proposal.params)
    losses = {"train_loss": 0.6, "val_loss": 0.7, "images_per_second": 50.0}
    assert epoch == ("epoch", run, 1, {**losses, "auc": 0.8})
    assert complete[2] == "complete"
    assert complete[3] == {
        "seconds": 5.0, "degenerate": None, "constraint/auc >= 0.7": -0.2, "auc": 0.9,
        "worst_auc@age": 0.7,
    }  # fmt: skip
    assert pruned[2:] == ("pruned", {"epochs": 2.0, "auc": 0.6, "worst_auc@age": 0.5})
    assert failed[2:] == ("failed", {})


def test_a_fault_in_telling_ends_nothing(tmp_path: Path, caplog: Any) -> None:
    class Broken(Tape):
        def begin(self, run: Any, params: Mapping[str, Any]) -> None:
            raise TypeError("broken")

    with open_ledger(tmp_path) as ledger:
        (claim,) = ledger.claim([Search(1)], 1)
        ToSinks(Broken(tmp_path), "s", ["auc"])(Event("claim", claim))
        for done, outcome in execute()([claim]):
            ledger.finish(done, outcome)
        assert [row.state for row in ledger.rows()] == ["complete"]
    assert "sinks were not told: TypeError" in caplog.text
