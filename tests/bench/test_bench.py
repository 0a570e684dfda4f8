"""The benchmark itself: a page of its figures, and a bare loop that does what a trial does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bare
import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from run import MEASURES, Bench, figure, stored

HERE = Path(__file__).resolve().parent


def written(bench: dict[str, Any], folder: Path, *studies: dict[str, Any]) -> str:
    files = []
    for i, content in enumerate([bench, *studies]):
        files.append(folder / f"{i}.json")
        files[-1].write_text(json.dumps(content))
    page = folder / "measured.md"
    command = [
        sys.executable,
        HERE / "measured.py",
        *files[1:],
        "--bench",
        files[0],
        "--out",
        page,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return page.read_text() if done.returncode == 0 else done.stderr


def measured(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "figures": {
            "trial_overhead": figure(1.0423, "x bare loop", 1.10),
            "extra_memory": figure(312.4, "MiB over bare loop", 300),
            "help": figure(0.2, "s"),
        },
        "quick": False,
        "repeats": 5,
        "command": "python tests/bench/run.py",
        "commit": "abc+",
        "machine": {"cpu": "Some CPU", "cores": 2, "threads": 2, "system": "Linux", "load": 0.1},
        "versions": {"torch": "2.9"},
        "matter": {
            "data": "nih-cxr-64",
            "model": "test_vit",
            "image_size": 64,
            "weights": "random",
            "mask": "attn:all",
            "train_rows": 7,
            "val_rows": 3,
            "epochs": 2,
            "batch_size": 4,
            "precision": "fp32",
        },
    }
    return plain | changes


def row(metric: str, attribute: str | None, group: str | None, value: float | None) -> Any:
    return {
        "metric": metric,
        "attribute": attribute,
        "group": group,
        "value": value,
        "low": 0.5,
        "high": None,
        "n": 61,
        "positives": 30,
    }


STUDY = {
    "study": "mine",
    "seed": 3,
    "dataset": "nih-cxr-64",
    "model": "test_vit",
    "image_size": 64,
    "trials": 5,
    "validation": {"naive": 0.66, "corrected": None},
    "objective": "worst_auc@sex",
    "pick": "search-1",
    "openings": 1,
    "verdict": {"answer": "cannot tell", "why": "too few patients"},
    "recipes": {
        "search-1": {
            "test": [
                row("auc", None, None, 0.8123),
                row("auc", "sex", "F", 0.7),
                row("auc", "sex", "X", None),
                row("auc", "age", "60+", 0.61),
                row("worst_auc", "sex", None, 0.62),
                row("tpr", "sex", "F", 0.63),
            ]
        }
    },
}


def test_the_page_shows_every_figure_with_its_target(tmp_path: Path) -> None:
    page = written(measured(), tmp_path)
    assert "| trial against the bare loop | 1.04 | x bare loop | at most 1.10: met |" in page
    assert "| 312 | MiB over bare loop | at most 300: **missed** |" in page
    assert "| `fairtune --help` | 0.200 | s | – |" in page
    assert "`abc+` (files differed from it)" in page
    assert "Some CPU, 2 cores" in page


def test_a_study_has_a_section_with_the_groups_of_its_objective(tmp_path: Path) -> None:
    page = written(measured(), tmp_path, STUDY)
    section = page[page.index("## Study mine") :]
    assert "**cannot tell**: too few patients." in section
    assert "study seed 3, 5 trials" in section
    assert "(best confirmed 0.660, corrected for the choice of recipe and group –)" in section
    lines = [line for line in section.splitlines() if line.startswith("| search-1")]
    assert lines == [
        "| search-1 (pick) | all | 0.812 | 0.500 to – | 61 | 30 |",
        "| search-1 (pick) | F | 0.700 | 0.500 to – | 61 | 30 |",
    ]


def test_figures_of_a_quick_run_are_no_figures(tmp_path: Path) -> None:
    assert "--quick, which measures nothing real" in written(measured(quick=True), tmp_path)
    assert not (tmp_path / "measured.md").exists()


def test_the_bare_loop_computes_what_a_trial_computes(tmp_path: Path) -> None:
    held = session()
    recipe = held.resolve(tiny_recipe(adaptation__mask="attn:last-1", optim__epochs=2))
    matter = bare.read(stored(Bench(held, recipe, 1, True, tmp_path)))
    ground = held.ground(recipe)
    rows = ground.pack.rows("val")
    batch = next(iter(ground.loader(rows, len(rows), edit=None).epoch(shuffle=False)))
    assert torch.equal(matter.label[matter.val].long(), batch.label)
    assert np.array_equal(matter.group[matter.val], batch.group.numpy())
    head = torch.nn.Linear(ground.backbone.dim, 1)
    with torch.inference_mode():
        expected = head(ground.backbone.embed(batch.image))[:, 0]
        found = bare._forward(matter.net, head, matter, matter.val)
    assert torch.allclose(found, expected, atol=1e-5)
    before = {name: p.clone() for name, p in matter.net.named_parameters()}
    assert bare.loop(matter) == 2 * -(-len(ground.pack.rows("train")) // 64)
    assert all(torch.equal(p, before[name]) for name, p in matter.net.named_parameters())


def augmented(**changes: Any) -> dict[str, Any]:
    one = {"auc": 0.8123, "worst_auc": 0.7, "images_per_second": 51.4}
    difference = {"mask": "norm:all", "value": 0.01, "low": -0.02, "high": 0.04}
    plain = measured()
    return {
        **{name: plain[name] for name in ("command", "commit", "machine", "versions")},
        "quick": False,
        "seeds": 2,
        "rows": [
            {"mask": "norm:all", "augment": kind, **one} for kind in ("none", "copies", "free")
        ],
        "differences": [{"augment": kind, **difference} for kind in ("copies", "free")],
        "matter": {**plain["matter"], "flip": "both", "ranges": {"rotate": 180.0, "blur": 0.0}},
    } | changes


def test_a_section_whose_file_is_not_given_stays(tmp_path: Path) -> None:
    before = written(measured(), tmp_path, STUDY)
    study = tmp_path / "other.json"
    study.write_text(json.dumps(STUDY | {"study": "other"}))
    page = tmp_path / "measured.md"
    subprocess.run([sys.executable, HERE / "measured.py", study, "--out", page], check=True)
    after = page.read_text()
    assert after.startswith(before)
    assert after.count("## Study") == 2
    again = written(measured(), tmp_path, STUDY)
    assert again == after


def page_with(augment: dict[str, Any], folder: Path) -> str:
    paths = [folder / name for name in ("bench.json", "augment.json", "page.md")]
    for path, content in zip(paths, (measured(), augment)):
        path.write_text(json.dumps(content))
    command = [sys.executable, HERE / "measured.py", "--bench", paths[0], "--augment", paths[1]]
    done = subprocess.run([*command, "--out", paths[2]], capture_output=True, text=True)
    return paths[2].read_text() if done.returncode == 0 else done.stderr


def test_the_page_shows_what_augmentation_costs(tmp_path: Path) -> None:
    page = page_with(augmented(), tmp_path)
    assert "| `norm:all` | none | 0.812 | – | 0.700 | 51.4 |" in page
    said = "| `norm:all` | `medical`, 4 fixed copies | 0.812 | +0.010 (-0.020 to +0.040) |"
    assert said in page
    assert "`medical` is here: flip both, rotate 180" in page
    assert "blur" not in page
    quick = page_with(augmented(quick=True), tmp_path)
    assert "--quick, which measures nothing real" in quick


@pytest.mark.slow
def test_a_quick_run_measures_every_kind_of_augmentation(tmp_path: Path) -> None:
    out = tmp_path / "augment.json"
    command = [sys.executable, HERE / "augment.py", "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 6
    assert {one["augment"] for one in found["differences"]} == {"copies", "free"}
    for one in found["differences"]:
        assert one["low"] <= one["value"] <= one["high"]
    # The same seed on both sides: only augmentation can have made the difference.
    assert any(one["value"] != 0 for one in found["differences"])
    assert str(tmp_path) not in out.read_text()
    assert found["command"] == "python tests/bench/augment.py --quick --out augment.json"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is told by Linux")
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, HERE / "run.py", "--quick", "--repeats", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert all(name in done.stdout for name in MEASURES)
    assert all(one["value"] > 0 for n, one in found["figures"].items() if n != "extra_memory")
    assert str(tmp_path) not in out.read_text()
    assert found["figures"]["later_trial_start"]["met"]


def test_the_readme_gets_the_figures_with_a_target_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(measured()))
    command = [
        sys.executable,
        HERE / "measured.py",
        "--bench",
        bench,
        "--out",
        tmp_path / "page.md",
    ]
    subprocess.run([*command, "--readme", readme], check=True)
    text = readme.read_text()
    assert text.startswith("before\n<!-- measured -->\n|")
    assert text.endswith("<!-- /measured -->\nafter\n")
    assert "1.04 x bare loop" in text
    assert "old" not in text
    assert "--help" not in text


def test_the_readme_gets_the_figures_of_the_loop_in_a_block_of_their_own(tmp_path: Path) -> None:
    readme, path = tmp_path / "README.md", tmp_path / "loop.json"
    figures = {
        "last_3_blocks": figure(7.0, "x plain", 6.0),
        "by_bf16": figure(1.8, "x"),
    }
    path.write_text(json.dumps(measured(figures=figures, rounds=5)))
    command = [sys.executable, HERE / "measured.py", "--loop", path, "--readme", readme]
    command += ["--out", tmp_path / "page.md"]
    readme.write_text("no block")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert "no block between <!-- measured loop -->" in done.stderr
    readme.write_text("<!-- measured -->\nstays\n<!-- /measured -->\n<!-- measured loop -->\n")
    readme.write_text(readme.read_text() + "<!-- /measured loop -->\nafter\n")
    subprocess.run(command, check=True)
    assert "stays" in readme.read_text()
    shown = "| masks over the last 3 blocks, prefix kept | 7.00 x plain | at least 6.00: "
    assert shown in readme.read_text()
    assert "1.8" not in readme.read_text()
    assert "`make bench-loop`" in readme.read_text()


@pytest.mark.slow
def test_the_loop_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "loop.json"
    command = [sys.executable, HERE / "loop.py", "--quick", "--rounds", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["quick"]
    for name in ("random_masks", "last_3_blocks", "readout_again", "steady_state"):
        one = found["figures"][name]
        assert one["value"] > 0
        assert one["met"] == (one["value"] >= one["target"])


def whole(**changes: Any) -> dict[str, Any]:
    turn = {"plain": 90.0, "ours": 30.0, "study": 9.0, "same_recipes": 3.0, "whole_study": 10.0}
    more = {"difference": -0.0124, "error": 0.01, "trials": {"complete": 9, "pruned": 7}}
    plain = measured()
    return {
        **{name: plain[name] for name in ("command", "commit", "machine", "quick")},
        "repeats": 1,
        "figures": {
            "plain": figure(90.0, "s"),
            "whole_study": {"value": 10.0, "unit": "x plain", "target": 8.0, "met": True},
            "not_lower": {"value": -0.0024, "unit": "", "target": 0.0, "met": False},
        },
        "turns": [{**turn, **more}],
        "matter": {
            **plain["matter"],
            "target": "malignant",
            "objective": "worst_auc@age",
            "recipes": 16,
            "fresh_seeds": 4,
            "attention_of_plain": "timm's own",
            "masks_of_study": ["none", "attn:last-3"],
        },
    } | changes


def page_of_whole(found: dict[str, Any], folder: Path) -> str:
    paths = [folder / name for name in ("bench.json", "whole.json", "page.md")]
    for path, content in zip(paths, (measured(), found)):
        path.write_text(json.dumps(content))
    command = [sys.executable, HERE / "measured.py", "--bench", paths[0], "--whole", paths[1]]
    done = subprocess.run([*command, "--out", paths[2]], capture_output=True, text=True)
    return paths[2].read_text() if done.returncode == 0 else done.stderr


def test_the_page_shows_whole_jobs_with_every_repeat(tmp_path: Path) -> None:
    page = page_of_whole(whole(), tmp_path)
    assert "| a whole search | 10.0 | x plain | at least 8.00: met |" in page
    assert (
        "| difference plus its standard error | -0.00240 |  | at least 0.00: **missed** |" in page
    )
    said = "| 1 | 90.0 | 30.0 | 9.00 | 3.00 x | 10.0 x | -0.012 ± 0.010 | 9 complete, 7 pruned |"
    assert said in page
    assert "masks of the last blocks (`none`, `attn:last-3`)" in page
    assert "--quick, which measures nothing real" in page_of_whole(whole(quick=True), tmp_path)


@pytest.mark.slow
def test_whole_jobs_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "whole.json"
    command = [sys.executable, HERE / "whole.py", "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["quick"]
    (turn,) = found["turns"]
    assert found["matter"]["train_rows"] == found["matter"]["val_rows"] == 64
    assert len(turn["scores"]) == len(turn["ours_scores"]) == found["matter"]["recipes"]
    ended = {state: turn["trials"].get(state, 0) for state in ("complete", "pruned")}
    assert sum(ended.values()) == len(turn["scores"])
    means = {side: sum(values) / len(values) for side, values in turn["confirmed"].items()}
    assert turn["difference"] == pytest.approx(means["study"] - means["plain"])
    for name in ("same_recipes", "whole_study", "not_lower"):
        one = found["figures"][name]
        assert one["met"] == (one["value"] >= one["target"])
    assert str(tmp_path) not in out.read_text()
