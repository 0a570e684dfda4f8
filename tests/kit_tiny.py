"""One tiny real study, searched, confirmed and finetuned once for all tests that only read it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import session, tiny_fields

from fairtune.config.yaml12 import dumps, loads
from fairtune.study.final import Wanted, finetune_study
from fairtune.study.ledger import Options
from fairtune.study.opening import open_study
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.plan import Plan
from fairtune.study.samplers.random import Random
from fairtune.study.schema import StudyFile, build_study
from fairtune.study.search import make_plan, run_study
from fairtune.study.worker import Exit, StopFlag
from fairtune.training.session import Session

COMMAND = "fairtune finetune --study tiny --seeds 2"
MINIMUM = {"n": 5, "positives": 2, "negatives": 2}
"""Group minima that the few rows of the tiny data meet."""


def study_fields(**changes: Any) -> dict[str, Any]:
    """Return a study file on the tiny data as values; a top key replaces, `None` removes it."""
    recipe = tiny_fields()
    del recipe["adaptation"], recipe["optim"]["lr"]
    made: dict[str, Any] = {
        "name": "tiny",
        "recipe": recipe,
        "space": {
            "optim.lr": {"float": [1e-5, 1e-1], "log": True},
            "adaptation.mask": "auto_peft1",
        },
        "objectives": ["worst_auc@sex"],
        "baselines": {"of": ["linear_readout", "norm:all"], "lr_points": 2},
        "validation": {"min_group": MINIMUM},
        "budget": {"trials": 4},
        "sampler": "random",
        "pruner": "none",
        "confirm": {"top": 1, "seeds": 2},
    }
    made |= copy.deepcopy(changes)
    return {key: value for key, value in made.items() if value is not None}


def write_study(folder: Path, **changes: Any) -> Path:
    """Write `study_fields(...)` as `tiny.yaml` below `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(dumps(study_fields(**changes)))
    return path


def study_file(**changes: Any) -> StudyFile:
    """Return the validated study."""
    return build_study(loads(dumps(study_fields(**changes)), "tiny.yaml"))


@dataclass(frozen=True, eq=False)
class Tiny:
    """A place with its session.

    Attributes:
        place: Where the study is.
        session: A session on the CPU.
    """

    place: Place
    session: Session

    @property
    def view(self) -> Overview:
        """The study as it is stored now."""
        return Overview.load(self.place)

    def plan(self, changes: Mapping[str, Any] | None = None) -> Plan:
        """Return the plan of the tiny study with changes."""
        return make_plan(study_file(**(changes or {})), self.session, None)

    def search(self, stop: StopFlag | None = None, **changes: Any) -> Exit:
        """Search (or go on with) the study."""
        plan = self.plan(changes)
        self.place.folder.mkdir(parents=True, exist_ok=True)
        options = Options(sampler=Random(), pruner=plan.study.judging, patience=20.0)
        with open_study(self.place, plan, create=True, options=options) as ledger:
            return run_study(ledger, plan, self.session, self.place, stop or StopFlag())

    def finetune(self, command: str = COMMAND, **wanted: Any) -> Outcome:
        """Retrain and test."""
        given = Wanted(**{"seeds": 2, **wanted})
        return finetune_study(self.view, self.session, given, command=command)

    def copy(self, folder: Path) -> Tiny:
        """Return a copy that a test may change, with the same session."""
        shutil.copytree(self.place.out, folder)
        return Tiny(Place(folder, self.place.name), self.session)


def make(folder: Path, *, finetuned: bool = True, **changes: Any) -> Tiny:
    """Search, and finetune, a tiny study below `folder`."""
    tiny = Tiny(Place(folder, "tiny"), session(folder))
    assert tiny.search(**changes) is Exit.DONE
    if finetuned:
        tiny.finetune()
    return tiny


_MADE: dict[str, Tiny] = {}


def shared(base: Path) -> Tiny:
    """Return the finetuned study of this session, made below `base` at the first call."""
    if "tiny" not in _MADE:
        _MADE["tiny"] = make(base / "tiny-study")
    return _MADE["tiny"]
