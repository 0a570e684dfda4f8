"""A study as tidy tables: the same in every format, small cells withheld, whole or not at all."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtune.errors import ConfigError, StudyError
from fairtune.evaluation.scoring import group_table
from fairtune.report.export import (
    FORMATS,
    TABLES,
    _hidden,
    epochs_table,
    export,
    groups_table,
    suppressed,
    trial_table,
)
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, results

GUIDE = Path(__file__).parents[2] / "docs" / "following.md"


@pytest.fixture(scope="module")
def small(view: Overview) -> Overview:
    """Two trials of the search with a pruned and a failed one: enough to be looked at closely."""
    rows = view.rows[SEARCH]
    done = results(rows)[:2]
    ended = [row for row in rows if row.state in ("pruned", "failed")]
    none = dict.fromkeys(view.rows, ())
    return replace(view, rows={**none, SEARCH: [*done, *ended]})


def test_trials_hold_parameters_values_and_reasons(small: Overview) -> None:
    frame = trial_table(small)
    assert len(frame) == len(small.rows[SEARCH]) == 4
    for row, line in zip(
        sorted(small.rows[SEARCH], key=lambda r: r.number), frame.to_dict("records")
    ):
        assert (line["phase"], line["trial"], line["key"]) == (SEARCH, row.number + 1, row.key)
        assert (line["state"], line["digest"]) == (row.state, row.digest)
        assert {k[6:]: v for k, v in line.items() if k.startswith("param.")} == dict(row.params)
        value = line["value.worst_auc@sex"]
        assert value == row.values[0] if row.values else value != value
        assert line["reason"] == row.reason or (row.reason is None and pd.isna(line["reason"]))
    assert {"pruned", "failed"} <= set(frame["state"])
    limited = replace(small.rows[SEARCH][0], constraints={"auc >= 0.7": -0.1})
    with_limit = replace(small, rows={**small.rows, SEARCH: [limited]})
    assert trial_table(with_limit)["constraint.auc >= 0.7"].tolist() == [-0.1]


def test_groups_are_those_of_the_evaluation_without_the_small(small: Overview) -> None:
    frame = groups_table(small)
    row = results(small.rows[SEARCH])[0]
    run = small.stored(row)
    assert run is not None
    own = frame[(frame["key"] == row.key) & (frame["metric"] == "auc")]
    table = group_table(
        run.validation(4), ["auc"], ["sex"], minimum=small.judge.validation.minimum,
        threshold=small.judge.validation.rule, floors=False,
    )  # fmt: skip
    large = table[table["group"].notna() & table["value"].notna()]
    assert len(large) == 2
    for line in large.to_dict("records"):
        same = own[(own["attribute"] == "sex") & (own["group"] == line["group"])]
        figures = ["value", "low", "high"]
        assert same[figures].iloc[0].tolist() == [line[name] for name in figures]
    rare = own[own["group"] == "X"]
    assert rare[["value", "low", "high", "n", "positives"]].isna().all(axis=None)
    # The total less the one large group would be the three patients of the small one.
    counted = own[(own["attribute"] == "sex") & own["group"].notna() & own["n"].notna()]
    assert len(counted) == 1
    assert own[own["attribute"].isna()]["n"].tolist() == [360.0]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_no_small_count_can_be_reckoned_from_the_total(counts: list[int]) -> None:
    hidden = _hidden(pd.Series(counts))
    small = [0 < n < 5 for n in counts]
    assert all(h for h, s in zip(hidden, small) if s)
    assert hidden.any() == any(small)
    if hidden.sum() == 1:
        assert all(n == 0 for n, h in zip(counts, hidden) if not h)


def test_suppressing_leaves_overall_figures() -> None:
    lines = [("auc", None, None, 0.8, 100, 30), ("auc", "sex", "F", 0.9, 4, 2)]
    columns = ["metric", "attribute", "group", "value", "n", "positives"]
    frame = pd.DataFrame(lines, columns=columns).assign(low=0.1, high=0.9, target=None)
    found = suppressed(frame)
    assert found["value"].tolist()[0] == 0.8
    assert np.isnan(found["value"].tolist()[1])
    assert found["n"].isna().tolist() == [False, True]


def test_epochs_end_with_the_value_of_the_trial(small: Overview) -> None:
    frame = epochs_table(small)
    for row in results(small.rows[SEARCH]):
        own = frame[frame["key"] == row.key]
        assert own["epoch"].tolist() == [1, 2, 3, 4]
        assert own["value.worst_auc@sex"].iloc[-1] == pytest.approx(row.values[0])  # type: ignore[index]
        assert own["val_loss"].is_monotonic_decreasing


def test_every_format_says_the_same(small: Overview, tmp_path: Path) -> None:
    names = ["trials", "epochs"]
    for format_ in FORMATS:
        made = export(small, tmp_path / format_, names, format_)
        assert [p.name for p in made.files] == [f"{n}.{format_}" for n in names]
    for name in names:
        csv = pd.read_csv(tmp_path / "csv" / f"{name}.csv")
        parquet = pd.read_parquet(tmp_path / "parquet" / f"{name}.parquet")
        rows = json.loads((tmp_path / "json" / f"{name}.json").read_text())
        assert csv.columns.tolist() == parquet.columns.tolist() == list(rows[0])
        for column in csv:
            for a, b, c in zip(csv[column], parquet[column], (row[column] for row in rows)):
                assert (pd.isna(a), pd.isna(b)) == (c is None,) * 2
                assert c is None or (a == c and b == c), (column, a, b, c)


def test_a_parquet_column_of_mixed_choices_is_text() -> None:
    frame = pd.DataFrame({"param.lora": pd.Series([4, "qv", True, None], dtype=object)})
    back = pd.read_parquet(io.BytesIO(FORMATS["parquet"](frame)))
    assert back["param.lora"].tolist()[:3] == ["4", "qv", "True"]
    assert pd.isna(back["param.lora"].tolist()[3])


def test_without_the_runs_only_trials_can_be_had(small: Overview, tmp_path: Path) -> None:
    far = replace(small, place=Place(tmp_path / "nowhere", "tested", small.place.url))
    with pytest.raises(StudyError, match="not in the results folder"):
        export(far, tmp_path / "to", ["trials", "groups"], "csv")
    assert not (tmp_path / "to").exists()
    made = export(far, tmp_path / "to", ["trials"], "csv")
    assert (made.rows, made.missing) == ((4,), 2)


def test_what_cannot_be_written_is_refused_by_name(small: Overview, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot export"):
        export(small, tmp_path, ["trails"], "csv")
    with pytest.raises(ConfigError, match="cannot export"):
        export(small, tmp_path, ["trials"], "xlsx")
    assert list(tmp_path.iterdir()) == []


def short(name: str) -> str:
    return re.sub(r"^(value|constraint|param)\..*", r"\1.", name)


def test_the_guide_names_every_column(small: Overview) -> None:
    told = set(map(short, re.findall(r"`([\w.]+)`", GUIDE.read_text())))
    for make in TABLES.values():
        assert set(map(short, make(small).columns)) - told == set()
