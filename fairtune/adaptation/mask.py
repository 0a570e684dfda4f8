"""A mask: the set of units that train."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairtune.config import digest
from fairtune.errors import ModelError, did_you_mean
from fairtune.models.units import Units

HEAD = "head"


@dataclass(frozen=True)
class Mask:
    """A set of finest units, sorted by name. The head always trains and is never in it.

    Attributes:
        units: Unit names, sorted, without repetition.
    """

    units: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], units: Units) -> Mask:
        """Return the mask of `names`, all of which must be units of the model.

        Raises:
            ModelError: A name is no unit of this model, or is the head.
        """
        chosen = sorted(set(names))
        known = dict.fromkeys(units.names)
        for name in chosen:
            if name == HEAD:
                raise ModelError("the head always trains and is never in a mask", found=name)
            units.check_any(name)
            if name not in known:
                raise ModelError(
                    "the mask names a unit that this model does not have",
                    found=name,
                    allowed=f"one of {len(known)} units, e.g. {units.names[0]}",
                    todo=did_you_mean(name, (*known, *units.towers)),
                )
        return cls(tuple(chosen))

    @property
    def hash(self) -> str:
        """Digest of the sorted unit names."""
        return digest(list(self.units))

    def trainable(self, units: Units) -> int:
        """Return the number of parameters in the mask, without the head."""
        return sum(units.sizes[name] for name in self.units)

    def share(self, units: Units) -> float:
        """Return the masked share of all parameters but the head, in [0, 1]."""
        total = sum(size for name, size in units.sizes.items() if name != HEAD)
        return self.trainable(units) / total if total else 0.0

    def lowest_block(self, units: Units) -> int | None:
        """Return the depth of the first block with a trainable unit; -1 before the blocks.

        The backward pass has to reach this deep, so it decides the cost of a step. None when no
        unit in or before the blocks trains. Of several towers it is of that of the images: texts
        are few and short beside them.
        """
        mine = set(self.units).intersection(units.of_tower(units.image_tower))
        depths = [d for name in mine if (d := units.depth_of(name)) is not None]
        return -1 if mine & units.entrance else min(depths, default=None)

    def start(self, units: Units) -> int:
        """Return the block at which training starts: 0 for the stem too, behind the last for None.

        What stands before it is the same in every pass, whatever else of the network trains.
        """
        lowest = self.lowest_block(units)
        return units.image_depth if lowest is None else max(0, lowest)

    def glyph(self, units: Units) -> str:
        """Return one character per block: `.` frozen, `:` a part, `#` everything trains.

        Of several towers the characters of each stand behind its name: `image ..## text .:`.
        """
        if not units.towers:
            return self._marks(units, None)
        return " ".join(f"{tower} {self._marks(units, tower)}" for tower in units.towers)

    def _marks(self, units: Units, tower: str | None) -> str:
        chosen = set(self.units)
        blocks: list[list[bool]] = [[] for _ in range(units.below(units.path_in(tower)))]
        for name in units.of_tower(tower):
            if (depth := units.depth_of(name)) is not None:
                blocks[depth].append(name in chosen)
        return "".join("." if not any(b) else "#" if all(b) else ":" for b in blocks)
