"""A finished run as a model again: restored, scored on rows, merged for export."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from fairtune.adaptation.placement import Placement
from fairtune.config.registry import name_of
from fairtune.data.batch import Batch
from fairtune.data.gatekeep import TestPass
from fairtune.data.prompts import ClassPrompts
from fairtune.editing.edit import Edit
from fairtune.errors import ModelError
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import DONE, StoredRun
from fairtune.models.net import Net
from fairtune.training.ground import Ground
from fairtune.training.lane import SCORE_BATCH
from fairtune.training.net import build_net
from fairtune.training.passes import score_rows
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

_KEY = re.compile(r"[0-9a-f]{16,}")


@dataclass(frozen=True, eq=False)
class Restored:
    """A trained model, ready to score.

    Attributes:
        net: Backbone and head with the trained values, in evaluation mode.
        recipe: Recipe it was trained with.
        ground: Data and backbone it is scored on.
        edit: What is added to every image, as it was trained with; None for nothing.
        prompts: What classes are called, as prompts.json has it; None where no prompt is read.
    """

    net: Net
    recipe: Recipe
    ground: Ground
    edit: Edit | None = None
    prompts: Mapping[str, Any] | None = None

    def score(
        self, rows: NDArray[np.int64], *, test_pass: TestPass | None = None
    ) -> NDArray[np.float32]:
        """Return `(rows, outputs)` logits.

        Raises:
            StudyError: `rows` holds test rows and there is no pass for them.
        """
        text = self.ground.scored_text(self.recipe, self.net, test_pass=test_pass)
        loader = self.ground.loader(
            rows, SCORE_BATCH, edit=self.edit, text=text, test_pass=test_pass
        )
        autocast = self.ground.autocast(self.recipe)
        scores, _ = score_rows(self.net, loader, self.ground.scorer(self.recipe), autocast)
        return scores

    def logits(self, image: Tensor) -> Tensor:
        """Return `(b, outputs)` fp32 logits of normalised images `(b, c, h, w)`, on the CPU."""
        ground, blank = self.ground, torch.zeros(len(image), device=self.ground.device)
        many = ground.task == "multilabel"
        label = blank[:, None].expand(-1, ground.outputs) if many else blank.long()
        batch = Batch(blank.long(), image, label, blank[:, None].long(), blank)
        with torch.inference_mode(), ground.autocast(self.recipe):
            return ground.scorer(self.recipe)(self.net, batch).score.float().cpu()


def open_run(path: Path, runs: Runs | None = None) -> StoredRun:
    """Return the run at `path`: its folder, or a file inside it.

    Args:
        path: Where it is. One that is not there is looked for by the folder's name, the run's key.
        runs: All runs that are known here.

    Raises:
        ModelError: There is no finished run with weights.
        StorageError: The place where machines share runs does not answer.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists() and runs is not None and _KEY.fullmatch(path.name):
        known = runs.get(path.name, weights=True)
        folder = path if known is None else known.folder
    if not (folder / DONE).is_file():
        raise ModelError(
            "no finished run here",
            where=path,
            allowed="a run folder with DONE and model.safetensors, as `fairtune finetune` prints; "
            "or its key, of a run below --out or at --runs",
        )
    run = StoredRun(folder)
    if run.weights_file is None:
        raise ModelError(
            "the run kept no weights",
            where=folder,
            todo=f"fairtune finetune --mask {folder / 'recipe.json'}",
        )
    return run


