"""What every worker of a study computes alike: recipes, seeds and proposals, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtune.adaptation.mask import Mask
from fairtune.adaptation.placement import DIRECT, METHOD
from fairtune.adaptation.rules import Rule
from fairtune.config import Choice, Dimension, Float, parse
from fairtune.config.dimensions import Scalar
from fairtune.config.registry import declared_dimensions
from fairtune.models.units import Units
from fairtune.study.baselines import baseline_of, named_usage
from fairtune.study.fields import EDIT, MASK, MITIGATIONS, USAGE, parts_of
from fairtune.study.parts import Part, parts, trial_key
from fairtune.study.rows import CONTROL, SEARCH, Proposal, Row
from fairtune.study.schema import StudyFile
from fairtune.study.space import Space
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.recipe_parts import OptimPart


@dataclass(frozen=True, eq=False)
class Plan:
    """A study with its data and weights pinned.

    Attributes:
        study: The study file.
        base: Its fixed part, resolved: hashes pinned, precision measured.
        units: Units of its model.
        sizes: Digest of the units at the image size of every level, where levels differ in it.
    """

    study: StudyFile
    base: Recipe
    units: Units
    sizes: Mapping[int, str] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """What is searched."""
        return self.study.space

    def dimensions(self) -> dict[str, Dimension]:
        """Return every parameter that a trial of the search can have."""
        return self.space.parameters(self.units)

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Return the base recipe with the fields at dotted paths set to `values`.

        Of the methods only those stay that act on the mask.
        """
        data = self.base.to_json()
        # As written: the resolved base has lost what does not act on its own mask.
        fixed = self.study.recipe.adaptation.method
        if any(path.startswith(f"{METHOD}.") for path in values):
            data["adaptation"]["method"] = fixed.to_json() if fixed.by_type else {}
        for path, value in values.items():
            node = data
            *parents, name = parts_of(path)
            for part in parents:
                node = node[part]
            node[name] = value
        made = _acting(parse(Recipe, data).attributed(self.study.judge.attribute))
        if made.head_only:
            return made
        adaptation = made.adaptation.on(self.mask(made).units, self.units)
        return made.model_copy(update={"adaptation": adaptation})

    def levels(self, recipe: Recipe) -> list[Recipe]:
        """Return `recipe` at every level of fidelity, the last as it is; of one level itself."""
        fidelity = self.study.fidelity
        found = [fidelity.at(recipe, i) for i in range(1, len(fidelity.values))]
        return [*(self._pinned(level) for level in found), recipe]

    def _pinned(self, level: Recipe) -> Recipe:
        units = self.sizes.get(level.model.image_size or 0)
        if units is None:
            return level
        return level.model_copy(update={"model": level.model.model_copy(update={"units": units})})

    def parts(self, recipe: Recipe, phase: str) -> list[Part]:
        """Return the runs of a trial: levels are for search and control, where it is pruned."""
        levels = self.levels(recipe) if phase in (SEARCH, CONTROL) else [recipe]
        return parts(levels, self.study.judge)

    def recipe_of(self, row: Row) -> Recipe:
        """Return the recipe of a row."""
        return parse(Recipe, dict(row.recipe))

    def mask(self, recipe: Recipe) -> Mask:
        """Return the mask of a resolved recipe."""
        names = recipe.adaptation.mask
        return Rule.parse(names).mask(self.units) if isinstance(names, str) else Mask(names)

    def baseline(self, name: str, point: float | None = None) -> Recipe:
        """Return baseline `name` at one learning rate, or one L2 penalty for a linear readout.

        Baselines train directly, without edit and mitigation, whatever the study says.
        """
        found = baseline_of(name, self.base.usage)
        mask = list(found.rule.mask(self.units).units)
        values: dict[str, Any] = {MASK: mask, METHOD: DIRECT, MITIGATIONS: [], EDIT: "none"}
        if found.usage is not None:
            values[USAGE] = found.usage
        if point is not None:
            values["optim.lr" if mask else "optim.l2"] = point
        return self.recipe(values)

    def baseline_points(self, name: str) -> list[float | None]:
        """Return the learning rates (or L2 penalties) that baseline `name` is tried with.

        They are spread over the range, or are the values, that the study searches; a learning
        rate that the study fixes is used as it is. Where nothing is fitted there is one point.
        """
        most, recipe = self.study.baselines.lr_points, self.baseline(name)
        if recipe.scored:
            return [None]
        if recipe.head_only:
            l2 = declared_dimensions(OptimPart)["l2"]
            assert isinstance(l2, Float)
            return list(l2.points(most))
        searched = self.dimensions()
        for path in ("optim.lr.range", "optim.lr"):
            match searched.get(path):
                case Float() as range_:
                    return list(range_.points(most))
                case Choice(options):
                    return _spread([float(o) for o in options], most)
        return [None]

    def seeds(self, stream: str, digest: str, replicate: int) -> Seeds:
        """Return the seeds of one run of this study."""
        return seeds_of(self.study.seed, stream, digest, replicate)

    def proposal(
        self,
        kind: str,
        recipe: Recipe,
        *,
        stream: str,
        replicate: int = 0,
        params: Mapping[str, Scalar] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Proposal:
        """Return the proposal of one run of `recipe`."""
        mask = self.mask(recipe)
        digest = recipe.identity()
        seeds = self.seeds(stream, digest, replicate)
        known = self.dimensions()
        given = dict(params or {})
        return Proposal(
            kind=kind,
            params=given,
            dimensions={name: known[name] for name in given},
            recipe=recipe.to_json(),
            digest=digest,
            key=trial_key(recipe, seeds, self.study.judge),
            seed=seeds.to_json(),
            replicate=replicate,
            attrs={
                "mask": mask.glyph(self.units),
                "mask_hash": mask.hash,
                "units": len(mask.units),
                "trainable_share": mask.share(self.units),
                **({} if self.space.get(USAGE) is None else {USAGE: named_usage(recipe.usage)}),
                **(attrs or {}),
            },
        )


def _acting(recipe: Recipe) -> Recipe:
    """Return a recipe without what was drawn for a mask and has none to act on.

    Where nothing is fitted that is what is said of optimisation, and the mitigations of training:
    recipes of one digest are written alike.
    """
    if not recipe.scored:
        return recipe
    kept = tuple(m for m in recipe.mitigations if not m.trains)  # type: ignore[attr-defined]
    return recipe.model_copy(update={"optim": OptimPart(), "mitigations": kept})


def _spread(values: Sequence[float], most: int) -> list[float | None]:
    """Return at most `most` of `values`, from the smallest to the largest."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return list(ordered)
    if most == 1:
        return [ordered[len(ordered) // 2]]
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def seeds_of(seed: int, stream: str, digest: str, replicate: int) -> Seeds:
    """Return the seeds of one run; streams (search, confirm, final, ...) are disjoint by name."""
    raw = hashlib.sha256(f"{seed}/{stream}/{digest}/{replicate}".encode()).digest()
    data, init = (int.from_bytes(raw[i : i + 4], "big") >> 1 for i in (0, 4))
    return Seeds(data=data, init=init)
