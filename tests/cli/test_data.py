"""`fairtune data`: what each command prints, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fairtune.cli.app import build
from fairtune.errors import FairtuneError


def run(*words: str) -> str:
    done = CliRunner().invoke(build(), ["data", *words], catch_exceptions=True)
    if isinstance(done.exception, FairtuneError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list_says_what_is_there() -> None:
    rows = {row["name"]: row for row in json.loads(run("list", "--format", "json"))}
    assert rows["nih-cxr-64"]["found"].endswith("nih_cxr_64")
    assert rows["chexpert"]["found"] is None
    assert "CC BY-NC 4.0" in rows["ham10000"]["licence"]
    text = run("list")
    assert "nih-cxr-64" in text
    assert "not found" in text


def test_show_counts_groups_by_split() -> None:
    shown = json.loads(run("show", "nih-cxr-64", "--attribute", "sex", "--format", "json"))
    assert shown["attributes"]["age"] == ["<60", "60+"]
    assert "findings" in shown["columns"]
    cells = {(c["group"], c["split"]): c["n"] for c in shown["cells"] if c["attribute"] == "sex"}
    assert cells["F", "train"] == 370
    text = run("show", "nih-cxr-64", "--attribute", "sex")
    assert "370" in text
    assert "found in" in text


def test_what_a_spec_draws_is_shown(tmp_path: Path) -> None:
    shipped = Path(json.loads(run("show", "nih-cxr-64", "--format", "json"))["found in"])
    text = (shipped.parent / "nih-cxr-64.yaml").read_text()
    rule = {
        "target": "abnormal",
        "attribute": "sex",
        "agree": {"F": "abnormal", "M": "normal"},
        "share": {"train": 0.8, "test": "balanced"},
        "size": {"train": 100},
    }
    file = tmp_path / "drawn.yaml"
    file.write_text(f"{text}\nsubsample: {json.dumps(rule)}\n")
    for command in ("show", "check"):
        words = [command, str(file), *(["--no-images"] if command == "check" else [])]
        shown = json.loads(run(*words, "--format", "json"))["drawn"]
        train = {(c["group"], c["label"]): c["rows"] for c in shown if c["split"] == "train"}
        assert train == {
            ("F", "normal"): 10,
            ("F", "abnormal"): 40,
            ("M", "normal"): 40,
            ("M", "abnormal"): 10,
        }
        assert len({c["rows"] for c in shown if c["split"] == "test"}) == 1
        text = run(*words)
        assert "train: 100 rows drawn; sex and class agree in 0.800" in text
        assert "agree in 0.500" in text
    assert "drawn" not in run("show", "nih-cxr-64")
    rule["size"] = {"train": 700}
    file.write_text(
        f"{file.read_text().rsplit('subsample:', 1)[0]}subsample: {json.dumps(rule)}\n"
    )
    with pytest.raises(FairtuneError, match="'train' has too few rows"):
        run("check", str(file), "--no-images")


def test_a_check_tells_of_texts_and_prompts_without_showing_any(tmp_path: Path) -> None:
    shipped = Path(json.loads(run("show", "nih-cxr-64", "--format", "json"))["found in"])
    lines = (shipped / "nih_cxr_64.csv").read_text().splitlines()
    notes = ["note", '"An Effusion, abnormal [sic] and MARKER"', '""', "clear MARKER lungs"]
    notes += ["MARKER"] * (len(lines) - len(notes))
    worded = "".join(f"{line},{note}\n" for line, note in zip(lines, notes, strict=True))
    (tmp_path / "nih_cxr_64.csv").write_text(worded)
    text = (shipped.parent / "nih-cxr-64.yaml").read_text()
    text = text.replace("shipped: true", "folders: .").replace("    folders: nih_cxr_64\n", "")
    phrases = {"normal": "lungs", "abnormal": ["no clear lungs", "sick lungs"]}
    rules = {
        "text": {"column": "note", "strip": ["effusion", {"pattern": "\\[sic\\]"}], "cut": 16},
        "text_leaks_label": True,
        "prompts": {"abnormal": {"templates": ["{}", "a {}"], "classes": phrases}},
    }
    file = tmp_path / "noted.yaml"
    file.write_text(text + "".join(f"{k}: {json.dumps(v)}\n" for k, v in rules.items()))
    shown = run("check", str(file), "--no-images")
    for part in (
        "prompts: normal 2, abnormal 4",
        "warning: the prompts of 'abnormal' may be the wrong way round: 'no clear lungs' negates",
        "warning: texts have words of the classes: 'abnormal' in 1, 'clear' in 1 rows",
        "texts: 999 of 1,000 rows; 6 characters in the median, 13 at most; 2 cut",
        "warning: whoever wrote the texts knew the label",
        "/\\[sic\\]/",
    ):
        assert part in shown
    assert "MARKER" not in shown
    found = json.loads(run("check", str(file), "--no-images", "--format", "json"))
    assert found["texts"]["found"][0] == {"name": "effusion", "times": 1, "rows": 1}
    assert found["targets"]["abnormal"]["prompts"]["words"] == {"abnormal": 1, "clear": 1}
    assert "MARKER" not in json.dumps(found)
    plain = run("check", "nih-cxr-64", "--no-images")
    assert "texts" not in plain
    assert "prompts" not in plain


def test_data_roots_come_before_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Path(json.loads(run("show", "nih-cxr-64", "--format", "json"))["found in"])
    lines = (shipped / "nih_cxr_64.csv").read_text().splitlines(keepends=True)
    for name, count in (("set", 900), ("named", 800)):
        folder = tmp_path / name / "nih_cxr_64"
        folder.mkdir(parents=True)
        (folder / "nih_cxr_64.csv").write_text("".join(lines[: count + 1]))
    monkeypatch.setenv("FAIRTUNE_DATA", str(tmp_path / "set"))
    assert json.loads(run("show", "nih-cxr-64", "--format", "json"))["rows"] == 900
    named = run("show", "nih-cxr-64", "--data-root", str(tmp_path / "named"), "--format", "json")
    assert json.loads(named)["rows"] == 800


def test_where_keeps_rows() -> None:
    shown = json.loads(run("show", "nih-cxr-64", "--where", "view=[PA]", "--format", "json"))
    assert (shown["rows"], shown["left out"]) == (637, {"where": 363})
    with pytest.raises(FairtuneError, match="COLUMN=VALUE"):
        run("show", "nih-cxr-64", "--where", "view")


def test_check_says_what_the_validation_split_can_tell() -> None:
    text = run("check", "nih-cxr-64", "--attribute", "sex")
    assert "cannot rank masks by worst_auc@sex" in text
    assert "no near-duplicate images" in text
    found = json.loads(run("check", "nih-cxr-64", "--no-images", "--format", "json"))
    assert found["duplicates"] is None
    groups = found["targets"]["abnormal"]["outlooks"]["sex"]["groups"]
    assert [g["n"] for g in groups] == [78, 63]


def test_pack_prints_where_the_images_are() -> None:
    lines = run("pack", "nih-cxr-64", "--image-size", "16", "--channels", "1").splitlines()
    assert lines[0] == "1,000 images of 16 x 16 x 1"
    assert (Path("".join(lines[1:])) / "images.npy").is_file()


def test_near_duplicates_are_shown_by_id(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "d.yaml").write_text(
        "title: '[red]d'\nlicence: l\ncitation: c\nlink: l\nid: i\npatient: i\n"
        "layouts: [{folders: ., tables: [t.csv], images: {name: '{i}.png'}}]\n"
        "targets: {y: {column: y, positive: 1, negative: 0}}\n"
        "split: {column: s}\n"
    )
    (tmp_path / "t.csv").write_text("i,y,s\na,0,train\nb,1,val\nc,1,test\n")
    Image.linear_gradient("L").save(tmp_path / "a.png")
    Image.linear_gradient("L").save(tmp_path / "c.png")
    Image.linear_gradient("L").rotate(90).save(tmp_path / "b.png")
    text = run("check", str(tmp_path / "d.yaml"))
    assert "1 pairs of near-duplicate images" in text
    assert "[red]d" in run("show", str(tmp_path / "d.yaml"))
    pairs = json.loads(run("check", str(tmp_path / "d.yaml"), "--format", "json"))["duplicates"]
    assert [(p["a"], p["b"]) for p in pairs] == [("a", "c")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "nih-cxr"], "did you mean 'nih-cxr14'"),
        (["show", "nih-cxr-64", "--target", "abnorml"], "did you mean 'abnormal'"),
        (["check", "nih-cxr-64", "--attribute", "race"], "sex, age, view"),
        (["pack", "chexpert", "--image-size", "8"], "no folder to look at"),
        (["pack", "nih-cxr-64", "--image-size", "8", "--channels", "2"], "channels"),
    ],
)
def test_bad_input_is_one_message(words: list[str], says: str) -> None:
    with pytest.raises(FairtuneError) as caught:
        run(*words)
    assert says in str(caught.value)


def test_a_fault_ends_with_code_2_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fairtune.cli.app", "data", "show", "nothing"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fairtune: unknown dataset")
    assert "Traceback" not in done.stderr


def test_the_data_room_and_its_commands_work_without_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from fairtune.cli.app import build; "
        "r = CliRunner().invoke(build(), ['data', 'show', 'nih-cxr-64']); "
        "assert r.exit_code == 0, r.output; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
