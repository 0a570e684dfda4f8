"""Masks as users give them: recipe.json, a rule, or a FairTune `.npy` with its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fairtune.adaptation import ALIASES, Mask, Rule
from fairtune.adaptation.files import MASK_FILES, MaskFile, format_of
from fairtune.editing import EDITS, EditRule
from fairtune.errors import ConfigError
from fairtune.experiment.recipe_file import SUFFIXES, read_recipe
from fairtune.models.units import Units
from fairtune.training.recipe import Recipe


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the content of a recipe.json, or what it would be of a recipe in YAML.

    Raises:
        ConfigError: It cannot be read, or is neither.
    """
    file = Path(path).expanduser()
    if file.suffix in SUFFIXES:
        recipe, judge = read_recipe(file)
        return {"recipe": recipe.to_json(), "judged_by": judge.to_json()}
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("cannot read the file", where=file, found=error.strerror) from None
    except ValueError as error:
        raise ConfigError("the file is not JSON", where=file, found=str(error)) from None
    if not isinstance(card, dict) or not {"recipe", "judged_by"} <= set(card):
        raise ConfigError(
            "not a recipe.json of fairtune",
            where=file,
            allowed="a file with the keys recipe and judged_by, as every run folder has",
        )
    return card


def with_edit(recipe: Recipe, path: str) -> Recipe:
    """Return `recipe` with the edit in the file `path`, pinned.

    Raises:
        ModelError: The file cannot be read, or holds no edit.
    """
    # Whoever goes on with the recipe elsewhere stands in another folder.
    rule = EDITS.parse({"file": {"path": str(Path(path).expanduser().absolute())}})
    assert isinstance(rule, EditRule)
    return recipe.model_copy(update={"edit": rule.pinned()})


def read_mask(text: str, layout: str | None, units: Units) -> Mask:
    """Return the mask that `text` means in a model with `units`.

    Args:
        text: A rule, or the path of a FairTune `.npy`.
        layout: FairTune tuning method, needed for a `.npy`.
        units: Units of the model.

    Raises:
        FairtuneError: The mask cannot be read or does not fit the model.
    """
    name = format_of(text)
    if name is None:
        return Rule.parse(text).mask(units)
    fields = {} if layout is None else {"layout": layout}
    if layout is None and "layout" in MASK_FILES.get(name).model_fields:
        raise ConfigError(
            "the file does not say which module a bit means",
            where=text,
            allowed=list(ALIASES),
            todo="give --layout, the tuning method it was made with",
        )
    reader = MASK_FILES.parse({name: fields})
    assert isinstance(reader, MaskFile)
    return reader.read(Path(text).expanduser(), units)
