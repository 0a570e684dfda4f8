"""Runs of BLIP and BLIP-2: usages and methods that know of neither work on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_blip import write

from fairtune.config import shipped
from fairtune.config.yaml12 import dumps, loads
from fairtune.errors import ModelError
from fairtune.training.job import RunResult
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train

LORA = {"usage": "contrastive", "adaptation__method": {"lora": {"rank": 2}}}
ONCE = {"optim__epochs": 1}
PROMPTS = {
    "templates": ["an x ray of {}"],
    "classes": {"normal": ["clear lungs", "no finding"], "abnormal": ["an abnormal heart"]},
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The shipped X-rays with a text for each, their view, and with prompts."""
    fields: dict[str, Any] = loads(shipped.find("datasets", "nih-cxr-64").read_text()).data
    path = tmp_path / "texts.yaml"
    path.write_text(dumps(fields | {"text": "view", "prompts": {"abnormal": PROMPTS}}))
    return path


def run(held: Session, model: Path, dataset: Path, **changes: Any) -> RunResult:
    asked = tiny_recipe(
        data__dataset=str(dataset),
        data__attributes=["sex"],
        model__name=str(model),
        **changes,
    )
    return train([Job(held.resolve(asked), Seeds())], held)[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("blip", {"usage": "zero_shot", "adaptation__mask": "none"}),
        ("blip2", {"usage": "zero_shot", "adaptation__mask": "none"}),
        ("blip2", {"usage": {"classify": {"features": "both"}}, "adaptation__mask": "none"}),
        ("blip", LORA | ONCE | {"adaptation__mask": "text.attn+text.mlp:all"}),
        ("blip2", LORA | ONCE | {"adaptation__mask": "qformer.block:all"}),
        ("blip2", ONCE | {"usage": "contrastive", "adaptation__mask": "image.attn:last-1"}),
    ],
)
def test_a_run_scores_and_trains(
    name: str, changes: dict[str, Any], dataset: Path, tmp_path: Path
) -> None:
    made = run(session(tmp_path), write(name, tmp_path), dataset, **changes)
    assert len(made.epochs) == 1
    assert np.isfinite(made.epochs[0].scores).all()
    trained = {n: t for n, t in made.weights.items() if not n.startswith("head.")}
    assert bool(trained) is (changes["adaptation__mask"] != "none")
    assert all(torch.isfinite(t).all() for t in trained.values())


def test_what_a_comparison_does_not_go_through_takes_no_adapter(
    dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no gradient reaches what the method added") as caught:
        run(
            session(tmp_path),
            write("blip", tmp_path),
            dataset,
            **LORA,
            **ONCE,
            adaptation__mask="text.cross:all",
        )
    assert "crossattention" in str(caught.value.found)
