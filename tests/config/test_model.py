"""Configuration models: what is refused, and what the message says."""

from __future__ import annotations

import copy
import math
import pickle
from enum import Enum
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pytest

from fairtune.config import Config, Registry, Source, digest, parse
from fairtune.config.model import carried
from fairtune.config.yaml12 import loads
from fairtune.errors import ConfigError, DataError, FairtuneError, Problems


class Kind(Enum):
    """Two ways."""

    AUTO = "auto"
    MANUAL = "manual"


class Inner(Config):
    """Something nested."""

    rank: int = pydantic.Field(4, ge=1)
    kind: Literal["auto", "manual"] = "auto"


class Outer(Config):
    """Every form of field that a study file has."""

    lr: float
    flag: bool = False
    size: int | Literal["auto"] = "auto"
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    named: dict[str, Inner] = pydantic.Field(default_factory=dict)
    way: Kind = Kind.AUTO
    # Words that pydantic's own schemas use for other things.
    type: int = 0
    fields: bool = False
    default: int = 0


def messages(text: str, cls: type[Config] = Outer) -> list[str]:
    """Parse `text` and return each problem as its lines, joined."""
    document = loads(text, "f.yaml")
    with pytest.raises(FairtuneError) as caught:
        parse(cls, document.data, Source(document))
    error = caught.value
    problems = error.problems if isinstance(error, Problems) else (error,)
    assert all(isinstance(problem, ConfigError) for problem in problems)
    return [" | ".join(line.strip() for line in str(p).splitlines()) for p in problems]


CASES = [
    (
        "lrr: 1\nlr: 1",
        ["f.yaml:1:1 (lrr): unknown field 'lrr'", "allowed: default, fields, flag, "],
    ),
    ("lrr: 1\nlr: 1", ["do:      did you mean 'lr'?"]),
    ("flag: true", ["f.yaml:1:1 (lr): the field 'lr' is missing"]),
    ("lr: true", ["f.yaml:1:1 (lr): ", "valid number", "found:   True"]),
    ("lr: '1e-3'", ["valid number", "found:   '1e-3'"]),
    ("lr: .inf", ["finite number", "found:   inf"]),
    ("lr: .nan", ["finite number", "found:   nan"]),
    ("lr:", ["valid number; the field is empty"]),
    ("lr: 1\nflag: yes", ["f.yaml:2:1 (flag): ", "found:   'yes'", "write true or false"]),
    ("lr: 1\nflag: 1", ["valid boolean", "found:   1"]),
    ("lr: 1\nfields: 1", ["f.yaml:2:1 (fields)", "valid boolean"]),
    ("lr: 1\ntype: true", ["f.yaml:2:1 (type)", "valid integer"]),
    ("lr: 1\ndefault: '3'", ["f.yaml:2:1 (default)", "valid integer"]),
    ("lr: 1\nsize: big", ["(size): ", "valid integer, or: Input should be 'auto'"]),
    ("lr: 1\nmany: [{rank: 0}]", ["f.yaml:2:9 (many.0.rank): ", "greater than or equal to 1"]),
    ("lr: 1\nmany:\n  - {}\n  - {rnk: 1}", ["f.yaml:4:6 (many.1.rnk)", "did you mean 'rank'?"]),
    ("lr: 1\nmany:\n  - 7", ["f.yaml:3:5 (many.0)", "found:   7"]),
    ("lr: 1\nmaybe: {rank: 1.5}", ["f.yaml:2:9 (maybe.rank)", "found:   1.5"]),
    ("lr: 1\nmaybe: {rnk: 1}", ["(maybe.rnk): unknown field 'rnk'", "allowed: kind, rank"]),
    ("lr: 1\nnamed:\n  a: {rank: x}", ["f.yaml:3:7 (named.a.rank)"]),
    ("lr: 1\nnamed: {a: {rnk: 1}}", ["allowed: kind, rank", "did you mean 'rank'?"]),
    ("lr: 1\nmaybe: {kind: autoo}", ["'auto' or 'manual'", "did you mean 'auto'?"]),
    ("lr: 1\nway: manuel", ["(way)", "did you mean 'manual'?"]),
    ("lr: " + "x" * 999, ["xxx..."]),
    ("- 1", ["f.yaml:1:1: expected a mapping of fields", "found:   [1]"]),
    ("", ["f.yaml: expected a mapping of fields"]),
]


@pytest.mark.parametrize(("text", "parts"), CASES, ids=[repr(t)[:40] for t, _ in CASES])
def test_a_fault_names_place_finding_and_remedy(text: str, parts: list[str]) -> None:
    (message,) = messages(text)
    assert all(part in message for part in parts), message


