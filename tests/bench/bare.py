"""The bare loop that a trial is measured against: torch, timm and sklearn, nothing of fairtune.

`python bare.py FOLDER` runs it once on what `run.py` stored there and writes peak memory as JSON.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

SCORE_BATCH = 128


@dataclass
class Matter:
    """Decoded images, labels, groups and the pretrained network, all in memory.

    Attributes:
        image: `(n, h, w, c)` uint8.
        label: `(n,)` of 0/1.
        group: `(n, attributes)` codes.
        train: Rows to train on.
        val: Rows to score.
        net: Frozen network without a head.
        how: Mask as tensor names, epochs, batch size, rates, mean, std, precision.
    """

    image: Tensor
    label: Tensor
    group: np.ndarray
    train: Tensor
    val: Tensor
    net: nn.Module
    how: dict[str, Any]


def read(folder: Path) -> Matter:
    """Read what `run.py` stored in `folder`."""
    how = json.loads((folder / "how.json").read_text())
    stored = np.load(folder / "data.npz")
    with torch.device("meta"):
        net = timm.create_model(how["architecture"], **how["arguments"])
    net.load_state_dict(load_file(folder / "net.safetensors"), assign=True)
    net.eval().requires_grad_(False)
    return Matter(
        torch.from_numpy(stored["image"]),
        torch.from_numpy(stored["label"]).float(),
        stored["group"],
        torch.from_numpy(stored["train"]),
        torch.from_numpy(stored["val"]),
        net,
        how,
    )


def loop(matter: Matter, seed: int = 0) -> int:
    """Train and score as a trial does; return the number of steps."""
    how = matter.how
    torch.manual_seed(seed)
    net = copy.deepcopy(matter.net)
    head = nn.Linear(how["dim"], 1)
    masked = set(how["mask"])
    trained = [p.requires_grad_() for name, p in net.named_parameters() if name in masked]
    groups = [
        {"params": trained, "lr": how["lr"]},
        {"params": list(head.parameters()), "lr": how["head_lr"]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=how["weight_decay"], fused=True)
    per_epoch = math.ceil(len(matter.train) / how["batch_size"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, per_epoch * how["epochs"])
    everything = [*trained, *head.parameters()]
    steps = 0
    for _ in range(how["epochs"]):
        order = matter.train[torch.randperm(len(matter.train))]
        for rows in order.split(how["batch_size"]):
            loss = nn.functional.binary_cross_entropy_with_logits(
                _forward(net, head, matter, rows), matter.label[rows]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(everything, how["clip_norm"])
            optimizer.step()
            schedule.step()
            steps += 1
        with torch.inference_mode():
            parts = [_forward(net, head, matter, rows) for rows in matter.val.split(SCORE_BATCH)]
        aucs(matter, torch.cat(parts).numpy())
    return steps


def aucs(matter: Matter, score: np.ndarray) -> list[float]:
    """Return the AUC of every group of every attribute that has both classes."""
    label, group = matter.label[matter.val].numpy(), matter.group[matter.val]
    found = []
    for codes in group.T:
        for code in np.unique(codes[codes >= 0]):
            inside = codes == code
            if 0 < label[inside].mean() < 1:
                found.append(float(roc_auc_score(label[inside], score[inside])))
    return found


def peak_mib() -> float:
    """Return the largest resident size this process has had, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("this system does not tell the peak memory of a process")


def _forward(net: Any, head: nn.Module, matter: Matter, rows: Tensor) -> Tensor:
    how = matter.how
    mean, std = (torch.tensor(how[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    image = (matter.image[rows].permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.autocast("cpu", torch.bfloat16, enabled=how["precision"] == "bf16"):
        features = net.forward_head(net.forward_features(image), pre_logits=True)
        out: Tensor = head(features)
    return out.float()[:, 0]


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    done = loop(read(Path(sys.argv[1])))
    sys.stdout.write(json.dumps({"steps": done, "peak_mib": peak_mib()}))
