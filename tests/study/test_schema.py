"""The study file: everything that can be said, and every fault at once with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_plan import document, fields, study

from fairtune.config import digest
from fairtune.config.yaml12 import dumps, loads
from fairtune.errors import ConfigError, FairtuneError, Problems
from fairtune.evaluation.objectives import Objective
from fairtune.study.baselines import default_for
from fairtune.study.schema import build_study, load_study


def faults(**changes: Any) -> list[FairtuneError]:
    with pytest.raises(FairtuneError) as caught:
        study(**changes)
    return list(getattr(caught.value, "problems", [caught.value]))


def only(**changes: Any) -> FairtuneError:
    (fault,) = faults(**changes)
    return fault


def recipe(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = fields()["recipe"]
    return made | changes


def test_what_is_absent_has_its_declared_default() -> None:
    small = study(baselines=None, confirm=None, sampler=None, pruner=None)
    assert small.baselines.of == default_for(small.recipe.usage)
    assert (small.confirm.top, small.confirm.seeds, small.seed) == (5, 4, 0)
    assert type(small.sampler).__name__ == "Auto"
    assert type(small.pruner).__name__ == "Asha"
    assert small.recipe.optim.epochs == 10
    assert small.recipe.optim.lr is None
    assert small.judge.validation.epoch == "last"
    assert small.select == "best"


def test_baselines_are_a_list_or_a_list_with_points() -> None:
    assert study(baselines=["norm:all"]).baselines.lr_points == 6
    assert study(baselines={"of": ["norm:all"], "lr_points": 3}).baselines.lr_points == 3
    assert study(baselines=[]).baselines.of == ()


def test_faults_of_several_keys_are_told_at_once() -> None:
    found = faults(
        recipe=recipe(
            edit="none",
            adaptation={"method": "lora"},
        ),
        space={
            "optim.lr": {"float": [1e-5, 1e-3], "log": True},
            "adaptation.mask": "auto_peft1",
            "edit": {"one_of": ["none"]},
            "adaptation.method.attn": {"one_of": ["direct"]},
            "optim.epochs": {"subset_of": [1, 2]},
        },
    )
    said = "\n".join(str(fault) for fault in found)
    for name in (
        "both in recipe and in space", "a method for the whole mask", "subset_of",
    ):  # fmt: skip
        assert name in said, name
    assert len(found) == 3
    for fault in found:
        file, line, _ = str(fault.where).split(":", 2)
        assert file == "study.yaml"
        assert int(line) > 0
    assert len({str(fault.where) for fault in found}) == 3


def test_a_fault_names_file_line_and_column() -> None:
    text = "name: s\nrecipe:\n  data: {dataset: d, target: t, attributes: [sex]}\n"
    text += "  model: {name: m}\n  optim: {lr: 1e-3, epoch: 4}\nspace: {optim.head_lr: declared}\n"
    text += "objectives: [worst_auc@sex]\nbudget: {trials: 0}\n"
    with pytest.raises(Problems) as caught:
        build_study(loads(text, "my.yaml"))
    where = [str(problem.where) for problem in caught.value.problems]
    assert where == [
        "my.yaml:8:10 (budget.trials)",
        "my.yaml:5:21 (recipe.optim.epoch)",
    ]
    assert caught.value.problems[1].todo == "did you mean 'epochs'?"


def test_a_path_in_recipe_and_space_is_refused() -> None:
    fault = only(recipe=recipe(optim={"lr": 1e-3, "epochs": 2}))
    assert "both in recipe and in space" in fault.what
    assert fault.found == "optim.lr"
    assert fault.where == "study.yaml:19:3 (space.optim.lr)"


def test_computed_fields_are_not_written() -> None:
    data = fields()["recipe"]["data"] | {"fingerprint": "x"}
    assert "computed" in only(recipe=recipe(data=data)).what


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        (["auc_gap@sex"], "disparities"),
        (["eo_diff@sex"], "disparities"),
        (["worst_auc@race"], "not among recipe.data.attributes"),
        (["worst_auc@sex*race"], "not among recipe.data.attributes"),
        (["worst_auk@sex"], "unknown metric"),
        (["worst_auc"], "needs an attribute"),
        (["worst_auc@sex:min"], "maximized"),
        ([3], "valid string"),
        ([], "at least 1 item"),
    ],
)
def test_objectives_that_are_refused(objectives: list[Any], words: str) -> None:
    assert words in "\n".join(map(str, faults(objectives=objectives)))


def test_a_crossing_is_an_objective() -> None:
    made = study(objectives=["worst_auc@sex * age"])
    assert str(made.judge.primary) == "worst_auc@sex*age"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {}}, "searches nothing"),
        ({"space": None}, "searches nothing"),
        ({"space": {"adaptation.mask": "auto_peft1"}}, "without a learning rate"),
        ({"baselines": ["norm:al"]}, "not a depth"),
        ({"baselines": ["norm:all", "norm:all"]}, "stands twice"),
        ({"budget": {"trials": 0}}, "greater than or equal to 1"),
        ({"budget": {"trials": 2, "minutes": 0}}, "greater than 0"),
        ({"budget": {"trials": 2, "gpu_hours": 0}}, "greater than 0"),
        ({"budget": {"trials": 2, "until": "noon"}}, "not a time"),
        ({"budget": {"trials": 2, "until": "24:00"}}, "not a time"),
        ({"budget": {"trials": 2, "stop": "soon"}}, "auto"),
        ({"budget": None}, "'budget' is missing"),
        ({"name": "a/b"}, "pattern"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"sampler": "tp"}, "unknown sampler"),
        ({"pruner": {"asha": {"eta": 3}}}, "unknown field 'eta'"),
        ({"validation": {"epoch": {"best": "worst_auc@sex"}}}, "never by a fairness objective"),
        ({"validation": {"threshold": "best"}}, "threshold"),
        ({"validation": {"min_group": {"m": 3}}}, "m"),
        ({"confirm": {"top": -1}}, "greater than or equal to 0"),
        ({"select": "worst"}, "select"),
        ({"trials": 3}, "unknown field 'trials'"),
        ({"recipe": 3}, "dictionary"),
        ({"space": [1]}, "dictionary"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], words: str) -> None:
    found = faults(**changes)
    assert len({str(fault.where) for fault in found}) == 1, [str(fault) for fault in found]
    assert words in str(found[-1])


def test_a_fault_in_the_space_brings_no_second_message() -> None:
    space = {"optim.lr": {"float": [1e-3, 1e-5]}, "adaptation.mask": "auto_peft9"}
    found = faults(space=space)
    assert [fault.what for fault in found] == [
        "a range needs finite ends in order",
        "unknown mask space",
    ]


def test_a_readout_alone_needs_no_learning_rate_but_its_baselines_do() -> None:
    space = {"optim.l2": "declared"}
    assert study(space=space, baselines=["linear_readout"]).space.get("optim.l2") is not None
    fault = only(space=space)
    assert fault.what == "a baseline is trained without a learning rate"
    assert fault.found == "norm:all"


def test_overrides_replace_whole_nodes(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(dumps(fields()))
    made = load_study(
        str(file),
        [
            "recipe.optim.epochs=4",
            "space.optim.lr={float: [1e-5, 1e-4], log: true}",
            "budget={trials: 3, minutes: 2}",
            "objectives=[worst_auc@age]",
        ],
        name="other",
    )
    assert made.recipe.optim.epochs == 4
    assert made.space.get("optim.lr").dimension.high == 1e-4  # type: ignore[union-attr]
    assert (made.budget.trials, made.budget.minutes) == (3, 2)
    assert str(made.judge.primary) == "worst_auc@age"
    assert made.name == "other"
    assert study().recipe.optim.epochs == 10


def test_a_fault_in_an_override_names_the_override(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(dumps(fields()))
    with pytest.raises(ConfigError) as caught:
        load_study(str(file), ["space.optim.lr={float: [1, -1]}"])
    assert "--set space.optim.lr" in str(caught.value.where)
    with pytest.raises(ConfigError) as caught:
        load_study(str(file), ["recipe.optim.epochs"])
    assert "PATH=VALUE" in caught.value.what


@pytest.mark.parametrize("name", ["quickstart", "ham10000-age"])
def test_shipped_studies_are_valid(name: str) -> None:
    made = load_study(name)
    assert made.name == name
    assert load_study(f"studies/{name}.yaml").recipe == made.recipe


def test_no_such_study_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study("quikstart")
    assert caught.value.todo == "did you mean 'quickstart'?"
    with pytest.raises(ConfigError, match="no such study file"):
        load_study(str(tmp_path / "x.yaml"))
    with pytest.raises(ConfigError, match="a study file is a mapping"):
        build_study(loads("- 1", "x.yaml"))


def test_booleans_and_numbers_follow_yaml_1_2() -> None:
    text = dumps(fields()).replace("log: true", "log: yes")
    with pytest.raises(ConfigError, match="not a distribution"):
        build_study(loads(text, "s.yaml"))
    made = build_study(loads(dumps(fields(seed=7)).replace("0.0001", "1e-4"), "s.yaml"))
    assert made.space.get("optim.lr").dimension.low == 1e-4  # type: ignore[union-attr]


def test_the_document_survives_a_round_trip() -> None:
    first = study()
    again = build_study(loads(dumps(document().data), "study.yaml"))
    assert again.recipe == first.recipe
    assert again.space == first.space
    assert again.judge == first.judge
    assert (again.budget, again.confirm, again.baselines) == (
        first.budget,
        first.confirm,
        first.baselines,
    )


METRIC = st.sampled_from(["auc", "auprc", "brier", "tpr@spec=0.9", "nll", "fpr"])
ATTRIBUTE = st.sampled_from(["sex", "age", "sex*age", "Alter-Gruppe"])


@settings(max_examples=60)
@given(METRIC, st.sampled_from(["", "worst_", "_gap"]), ATTRIBUTE)
def test_objectives_print_as_they_are_read(metric: str, form: str, attribute: str) -> None:
    name, at, point = metric.partition("@")
    head = f"{form}{name}" if form.endswith("_") else f"{name}{form}"
    text = head + at + point + (f"@{attribute}" if form else "")
    read = Objective.parse(text)
    assert str(read) == text
    assert Objective.parse(str(read)) == read


LEAF = st.one_of(
    st.tuples(st.floats(1e-6, 1e-3), st.floats(1e-3, 1.0)).map(
        lambda ends: {"float": list(ends), "log": True}
    ),
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=4, unique=True).map(
        lambda values: {"one_of": values}
    ),
    st.just("declared"),
)
MASKS = st.sampled_from(
    [
        "auto_peft2",
        {"bits": {"types": ["norm"]}},
        {"one_of": ["fullft", "attn:last-3", {"bits": {"types": ["attn", "mlp"]}}]},
    ]
)


@settings(max_examples=40)
@given(LEAF, MASKS, st.integers(0, 2**31), st.integers(1, 500))
def test_any_valid_file_round_trips(lr: Any, mask: Any, seed: int, trials: int) -> None:
    data = fields(
        space={"optim.lr": lr, "adaptation.mask": mask}, seed=seed, budget={"trials": trials}
    )
    first = build_study(loads(dumps(data), "a.yaml"))
    again = build_study(loads(dumps(loads(dumps(data), "a.yaml").data), "b.yaml"))
    assert first.space == again.space
    assert digest(first.recipe.to_json()) == digest(again.recipe.to_json())
    assert (first.seed, first.budget.trials) == (seed, trials)
