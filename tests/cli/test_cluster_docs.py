"""The page on clusters and its manifests: what is typed there is what the command line takes."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from fairtune.cli.app import build
from fairtune.cli.crew import Asked
from fairtune.study.launch import LAUNCHERS
from fairtune.study.launch.crew import ERROR, REQUEUE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
FOLDER = ROOT / "docs" / "cluster"


def of_page() -> Iterator[list[str]]:
    """Yield every command of fairtune that the page types."""
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "fairtune":
                yield words[1:]


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def containers() -> Iterator[dict[str, Any]]:
    """Yield every container of both files that runs the image of fairtune."""
    for service in documents("compose.yaml")[0]["services"].values():
        yield service | {"args": service.get("command"), "restart": service.get("restart")}
    for document in documents("kubernetes.yaml"):
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        yield from pod.get("containers", [])


def commands() -> list[list[str]]:
    made = [c["args"] for c in containers() if c["image"] == "fairtune"]
    return [*of_page(), *made]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:80])
def test_a_command_is_one_that_the_command_line_takes(words: list[str]) -> None:
    name, *given = words
    command = typer.main.get_command(build()).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, list(given))
    found = context.params
    if name == "search":
        asked = Asked.of(*(found[k] for k in ("launcher", "settings", "workers")),
                         found["per_gpu"], found["processes"])  # fmt: skip
        assert asked is not None, "a page on clusters starts workers"


def test_the_page_has_a_command_for_every_launcher() -> None:
    typed = [" ".join(words) for words in commands()]
    for name in LAUNCHERS:
        wanted = "--workers" if name == "local" else f"--launcher {name}"
        assert [words for words in typed if wanted in words], name


def test_every_setting_of_slurm_is_on_the_page() -> None:
    fields = LAUNCHERS.get("slurm").model_fields
    table = PAGE.split("| `--with` |")[1].split("\n\n")[0]
    assert [name for name in fields if f"`{name}`" not in table] == []
    for name in ("time", "signal", "requeues"):
        row = next(line for line in table.splitlines() if f"`{name}`" in line.split("|")[1])
        assert str(fields[name].default) in row


def test_exit_codes_are_what_schedulers_are_told() -> None:
    (workers,) = [d for d in documents("kubernetes.yaml") if d["metadata"]["name"] == "workers"]
    rules = workers["spec"]["podFailurePolicy"]["rules"]
    by_code = {
        code: r["action"] for r in rules for code in r.get("onExitCodes", {}).get("values", [])
    }
    assert by_code == {REQUEUE: "Ignore", ERROR: "FailIndex"}
    assert [name["onExitCodes"]["containerName"] for name in rules if "onExitCodes" in name] == [
        workers["spec"]["template"]["spec"]["containers"][0]["name"]
    ] * 2
    assert workers["spec"]["completionMode"] == "Indexed"
    assert workers["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    for code in (REQUEUE, ERROR):
        assert f"\n| {code} |" in PAGE


def test_every_volume_that_is_mounted_is_there() -> None:
    for document in documents("kubernetes.yaml"):
        spec = document.get("spec", {})
        pod = spec.get("template", {}).get("spec", {})
        claims = [c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])]
        there = {volume["name"] for volume in pod.get("volumes", [])} | set(claims)
        mounted = {m["name"] for c in pod.get("containers", []) for m in c.get("volumeMounts", [])}
        assert mounted <= there
    compose = documents("compose.yaml")[0]
    for service in compose["services"].values():
        for volume in service["volumes"]:
            name = volume.split(":")[0]
            assert name in compose["volumes"] or name.startswith("${")


def test_a_password_comes_from_outside() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text()
        for line in text.splitlines():
            if "postgresql://" in line:
                assert re.search(r"fairtune:\$[({](PASSWORD|FAIRTUNE_DB_PASSWORD)", line)


def test_the_image_has_what_the_manifests_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    image = (ROOT / "Dockerfile").read_text()
    named = re.search(r"for extra in \((.*?)\)", image)
    assert named is not None
    installed = re.findall(r"'(\w+)'", named[1])
    assert set(installed) <= set(extras)
    assert {"postgres", "dashboard", "grpc"} <= set(installed)
    assert 'ENTRYPOINT ["fairtune"]' in image
    for folder in ("/data", "/cache", "/results"):
        assert folder in image
