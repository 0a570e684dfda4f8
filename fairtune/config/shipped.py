"""The `configs/` and `studies/` folders that come with fairtune.

In a wheel they lie inside the package; in an editable install they stand beside it.
"""

from __future__ import annotations

from pathlib import Path

from fairtune.errors import ConfigError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent


def root(name: str) -> Path:
    """Return the shipped folder `name`, `configs` or `studies`.

    Raises:
        ConfigError: The installation lacks it.
    """
    for parent in (_PACKAGE / "_shipped", _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise ConfigError(
        f"the folder '{name}' is missing from this installation",
        where=_PACKAGE,
        todo="reinstall fairtune",
    )


def find(kind: str, name: str) -> Path:
    """Return the YAML file of dataset or model `name`, or `name` itself when it is a YAML path.

    Args:
        kind: `datasets` or `models`.
        name: Stem of a shipped file, or a path that ends in .yaml or .yml.

    Raises:
        ConfigError: Nothing of that name is known.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError("no such file", where=path, found=name)
        return path
    known = names(kind)
    if name not in known:
        raise ConfigError(
            f"unknown {kind.rstrip('s')}",
            found=name,
            allowed=[*known, "a path to a .yaml file"],
            todo=did_you_mean(name, known),
        )
    return root("configs") / kind / f"{name}.yaml"


def names(kind: str) -> list[str]:
    """Return the names of all shipped files of `kind`, in alphabetical order."""
    return sorted(path.stem for path in (root("configs") / kind).glob("*.yaml"))
