"""Builds a registered model: `build_model(name, num_classes)`."""

import importlib
import os
import pkgutil
import socket
import urllib.error

import torch
from torch import nn
from torchvision.models import get_model_weights

import models
from models.layers import NORMS, replace_norms
from models.registry import MODELS
from utils.core.errors import UserError

SHARED = {"build", "checkpoint", "half", "layers", "registry"}  # what is no family
for file in pkgutil.iter_modules(models.__path__):
    if file.name not in SHARED:
        importlib.import_module(f"models.{file.name}")  # registers its models

MIN_IMAGE_SIZE = 8  # px; under it FashionCNN's third pooling has nothing left


def build_model(name, num_classes, image_size=224, norm_type="BN", pretrained=False):
    """A registered model with random weights, or with torchvision's ImageNet trunk when `pretrained`.

    Takes float32 (B, 3, H, W) and gives logits (B, num_classes). Raises UserError for an unknown name, an image size
    that is too small, and pretrained weights that do not exist, do not fit `norm_type` or cannot be had.
    """
    check_model(name, image_size, norm_type, pretrained)
    weights = _imagenet_weights(name) if pretrained else None
    try:
        model = MODELS[name](num_classes, image_size, weights=weights)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        if weights is None:
            raise
        raise UserError(_cannot_load(weights, error)) from None
    if NORMS[norm_type]:
        replace_norms(model, NORMS[norm_type])
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if norm_type == "SyncBN" else model


def check_model(name, image_size=224, norm_type="BN", pretrained=False):
    """Raise the UserErrors of `build_model` that can be known without building it."""
    MODELS[name]
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(f"--image_size {image_size} is too small for {name}; give {MIN_IMAGE_SIZE} or more")
    if pretrained and NORMS[norm_type] is not None:
        raise UserError(f"--pretrained weights come with BatchNorm; --norm_type {norm_type} cannot use them: give BN or SyncBN")
    if pretrained:
        _imagenet_weights(name)


def head_of(model):
    """The part of a registered model that is trained when the trunk is frozen: `fc` or `classifier`."""
    return model.fc if hasattr(model, "fc") else model.classifier


def freeze_trunk(model):
    """Leave only the head trainable."""
    model.requires_grad_(False)
    head_of(model).requires_grad_(True)


def _imagenet_weights(name):
    try:
        weights = get_model_weights(name).DEFAULT
    except ValueError:
        raise UserError(f"--pretrained: there are no ImageNet weights for {name}; leave the flag out") from None
    socket.setdefaulttimeout(10)  # seconds; without it a dead network hangs for minutes
    return weights


def _cannot_load(weights, error):
    file = os.path.basename(weights.url)
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    return f"--pretrained: {weights.url} could not be had ({error}); fetch it elsewhere and put it as {file} into {folder}"
