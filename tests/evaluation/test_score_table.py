"""Scoring a table file: reading, checks, thresholds, crossings."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prediction_tables import table
from sklearn.metrics import roc_auc_score

from fairtune.errors import ConfigError, DataError, FairtuneError
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.score import Columns, load_predictions, read_table, score_table

COLUMNS = Columns(("y",), ("p",), ("age", "sex"), patient="who")
QUICK = {"replicates": 60, "permutations": 30}


def frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    p = table(n, 2, seed=seed, per_patient=2)
    age, sex = p.attribute("age"), p.attribute("sex")
    return pd.DataFrame(
        {
            "y": p.label,
            "p": p.score,
            "age": [age.names[c] for c in age.codes],
            "sex": [sex.names[c] for c in sex.codes],
            "who": [f"patient {c}" for c in p.patient],
            "view": np.where(np.arange(n) % 3 == 0, "AP", "PA"),
        }
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.csv.gz", "a.parquet.gz"])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    data, path = frame(), tmp_path / name
    buffer = io.BytesIO()
    if "parquet" in name:
        data.to_parquet(buffer)
    else:
        data.to_csv(buffer, index=False, sep="\t" if "tsv" in name else ",")
    raw = buffer.getvalue()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    pd.testing.assert_frame_equal(read_table(path), data, check_dtype=False)


def test_every_metric_of_every_pair_of_attributes(tmp_path: Path) -> None:
    data, path = frame(), tmp_path / "a.csv"
    data.to_csv(path, index=False)
    found = score_table(path, COLUMNS, **QUICK)
    assert found.attributes == ("age", "sex", "age*sex")
    records = found.records()
    keys = {"metric", "attribute", "group", "value", "low", "high", "n", "positives"}
    assert all(keys <= set(r) for r in records)
    young = data[data["age"] == "g0"]
    (row,) = [r for r in records if (r["metric"], r["group"]) == ("auc", "g0")]
    assert row["value"] == pytest.approx(roc_auc_score(young["y"], young["p"]))
    assert (row["n"], row["positives"]) == (len(young), young["y"].sum())
    gap = [r for r in records if (r["metric"], r["attribute"]) == ("auc_gap", "age*sex")]
    assert gap[0]["group"] is None
    assert gap[0]["floor_95"] > 0
    assert any("cross-fitted" in note for note in found.notes)
    assert any("150 patients" in note for note in found.notes)


def test_metrics_and_crossings_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    frame(600).to_csv(path, index=False)
    found = score_table(
        path,
        Columns(("y",), ("p",), ("age", "sex", "view")),
        metrics=["worst_auc", "dp_diff"],
        crossings=["sex * age", "age*sex*view"],
        **QUICK,
    )
    assert set(found.rows["metric"]) == {"auc", "worst_auc", "selection_rate", "dp_diff"}
    assert found.attributes[3:] == ("age*sex", "age*view", "sex*view", "age*sex*view")


def test_strata_and_their_weights_are_stated(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    frame(600).to_csv(path, index=False)
    columns = Columns(("y",), ("p",), ("age",), within="view")
    found = score_table(path, columns, metrics=["auc"], **QUICK)
    assert any(note.startswith("within view") and "AP 0.333" in note for note in found.notes)
    assert found.rows[found.rows["metric"] == "auc_gap"]["value"].notna().all()


def test_a_threshold_from_validation_is_fitted_there_and_frozen(tmp_path: Path) -> None:
    val, test = tmp_path / "val.csv", tmp_path / "test.csv"
    frame(seed=1).to_csv(val, index=False)
    frame(seed=2).to_csv(test, index=False)
    found = score_table(test, COLUMNS, metrics=["tpr"], threshold_from=val, **QUICK)
    data = frame(seed=1)
    cut = ThresholdRule().fit(data["y"].to_numpy(), data["p"].to_numpy())
    other = frame(seed=2)
    expected = (other["p"] >= cut)[other["y"] == 1].mean()
    overall = found.rows[found.rows["attribute"].isna()].iloc[0]
    assert overall["value"] == pytest.approx(expected)
    assert "frozen" in found.notes[0]
    assert "val.csv" in found.notes[0]


def test_logits_leave_out_metrics_of_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    frame().assign(p=lambda d: np.log(d["p"] / (1 - d["p"]))).to_csv(path, index=False)
    found = score_table(path, COLUMNS, **QUICK)
    assert "nll" not in set(found.rows["metric"])
    assert any("nll" in note for note in found.notes)
    with pytest.raises(DataError, match="needs probabilities"):
        score_table(path, COLUMNS, metrics=["nll"], **QUICK)


def test_multiclass_and_multilabel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.csv"
    raw = rng.random((300, 3))
    data = frame().assign(k=rng.integers(0, 3, 300), z=rng.integers(0, 2, 300))
    data[["s0", "s1", "s2"]] = raw / raw.sum(axis=1, keepdims=True)
    data.to_csv(path, index=False)
    classes = Columns(("k",), ("s0", "s1", "s2"), ("age",))
    found = score_table(path, classes, metrics=["auc", "acc"], **QUICK)
    assert "no threshold" in found.notes[0]
    auc = found.rows[found.rows["attribute"].isna()].iloc[0]
    scores = data[["s0", "s1", "s2"]].to_numpy()
    assert auc["value"] == pytest.approx(roc_auc_score(data["k"], scores, multi_class="ovr"))
    targets = Columns(("y", "z"), ("p", "s0"), ("age",))
    found = score_table(path, targets, metrics=["auc"], **QUICK)
    assert {r["target"] for r in found.records()} == {"y", "z", None}


def test_small_groups_are_named_and_have_no_value(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    data = frame()
    data.loc[:7, "age"] = "neonate"
    data.to_csv(path, index=False)
    found = score_table(path, COLUMNS, metrics=["auc"], **QUICK)
    assert any("neonate (age)" in note for note in found.notes)
    (row,) = [r for r in found.records() if r["group"] == "neonate" and r["metric"] == "auc"]
    assert (row["value"], row["eligible"], row["n"]) == (None, False, 8)
    lax = score_table(path, COLUMNS, metrics=["acc"], minimum=GroupMinimum(5, 1, 1), **QUICK)
    assert all("neonate (age)" not in note for note in lax.notes)


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    data = frame(40)
    data["age"] = np.arange(40)
    data["p"] = data["p"].astype(object)
    data.loc[2, "p"] = "high"
    data.loc[5, "p"] = np.nan
    data["y"] = data["y"].replace({1: 2})
    data.to_csv(path, index=False)
    with pytest.raises(FairtuneError) as caught:
        load_predictions(path, COLUMNS)
    message = str(caught.value)
    assert "3 problems" in message
    assert f"{path}, column p" in message
    assert "rows 3, 6" in message
    assert f"{path}, column y" in message
    assert "bin it first" in message


def test_columns_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    frame(40).to_csv(path, index=False)
    with pytest.raises(FairtuneError) as caught:
        load_predictions(path, Columns(("y",), ("pp",), ("agee",)))
    assert "did you mean 'age'" in str(caught.value)
    assert "did you mean 'p'" in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "b.csv")
    with pytest.raises(DataError, match="format of the table"):
        read_table(tmp_path / "b.xlsx")
    (tmp_path / "c.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_table(tmp_path / "c.parquet")
    (tmp_path / "d.csv.gz").write_text("not gzip")
    with pytest.raises(DataError, match="cannot be read as csv"):
        read_table(tmp_path / "d.csv.gz")
    (tmp_path / "e.csv").write_text("y,p\n")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "e.csv")
    with pytest.raises(ConfigError, match="one score column each"):
        Columns(("y", "z"), ("p",))
    with pytest.raises(ConfigError, match="strata of themselves"):
        Columns(("y",), ("p",), ("sex",), within="sex")


def test_an_unknown_metric_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        score_table(tmp_path / "absent.csv", COLUMNS, metrics=["acu"])
