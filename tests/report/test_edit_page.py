"""The page of an edit: whole, with the assessment's numbers, and without images unless asked."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_assessed import arm, assessment, group
from kit_page import Page
from PIL import Image
from test_screenshot import FLAGS

from fairtune.experiment.assessed import Pair
from fairtune.report.edit_figures import CHANNELS, picture, trace
from fairtune.report.edit_page import as_json, page, write
from fairtune.report.words import with_ends


def shown(**changed: Any) -> Page:
    return Page.read(page(assessment(**changed)))


def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    return [Pair(*rng.integers(0, 256, (2, 8, 8, c), dtype=np.uint8)) for c in (1, 3)]


def test_every_arm_has_its_figures() -> None:
    found, read = assessment(), shown()
    heads = read.table("How well a linear head reads sex: AUC with 95 % interval, validation")
    task = read.table("The task by arm, with 95 % intervals, validation")
    published = read.table("As published, validation")
    for one in found.arms:
        f = one.figures["sa_auc_retrained"]
        assert heads[one.name]["head re-trained on edited images"] == with_ends(
            f.value, f.low, f.high
        )
        assert task[one.name]["AUC"] == "0.700 [0.60, 0.80]"
        assert published[one.name] == {
            "arm": one.name, "EO_n": "4.500", "EO_p": "9.000", "DI": "0.120",
        }  # fmt: skip
    assert heads["edit"]["RMS, 1/255"] == "4.00"
    assert heads["none"]["RMS, 1/255"] == "–"
    against = read.table("The edit against controls, on the same patients, validation")
    assert set(against["task: AUC"].values()) == {"task: AUC", "+0.000 [−0.10, 0.10]"}
    assert read.table("Queries of the model")["steps of the search"]["batches"] == "64"


def test_the_answer_comes_first() -> None:
    read = shown()
    assert read.heads[:2] == [
        "An edit for sex: test_vit on my-set",
        "Not hidden: a re-trained head reads sex about as well as without edit",
    ]
    assert read.levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(read.levels, read.levels[1:]))


def test_what_is_drawn_is_the_edit() -> None:
    read = shown()
    drawn = json.loads(read.scripts["edit-picture-json"])["data"][0]
    assert np.asarray(drawn["z"]) == pytest.approx(assessment().picture[0], abs=0.006)
    assert drawn["zmin"] == -drawn["zmax"] == pytest.approx(-9)
    losses = json.loads(read.scripts["edit-trace-json"])["data"][0]
    assert losses["x"] == [8 * i for i in range(1, 9)]
    assert losses["y"] == pytest.approx([1 / i for i in range(1, 9)])
    arms = json.loads(read.scripts["edit-arms-json"])["data"]
    assert arms[0]["x"] == pytest.approx([0.9] * 5)


def test_three_channels_stand_beside_each_other() -> None:
    found = assessment(picture=np.ones((3, 8, 8), dtype=np.float32))
    plot = picture(found).plot
    assert [plot.layout[a].title.text for a in ("xaxis", "xaxis2", "xaxis3")] == list(CHANNELS)
    ends = [plot.layout[a].domain for a in ("xaxis", "xaxis2", "xaxis3")]
    assert ends[0][1] < ends[1][0] < ends[1][1] < ends[2][0]


def test_a_large_edit_is_drawn_as_means() -> None:
    found = assessment(picture=np.arange(600 * 600, dtype=np.float32).reshape(1, 600, 600))
    figure = picture(found)
    z = np.asarray(figure.plot.data[0].z)
    assert z.shape == (200, 200)
    assert z[0, 0] == pytest.approx(found.picture[0, :3, :3].mean(), abs=0.01)
    assert "means of 3 by 3 pixels" in figure.caption


def test_nothing_searched_draws_no_search() -> None:
    assert trace(assessment(trace=())) is None
    assert trace(assessment(trace=[{"queries": 1, "loss": None, "rms": 1.0}])) is None
    assert "edit-trace-json" not in shown(trace=()).scripts


def test_an_edit_of_nothing_can_be_drawn() -> None:
    assert picture(assessment(picture=np.zeros((1, 4, 4), dtype=np.float32))).plot.data


def test_small_counts_are_suppressed_in_page_and_json() -> None:
    few = [
        replace(a, groups=(group("F", 137, 40), group("M", 4, 2, known=False)))
        for a in assessment().arms
    ]
    read = Page.read(page(assessment(arms=few)))
    heads = list(read.table("AUC by sex, validation")["none"])
    assert heads[2] == "M (n <5, with finding <5)"
    told = json.loads(as_json(assessment(arms=few)))["arms"][0]["groups"][1]
    assert (told["n"], told["positives"]) == ("<5", "<5")
    assert told["auc"]["value"] is None


def test_json_says_the_same_and_nothing_of_this_machine() -> None:
    text = as_json(assessment())
    told = json.loads(text)
    assert told["headline"].startswith("Not hidden")
    assert told["arms"][1]["figures"]["auc"] == {"value": 0.7, "low": 0.6, "high": 0.8}
    assert told["recipe"]["data"]["dataset"] == "my-set.yaml"
    assert len(told["differences"]) == 12
    for content in (text, page(assessment(notes=("kept in /home/someone/cache/x",)))):
        assert "/home/someone" not in content


def test_images_are_shown_only_when_given_and_with_a_warning(tmp_path: Path) -> None:
    plain = page(assessment())
    assert "data:image/png" not in plain.partition("<script>")[0]
    assert "no image and no patient identifier" in plain
    html, numbers = write(assessment(), b"edit", tmp_path / "a" / "e.safetensors", pairs())
    assert [html.name, numbers.name] == ["e.html", "e.json"]
    read = Page.read(html.read_text())
    assert "This page shows images of patients" in read.prose
    assert "no image and no patient" not in read.prose
    uris = [a["src"] for tag, a in read.tags if tag == "img"]
    assert len(uris) == 4
    content = base64.b64decode(str(uris[1]).partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pairs()[0].after[..., 0])
    assert (tmp_path / "a" / "e.safetensors").read_bytes() == b"edit"


def test_hostile_names_stay_text() -> None:
    name = "<script>alert(1)</script>"
    found = assessment(
        attribute=name, groups=(name, "M"), arms=[arm(a.name) for a in assessment().arms]
    )
    assert name not in page(found)


@pytest.mark.slow
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn(dark: bool, chromium: str, tmp_path: Path) -> None:
    html, _ = write(assessment(), b"edit", tmp_path / "e.safetensors", pairs())
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [
            chromium,
            *FLAGS,
            f"--blink-settings=preferredColorScheme={int(not dark)}",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            f"--screenshot={shot}",
            html.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    # The ends of the colour scale are drawn by the picture of the edit, in shades of either desk.
    for color in (
        ((0x63, 0xB3, 0xF5), (0xF5, 0xA3, 0x5C))
        if dark
        else (
            (0x0B, 0x5F, 0xA5),
            (0xB3, 0x50, 0x0A),
        )
    ):
        assert (np.abs(pixels - np.array(color)).max(axis=2) < 12).sum() > 300
