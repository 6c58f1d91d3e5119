"""BatchNorm folded into the convolutions before it, for prediction."""

from __future__ import annotations

import copy
import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode without its 2-d BatchNorms; the same function.

    In a ResNet of torchvision every BatchNorm follows a convolution: `bnN` after `convN`, and
    within a Sequential (a shortcut, a stem) the module after it.
    """
    folded = copy.deepcopy(network)
    for module in folded.modules():
        children = list(module.named_children())
        for name, child in children:
            if isinstance(child, nn.Conv2d) and name.startswith("conv"):
                norm = getattr(module, f"bn{name.removeprefix('conv')}", None)
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(child, norm))
                    setattr(module, f"bn{name.removeprefix('conv')}", nn.Identity())
        if isinstance(module, nn.Sequential):
            for (name, first), (after, second) in itertools.pairwise(children):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(first, second))
                    setattr(module, after, nn.Identity())
    return folded
