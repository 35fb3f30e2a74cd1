"""Builds a registered model: `build_model(name, num_classes)`."""

import importlib
import os
import urllib.error

import torch
from torch import nn
from torchvision.models import get_model_weights

from models.layers import NORMS, replace_norms
from models.registry import MODELS, families
from utils.core.card import architecture
from utils.core.errors import UserError
from utils.core.machine import network_timeout

for family in families():
    importlib.import_module(f"models.{family}")  # registers its models

MIN_IMAGE_SIZE = 8  # px; the third pooling of FashionCNN leaves nothing of smaller images


def build_model(name, num_classes, image_size=224, norm_type="BN", pretrained=False):
    """A registered model with random weights, or with torchvision's ImageNet trunk when `pretrained`.

    Takes float32 (B, 3, H, W) and gives logits (B, num_classes). Raises UserError for an unknown name, an image size
    that is too small, and pretrained weights that do not exist, do not fit `norm_type` or cannot be downloaded.
    """
    check_model(name, image_size, norm_type, pretrained)
    name = architecture(name)
    weights = _imagenet_weights(name) if pretrained else None
    try:
        with network_timeout():
            model = MODELS[name](num_classes, image_size, weights=weights)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        if weights is None:
            raise
        raise UserError(_cannot_download(weights, error), option="pretrained") from None
    if NORMS[norm_type]:
        replace_norms(model, NORMS[norm_type])
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if norm_type == "SyncBN" else model


def check_model(name, image_size=224, norm_type="BN", pretrained=False):
    """Raise the UserErrors of `build_model` that can be known without building it."""
    name = architecture(name)
    MODELS[name]
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(f"{image_size} px is too small for {name}; give {MIN_IMAGE_SIZE} or more", option="image_size")
    if pretrained and NORMS[norm_type] is not None:
        raise UserError(
            f"{norm_type} cannot use pretrained weights, which have BatchNorm; give BN or SyncBN", option="norm_type"
        )
    if pretrained:
        _imagenet_weights(name)


def head_of(model):
    """The head of a registered model, `fc` or `classifier`: all that is trained when the trunk is frozen."""
    return model.fc if hasattr(model, "fc") else model.classifier


def freeze_trunk(model):
    """Leave only the head trainable."""
    model.requires_grad_(False)
    head_of(model).requires_grad_(True)


def _imagenet_weights(name):
    try:
        return get_model_weights(name).DEFAULT
    except ValueError:
        raise UserError(f"there are no ImageNet weights for {name}; train it without", option="pretrained") from None


def _cannot_download(weights, error):
    file = os.path.basename(weights.url)
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    return f"{weights.url} could not be downloaded ({error}); download it elsewhere and put it as {file} into {folder}"
