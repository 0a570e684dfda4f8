"""The baselines of a study: masks by name or rule, and what its frozen model says without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fairtune.adaptation.rules import Rule
from fairtune.config import Config
from fairtune.config.model import Source
from fairtune.config.registry import name_of, written
from fairtune.errors import ConfigError, FairtuneError
from fairtune.usage import USAGES, Usage

ZERO_SHOT, READOUT = "zero_shot", "linear_readout"
_CLASSIFY = "classify"
_MASKS = ("norm:all", "attn:all", "block:last-3")
_DEFAULT = {
    "all": ("fullft", READOUT, *_MASKS),
    "mask": ("fullft", ZERO_SHOT, *_MASKS),
    "head": (ZERO_SHOT, READOUT),
    "nothing": (),
}


@dataclass(frozen=True)
class Baseline:
    """What a baseline trains.

    Attributes:
        rule: Its mask.
        usage: Its usage as a recipe has it; None for that of the study.
    """

    rule: Rule
    usage: dict[str, Any] | None = None


def default_for(usage: Usage) -> tuple[str, ...]:
    """Return the baselines of a study of `usage` that names none."""
    return _DEFAULT[usage.fits]


def baseline_of(name: str, usage: Usage) -> Baseline:
    """Return what baseline `name` is in a study of `usage`.

    `zero_shot` is the usage of that name, of a usage that trains units alone the empty mask;
    `linear_readout` is classification with an empty mask; anything else is a mask.

    Raises:
        ConfigError: It is no mask rule, or means nothing beside this usage.
    """
    if name == ZERO_SHOT:
        return _zero_shot(usage)
    if name == READOUT and usage.fits != "all":
        return _readout(usage)
    rule = Rule.parse(name)
    if usage.fits in ("head", "nothing"):
        raise ConfigError(
            f"the usage '{named_usage(usage)}' trains no units, so a mask is no baseline of it",
            found=name,
            allowed=list(_DEFAULT["head"]),
        )
    return Baseline(rule)


def _zero_shot(usage: Usage) -> Baseline:
    if not usage.reads_prompts:
        raise ConfigError(
            f"the usage '{named_usage(usage)}' reads no prompts, so nothing is scored by them",
            found=ZERO_SHOT,
            allowed=f"{READOUT}, or a mask",
        )
    if usage.fits == "mask":
        return Baseline(Rule(()))
    _refuse_other_rows(usage, ZERO_SHOT)
    own: Any = USAGES.get(ZERO_SHOT)
    return Baseline(Rule(()), written(own(templates=getattr(usage, "templates", ()))))


def _readout(usage: Usage) -> Baseline:
    if usage.fits == "mask":
        raise ConfigError(
            f"the usage '{named_usage(usage)}' has no head: with an empty mask it is {ZERO_SHOT}",
            found=READOUT,
            allowed=f"{ZERO_SHOT}, or a mask",
            todo="for a linear readout make a study of the usage classify",
        )
    _refuse_other_rows(usage, READOUT)
    return Baseline(Rule(()), written(USAGES.get(_CLASSIFY)()))


def _refuse_other_rows(usage: Usage, name: str) -> None:
    if usage.reads_text:
        raise ConfigError(
            f"the usage '{named_usage(usage)}' has the rows with a text alone, this baseline all",
            found=name,
        )


def named_usage(usage: Usage) -> str:
    """Return the name under which a usage is registered."""
    return name_of(usage) if isinstance(usage, Config) else type(usage).__name__


def baseline_faults(
    names: Sequence[str], usage: Usage | None, place: Sequence[str], source: Source
) -> Iterator[FairtuneError]:
    """Yield the baselines that mean nothing in this study, and that one stands twice.

    Args:
        names: The baselines.
        usage: The study's; None where it could not be read.
        place: Where their list stands.
        source: The document.
    """
    for i, name in enumerate(names):
        try:
            if usage is None:
                Rule.parse(name)
            else:
                baseline_of(name, usage)
        except FairtuneError as error:
            error.where = source.where(*place, i)
            yield error
    if len(set(names)) != len(names):
        yield ConfigError("a baseline stands twice", where=source.where(*place), found=list(names))
