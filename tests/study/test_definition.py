"""A study file that is kept with its study gives the same study again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit_ledger import open_ledger
from kit_plan import study

from fairtune.config import shipped
from fairtune.errors import ConfigError, StudyError
from fairtune.study.definition import DEFINITION, defined, definition_of
from fairtune.study.schema import StudyFile, load_study

SHIPPED = sorted(path.stem for path in shipped.root("studies").glob("*.yaml"))


def everything(file: StudyFile) -> list[object]:
    return [
        file.name,
        file.seed,
        file.recipe.to_json(),
        file.space.nodes,
        file.judge.to_json(),
        file.baselines.to_json(),
        file.budget.to_json(),
        file.sampler,
        file.pruner,
        file.confirm.to_json(),
        file.select,
        file.fidelity,
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_comes_back_whole(name: str) -> None:
    made = load_study(name, ["budget.trials=7", "recipe.optim.epochs=3"], "other")
    stored = json.loads(json.dumps({DEFINITION: definition_of(made)}))
    again = defined(stored, "other")
    assert everything(again) == everything(made)
    assert (again.name, again.budget.trials, again.recipe.optim.epochs) == ("other", 7, 3)


def test_it_goes_through_a_storage(tmp_path: Path) -> None:
    made = study(budget={"trials": 5})
    with open_ledger(tmp_path) as ledger:
        ledger.set_attr(DEFINITION, definition_of(made))
        assert everything(defined(ledger.attrs(), "s")) == everything(made)


def test_a_study_without_one_says_how_to_get_it() -> None:
    with pytest.raises(StudyError, match="no study file") as caught:
        defined({}, "old")
    assert "fairtune search" in str(caught.value)


def test_what_this_version_does_not_take_names_the_stored_file() -> None:
    stored = definition_of(study())
    stored["document"]["budget"]["trails"] = 3
    with pytest.raises(ConfigError, match="trails") as caught:
        defined({DEFINITION: stored}, "tiny")
    assert "study.yaml as stored" in str(caught.value)
