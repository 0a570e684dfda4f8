"""How an edit is learned: heads, then steps of a search, each on one batch, within a budget."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fairtune
from fairtune.config import digest
from fairtune.config.registry import name_of
from fairtune.editing import Mode, Optimiser
from fairtune.editing.asking import Asking
from fairtune.editing.budget import Plan, plan
from fairtune.editing.cohort import Cohort, batch, cohort
from fairtune.editing.edit import EIGHT_BIT, Edit
from fairtune.editing.fitting import Fitting
from fairtune.editing.grid import Grid, grid_of, start
from fairtune.editing.heads import Heads, utility_weights
from fairtune.editing.kept import Kept
from fairtune.editing.learned import Learned
from fairtune.editing.terms import Part
from fairtune.errors import ConfigError, FairtuneError, ModelError, RunError

if TYPE_CHECKING:
    from fairtune.editing.edits.dne import Dne
    from fairtune.editing.scene import Scene

log = logging.getLogger(__name__)

VIEW = "added to images in [0, 1], augmented ones too, before they are normalised"

BLACK_BOX = "fzoo"
"""The mode to recommend where there is no gradient."""


def learn(rule: Dne, scene: Scene) -> Learned:
    """Return the edit that `rule` finds for the training rows of `scene`.

    What is saved is the last point of the search; of a mode that keeps an incumbent, that. The
    best of all points is not looked for: the loss of one batch would choose the luckiest, and what
    it is measured against changes with every refit.

    A search that is cut off, by `Interrupted` or because the model fails for good, leaves its
    state in `scene.states`, and the next call goes on from there, bit for bit on a CPU.

    Raises:
        ConfigError, DataError, ModelError: See `Dne.make`.
        RunError: The loss is not finite for any candidate.
        Interrupted: `scene.told` had a reason to leave.
    """
    return Search(rule, scene, *asked_of(rule, scene)).run()


def asked_of(rule: Dne, scene: Scene) -> tuple[Grid, Cohort]:
    """Return where the values of an edit stand, and the rows that it is learned on.

    Raises:
        ConfigError, DataError, ModelError: See `Dne.make`.
    """
    grid = grid_of(rule, scene)
    if rule.attribute is None:
        raise ConfigError("an edit needs the attribute that it hides", where="attribute")
    if rule.searched.gradient and not scene.differentiable:
        raise ModelError(
            "the model has no gradient, and this mode needs one",
            where=f"mode: {name_of(rule.mode)}",
            found=scene.model,
            todo=f"take a mode that asks for values alone, e.g. {BLACK_BOX}",
        )
    everyone = rule.reads_task and not rule.unsearched
    return grid, cohort(scene, rule.attribute, everyone=everyone)


class Search:
    """One search for an edit.

    Args:
        rule: What is learned, and how.
        scene: What it is learned on.
        grid: Where its values stand.
        rows: The rows.
    """

    def __init__(self, rule: Dne, scene: Scene, grid: Grid, rows: Cohort) -> None:
        self.rule, self.scene, self.grid, self.rows = rule, scene, grid, rows
        self.weight = utility_weights(rows)
        self.fitting = Fitting(rule, scene, rows, self.weight)
        self.plan = self._planned()
        self.mode: Mode = rule.searched
        self.heads = Heads()
        self.done, self.refitted = 0, 0
        self.queries = {"heads": 0, "steps": 0, "refits": 0}
        self.trace: list[dict[str, Any]] = []
        self._kept = Kept(scene.states, self._mark())

    @property
    def spent(self) -> int:
        """Queries of the budget."""
        return self.queries["steps"] + self.queries["refits"]

    def run(self) -> Learned:
        """Return what is found."""
        generator = torch.Generator().manual_seed(self.rule.seed)
        std = 0.0 if self.rule.unsearched else self.rule.init_std
        begun = start(self.grid, std, generator)
        optimiser = self.mode.build(begun, self.plan.steps, generator)
        if self.plan.steps and not self._resumed(optimiser):
            self.heads = self.fitting.first(lambda: self._tell("fitting the heads of an edit"))
            self.queries["heads"] = self.fitting.first_cost
        while self.done < self.plan.steps:
            self._guarded(optimiser)
        self._kept.discard()
        return self._learned(optimiser.point)

    def _guarded(self, optimiser: Optimiser) -> None:
        """Make the next step; where it cannot be made, keep the state before it."""
        before = {name: t.clone() for name, t in optimiser.state().items()}
        try:
            if self._kept.due:
                self._keep(before)
            self._tell(self._standing())
            self._refit(optimiser.point)
            self._step(optimiser)
        except RunError as error:
            if error.reason == "nan":
                self._kept.discard()
            else:
                self._keep(before)
            raise
        except (FairtuneError, KeyboardInterrupt):
            self._keep(before)
            raise

    def _refit(self, point: Tensor) -> None:
        due = sum(step <= self.done for step in self.plan.refits)
        if self.refitted == due:
            return
        full = self.grid.full(point.to(self.scene.device))
        what = "fitting the heads of an edit anew"
        self.heads = self.fitting.again(full, self.refitted, lambda: self._tell(what))
        self.refitted += 1
        self.queries["refits"] += self.fitting.cost

    def _step(self, optimiser: Optimiser) -> None:
        asking = Asking(
            self.rule, self.scene, self.grid, self.heads, self._part(), self.mode.queries
        )
        loss = optimiser.step(asking)
        self.done += 1
        self.queries["steps"] += asking.queries
        loss = asking.loss if math.isnan(loss) else loss
        rms = float(optimiser.point.square().mean().sqrt()) * EIGHT_BIT
        told = loss if math.isfinite(loss) else None
        self.trace.append({"queries": self.spent, "loss": told, "rms": rms})

    def _part(self) -> Part:
        rows, device = self.rows, self.scene.device
        at = batch(len(rows), self.rule.batch_size, self.done, self.rule.seed)
        return Part(
            image=self.scene.image(rows.row[at]),
            group=torch.from_numpy(rows.group[at]).to(device),
            label=torch.from_numpy(rows.label[at]).to(device),
            weight=torch.from_numpy(self.weight[at]).float().to(device),
        )

    def _planned(self) -> Plan:
        every = self.rule.refit_every if self.fitting.wanted else 0
        return plan(self.rule.queries, self.rule.searched.queries, every, self.fitting.cost)

    def _standing(self) -> str:
        loss = self.trace[-1]["loss"] if self.trace else None
        return "learning an edit" if loss is None else f"learning an edit, loss {loss:.4f}"

    def _tell(self, what: str) -> None:
        self.scene.told(what, self.spent, self.rule.queries)

    def _resumed(self, optimiser: Optimiser) -> bool:
        found = self._kept.load()
        if found is None:
            return False
        tensors, record = found
        mine = {k.removeprefix("mode."): t for k, t in tensors.items() if k.startswith("mode.")}
        optimiser.load_state(mine)
        heads = {k.removeprefix("head."): t for k, t in tensors.items() if k.startswith("head.")}
        self.heads = Heads.restore(heads, self.scene.device)
        self.done, self.refitted = record["done"], record["refitted"]
        self.queries, self.trace = dict(record["queries"]), list(record["trace"])
        log.info("the search of an edit goes on after %d steps", self.done)
        return True

    def _keep(self, optimiser: dict[str, Tensor]) -> None:
        tensors = {f"mode.{name}": t for name, t in optimiser.items()}
        tensors |= {f"head.{name}": t for name, t in self.heads.state().items()}
        record = {
            "done": self.done,
            "refitted": self.refitted,
            "queries": self.queries,
            "trace": self.trace,
        }
        self._kept.save(tensors, record)

    def _mark(self) -> str:
        rows, scene = self.rows, self.scene
        parts = [rows.row, rows.group, rows.label]
        return digest(
            [self.rule.canonical(), scene.model, scene.image_size, scene.channels, rows.names]
            + [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
        )

    def _learned(self, point: Tensor) -> Learned:
        value = self.grid.value(self.grid.bounded(point.detach().cpu().float())).clone()
        bare = Edit(value, self.grid.image_size, self.rule.clamp)
        about = {**self._about(), "norms": bare.norms()}
        edit = dataclasses.replace(bare, about=about)
        return Learned(edit, dict(self.queries), tuple(self.trace), tuple(self._notes()))

    def _about(self) -> dict[str, Any]:
        rule = self.rule
        return {
            "rule": {name_of(rule): rule.canonical()},
            "model": self.scene.model,
            "attribute": rule.attribute,
            "groups": list(self.rows.names),
            "objective": None if "objective" in rule.idle else name_of(rule.objective),
            "mode": name_of(rule.mode),
            "image_size": self.grid.image_size,
            "view": VIEW,
            "queries": dict(self.queries),
            "versions": {"fairtune": fairtune.__version__, "torch": str(torch.__version__)},
        }

    def _notes(self) -> list[str]:
        notes = []
        unknown, budget = self.rows.unknown, self.rule.queries
        if unknown:
            notes.append(
                f"{unknown} training rows are of an unknown group, and tell nothing of it"
            )
        if not self.rule.unsearched and not self.plan.steps:
            notes.append(f"no step fits {budget} queries: the edit is where the search starts")
        if self.plan.steps and self.rule.refit_every and not self.plan.refits:
            cost = self.fitting.cost
            notes.append(f"no refit ({cost} queries) fits after {self.rule.refit_every} steps")
        return notes
