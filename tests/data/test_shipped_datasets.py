"""The dataset specs that come with fairtune, on the real tables and images where there are any."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from kit_data import spec_of

from fairtune.config import shipped, yaml12
from fairtune.data import load_spec, load_table, open_pack
from fairtune.data.locate import find
from fairtune.data.raw import Origin, Raw

CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


def test_the_example_of_the_docs_is_a_spec(tmp_path: Path) -> None:
    block = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    lines = block.splitlines()
    other = [line.removeprefix("# ") for line in lines if line.startswith("# split")]
    rest = "\n".join(line for line in lines if not line.startswith(("split", "# split")))
    given = next(line for line in lines if line.startswith("split"))
    assert len(other) == 2
    for split in (given, *other):
        path = tmp_path / "eyes.yaml"
        path.write_text(f"{rest}\n{split}\n")
        assert load_spec(str(path)).name == "eyes"


def test_the_rules_of_the_docs_are_rules(tmp_path: Path) -> None:
    """The blocks after the first one: more targets, rows that are drawn, texts, npz files."""
    blocks = [part.split("```")[0] for part in DOCS.read_text().split("```yaml\n")[1:]]
    assert len(blocks) == 5
    targets, drawn, texts, files = (yaml12.loads(block).data for block in blocks[1:])
    assert set(drawn) == {"subsample"}
    path = tmp_path / "eyes.yaml"
    path.write_text(yaml.safe_dump(spec_of(**targets, **drawn), sort_keys=False))
    spec = load_spec(str(path))
    assert spec.subsample is not None
    assert [spec.target(name).task for name in spec.targets] == ["multilabel", "binary"]
    own = {"targets": {"glaucoma": {"column": "ill", "positive": 1, "negative": 0}}}
    path.write_text(yaml.safe_dump(spec_of(**texts, **files, **own), sort_keys=False))
    spec = load_spec(str(path))
    assert len(spec.prompts_of("glaucoma").sentences()) == 6
    assert spec.texts().cut == 180
    assert [table.place for table in spec.layouts[0].tables] == ["Training/*.npz", "Test/*.npz"]


@pytest.mark.parametrize("name", shipped.names("datasets"))
def test_every_shipped_spec_reads_and_says_where_it_comes_from(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    for text in (spec.title, spec.licence, spec.citation, spec.link):
        assert text.strip()
    assert spec.targets
    assert spec.attributes


def test_the_shipped_data_set_is_found_without_any_setting() -> None:
    spec = load_spec("nih-cxr-64")
    folder = find(spec, []).folder
    readme = (folder / "README.md").read_text()
    for kept in (
        "nihcc.app.box.com",
        "IEEE CVPR 2017",
        "NIH Clinical Center is the data provider",
    ):
        assert kept in readme
    table = load_table(spec, target="abnormal", attributes=["sex", "age", "view"], roots=[])
    assert table.frame["label"].sum() == 500
    assert table.frame["sex"].value_counts().to_dict() == {"F": 509, "M": 491}
    assert table.frame["view"].value_counts().to_dict() == {"PA": 637, "AP": 363}
    assert table.frame["patient"].nunique() == 264


def chexpert_rows(count: int) -> list[str]:
    view = "Frontal,AP"
    rows = [
        f"CheXpert-v1.0-small/train/patient{i:05d}/study1/view1_frontal.jpg,"
        f"{'Female' if i % 2 else 'Male'},{50 + i % 20},{view},"
        + ",".join(["", *[""] * 9, ["1.0", "0.0", "", "-1.0"][i % 4], "", "", ""])
        for i in range(count)
    ]
    lateral = rows[0].replace("view1_frontal", "view2_lateral").replace(view, "Lateral,")
    return [*rows, lateral]


def test_chexpert_reads_the_real_header(tmp_path: Path) -> None:
    folder = tmp_path / "CheXpert-v1.0-small"
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join([CHEXPERT, *chexpert_rows(80)]))
    spec = load_spec("chexpert")
    table = load_table(
        spec, target="pleural_effusion", attributes=["sex", "age", "view"], roots=[tmp_path]
    )
    assert table.dropped == {"filter": 1, "no label": 20}
    assert table.frame["label"].mean() == pytest.approx(1 / 3)
    assert table.frame["image"].iloc[1] == "train/patient00001/study1/view1_frontal.jpg"
    assert table.frame["patient"].iloc[1] == "00001"
    whole = load_table(spec, target="competition", attributes=[], roots=[tmp_path])
    assert (whole.task, len(whole), whole.split_hash) == ("multilabel", 80, table.split_hash)
    assert whole.frame["label_Pleural Effusion"].sum() == 20


def test_nih_reads_the_real_header(tmp_path: Path) -> None:
    (tmp_path / "nih-cxr14").mkdir()
    words = ["No Finding", "Effusion|Mass", "Mass", "No Finding"]
    rows = [
        f"{i:08d}_000.png,{words[i % 4]},0,{i},{40 + i % 40},{'MF'[i % 2]},{['PA', 'AP'][i % 2]},"
        "2682,2749,0.143,0.143"
        for i in range(60)
    ]
    path = tmp_path / "nih-cxr14" / "Data_Entry_2017_v2020.csv"
    path.write_text("\n".join([NIH, *rows]))
    spec = load_spec("nih-cxr14")
    for target, mean in (("abnormal", 0.5), ("effusion", 0.25)):
        table = load_table(
            spec, target=target, attributes=["sex", "age", "view"], roots=[tmp_path]
        )
        assert table.frame["label"].mean() == mean
    table = load_table(spec, target="findings", attributes=[], roots=[tmp_path])
    assert len(table.classes) == 14
    assert table.frame[["label_Mass", "label_Effusion"]].sum().tolist() == [30, 15]


def test_ham10000_reads_the_layout_of_its_publisher(tmp_path: Path) -> None:
    folder = tmp_path / "HAM10000"
    for part in (1, 2):
        (folder / f"HAM10000_images_part_{part}").mkdir(parents=True)
    kinds = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    for i in range(70):
        age = ["60.0", "55.0", "", "0.0"][i % 4]
        sex = ["male", "female", "unknown"][i % 3]
        rows.append(f"HAM_{i // 2:07d},ISIC_{i:07d},{kinds[i % 7]},histo,{age},{sex},back,vidir")
        target = folder / f"HAM10000_images_part_{1 + i % 2}" / f"ISIC_{i:07d}.jpg"
        target.write_bytes(bytes([i]))
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows))
    table = load_table(
        load_spec("ham10000"),
        target="malignant",
        attributes=["age", "age_medfair", "sex"],
        roots=[tmp_path],
        where={"source": "ham10000"},
    )
    assert len(set(table.marks)) == 70
    assert table.frame["label"].sum() == 30
    first = table.frame.iloc[0]
    assert (first["age"], first["age_medfair"]) == ("60+", "<=60")
    assert table.frame["age"].isna().sum() == 17
    assert table.frame["sex"].isna().sum() == 23


@pytest.mark.needs("shared-data")
def test_ham10000_has_its_published_rates(shared_data: Path) -> None:
    table = load_table(
        load_spec("ham10000"),
        target="malignant",
        attributes=["age", "age5", "sex"],
        roots=[shared_data],
        where={"source": "ham10000"},
    )
    frame = table.frame.dropna(subset=["age", "sex"])
    assert len(frame) == 4460
    by_sex = frame.groupby("sex", observed=True)["label"].agg(["sum", "size"])
    assert by_sex.to_numpy().tolist() == [[275, 2026], [451, 2434]]
    by_age = frame.groupby("age", observed=True)["label"].agg(["sum", "size"])
    assert by_age.to_numpy().tolist() == [[221, 2939], [505, 1521]]
    assert table.frame.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.needs("shared-data")
def test_ham10000_mini112_packs(shared_data: Path, tmp_path: Path) -> None:
    table = load_table(
        load_spec("ham10000_mini112"), target="dx", attributes=["age", "sex"], roots=[shared_data]
    )
    assert table.frame["split"].value_counts().to_dict() == {
        "train": 1026,
        "test": 341,
        "val": 338,
    }
    assert table.frame["label"].value_counts().loc[5] == 775
    pack = open_pack(table, image_size=28, cache=tmp_path)
    assert pack.images(pack.rows("val")).std() > 20
    assert len(set(pack.image_hashes)) == 1705


@pytest.mark.needs("shared-data")
def test_fitzpatrick17k_reads_the_real_table(shared_data: Path) -> None:
    table = load_table(
        load_spec("fitzpatrick17k"),
        target="malignant",
        attributes=["skin_type", "skin_tone"],
        roots=[shared_data / "metadata"],
    )
    assert len(table) == 16577
    assert table.frame["label"].sum() == 2263
    assert table.frame["skin_type"].value_counts(sort=False).tolist() == [
        2947, 4808, 3308, 2781, 1533, 635,
    ]  # fmt: skip
    assert table.frame["skin_tone"].isna().sum() == 565


def installed_table(name: str) -> Path:
    """Return a real table of metadata, which the package brings."""
    found = importlib.util.find_spec("torchxrayvision")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / name


@pytest.mark.slow
@pytest.mark.needs("torchxrayvision")
@pytest.mark.parametrize(
    ("dataset", "source", "file", "target", "rows", "women"),
    [
        ("chexpert", "chexpert_train.csv.gz", "train.csv", "no_finding", 191027, 78875),
        ("nih-cxr14", "Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020.csv", "abnormal",
         112120, 48780),
    ],
)  # fmt: skip
def test_the_real_tables_are_read_whole(
    tmp_path: Path, dataset: str, source: str, file: str, target: str, rows: int, women: int
) -> None:
    (tmp_path / file).write_bytes(gzip.decompress(installed_table(source).read_bytes()))
    table = load_table(
        load_spec(dataset), target=target, attributes=["sex", "age", "view"], roots=[tmp_path]
    )
    assert len(table) == rows
    assert (table.frame["sex"] == "F").sum() == women
    shares: Any = table.frame["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.8 if dataset == "chexpert" else 0.7, abs=0.002)
    assert isinstance(table.frame, pd.DataFrame)


def frontal() -> pd.DataFrame:
    """Return the frontal images of CheXpert's training table as pandas reads them."""
    frame = pd.read_csv(installed_table("chexpert_train.csv.gz"))
    return frame[frame["Frontal/Lateral"] == "Frontal"].reset_index(drop=True)