def test_all_faults_are_told_at_once() -> None:
    found = messages("lrr: 1\nflag: no\nmany: [{rank: x}, {kind: y}]\nsize: {a: 1}\n")
    assert len(found) == 6
    assert {m.split(":")[1] for m in found} == {"1", "2", "3", "4"}


def test_the_title_of_several_faults_is_the_file() -> None:
    document = loads("a: 1\nb: 2\n", "f.yaml")
    with pytest.raises(Problems, match=r"^f.yaml: 3 problems"):
        parse(Outer, document.data, Source(document))


def test_a_part_of_a_document_is_placed_in_the_whole() -> None:
    document = loads("recipe:\n  optim:\n    lr: fast\n", "f.yaml")
    source = Source(document).at("recipe", "optim")
    with pytest.raises(ConfigError) as caught:
        parse(Outer, document.data["recipe"]["optim"], source)
    assert caught.value.where == "f.yaml:3:5 (recipe.optim.lr)"


def test_values_from_code_are_placed_by_field() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"lr": 1, "many": [{"rank": "x"}]})
    assert caught.value.where == "many.0.rank"


class Ranged(Config):
    """Raises in each way that a validator can."""

    low: int = 0
    high: int = 1
    path: str = ""

    @pydantic.field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        if value == "plain":
            raise ValueError("a plain fault")
        if value == "carried":
            raise carried(DataError("a carried fault", found=value, todo="mend it"))
        if value == "inner":
            raise carried(ConfigError("a fault further in"), "part", 2)
        if value == "elsewhere":
            raise carried(ConfigError("a fault of another file", where="mask.txt:7"))
        return value

    @pydantic.model_validator(mode="after")
    def _order(self) -> Ranged:
        if self.low > self.high:
            raise carried(ConfigError("low is above high", found=[self.low, self.high]))
        return self


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: plain", "f.yaml:1:1 (path): a plain fault | found:   'plain'"),
        (
            "path: carried",
            "f.yaml:1:1 (path): a carried fault | found:   'carried' | do:      mend it",
        ),
        ("path: inner", "f.yaml:1:1 (path.part.2): a fault further in"),
        ("path: elsewhere", "f.yaml:1:1 (path): mask.txt:7: a fault of another file"),
        ("\nlow: 3", "f.yaml:2:1: low is above high | found:   [3, 1]"),
    ],
)
def test_a_validators_fault_keeps_its_words(text: str, message: str) -> None:
    assert messages(text, Ranged) == [message]


registry: Registry[Any] = Registry("shape", "fairtune.config")  # whose modules hold no member


@registry.register("square")
class Square(Config):
    """A member with a member inside."""

    side: float = 1.0
    inner: Annotated[Any, registry.field()] | None = None


class Drawing(Config):
    """Holds members."""

    shapes: tuple[Annotated[Any, registry.field()], ...] = ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("shapes:\n  - squre", ["f.yaml:2:5 (shapes.0): unknown shape", "did you mean 'square'?"]),
        ("shapes:\n  - square:\n      sde: 1", ["f.yaml:3:7 (shapes.0.square.sde)", "'side'?"]),
        (
            "shapes:\n- square:\n    inner:\n      square: {side: x}",
            ["f.yaml:4:16 (shapes.0.square.inner.square.side)", "found:   'x'"],
        ),
        ("shapes: [3]", ["f.yaml:1:10 (shapes.0): a shape is written NAME or {NAME: {field: v"]),
    ],
)
def test_a_members_fault_is_placed_on_its_own_line(text: str, parts: list[str]) -> None:
    (message,) = messages(text, Drawing)
    assert all(part in message for part in parts), message


def test_a_model_is_frozen_hashable_and_equal_by_value() -> None:
    a, b = Outer(lr=1), Outer(lr=1.0)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        a.lr = 2.0
    assert a == b
    assert len({a, b, Outer(lr=2)}) == 2
    assert a.digest() == b.digest() == digest(a.to_json())


def test_a_model_round_trips_through_plain_values() -> None:
    value = Outer(lr=1e-3, many=(Inner(rank=2),), named={"a": Inner()}, way=Kind.MANUAL)
    assert parse(Outer, value.to_json()) == value
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert parse(Drawing, {"shapes": [{"square": {"side": 2}}]}).to_json() == {
        "shapes": [{"square": {"side": 2.0, "inner": None}}]
    }


def test_numbers_of_numpy_are_read_where_they_are_numbers_of_python() -> None:
    assert Outer(lr=np.float64(0.5)).lr == 0.5


def test_a_default_is_checked() -> None:
    class Wrong(Config):
        rate: float = math.inf

    with pytest.raises(ConfigError, match="finite"):
        parse(Wrong, {})


def test_a_list_default_that_looks_like_a_schema_is_left_alone() -> None:
    class Odd(Config):
        table: dict[str, str] = {"type": "int"}  # noqa: RUF012

    assert Odd().table == {"type": "int"}
