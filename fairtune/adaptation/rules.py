"""Mask rules: `attn:9-11,norm:all`, one parser and one printer.

rule  = `none` | term ("," term)*
term  = TYPE ":" depth ("+" depth)* | UNIT | `singles` (all units outside the blocks)
depth = all | none | i | i-j | first-k | last-k
TYPE  = name in the model spec | TYPE "+" TYPE (one switch for both)

A network of several towers has `image.attn:last-3`, of `image` alone; `attn:last-3` is of every
tower that has such a type, in each by its own depth, and `pos` the unit `pos` of every tower.
`text` is the whole of a tower, `text.singles` what of it is outside the blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fairtune.adaptation.mask import Mask
from fairtune.errors import ConfigError, ModelError
from fairtune.models.units import SINGLES, Units

NAMED_RULES = {
    "fullft": "block:all,singles",
    "linear_readout": "none",
    "bitfit": "bias:all",
}
"""Well-known masks by the name they have in the field."""

_DEPTH = re.compile(r"(all|none|(\d+)(?:-(\d+))?|(first|last)-(\d+))\Z")


@dataclass(frozen=True)
class Depths:
    """One depth word: `kind` is all, none, range, first or last, with its numbers."""

    kind: str
    low: int = 0
    high: int = 0

    @classmethod
    def parse(cls, text: str, rule: str) -> Depths:
        """Read one depth word.

        Raises:
            ConfigError: `text` is no depth.
        """
        match = _DEPTH.match(text)
        if match is None:
            raise ConfigError(
                "not a depth", found=text, where=f"mask rule '{rule}'", allowed=DEPTHS_ALLOWED
            )
        word, low, high, side, count = match.groups()
        if word in ("all", "none"):
            return cls(word)
        if side:
            return cls(side, int(count))
        first, last = int(low), int(low if high is None else high)
        if first > last:
            raise ConfigError(
                "a range of depths runs upwards", found=text, where=f"mask rule '{rule}'"
            )
        return cls("range", first, last)

    def __str__(self) -> str:
        if self.kind == "range":
            return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return self.kind if self.kind in ("all", "none") else f"{self.kind}-{self.low}"

    def blocks(self, depth: int, of: str = "network") -> range:
        """Return the block numbers meant in a network, or a tower, of `depth` blocks.

        Args:
            depth: Its blocks.
            of: What it is called in messages.

        Raises:
            ModelError: The word reaches beyond it.
        """
        reach = self.high + 1 if self.kind == "range" else self.low
        if reach > depth:
            raise ModelError(
                f"the mask rule reaches beyond the {of}'s {depth} blocks",
                found=str(self),
                allowed=f"blocks 0 to {depth - 1}",
            )
        match self.kind:
            case "all":
                return range(depth)
            case "none":
                return range(0)
            case "first":
                return range(self.low)
            case "last":
                return range(depth - self.low, depth)
        return range(self.low, self.high + 1)


DEPTHS_ALLOWED = "all, none, i, i-j, first-k, last-k"


@dataclass(frozen=True)
class Term:
    """Types with depths, or one unit or `singles` when `depths` is empty."""

    types: tuple[str, ...]
    depths: tuple[Depths, ...]

    def __str__(self) -> str:
        head = "+".join(self.types)
        return f"{head}:{'+'.join(map(str, self.depths))}" if self.depths else head

    def units(self, units: Units) -> set[str]:
        """Return the unit names that the term means in a model with `units`.

        Raises:
            ModelError: A type, a unit or a depth is not the model's, or a type has no depth.
        """
        units.check_any(str(self))
        if not self.depths:
            return self._without_depth(units)
        found: set[str] = set()
        for kind in (part for type_ in self.types for part in units.expand(type_)):
            by_depth, deep = units.by_depth(kind), units.deep(kind)
            of = "network" if (tower := units.tower_of(kind)) is None else f"{tower} tower"
            blocks = {b for depth in self.depths for b in depth.blocks(deep, of)}
            found.update(name for b in blocks for name in by_depth[b])
        return found

    def _without_depth(self, units: Units) -> set[str]:
        word = self.types[0]
        if word != SINGLES and not units.named(word):
            if word in units.type_names:
                raise ModelError(
                    "a unit type needs a depth", found=str(self), todo=f"write {self}:all"
                )
            return set(Mask.of(self.types, units).units)
        return set(units.named(word))


@dataclass(frozen=True)
class Rule:
    """A mask rule as terms; no term at all is `none`."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule or one of `NAMED_RULES`.

        Raises:
            ConfigError: The text is no rule.
        """
        source = NAMED_RULES.get(text.strip(), text).replace(" ", "")
        if source == "none":
            return cls(())
        if not source:
            raise ConfigError("an empty mask rule", found=text, todo="write 'none'")
        return cls(tuple(_term(part, text) for part in source.split(",")))

    def __str__(self) -> str:
        return ",".join(map(str, self.terms)) or "none"

    def within(self, tower: str) -> Rule:
        """Return the rule of one tower, of one that names none: `attn:all` as `text.attn:all`."""
        return Rule(
            tuple(Term(tuple(f"{tower}.{t}" for t in one.types), one.depths) for one in self.terms)
        )

    def mask(self, units: Units) -> Mask:
        """Return the mask that the rule means in a model with `units`.

        Raises:
            ModelError: A type, a unit or a depth is not the model's.
        """
        names = {name for term in self.terms for name in term.units(units)}
        return Mask.of(names, units)


def _term(part: str, rule: str) -> Term:
    types, colon, depths = part.partition(":")
    names = tuple(types.split("+"))
    if not all(names):
        raise ConfigError(
            "a term of a mask rule is TYPE:DEPTH or UNIT",
            found=part or rule,
            where=f"mask rule '{rule}'",
            allowed=f"e.g. attn:9-11, attn+norm:last-3, stem; depths: {DEPTHS_ALLOWED}",
        )
    if not colon:
        if len(names) > 1:
            raise ConfigError(
                "types need a depth", found=part, where=f"mask rule '{rule}'", todo=f"{part}:all"
            )
        return Term(names, ())
    if SINGLES in names:
        raise ConfigError(
            "units outside the blocks have no depth",
            found=part,
            where=f"mask rule '{rule}'",
            todo=f"write {SINGLES} as a term of its own",
        )
    return Term(names, tuple(Depths.parse(word, rule) for word in depths.split("+")))
