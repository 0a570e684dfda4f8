"""What a usage has no place for is refused, field by field, before anything is read."""

from __future__ import annotations

from typing import Any

import pytest
from kit import session, tiny_fields, tiny_recipe

from fairtune.config import parse
from fairtune.errors import ConfigError, ModelError
from fairtune.training.recipe import Recipe

PAIRS = {"usage": "contrastive"}
SCORED = {"usage": "zero_shot", "adaptation": {"mask": "none"}}
SINKHORN: list[Any] = [{"sinkhorn": {"attribute": "sex", "score": "similarity"}}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"usage": "zero_shot"},
            ["adaptation.mask", "'zero_shot' trains no units", "norm:all", "mask: none"],
        ),
        (
            SCORED | {"mitigations": [{"group_dro": {"attribute": "sex"}}]},
            ["mitigations", "nothing is trained", "group_dro", "post-processing"],
        ),
        (
            {"mitigations": SINKHORN},
            ["mitigations", "only pairs of images and texts have a similarity", "contrastive"],
        ),
        (
            PAIRS | {"mitigations": [{"domain_independent": {"attribute": "sex"}}]},
            ["mitigations", "has no head", "'domain_independent'"],
        ),
        (
            PAIRS | {"mitigations": [{"sinkhorn": {"attribute": "sex"}}]},
            ["mitigations", "no logits of classes", "sinkhorn: {score: similarity}"],
        ),
        (
            PAIRS | {"optim__batch_size": 1},
            ["optim.batch_size", "tells each pair of a batch from the others", "at least 2"],
        ),
        *(
            (PAIRS | {f"optim__{field}": value}, [f"optim.{field}", "trained without labels"])
            for field, value in {
                "class_weights": "balanced",
                "label_smoothing": 0.1,
                "mixup": 0.2,
                "cutmix": 0.2,
            }.items()
        ),
    ],
)
def test_what_a_usage_has_no_place_for_is_refused(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Recipe, tiny_fields(**changes))
    for part in words:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        SCORED,
        SCORED | {"mitigations": [{"group_temperature": {"attribute": "sex"}}]},
        SCORED | {"optim__batch_size": 1},
        PAIRS,
        PAIRS | {"adaptation": {"mask": "none"}, "optim__batch_size": 1},
        PAIRS | {"mitigations": [*SINKHORN, "bad_pairs", "sam", "jtt"]},
        PAIRS | {"fit__augment": "light", "fit__copies": 2, "optim__ema": 0.9},
        PAIRS | {"data__fraction": 0.5, "data__fold": {"index": 1, "of": 2}},
    ],
)
def test_the_rest_goes_together(changes: dict[str, Any]) -> None:
    assert parse(Recipe, tiny_fields(**changes)).usage.reads_prompts


@pytest.mark.parametrize("usage", ["zero_shot", "contrastive", {"classify": {"features": "text"}}])
def test_a_model_without_texts_is_refused_where_they_are_read(usage: Any) -> None:
    recipe = tiny_recipe(usage=usage, adaptation={"mask": "none"})
    with pytest.raises((ConfigError, ModelError)) as caught:
        session().resolve(recipe)
    assert "texts" in str(caught.value)


def test_only_what_acts_is_part_of_the_identity() -> None:
    plain = tiny_recipe(**PAIRS)
    for changes, acts in (
        ({"optim__head_lr": 0.5}, False),
        ({"optim__l2": 0.5}, False),
        ({"optim__lr": 0.5}, True),
        ({"optim__batch_size": 32}, True),
        ({"usage": {"contrastive": {"same": "negative"}}}, True),
        ({"usage": {"contrastive": {"loss_by": "sigmoid"}}}, True),
    ):
        assert (tiny_recipe(**PAIRS | changes).identity() != plain.identity()) is acts, changes
    # A searched mask may be empty: then a mitigation has nothing to act on.
    empty = PAIRS | {"adaptation": {"mask": "none"}}
    idle = tiny_recipe(**empty, mitigations=SINKHORN)
    assert idle.scored
    assert idle.identity() == tiny_recipe(**empty).identity()
    scored = tiny_recipe(**SCORED)
    for changes in ({"optim__lr": 0.5}, {"optim__epochs": 9}, {"optim__l2": 0.5}):
        assert tiny_recipe(**SCORED | changes).identity() == scored.identity(), changes
