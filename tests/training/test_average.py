"""The average of weights against timm's."""

from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from fairtune.training.average import Average


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_is_timms_with_its_warm_up(decay: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    theirs = ModelEmaV3(model, decay=decay, use_warmup=True)
    ours = Average(dict(model.named_parameters()), decay)
    for step in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        theirs.update(model, step=step)
        ours.update()
        for name, value in theirs.module.named_parameters():
            assert torch.allclose(ours.held[name], value, atol=1e-6)


def test_the_averaged_weights_are_lent_and_given_back() -> None:
    model = nn.Linear(3, 2)
    average = Average(dict(model.named_parameters()), 0.9)
    average.update()
    with torch.no_grad():
        model.weight.add_(1)
    own, held = model.weight.clone(), average.held["weight"].clone()
    place = model.weight.data_ptr()
    with average.applied():
        assert torch.equal(model.weight, held)
        assert not torch.equal(model.weight, own)
    assert torch.equal(model.weight, own)
    assert torch.equal(average.held["weight"], held)
    assert model.weight.data_ptr() == place


def test_an_error_meanwhile_gives_the_weights_back() -> None:
    model = nn.Linear(3, 2)
    average = Average(dict(model.named_parameters()), 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    own = model.weight.clone()
    with pytest.raises(ValueError, match="broken"), average.applied():
        raise ValueError("broken")
    assert torch.equal(model.weight, own)


def test_the_first_weights_are_forgotten() -> None:
    parameter = nn.Parameter(torch.tensor([1e6]))
    average = Average({"p": parameter}, 0.999)
    parameter.data = torch.tensor([2.0])
    average.update()
    assert average.held["p"].item() == 2.0
