"""Builds a model by name: `build_model(name, num_classes)`."""

import contextlib
import functools
import importlib
import urllib.error
import warnings

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models import from_timm, from_torchvision
from models.layers import NORMS, replace_norms
from models.registry import MODELS, families, library_of, unknown_model
from utils.core.card import architecture
from utils.core.errors import UserError
from utils.core.machine import network_timeout

for family in families():
    importlib.import_module(f"models.{family}")  # registers its models

MIN_IMAGE_SIZE = 8  # px; the third pooling of FashionCNN leaves nothing of smaller images
LIBRARIES = {"torchvision": from_torchvision, "timm": from_timm}
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448)  # tried where a network does not take a size


class Ours:
    """The registered models, seen as the modules of LIBRARIES are."""

    @staticmethod
    def build(name, num_classes, image_size, weights=None):
        return MODELS[name](num_classes, image_size, weights=weights and weights.entry)

    @staticmethod
    def head_of(network):
        return network.fc if hasattr(network, "fc") else network.classifier

    weights_of = staticmethod(from_torchvision.weights_of)

    @staticmethod
    def default_size(name):
        return 224


def build_model(name, num_classes, image_size=224, norm_type="BN", pretrained=False):
    """A model with random weights or, when `pretrained`, with the ImageNet weights of its library below a fresh head.

    Takes float32 (B, 3, H, W) and gives logits (B, num_classes). Raises UserError for an unknown name, an image size or a
    norm type that the network does not take, and pretrained weights that do not exist, do not fit `norm_type` or cannot be
    downloaded.
    """
    check_model(name, image_size, norm_type, pretrained)
    name = architecture(name)
    source = _source(name)
    weights = source.weights_of(name) if pretrained else None
    try:
        with network_timeout():
            model = source.build(name, num_classes, image_size, weights)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        if weights is None:
            raise
        raise weights.not_loaded(error) from None
    return _with_norms(name, model, norm_type)


def check_model(name, image_size=224, norm_type="BN", pretrained=False):
    """Raise the UserErrors of `build_model` that can be known without building it."""
    name = architecture(name)
    source = _source(name)
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(f"{image_size} px is too small for {name}; give {MIN_IMAGE_SIZE} or more", option="image_size")
    if pretrained and NORMS[norm_type] is not None:
        raise UserError(
            f"{norm_type} cannot use pretrained weights, which have BatchNorm; give BN or SyncBN", option="norm_type"
        )
    if pretrained:
        source.weights_of(name)
    if source is not Ours:
        _check_library_model(name, image_size, norm_type)


def head_of(network, name):
    """The head of a network of this name: all that is trained when the trunk is frozen."""
    return _source(architecture(name)).head_of(network)


def freeze_trunk(network, name):
    """Leave only the head trainable. Raises UserError where it has no head with weights."""
    network.requires_grad_(False)
    head = head_of(network, name)
    if not any(True for _ in head.parameters()):
        raise UserError(f"{name} has no head that could be trained alone", option="freeze")
    head.requires_grad_(True)


def preprocessing(name, image_size=None, pretrained=False):
    """The fields of a new network's card that say how images are prepared: those of its weights, where it has any.

    `image_size` in px; None takes that of the weights or, without, of the network.
    """
    name = architecture(name)
    if pretrained:
        return _source(name).weights_of(name).preprocessing(image_size)
    return {"image_size": image_size or default_size(name)}


def default_size(name):
    """The side, in pixels, of the images that a network takes unless it is told otherwise."""
    name = architecture(name)
    return _source(name).default_size(name)


def build_outline(name, num_classes, image_size):
    """The network without memory for its weights: of shapes alone, on the meta device."""
    with _WithoutMemory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising nothing warns
        return _source(name).build(name, num_classes, image_size).to("meta")


def own_names(name, state):
    """The weights of a library's network with the names that they have here; see `from_torchvision.own_names`."""
    return from_torchvision.own_names(name, state) if library_of(name) == "torchvision" else state


class _WithoutMemory(TorchFunctionMode):
    """Makes weights on the meta device. What a network computes its widths with needs its numbers and is left alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}) | ({"device": "meta"} if function is torch.empty else {}))


def _source(name):
    """Who builds a model: `Ours` or a module of LIBRARIES. Raises UserError for an unknown name."""
    if name in MODELS:
        return Ours
    fault = unknown_model(name)
    if fault:
        raise UserError(f"{name} {fault}", option="model")
    return LIBRARIES[library_of(name)]


def _check_library_model(name, image_size, norm_type):
    """Raise UserError for an image size or a norm type that a library's network does not take."""
    fault, norms = _outline(name, image_size)
    if fault:
        sizes = sorted({*SIZES, default_size(name)}, key=lambda size: abs(size - image_size))
        works = next((size for size in sizes if not _outline(name, size)[0]), None)
        instead = f"; {works} px would do" if works else ""
        raise UserError(f"{name} does not take images of {image_size} px ({fault}){instead}", option="image_size")
    if norm_type != "BN" and norms != {nn.BatchNorm2d}:
        raise UserError(f"{name} has no plain BatchNorm layers that {norm_type} could replace", option="norm_type")


@functools.cache
def smallest_map(name, image_size):
    """Pixels of the smallest map that a norm of a network gets, from shapes alone; None where no norm can be replaced.

    Instance normalisation leaves nothing of a map of one pixel.
    """
    network, pixels = build_outline(architecture(name), 2, image_size).eval(), []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0].shape[2:].numel()))
    with contextlib.suppress(NotImplementedError), torch.device("meta"), torch.no_grad():
        network(torch.empty(2, 3, image_size, image_size))
    return min(pixels, default=None)


@functools.cache
def _outline(name, image_size):
    """What a library's network is like, from shapes alone: why it does not take images of this size, and its norms.

    The reason is None where it does, and where an operator has no rule for shapes, so that only a real batch can tell; the
    norms are the types of all kinds of BatchNorm layers in it.
    """
    norms = set()
    try:
        network = build_outline(name, 2, image_size).eval()
        norms = {type(layer) for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
        with torch.device("meta"), torch.no_grad():
            logits = network(torch.empty(2, 3, image_size, image_size))
        shape = tuple(getattr(logits, "shape", ()))
        return None if shape == (2, 2) else f"it gives {shape or type(logits).__name__} instead of logits", norms
    except NotImplementedError:
        return None, norms
    except Exception as error:  # whatever a network raises where its maps come out too small
        return (str(error).strip() or type(error).__name__).splitlines()[0][:120], norms


def _with_norms(name, model, norm_type):
    if NORMS[norm_type]:
        replace_norms(model, NORMS[norm_type])
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if norm_type == "SyncBN" else model