def as_one_or_none(frame: pd.DataFrame, finding: str, uncertain: int) -> pd.Series[float]:
    """Return 1 for the finding, 0 for none at all, NaN for others, by arithmetic."""
    has = frame[finding].fillna(0).replace(-1, uncertain)
    none = frame["No Finding"].fillna(0)
    return has.where(has + none == 1)


@pytest.mark.slow  # a table of 223,414 rows, read once, and sixteen columns of labels
@pytest.mark.needs("torchxrayvision")
def test_uncertain_labels_of_chexpert_mean_what_each_target_says() -> None:
    frame, spec = frontal(), load_spec("chexpert")
    cells = frame.astype(object).where(frame.notna(), "").astype(str)
    lines = np.arange(len(cells))
    raw = Raw(cells, Origin(("train.csv",), np.zeros_like(lines), lines))
    expected: dict[str, Any] = {
        name: frame[column].fillna(0).where(frame[column] != -1)
        for name, column in (
            ("pleural_effusion", "Pleural Effusion"),
            ("no_finding", "No Finding"),
            ("pneumonia", "Pneumonia"),
            ("edema", "Edema"),
        )
    }
    for name, column, uncertain in (
        ("effusion_or_none", "Pleural Effusion", 0),
        ("pneumonia_or_none", "Pneumonia", 0),
        ("edema_or_none", "Edema", 1),
    ):
        expected[name] = as_one_or_none(frame, column, uncertain)
    findings = frame[list(spec.target("competition").columns)].fillna(0)
    expected["competition"] = findings.replace(-1, 0)
    ones = {"Atelectasis": {-1: 1}, "Edema": {-1: 1}}
    expected["competition_mixed"] = findings.replace(ones).replace(-1, 0)
    assert set(expected) == set(spec.targets)
    for name, wanted in expected.items():
        codes, faults = spec.target(name).encode(raw, name)
        assert faults == []
        assert np.array_equal(codes, np.asarray(wanted.fillna(-1), dtype=np.int64)), name
    # The rule matters: most findings of edema or atelectasis that are not certain count as such.
    assert (expected["competition_mixed"] != expected["competition"]).any().sum() == 2


