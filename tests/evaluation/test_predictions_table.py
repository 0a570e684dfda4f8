"""The table of predictions and its reading from a data frame."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from prediction_tables import table

from fairtune.errors import DataError, FairtuneError
from fairtune.evaluation.predictions import Attribute, Predictions

FRAME = pd.DataFrame(
    {
        "y": [0, 1, 0, 1],
        "t": [1, 1, 0, 0],
        "p": [0.1, 0.9, 0.4, 0.6],
        "q": [0.9, 0.1, 0.6, 0.4],
        "age": ["60+", "<60", None, "<60"],
        "sex": ["F", "M", "F", None],
        "who": ["a", "b", "a", None],
        "stage": [1.0, 2.0, np.nan, 1.0],
    }
)


def test_from_frame_reads_groups_patients_and_rows() -> None:
    p = Predictions.from_frame(
        FRAME, label="y", score="p", attributes=["age", "sex", "stage"], patient="who"
    )
    assert p.attribute("age").names == ("60+", "<60")
    assert p.attribute("age").codes.tolist() == [0, 1, -1, 1]
    assert p.attribute("stage").names == ("1", "2")
    assert p.patient.tolist() == [0, 1, 0, 2]
    assert p.row.tolist() == [0, 1, 2, 3]
    assert p.task == "binary"


def test_categories_keep_their_order() -> None:
    frame = FRAME.assign(age=pd.Categorical(FRAME["age"], ["<60", "60+"], ordered=True))
    p = Predictions.from_frame(frame, label="y", score="p", attributes=["age"])
    assert p.attribute("age").names == ("<60", "60+")
    assert p.attribute("age").codes.tolist() == [1, 0, -1, 0]


def test_columns_decide_the_task() -> None:
    multi = Predictions.from_frame(FRAME, label=["y", "t"], score=["p", "q"])
    assert (multi.task, multi.targets, multi.label.shape) == ("multilabel", ("y", "t"), (4, 2))
    classes = Predictions.from_frame(FRAME, label="y", score=["p", "q"])
    assert (classes.task, classes.classes) == ("multiclass", 2)
    first, second = multi.per_target()
    assert first.label.tolist() == FRAME["y"].tolist()
    assert second.score.tolist() == FRAME["q"].tolist()


def test_crossings_join_names_and_lose_what_is_unknown_in_either() -> None:
    p = Predictions.from_frame(FRAME, label="y", score="p", attributes=["age", "sex"])
    crossed = p.attribute("age*sex")
    assert crossed.name == "age*sex"
    assert crossed.names == ("60+ * F", "60+ * M", "<60 * F", "<60 * M")
    assert crossed.codes.tolist() == [0, 3, -1, -1]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    p = table(20)
    with pytest.raises(DataError, match="did you mean 'sex'"):
        p.attribute("sexx")
    with pytest.raises(DataError, match="no such attribute"):
        p.attribute("age*race")
    with pytest.raises(DataError, match="did you mean 'age'"):
        Predictions.from_frame(FRAME, label="y", score="p", attributes=["agee"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 1, 2, 1]}, "rows 2 are not"),
        ({"label": [0, 0.5, 0, 1]}, "rows 1 are not"),
        ({"score": [0.1, np.nan, 0.2, np.inf]}, "rows 1, 3 are not"),
        ({"patient": [0, 1]}, "expected 4 entries"),
        ({"label": [], "score": []}, "no rows"),
        ({"score": np.zeros((4, 2))}, "do not fit the task"),
        ({"task": "ordinal"}, "unknown task"),
    ],
)
def test_faults_are_found(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"label": [0, 1, 0, 1], "score": [0.1, 0.9, 0.4, 0.6], **change}
    arrays = {k: v if k == "task" else np.array(v) for k, v in given.items()}
    with pytest.raises(FairtuneError) as caught:
        Predictions(**arrays)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(FairtuneError) as caught:
        Predictions(np.array([0, 3]), np.array([np.nan, 1.0]), row=np.array([70, 71]))
    assert "2 problems" in str(caught.value)
    assert "rows 70" in str(caught.value)
    assert "rows 71" in str(caught.value)


def test_take_keeps_rows_and_patients_together() -> None:
    p = table(50, per_patient=2)
    index = np.array([4, 4, 1])
    q = p.take(index)
    assert q.patient.tolist() == p.patient[index].tolist()
    assert q.row.tolist() == [4, 4, 1]
    assert q.attribute("age").codes.tolist() == p.attribute("age").codes[index].tolist()


def test_codes_outside_the_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"-1\.\.1"):
        Attribute("age", ("a", "b"), np.array([0, 2]))


def test_the_room_needs_no_torch_and_no_oracle() -> None:
    names = (
        "scoring, compare, optimism, power, score, objectives, rules, calibration, floor, table"
    )
    code = (
        f"from fairtune.evaluation import {names}\nimport sys\n"
        "print(*sorted({'torch', 'sklearn', 'fairlearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
