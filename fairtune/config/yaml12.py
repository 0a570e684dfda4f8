"""YAML read by the 1.2 core schema, with the line and column of every value.

PyYAML follows YAML 1.1, where `no` is False, `010` is 8, `12:30` is 750 and `1e-3` is a string.
Here only `true/false` are booleans, `1e-3` and `.inf` are floats and the rest are strings. Tags,
merge keys, aliases and duplicate keys are refused: a study file must mean what it shows.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairtune.errors import ConfigError, FairtuneError, raise_all

_INT = re.compile(r"[-+]?[0-9]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_OCT = re.compile(r"0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_BREAKS = re.compile("[\x85\u2028\u2029]")
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Located:
    """A YAML document as plain values, with the place of every node.

    Attributes:
        data: Dicts, lists and scalars.
        places: Line and column, counted from 1, by path of keys and indices.
        name: What to call the document in messages.
        origins: Where a value came from instead, e.g. `--set optim.lr`, by path.
    """

    data: Any
    places: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    name: str = "<text>"
    origins: dict[Path_, str] = field(default_factory=dict)

    def where(self, path: Path_) -> str:
        """Return `file:line:column`, or the origin, of the deepest node on `path` that exists."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
            place = self.places.get(path[:end])
            if place is not None:
                return f"{self.name}:{place[0]}:{place[1]}"
        return self.name


def read(path: Path, name: str | None = None) -> Located:
    """Read the YAML file `path`.

    Raises:
        ConfigError: The file cannot be read or is not YAML of the kind described above.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("cannot read the file", where=path, found=error.strerror) from None
    except UnicodeDecodeError as error:
        raise ConfigError("the file is not UTF-8 text", where=path, found=str(error)) from None
    return loads(text, name or str(path))


def loads(text: str, name: str = "<text>") -> Located:
    """Read one YAML document from `text`.

    Raises:
        ConfigError: The text is not YAML of the kind described above; all faults at once.
    """
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.look_at(event)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = None if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(f"not valid YAML: {error.problem}", where=where) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=name) from None
    except RecursionError:
        raise ConfigError("the document is nested too deeply", where=name) from None
    raise_all(name, [problem for _, problem in sorted(builder.problems, key=lambda p: p[0])])
    return Located(data, builder.places, name)


class _Builder:
    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Path_, tuple[int, int]] = {}
        self.problems: list[tuple[tuple[int, int], FairtuneError]] = []
        self._seen: set[int] = set()

    def look_at(self, event: yaml.Event) -> None:
        """Refuse what can no longer be told apart once the document is composed."""
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, "aliases are not read here", "write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"the tag '{shown}' is not read here", "write a plain value")

    def build(self, node: yaml.Node, path: Path_) -> Any:
        # An alias is refused already; following it could take for ever.
        if id(node) in self._seen:
            return None
        self._seen.add(id(node))
        self.places[path] = _place(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Hashable, Any]:
        out: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, "a key must be a plain word")
                continue
            if key_node.tag == "tag:yaml.org,2002:merge":
                self._refuse(key_node, "merge keys are not read here", "write the fields out")
                continue
            # Keys are names of fields, groups or values: text, whatever they look like.
            key = str(key_node.value)
            if key in out:
                self._refuse(key_node, f"the key '{key}' stands twice", "remove one of them")
                continue
            child = (*path, key)
            out[key] = self.build(value_node, child)
            self.places[child] = _place(key_node)
        return out

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        if getattr(node, "style", None) in ("'", '"', "|", ">"):
            return text
        try:
            return plain_scalar(text)
        except ValueError:
            # Python refuses to read whole numbers of more than 4300 digits.
            self._refuse(node, "the number has too many digits")
            return None

    def _refuse(self, at: yaml.Node | yaml.Event, what: str, todo: str | None = None) -> None:
        line, column = place = _place(at)
        where = f"{self.name}:{line}:{column}"
        self.problems.append((place, ConfigError(what, where=where, todo=todo)))


def _place(at: yaml.Node | yaml.Event) -> tuple[int, int]:
    mark: Any = at.start_mark
    return (mark.line + 1, mark.column + 1)


def plain_scalar(text: str) -> Any:
    """Return an unquoted scalar by the YAML 1.2 core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.match(text):
        return int(text)
    if _HEX.match(text):
        return int(text, 16)
    if _OCT.match(text):
        return int(text[2:], 8)
    if _FLOAT.match(text):
        return float(text)
    if _NOT_FINITE.match(text):
        return float(text.replace(".", ""))
    return text


def dumps(data: Any) -> str:
    """Write `data` so that `loads` reads it back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=99)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Quote whatever the 1.2 schema would read as another type; PyYAML itself guards the 1.1 ones.
    style = "'" if not isinstance(plain_scalar(text), str) else None
    # YAML 1.1 takes these for line breaks and folds them unless they are escaped.
    style = '"' if _BREAKS.search(text) else style
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
    # PyYAML takes 1e-05 for text by its own rules and would write a tag; 1.0e-05 is both's float.
    text = text if "." in text else text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _represent_str)
_Dumper.add_representer(float, _represent_float)