@pytest.mark.slow  # the same table as a data set
@pytest.mark.needs("torchxrayvision")
def test_the_biased_chexpert_is_drawn_as_it_says(tmp_path: Path) -> None:
    packed = installed_table("chexpert_train.csv.gz").read_bytes()
    (tmp_path / "train.csv").write_bytes(gzip.decompress(packed))
    asked: dict[str, Any] = {"attributes": ["sex", "age"], "roots": [tmp_path]}
    table = load_table(load_spec("chexpert_biased"), target="effusion_or_none", **asked)
    plain = load_table(load_spec("chexpert"), target="effusion_or_none", **asked)
    assert table.spec.id_space == plain.spec.id_space
    split = plain.frame.set_index("id")["split"]
    assert (split[table.frame["id"]].to_numpy() == table.frame["split"].to_numpy()).all()
    source = frontal()
    source["id"] = source["Path"].str.removeprefix("CheXpert-v1.0-small/")
    source["y"] = as_one_or_none(source, "Pleural Effusion", 0)
    rows = source.set_index("id").loc[table.frame["id"]].assign(split=table.frame["split"].array)
    cells = rows.groupby(["split", "Sex", "y"]).size()
    assert cells["train"].tolist() == [550, 4950, 4950, 550]
    assert cells["test"].tolist() == [200] * 4
    # All there are: one cell of the validation rows is empty then.
    there = source.assign(split=source["id"].map(split)).groupby(["split", "Sex", "y"]).size()
    assert cells["val"].tolist() == [there["val"].min()] * 4
    assert {(c.split, c.group, c.label): c.of for c in table.cells} == {
        (str(part), sex[0], table.classes[int(y)]): int(n)
        for (part, sex, y), n in there.items()
        if sex != "Unknown"
    }
    several = table.frame.groupby("split")["patient"].value_counts()
    assert several["train"].max() == several["test"].max() == 1
