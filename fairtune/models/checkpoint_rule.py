"""How the tensors of a foreign checkpoint are found, as a spec declares it.

Nothing here needs torch to be imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 5


class CheckpointRule(Config):
    r"""What a checkpoint's names become. Steps are done in the order of the fields.

    Each pattern is a regular expression that is searched for in a name; `^` stands for its
    beginning.

    Attributes:
        state_key: Where the state dict lies in the file, with dots between the keys; None to
            look under the usual names.
        drop: Tensors with one of these patterns are left out: heads, buffers, a second network.
        strip: Of the beginnings that a name has, the first of these is taken away.
        rename: Patterns and what stands in their place (`\1` for a group), one after another.
        join: Under the new end of a name, the ends of those that are put one below the other,
            such as `attn.qkv: [attn.query, attn.key, attn.value]`, of weights and biases.
    """

    state_key: str | None = None
    drop: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    rename: dict[str, str] = Field(default_factory=dict)
    join: dict[str, Annotated[tuple[str, ...], Field(min_length=2)]] = Field(default_factory=dict)

    @field_validator("drop")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for at, pattern in enumerate(value):
            _check(pattern, at)
        return value

    @field_validator("rename")
    @classmethod
    def _replace_patterns(cls, value: dict[str, str]) -> dict[str, str]:
        for pattern, new in value.items():
            _check(pattern, pattern)
            try:
                re.compile(pattern).sub(new, "")
            except (re.error, IndexError) as error:
                raise carried(
                    ConfigError("not a replacement of this pattern", found=f"{new} ({error})"),
                    pattern,
                ) from None
        return value

    def applied(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return `tensors` under the network's names.

        Raises:
            ModelError: Two tensors would have one name, a joined one lacks a part, or an entry
                of `rename` or `join` fits no tensor: the file is of another model.
        """
        used: set[str] = set()
        dropped = re.compile("|".join(f"(?:{entry})" for entry in self.drop) or r"(?!)")
        kept = {n: t for n, t in tensors.items() if not dropped.search(n)}
        out: dict[str, Tensor] = {}
        for name, tensor in kept.items():
            new = self._renamed(name, used)
            if new in out:
                raise ModelError(
                    "the rule gives two tensors one name", where=where, found=[name, new]
                )
            out[new] = tensor
        for new, parts in self.join.items():
            out = _joined(out, new, parts, used, where)
        idle = [entry for entry in (*self.rename, *self.join) if entry not in used]
        if idle:
            raise ModelError(
                "entries of the rule fit no tensor of the file",
                where=where,
                found=idle,
                allowed="patterns of its names: " + ", ".join(list(tensors)[:_SHOWN]),
                todo="correct the rule, or give the file that it was written for",
            )
        return out

    def found(self, content: Any, where: str) -> Any:
        """Return what lies under `state_key` of a file's content.

        Raises:
            ModelError: There is no such key.
        """
        for key in self.state_key.split(".") if self.state_key else ():
            if not isinstance(content, Mapping) or key not in content:
                keys = list(content)[:_SHOWN] if isinstance(content, Mapping) else None
                raise ModelError(
                    f"the file has no '{self.state_key}'",
                    where=where,
                    found=keys,
                    todo="correct state_key, or leave it out",
                )
            content = content[key]
        return content

    def _renamed(self, name: str, used: set[str]) -> str:
        for start in self.strip:
            if name.startswith(start):
                name = name.removeprefix(start)
                break
        for pattern, new in self.rename.items():
            changed, count = re.subn(pattern, new, name)
            if count:
                used.add(pattern)
                name = changed
        return name


def _joined(
    tensors: Mapping[str, Tensor], new: str, parts: Iterable[str], used: set[str], where: str
) -> dict[str, Tensor]:
    """Return tensors with those that end in `parts` put together under `new`."""
    import torch

    first, *others = parts
    out = dict(tensors)
    for name in tensors:
        path, _, last = name.rpartition(".")
        if path != first and not path.endswith(f".{first}"):
            continue
        used.add(new)
        start = path.removesuffix(first)
        names = [name, *(f"{start}{part}.{last}" for part in others)]
        missing = [part for part in names if part not in out]
        if missing:
            raise ModelError(
                f"the rule joins tensors to '{new}' that the file lacks",
                where=where,
                found=missing,
            )
        out[f"{start}{new}.{last}"] = torch.cat([out.pop(part) for part in names])
    return out


def _check(pattern: str, loc: str | int) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        fault = ConfigError("not a regular expression", found=f"{pattern} ({error})")
        raise carried(fault, loc) from None
