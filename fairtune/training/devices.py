"""The accelerators of this machine."""

from __future__ import annotations

import torch

from fairtune.config.settings import devices_named


def accelerators(device: torch.device) -> tuple[str, ...]:
    """Return what `CUDA_VISIBLE_DEVICES` calls each device that workers can be given.

    Args:
        device: What runs are made on here; workers on a CPU, or on a device of another kind than
            CUDA, cannot be told apart by it.
    """
    if device.type != "cuda":
        return ()
    return devices_named(torch.cuda.device_count())
