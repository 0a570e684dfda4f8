"""On what a model is computed."""

from __future__ import annotations

import torch

from fairtune.config import Settings


def device_of(settings: Settings) -> torch.device:
    """Return the device that the settings name, else the accelerator, else the CPU."""
    if settings.device is not None:
        return torch.device(settings.device)
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found
