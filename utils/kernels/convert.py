"""Puts the faster CPU training layers into a network."""

import torch
from torch import nn

from utils.kernels.convolution import DepthwiseConv2d, GlobalAveragePool, SmallMapConv2d, WinogradConv2d


def ready_to_train(model, device):
    """`model` on `device` as training has it fastest: in channels_last, and on a CPU with gradients of `models.gradients`."""
    if device.type == "cpu":
        prefer_fast_gradients(model)
    return model.to(device, memory_format=torch.channels_last)


KINDS = {nn.Conv2d: (WinogradConv2d, SmallMapConv2d, DepthwiseConv2d), nn.AdaptiveAvgPool2d: (GlobalAveragePool,)}


def prefer_fast_gradients(model):
    """Make each layer and block of `model` the first kind that takes it, in place; parameters and their names stay."""
    for module in model.modules():
        kinds = KINDS.get(type(module), ())
        module.__class__ = next((kind for kind in kinds if kind.takes(module)), type(module))