def restore(run: StoredRun, session: Session, recipe: Recipe | None = None) -> Restored:
    """Return the model of `run`, which calls its classes what it called them when it was made.

    Args:
        run: A finished run with weights.
        session: Opens data and pretrained weights.
        recipe: The run's recipe on other data, default: its own.

    Raises:
        ModelError: The weights do not fit the recipe, or are damaged.
    """
    elsewhere = recipe is not None and recipe.data.dataset != run.recipe.data.dataset
    recipe = run.recipe if recipe is None else recipe
    ground = session.ground(recipe, scored=elsewhere)
    prompts = ClassPrompts.from_json(run.prompts) if run.prompts else None
    net, trained = build_net(recipe, run.seeds, ground, prompts)
    weights = read_weights(run)
    if set(weights) != set(trained):
        raise ModelError(
            "the stored tensors are not those of the recipe",
            where=run.weights_file,
            found=sorted(set(weights) ^ set(trained))[:5],
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            if parameter.shape != weights[name].shape:
                raise ModelError(
                    f"the stored tensor '{name}' has another shape",
                    where=run.weights_file,
                    found=tuple(weights[name].shape),
                    allowed=tuple(parameter.shape),
                )
            parameter.copy_(weights[name])
    net.eval()
    edit = run.edit if recipe.edited else None
    if edit is not None:
        edit.check(ground.pack.image_size, ground.spec.channels)
    return Restored(net, recipe, ground, edit, run.prompts or None)


def read_weights(run: StoredRun) -> dict[str, Tensor]:
    """Return the tensors that a run stored.

    Raises:
        ModelError: The file is damaged.
    """
    path = run.weights_file
    if path is None:
        raise ModelError("the run kept no weights", where=run.folder)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise ModelError(
            "the weights cannot be read", where=path, found=str(error).splitlines()[0]
        ) from None
    return tensors


def merged(restored: Restored) -> dict[str, Tensor]:
    """Return a plain state dict with the architecture's own names, head included.

    Raises:
        ModelError: A method of the recipe cannot be folded into plain weights, or the weights are
            behind an endpoint.
    """
    if not restored.net.backbone.differentiable:
        raise ModelError(
            "the weights of this model are behind an endpoint and cannot be written",
            found=restored.recipe.model.name,
            todo="keep the run folder, which `fairtune evaluate` and `predict` take",
        )
    net = restored.net.backbone.net
    for one in restored.net.attached:
        if one.cannot_fold is not None:
            raise ModelError(
                "the model cannot be merged into plain weights",
                found=one.cannot_fold,
                todo="keep the run folder, which `fairtune evaluate` and `predict` take",
            )
    folds = [one.fold for one in restored.net.attached if one.fold is not None]
    if folds:
        # The copy alone is written to: frozen tensors are the session's.
        net = copy.deepcopy(net)
    for fold in folds:
        fold(net)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    head = restored.net.backbone.classifier
    return state | {
        f"{head}.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in restored.net.head.state_dict().items()
    }


def load_words(restored: Restored, fmt: str) -> str:
    """Return how a merged state dict is loaded, in words.

    Args:
        restored: The model.
        fmt: `timm`, or `safetensors` for any network.

    Raises:
        ModelError: timm has no such network.
    """
    spec, size = restored.ground.spec, restored.ground.pack.image_size
    outputs = restored.ground.outputs
    if not restored.ground.backbone.reads and fmt == "timm":
        return (
            f"load with timm.create_model('{spec.architecture}', num_classes={outputs}, "
            f"img_size={size}) and load_state_dict"
        )
    if fmt == "timm":
        raise ModelError(
            "the model has a text tower, and a network of timm has none",
            found=restored.recipe.model.name,
            todo="export the tensors of both by their own names: --format safetensors",
        )
    prompts = " and the prompts in its metadata" if restored.prompts is not None else ""
    return f"they are called as in `fairtune models units`, with the head's own{prompts}"


def export_peft(restored: Restored, folder: Path) -> None:
    """Write `folder` so that peft alone loads it onto the pretrained network, head included.

    Raises:
        ModelError: Something besides the head trains by a method that peft does not have, several
            peft methods are at work, or the network is none of timm.
    """
    from fairtune.adaptation.peft_folder import save

    strangers = [
        f"{name_of(p.method)} on {p.type or 'the mask'}"  # type: ignore[arg-type]
        for p, one in zip(placements(restored), restored.net.attached)
        if one.peft is None
    ]
    if strangers or not restored.net.attached:
        raise ModelError(
            "only a model whose units all train by one peft method is an adapter of peft",
            found=strangers or "an empty mask",
            allowed="one of peft's methods (see docs/methods.md) for every masked unit",
            todo="export merged weights instead: --format safetensors",
        )
    save(
        folder,
        restored.ground.backbone,
        [one.peft for one in restored.net.attached],
        {name: p for one in restored.net.attached for name, p in one.trained.items()},
        dict(restored.net.head.named_parameters()),
        restored.ground.outputs,
    )


def placements(restored: Restored) -> tuple[Placement, ...]:
    """Return the methods of a restored model with their units."""
    mask = restored.ground.mask(restored.recipe).units
    return restored.recipe.adaptation.method.placements(mask, restored.ground.units)


def export_bytes(tensors: dict[str, Tensor], restored: Restored) -> bytes:
    """Return `tensors` as safetensors, with architecture and input in the metadata."""
    from safetensors.torch import save

    spec = restored.ground.spec
    metadata = {
        "architecture": spec.architecture,
        "image_size": str(restored.ground.pack.image_size),
        "num_classes": str(restored.ground.outputs),
        "mean": ",".join(map(str, spec.mean)),
        "std": ",".join(map(str, spec.std)),
    }
    if restored.prompts is not None:
        metadata["prompts"] = json.dumps(restored.prompts, ensure_ascii=False)
    exported: bytes = save(tensors, metadata=metadata)
    return exported
