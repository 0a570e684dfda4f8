"""Names of tensors: which block one lies in, what it is called below it, by which tower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def depth_in(name: str, blocks: str) -> int | None:
    """Return the number of the block that `name` lies in, counted from 0; None outside.

    Args:
        name: Of a tensor or module.
        blocks: Module path before the depth number; with `*` at its end the number follows at
            once and counts from 1.
    """
    counted, start = (1, blocks[:-1]) if blocks.endswith("*") else (0, blocks + ".")
    number, dot, _ = name.removeprefix(start).partition(".")
    inside = name.startswith(start) and dot and number.isdecimal()
    return int(number) - counted if inside else None


def block_at(blocks: str, depth: int) -> str:
    """Return the module path of block `depth`, counted from 0."""
    return f"{blocks[:-1]}{depth + 1}" if blocks.endswith("*") else f"{blocks}.{depth}"


def tower_in(name: str) -> str:
    """Return the first part of a name: what a unit, type or path is called by, of a tower."""
    return name.split(".", 1)[0]


def below_block(name: str, blocks: str) -> str:
    """Return what `name`, which lies in a block, is called below it."""
    start = blocks[:-1] if blocks.endswith("*") else blocks + "."
    return name[len(start) :].split(".", 1)[1]


def contains(rest: str, entry: str) -> bool:
    """Tell whether the run of name parts `entry` occurs in `rest`, or with `^` begins it."""
    if entry.startswith("^"):
        return f"{rest}.".startswith(f"{entry[1:]}.")
    return entry == "*" or f".{entry}." in f".{rest}."


def among(name: str, entries: Sequence[str]) -> bool:
    """Tell whether one of `entries` is `name`, or a module that it lies in."""
    return any(name == entry or name.startswith(entry + ".") for entry in entries)


def ordered(units: Iterable[str], rank: Mapping[str, int]) -> tuple[str, ...]:
    """Return `units` in the order of their ranks."""
    return tuple(sorted(units, key=rank.__getitem__))
