"""A network without its BatchNorms is the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from config.schema import Model
from engine.inference.folding import fold_norms
from engine.model.resnet import build_model


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("stem", ["standard", "small"])
def test_folding_changes_no_score(backbone: str, stem: str) -> None:
    torch.manual_seed(1)
    network = build_model(Model(backbone, "none", stem=stem, grey_input=False), 0.3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics as after some training
                module.running_mean += 0.1 * torch.randn_like(module.running_mean)
                module.running_var *= torch.empty_like(module.running_var).uniform_(0.8, 1.25)
    network.eval()
    folded = fold_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        plain, fast = network(images).softmax(1), folded(images).softmax(1)
    assert torch.allclose(plain, fast, atol=1e-5)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
