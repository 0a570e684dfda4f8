"""A method that fits no mask of the study is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from kit import session, tiny_fields
from kit_tiny import study_file

from fairtune.adaptation.placement import METHOD
from fairtune.errors import FairtuneError
from fairtune.study.search import make_plan
from fairtune.training.session import Session

LR = {"float": [1e-4, 1e-2], "log": True}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def planned(held: Session, method: Any, space: dict[str, Any]) -> None:
    """Plan a study with `method` in its recipe and `space` beside rate and mask in its space."""
    recipe = tiny_fields(adaptation={} if method is None else {"method": method})
    del recipe["optim"]["lr"]
    whole = {"optim.lr": LR, "adaptation.mask": "auto_peft1", **space}
    make_plan(study_file(recipe=recipe, space=whole), held, None)


@pytest.mark.parametrize(
    ("method", "space", "words"),
    [
        (None, {f"{METHOD}.norm": {"one_of": ["direct", "lora"]}}, ["LayerNorm", "one_of.1"]),
        (None, {f"{METHOD}.attn": {"one_of": ["direct", "adaptformer"]}}, ["MLP", "one_of.1"]),
        (
            None,
            {f"{METHOD}.attn": {"one_of": [{"lora": {"rank": {"one_of": [4, 512]}}}]}},
            ["rank of lora is larger", "512", "one_of.0.lora.rank"],
        ),
        ({"norm": "lora"}, {}, ["LayerNorm", "(recipe.adaptation.method.norm)"]),
        ({"lora": {"rank": 1000}}, {}, ["rank of lora", "(recipe.adaptation.method)"]),
        (
            "lora",
            {"adaptation.mask": {"bits": {"types": ["norm"]}}},
            ["LayerNorm", "(recipe.adaptation.method)"],
        ),
    ],
)
def test_a_method_that_fits_no_mask_is_a_fault_of_the_study_file(
    method: Any, space: dict[str, Any], words: list[str], held: Session
) -> None:
    with pytest.raises(FairtuneError) as caught:
        planned(held, method, space)
    said = str(caught.value)
    for part in ("tiny.yaml:", "every mask that this study can draw", *words):
        assert part in said


def test_every_fault_is_told_and_a_method_that_fits_some_mask_is_left_to_the_trials(
    held: Session,
) -> None:
    lora = {"lora": {"rank": {"one_of": [2, 4]}}}
    planned(held, None, {METHOD: {"one_of": ["direct", lora]}})
    planned(held, None, {f"{METHOD}.mlp": {"one_of": [lora, "adaptformer"]}})
    both = {f"{METHOD}.{kind}": {"one_of": ["direct", "lora"]} for kind in ("norm1", "norm2")}
    with pytest.raises(FairtuneError) as caught:
        planned(held, None, both)
    assert all(kind in str(caught.value) for kind in both)
