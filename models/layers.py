"""Layers that all families share: the two-layer head and the normalisation layers."""

import math

import torch
from torch import nn


def head(in_features, hidden, num_classes, dropout):
    """Linear, ReLU, Dropout, Linear: (B, in_features) -> (B, num_classes) logits. Its layers are keyed 0 and 3."""
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
    )


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018) that also answers on 1×1 maps at batch 1, where the functional form refuses."""

    def forward(self, x):
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


# Norm type -> function from a number of channels to the layer that replaces a BatchNorm2d; None keeps BatchNorm2d.
NORMS = {
    "BN": None,
    "GN": lambda channels: GroupNorm(math.gcd(32, channels), channels),  # 32 groups, or as many as divide the channels
    "LN": lambda channels: GroupNorm(1, channels),  # over (C, H, W) together
    "IN": lambda channels: GroupNorm(channels, channels),  # over (H, W), each channel alone
    "SyncBN": None,  # BatchNorm with statistics over all processes: build_model converts it
}


def replace_norms(model, make):
    """Replace every BatchNorm2d inside of `model` by `make(channels)`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, make(child.num_features))
