"""A study as a reader sees it, without its file, its data or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtune.config import parse
from fairtune.errors import StudyError
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.models.units import Units
from fairtune.study.ledger import Ledger
from fairtune.study.place import PINS, Place, studies_in
from fairtune.study.rank import DEGENERATE, best_baselines, is_unusable
from fairtune.study.rows import BASELINE, CONFIRM, CONTROL, FINAL, SEARCH, Row, results
from fairtune.study.shortlist import best_of_control, shortlist
from fairtune.training.recipe import Recipe

PHASES = (SEARCH, BASELINE, CONTROL, CONFIRM, FINAL)
LABEL = "label"
SEARCHED = "search-"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A recipe that may be picked: one of the search's best, or a baseline; or the control.

    Attributes:
        label: `search-1`, ... by rank before confirm, the baseline's name, or `control`.
        digest: Identity of the recipe.
        recipe: The recipe.
        number: Its trial in the phase that it comes from.
        searched: Primary objective on validation as the search saw it (shrunken mean, or the
            baseline's best point).
        runs: Confirm runs that are finished, one per fresh seed.
        values: Their primary objectives.
        degenerate: Why its predictions count for nothing, or None.
    """

    label: str
    digest: str
    recipe: Recipe
    number: int
    searched: float
    runs: tuple[StoredRun, ...] = ()
    values: tuple[float, ...] = ()
    degenerate: str | None = None

    @property
    def unusable(self) -> bool:
        """Whether its predictions are constant."""
        return is_unusable(self.degenerate)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a reference recipe."""
        return not (self.label.startswith(SEARCHED) or self.is_control)

    @property
    def is_control(self) -> bool:
        """Whether it is the best of the random masks: compared with the pick, never picked."""
        return self.label == CONTROL

    @property
    def phase(self) -> str:
        """The phase that `number` is of."""
        return CONTROL if self.is_control else BASELINE if self.is_baseline else SEARCH

    @property
    def confirmed(self) -> float | None:
        """Mean of the confirm runs, or None without any."""
        return sum(self.values) / len(self.values) if self.values else None


@dataclass(frozen=True, eq=False)
class Overview:
    """Everything stored about a study.

    Attributes:
        place: Where it keeps its things.
        judge: Objectives and validation block.
        base: Resolved fixed part of its recipe.
        units: Units of its model.
        settings: Budget, baselines, confirm, select as of the last start.
        rows: Rows by phase.
        attrs: Attributes of the final phase: openings, what was deployed.
        url: Storage with the password hidden.
        seed: Seed of the study.
        search: Attributes of the search: what made it, its code, what a person asked of it.
    """

    place: Place
    judge: Judge
    base: Recipe
    units: Units
    settings: Mapping[str, Any]
    rows: Mapping[str, Sequence[Row]]
    attrs: Mapping[str, Any]
    url: str
    seed: int
    search: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, place: Place) -> Overview:
        """Read the study at `place`.

        Raises:
            StudyError: There is no such study.
            StorageError: Its storage cannot be reached.
        """
        require(place)
        with Ledger.open(place.url, place.name) as ledger:
            return cls.read(ledger, place)

    @classmethod
    def read(cls, ledger: Ledger, place: Place) -> Overview:
        """Read the study of an open ledger as it stands now.

        Raises:
            StudyError: It was not made by fairtune.
            StorageError: The storage does not answer.
        """
        attrs = ledger.attrs()
        rows = {phase: ledger.rows(phase) for phase in PHASES}
        final, url = ledger.attrs(FINAL), ledger.url
        identity, pins = attrs.get("identity"), attrs.get(PINS)
        if not isinstance(identity, dict) or not isinstance(pins, dict):
            raise StudyError(
                "the study was not made by fairtune, or its creation was cut short",
                where=url,
                found=place.name,
                todo="give `fairtune search` with its study file again",
            )
        return cls(
            place,
            Judge.from_json(identity),
            parse(Recipe, identity["recipe"]),
            Units.from_json(pins["units"]),
            pins,
            rows,
            final,
            url,
            int(identity["seed"]),
            attrs,
        )

    @property
    def runs(self) -> Runs:
        """Where runs are stored."""
        return self.place.runs

    def stored(self, row: Row) -> StoredRun | None:
        """Return the finished run of a row, or None when its folder is gone."""
        return self.runs.get(row.key)

    def candidates(self) -> list[Candidate]:
        """Return the search's best, the baselines and the control, with their confirm runs."""
        sign = self.judge.primary.sign
        found: list[Candidate] = []
        kept = self.settings["baselines"]["of"]
        best = best_baselines(self.rows[BASELINE], sign)
        baselines = {name: row for name, row in best.items() if name in kept}
        taken = {row.digest for row in baselines.values()}
        top = int(self.settings["confirm"]["top"]) or 1
        for entry in shortlist(self.rows, self.judge.objectives, top, taken):
            label = f"{SEARCHED}{len(found) + 1}"
            found.append(self._candidate(label, entry.rows[0], entry.shrunk, entry.degenerate))
        for name, row in baselines.items():
            assert row.values is not None
            why = row.attrs.get(DEGENERATE)
            found.append(self._candidate(name, row, row.values[0], why))
        control = self._control()
        return found if control is None else [*found, control]

    def _control(self) -> Candidate | None:
        if self.settings["baselines"].get("control") is None:
            return None
        rule = str(self.settings["select"])
        best = best_of_control(self.rows, self.judge.objectives, rule)
        if best is None:
            return None
        return self._candidate(CONTROL, best.rows[0], best.shrunk, best.degenerate)

    def _candidate(self, label: str, row: Row, searched: float, why: str | None) -> Candidate:
        runs, values, reasons = [], [], []
        for done in results(self.rows[CONFIRM]):
            stored = self.stored(done) if done.digest == row.digest else None
            if stored is not None and done.values is not None:
                runs.append(stored)
                values.append(done.values[0])
                reasons.append(done.attrs.get(DEGENERATE))
        if runs:  # fresh seeds speak for a recipe, not the run that made it a candidate
            why = next((reason for reason in reasons if reason), None)
        recipe = parse(Recipe, dict(row.recipe))
        return Candidate(
            label, row.digest, recipe, row.number, searched, tuple(runs), tuple(values), why
        )


def require(place: Place) -> None:
    """Refuse a study that should lie beside the results and does not, before anything is made.

    Raises:
        StudyError: There is no such study.
    """
    if place.storage is None and place.is_missing:
        raise StudyError(
            "no such study",
            where=place.folder,
            found=place.name,
            allowed=studies_in(place.out) or None,
            todo="give --out or --storage if it lies elsewhere",
        )
