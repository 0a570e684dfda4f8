"""The registry: members by name, from the package and from plug-ins really installed."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairtune.config import Config, Registry
from fairtune.config.registry import declared_dimensions, name_of, written
from fairtune.errors import ConfigError, FairtuneError

REGISTRY = """
from fairtune.config import Registry
shapes = Registry("test shape", "{package}", later=("sphere",))
"""
MEMBER = """
from typing import Annotated
from fairtune.config import Choice, Config, Float, Int
from {package} import shapes

@shapes.register("{name}")
class {cls}(Config):
    size: Annotated[float, Float(0.1, 10, log=True)] = 1.0
    count: Annotated[int, Int(1, 3)] = 1
    look: Annotated[str, Choice(("plain", "striped"))] = "plain"
    label: str = ""
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a registry and the members `square` and `disc`."""
    name = "fairtune_test_shapes"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(REGISTRY.format(package=name))
    for member, cls in [("square", "Square"), ("disc", "Disc")]:
        text = MEMBER.format(package=name, name=member, cls=cls)
        (folder / f"{member}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield name
    for module in [m for m in sys.modules if m.split(".")[0].startswith("fairtune_test_")]:
        del sys.modules[module]


def shapes_of(package: str) -> Registry[Any]:
    """Import the package and return its registry."""
    registry: Registry[Any] = importlib.import_module(package).shapes
    return registry


def install(site: Path, text: str, target: str = "fairtune_test_plugin") -> None:
    """Lay a plug-in distribution into `site`, as pip would."""
    (site / "fairtune_test_plugin.py").write_text(text)
    info = site / "fairtune_test_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fairtune-test-plugin\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(f"[fairtune.test_shape]\nextra = {target}\n")
    importlib.invalidate_caches()


def test_members_are_imported_on_first_look_up(package: str) -> None:
    shapes = shapes_of(package)
    assert f"{package}.square" not in sys.modules
    assert shapes.names() == ["disc", "square"]
    assert list(shapes) == ["disc", "square"]
    assert f"{package}.square" in sys.modules


def test_a_member_is_written_in_three_forms(package: str) -> None:
    shapes = shapes_of(package)
    plain = shapes.parse("square")
    assert plain == shapes.parse({"square": {}}) == shapes.parse({"square": None})
    assert shapes.parse(plain) is plain
    big = shapes.parse({"square": {"size": 3}})
    assert big.size == 3.0
    assert written(big) == {"square": {"size": 3.0, "count": 1, "look": "plain", "label": ""}}
    assert shapes.parse(written(big)) == big
    assert name_of(big) == name_of(type(big)) == "square"


def test_a_member_of_another_registry_is_refused(package: str) -> None:
    class Stranger(Config):
        """Registered nowhere."""

    with pytest.raises(ConfigError, match="a test shape is written NAME"):
        shapes_of(package).parse(Stranger())


@pytest.mark.parametrize("value", [3, None, [], {}, {"square": {}, "disc": {}}, ["square"]])
def test_another_form_is_refused(package: str, value: object) -> None:
    with pytest.raises(ConfigError, match="a test shape is written NAME or") as caught:
        shapes_of(package).parse(value)
    assert "allowed: disc, square" in str(caught.value)


def test_an_unknown_name_is_answered_with_the_closest(package: str) -> None:
    with pytest.raises(ConfigError, match="unknown test shape") as caught:
        shapes_of(package).get("sqare")
    assert caught.value.todo == "did you mean 'square'?"
    assert caught.value.allowed == ["disc", "square"]


def test_a_name_of_a_later_version_is_refused_as_such(package: str) -> None:
    with pytest.raises(ConfigError, match="'sphere' is not available in this version") as caught:
        shapes_of(package).parse({"sphere": {"size": 1}})
    assert caught.value.allowed == ["disc", "square"]
    assert "sphere" not in shapes_of(package).names()


def test_fields_that_are_no_mapping_are_refused(package: str) -> None:
    with pytest.raises(ConfigError, match="expected a mapping") as caught:
        shapes_of(package).parse({"square": 3})
    assert caught.value.where == "square"


def test_a_wrong_field_is_placed_below_the_name(package: str) -> None:
    with pytest.raises(ConfigError, match="unknown field 'sze'") as caught:
        shapes_of(package).parse({"square": {"sze": 3}})
    assert caught.value.where == "square.sze"


def test_dimensions_are_declared_with_the_field(package: str) -> None:
    declared = declared_dimensions(shapes_of(package).get("disc"))
    assert {name: d.to_json() for name, d in declared.items()} == {
        "size": {"float": [0.1, 10], "log": True},
        "count": {"int": [1, 3]},
        "look": {"one_of": ["plain", "striped"]},
    }


def test_two_classes_of_one_name_are_refused(package: str, tmp_path: Path) -> None:
    text = MEMBER.format(package=package, name="square", cls="Other")
    (tmp_path / "site" / package / "zzz.py").write_text(text)
    with pytest.raises(
        ConfigError, match="two classes are registered as test shape 'square'"
    ) as e:
        shapes_of(package).names()
    assert e.value.found == [f"{package}.square.Square", f"{package}.zzz.Other"]


def test_two_classes_of_one_module_under_one_name_are_refused(
    package: str, tmp_path: Path
) -> None:
    text = MEMBER.format(package=package, name="square", cls="Other")
    with (tmp_path / "site" / package / "square.py").open("a") as file:
        file.write(text)
    with pytest.raises(ConfigError, match="two classes are registered"):
        shapes_of(package).names()


def test_a_module_may_be_loaded_again(package: str) -> None:
    shapes = shapes_of(package)
    shapes.names()
    importlib.reload(sys.modules[f"{package}.square"])
    assert shapes.names() == ["disc", "square"]


def test_an_installed_plug_in_joins(package: str, tmp_path: Path) -> None:
    text = MEMBER.format(package=package, name="hexagon", cls="Hexagon")
    install(tmp_path / "site", text)
    shapes = shapes_of(package)
    assert shapes.names() == ["disc", "hexagon", "square"]
    assert shapes.parse({"hexagon": {"count": 2}}).count == 2


def test_a_plug_in_may_not_take_a_name(package: str, tmp_path: Path) -> None:
    install(tmp_path / "site", MEMBER.format(package=package, name="disc", cls="Disc"))
    with pytest.raises(ConfigError, match="two classes are registered as test shape 'disc'"):
        shapes_of(package).names()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("import fairtune_test_absent", "fairtune_test_plugin"),
        ("1 / 0", "fairtune_test_plugin"),
        ("", "fairtune_test_plugin:Absent"),
    ],
)
def test_a_broken_plug_in_is_named(package: str, tmp_path: Path, text: str, target: str) -> None:
    install(tmp_path / "site", text, target)
    with pytest.raises(ConfigError, match="the plug-in 'extra' of group") as e:
        shapes_of(package).names()
    assert e.value.where == target
    assert "uninstall" in str(e.value)


def test_threads_that_look_up_first_see_every_member(package: str) -> None:
    shapes, seen = shapes_of(package), []
    barrier = threading.Barrier(4)

    def look() -> None:
        barrier.wait()
        seen.append(shapes.names())

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [["disc", "square"]] * 4


def test_an_error_is_of_the_one_kind_that_the_command_line_shows(package: str) -> None:
    with pytest.raises(FairtuneError):
        shapes_of(package).parse("nothing")


@pytest.mark.parametrize("missing", ["fairtune_test_gone.parts", "fairtune_test_shapes.parts"])
def test_an_optional_package_may_be_deleted(package: str, tmp_path: Path, missing: str) -> None:
    registry: Registry[Any] = Registry("test shape", missing, optional=True)
    assert registry.names() == []
    with pytest.raises(ModuleNotFoundError):
        Registry("test shape", missing).names()
    install(tmp_path / "site", MEMBER.format(package=package, name="cone", cls="Cone"))
    assert shapes_of(package).names() == ["cone", "disc", "square"]
