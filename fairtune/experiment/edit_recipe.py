"""The recipe that an edit is learned, or an attribute probed, with: data, model and an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtune.config import parse
from fairtune.config.overrides import apply, split
from fairtune.config.yaml12 import Located
from fairtune.data.spec import load_spec
from fairtune.errors import ConfigError
from fairtune.experiment.masks import read_card
from fairtune.training.recipe import Recipe

PRECISION = "fp32"
"""Never measured: the second of two equal commands would not go on with what the first one did
where a machine was measured twice, and a search by values needs their last digits."""


@dataclass(frozen=True)
class Asked:
    """What a command is about.

    Attributes:
        dataset: Name of a dataset spec, or a path to one.
        model: Name of a model spec, or a path to one.
        target: A label rule; None for the first.
        attributes: Attributes and crossings; none for all of the data set.
        where: Rows to use.
        image_size: Side in pixels; None for the model's.
        weights: `auto`, `none` or a file.
        recipe: recipe.json that data and model are taken from in place of the fields above.
    """

    dataset: str | None = None
    model: str | None = None
    target: str | None = None
    attributes: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    weights: str = "auto"
    recipe: Path | None = None

    def plain(self) -> Recipe:
        """Return the recipe of a head alone, with images as they are.

        It is computed in fp32, or as the recipe.json says.

        Raises:
            ConfigError: Neither data and model nor a recipe are named, or both.
        """
        if self.recipe is not None:
            return self._of_card(self.recipe)
        if self.dataset is None or self.model is None:
            missing = [n for n in ("dataset", "model") if getattr(self, n) is None]
            raise ConfigError(
                "data and model are not named",
                where=" ".join(f"--{name}" for name in missing),
                todo="give --dataset and --model, or a --recipe recipe.json that has both",
            )
        spec = load_spec(self.dataset)
        data = {
            "dataset": self.dataset,
            "target": self.target or next(iter(spec.targets)),
            "attributes": list(self._single() or spec.attributes),
            "where": dict(self.where),
        }
        model = {"name": self.model, "image_size": self.image_size, "weights": self.weights}
        return parse(Recipe, {"data": data, "model": model, "fit": {"precision": PRECISION}})

    def edited(self, mode: str, fields: Mapping[str, Any], words: Sequence[str]) -> Recipe:
        """Return the recipe with a learned edit.

        Args:
            mode: How the edit is searched.
            fields: Of the edit.
            words: Further fields as `--set` has them, e.g. `lambda_sa=2`, `mode.white.lr=0.01`.

        Raises:
            ConfigError: An unknown mode or field, or a value out of its range.
        """
        for path in (split(word)[0] for word in words):
            if path[0] == "mode" and path[1:2] != (mode,):
                raise ConfigError(
                    "a field of another mode than the one that was asked for",
                    where=f"--set {'.'.join(path)}",
                    found=f"--mode {mode}",
                    allowed=f"mode.{mode}.FIELD=VALUE",
                )
        edit = Located({"mode": {mode: {}}, **fields}, {}, "--set", {})
        found = apply(edit, words).data
        plain = self.plain().to_json()
        return parse(Recipe, {**plain, "edit": {"dne": found}})

    def _of_card(self, path: Path) -> Recipe:
        clash = [n for n in ("dataset", "model", "target", "image_size") if getattr(self, n)]
        clash += ["where"] if self.where else []
        clash += ["weights"] if self.weights != "auto" else []
        if clash:
            raise ConfigError(
                "data and model are those of the recipe",
                where=" ".join(f"--{name.replace('_', '-')}" for name in clash),
                todo="leave these out, or leave out --recipe",
            )
        recipe = parse(Recipe, read_card(path)["recipe"]).of_data(fold=None)
        plain = {"data": recipe.data.to_json(), "model": recipe.model.to_json()}
        return parse(Recipe, {**plain, "fit": {"precision": recipe.fit.precision}})

    def _single(self) -> list[str]:
        parts = [part.strip() for name in self.attributes for part in name.split("*")]
        return list(dict.fromkeys(parts))
