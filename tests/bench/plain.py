"""The loop that a laboratory would write first: PIL in a DataLoader, everything gets a gradient.

The steps between it and fairtune's own loop can be switched on one by one.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.layers import use_fused_attn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fairtune.training.optim import lr_factor
from fairtune.training.recipe_parts import OptimPart

SCORE_BATCH = 128


@dataclass(frozen=True)
class How:
    """What is switched on.

    Attributes:
        packed: Images come decoded, as one array.
        skipped: Only what is in the mask requires a gradient.
        half: bf16 autocast.
        scored: Validation rows are scored after the epoch.
    """

    packed: bool = False
    skipped: bool = False
    half: bool = False
    scored: bool = True


class Images(Dataset[tuple[Tensor, int]]):
    """Decodes an image whenever it is asked for."""

    def __init__(self, ground: Any, rows: Sequence[int]) -> None:
        table = ground.pack.table
        self.files, self.side = table.files, ground.pack.image_size
        self.names = [table.frame["image"].iloc[row] for row in rows]
        self.labels = ground.pack.labels(np.asarray(rows))
        self.mean = np.asarray(ground.spec.mean, dtype=np.float32)
        self.std = np.asarray(ground.spec.std, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = Image.open(io.BytesIO(self.files.read(self.names[i]))).convert("RGB")
        if image.size != (self.side, self.side):
            image = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
        unit = (np.asarray(image, dtype=np.float32) / 255 - self.mean) / self.std
        return torch.from_numpy(unit).permute(2, 0, 1), int(self.labels[i])


class Plain:
    """One net with a head, trained over and over.

    Args:
        ground: Data and pretrained network.
        train: Rows of an epoch.
        val: Rows scored after it.
        batch_size: Images a step.
        workers: Processes that decode.
        untouched: Attention is computed as timm does by itself; otherwise as fairtune does, which
            chooses the products that are faster with few tokens.
    """

    def __init__(
        self,
        ground: Any,
        train: np.ndarray,
        val: np.ndarray,
        batch_size: int,
        workers: int,
        *,
        untouched: bool = False,
    ) -> None:
        self.ground, self.train, self.val = ground, train, val
        self.batch_size, self.workers = batch_size, workers
        self.net = copy.deepcopy(ground.backbone.net)
        self.head = nn.Linear(ground.backbone.dim, 1)
        if untouched:
            for module in self.net.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = use_fused_attn()

    def epoch(self, mask: Sequence[str], how: How) -> None:
        """Train an epoch, and score as `how` says; the time it takes is what is measured."""
        trained = self._trained(mask, how)
        optimizer = torch.optim.AdamW([*trained, *self.head.parameters()], lr=1e-5)
        for image, label in self._batches(self.train, how, shuffle=True):
            self._gradient(image, label, how)
            optimizer.step()
        if how.scored:
            self._scores(how)

    def run(
        self, mask: Sequence[str], optim: OptimPart, seed: int, take: Callable[[np.ndarray], None]
    ) -> None:
        """Train one recipe from the pretrained weights: a new head, AdamW, decay of matrices only.

        Args:
            mask: Tensors that train beside the head.
            optim: Rates, decay, schedule, clipping and epochs.
            seed: Of head and order.
            take: Is given the logits `(rows,)` of the validation rows after every epoch.
        """
        torch.manual_seed(seed)
        self.net.load_state_dict(self.ground.backbone.net.state_dict())
        self.head = nn.Linear(self.head.in_features, 1)
        groups = [
            {
                "params": [p for p in tensors if (p.ndim > 1) == matrices],
                "lr": rate,
                "weight_decay": optim.weight_decay if matrices else 0.0,
            }
            for tensors, rate in (
                (self._trained(mask, How()), optim.lr),
                (list(self.head.parameters()), optim.head_lr),
            )
            for matrices in (True, False)
        ]
        everything = [p for group in groups for p in group["params"]]
        optimizer = torch.optim.AdamW(groups)
        steps = -(-len(self.train) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(optim, steps))
        for _ in range(optim.epochs):
            for image, label in self._batches(self.train, How(), shuffle=True):
                self._gradient(image, label, How())
                if optim.clip_norm > 0:
                    nn.utils.clip_grad_norm_(everything, optim.clip_norm)
                optimizer.step()
                schedule.step()
            take(self._scores(How()))

    def _trained(self, mask: Sequence[str], how: How) -> list[nn.Parameter]:
        """Return the parameters of `mask`; a gradient gets what `how` says."""
        masked, found = set(mask), []
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in masked or not how.skipped)
            if name in masked:
                found.append(parameter)
        return found

    def _gradient(self, image: Tensor, label: Tensor, how: How) -> None:
        loss = nn.functional.binary_cross_entropy_with_logits(
            self._forward(image, how), label.float()
        )
        self.net.zero_grad(set_to_none=True)
        self.head.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]

    def _scores(self, how: How) -> np.ndarray:
        """Return the logits `(rows,)` of the validation rows."""
        with torch.no_grad():
            batches = self._batches(self.val, how, shuffle=False)
            return torch.cat([self._forward(image, how) for image, _ in batches]).numpy()

    def _forward(self, image: Tensor, how: How) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=how.half):
            features = self.net.forward_features(image)
            logit: Tensor = self.head(self.net.forward_head(features, pre_logits=True))
        return logit.float()[:, 0]

    def _batches(self, rows: np.ndarray, how: How, *, shuffle: bool) -> Any:
        size = self.batch_size if shuffle else SCORE_BATCH
        if how.packed:
            loader = self.ground.loader(rows, size, edit=None, seed=0)
            return ((b.image, b.label) for b in loader.epoch(shuffle=shuffle))
        data = Images(self.ground, rows)
        return DataLoader(data, size, shuffle=shuffle, num_workers=self.workers)
