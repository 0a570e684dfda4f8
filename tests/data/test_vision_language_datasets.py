"""The data sets of images with texts that come with fairtune."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kit_fairvlmed import LONG, fairvlmed

from fairtune.data import load_spec, load_table, open_pack
from fairtune.data.checks import check
from fairtune.errors import DataError

FOUR = ["race", "gender", "ethnicity", "language"]


def table_of(root: Path, **asked: Any) -> Any:
    spec = load_spec("fairvlmed")
    given: dict[str, Any] = {"target": "glaucoma", "attributes": FOUR, "roots": [root]}
    return load_table(spec, **(given | asked))


def test_fairvlmed_is_read_as_it_is_published(tmp_path: Path) -> None:
    folder = fairvlmed(tmp_path)
    table = table_of(tmp_path, attributes=[*FOUR, "age", "marital_status"], text=True)
    frame = table.frame
    assert table.folder == folder
    assert frame["split"].value_counts().to_dict() == {"train": 23, "val": 12, "test": 12}
    assert table.dropped == {"text": 1}
    assert table.classes == ("non-glaucoma", "glaucoma")
    assert frame["label"].tolist() == [n % 2 for n in range(1, 49) if n != 3]
    second = frame.iloc[1]
    assert second["image"] == "Training/data_00002.npz"
    assert second[["race", "gender", "ethnicity", "language"]].tolist() == [
        "White", "Male", "non-Hispanic", "Other",
    ]  # fmt: skip
    assert (second["age"], second["marital_status"]) == ("<60", "Single")
    # Unknown ones stay, and are in no group.
    assert frame["ethnicity"].isna().sum() == frame["language"].isna().sum() == 12
    assert frame["race"].isna().sum() == 0
    # The summary belongs to its file, wherever table and column have it.
    assert second["text"] == "Patient 2 has a full field."
    assert frame["text"].iloc[0] == LONG[:180].rsplit(" ", 1)[0]
    assert len(frame["text"].iloc[0]) <= 180
    assert table.wording.cut == 1


def test_the_rows_of_the_released_code_can_be_had(tmp_path: Path) -> None:
    fairvlmed(tmp_path)
    every, published = table_of(tmp_path), table_of(tmp_path, where={"published": "kept"})
    assert published.split_hash == every.split_hash
    counts = published.frame["split"].value_counts().to_dict()
    assert counts == {"train": 24, "val": 9, "test": 9}
    assert not published.frame.loc[published.frame["split"] != "train", FOUR].isna().any().any()


def test_the_folder_of_the_released_scripts_is_found_too(tmp_path: Path) -> None:
    folder = fairvlmed(tmp_path)
    (folder / "Test").rename(folder / "Testing")
    table = table_of(tmp_path)
    assert table.frame["image"].iloc[-1] == "Testing/data_00048.npz"


def test_images_of_fairvlmed_are_whole_and_of_their_brightness(tmp_path: Path) -> None:
    folder = fairvlmed(tmp_path)
    table = table_of(tmp_path)
    pack = open_pack(table, image_size=83, channels=1, cache=tmp_path / "cache")
    image = pack.images(np.array([1]))[0, :, :, 0]
    with np.load(folder / "Training" / "data_00002.npz") as arrays:
        own = arrays["slo_fundus"].astype(np.uint8)
    assert (image[:, 10:74] == own).all()
    assert image[:, :10].max() == image[:, 74:].max() == 0


def test_floats_within_0_and_1_do_not_turn_black(tmp_path: Path) -> None:
    fairvlmed(tmp_path, {"Training": 2, "Validation": 1, "Test": 1}, scale=1.0)
    with pytest.raises(Exception, match="scale: unit"):
        open_pack(table_of(tmp_path), image_size=8, cache=tmp_path / "cache")


def test_a_copy_without_the_summaries_is_one_message(tmp_path: Path) -> None:
    folder = fairvlmed(tmp_path)
    (folder / "gpt-4_summarized_notes.csv").rename(folder / "data_summary.csv")
    assert len(table_of(tmp_path)) == 48
    (folder / "original_notes.csv").rename(folder / "data_summary.csv")
    with pytest.raises(DataError, match="no column 'gpt4_summary'"):
        table_of(tmp_path)


def test_a_check_of_fairvlmed_tells_of_its_texts(tmp_path: Path) -> None:
    fairvlmed(tmp_path)
    report = check(load_spec("fairvlmed"), roots=[tmp_path], cache=tmp_path / "cache")
    assert report.texts is not None
    assert (report.texts.rows, report.texts.texts, report.texts.cut) == (48, 47, 1)
    assert report.texts.leaks_label
    prompts = report.targets["glaucoma"].prompts
    assert prompts.sentences == {"non-glaucoma": 3, "glaucoma": 3}
    assert prompts.doubts == ()
    # All of class 1 but the one that is long, and the one that is empty.
    assert prompts.words == {"glaucoma": 22}


NAMING = re.compile(
    r"covid|corona|sars-|pneumonia|pneumocystis|streptoc|klebsiel|legionel|mycoplas|varicel"
    r"|influenza|bacterial|\bviral|\bvirus|\bards\b|years?[ -]old|\bmiddle[ -]aged"
    r"|\b(?:he|she|his|her|man|woman|male|female)\b",
    re.IGNORECASE,
)


@pytest.mark.needs("shared-data")
def test_notes_of_covid_cxr_name_neither_disease_nor_patient(shared_data: Path) -> None:
    spec = load_spec("covid_cxr")
    asked: dict[str, Any] = {"target": "covid", "attributes": ["sex", "age", "view"]}
    every = load_table(spec, **asked, roots=[shared_data])
    assert len(every) == 275
    assert every.frame["label"].sum() == 198
    assert every.frame.groupby("patient")["split"].nunique().max() == 1
    table = load_table(spec, **asked, roots=[shared_data], text=True)
    assert table.dropped == {"no label": 28, "text": 92}
    assert (len(table), table.frame["patient"].nunique()) == (183, 106)
    assert table.split_hash == every.split_hash
    # Both sexes have enough rows to be compared.
    val = table.frame[table.frame["split"] == "val"]
    assert val.groupby(["sex", "label"], observed=True).size().tolist() == [10, 11, 10, 28]
    own = pd.read_csv(shared_data / "covid_cxr_224" / "covid_cxr_224.csv", dtype=str)
    notes = own.set_index("image")["clinical_notes"][table.frame["id"]]
    assert sum(NAMING.search(note) is not None for note in notes) > 90
    assert not any(NAMING.search(text) for text in table.frame["text"])
    assert all(len(text.split()) >= 3 for text in table.frame["text"])
    found = check(spec, roots=[shared_data]).targets["covid"].prompts
    assert found.sentences == {"other": 4, "COVID-19": 4}
    # Words such as "lungs" stand in prompts and notes alike, and name no finding.
    assert not {"covid", "covid-19", "pneumonia"} & set(found.words)
