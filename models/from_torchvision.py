"""The classification networks of torchvision, with a linear head for the classes at hand."""

import os
import re

from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

from models.registry import TORCHVISION
from models.weights import Weights, no_weights

# By the beginning of a name: how its builder is told the image size.
SIZED = {"vit_": lambda size: {"image_size": size}, "maxvit_": lambda size: {"input_size": (size, size)}}
AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}  # heads that torchvision trains beside the last
OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.")  # names of layers until torchvision 0.2: `norm.1.`


def build(name, num_classes, image_size, weights=None):
    """The network with a new last layer; `weights` (Weights) fill the others.

    Auxiliary classifiers are left out: with BatchNorm they serve as a regulariser only (Szegedy et al. 2015, section 4), and
    a network then answers alike in training and in evaluation. Where GoogLeNet and Inception of torchvision would change
    the normalisation of their images, the card says it instead: see `weights_of`.
    """
    name = name.removeprefix(TORCHVISION)
    sized = next((size for start, size in SIZED.items() if name.startswith(start)), lambda size: {})
    if weights is None:
        initialised = {"init_weights": True} if name in AUXILIARY else {}
        network = get_model(name, weights=None, **initialised, **sized(image_size))
    else:
        network = get_model(name, weights=weights.entry)
        if sized(0) and image_size != weights.image_size:
            network = _resized(name, network, image_size, sized)
    if name in AUXILIARY:
        network.aux_logits = network.transform_input = False
        for head in AUXILIARY[name]:
            setattr(network, head, None)
    _replace_last_layer(network, num_classes)
    return network


def own_names(name, state):
    """A state_dict that torchvision's network wrote, with the names that it has here.

    The auxiliary heads are left out, and what older versions called otherwise is renamed, as torchvision does on loading.
    """
    unused = AUXILIARY.get(name.removeprefix(TORCHVISION), ())
    state = {key: value for key, value in state.items() if key.partition(".")[0] not in unused}
    return {OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()} if "densenet" in name else state


def _resized(name, network, image_size, sized):
    """The pretrained network for images of another size, its position embeddings interpolated."""
    state = network.state_dict()
    if hasattr(network, "patch_size"):
        state = interpolate_embeddings(image_size, network.patch_size, state)
    other = get_model(name, weights=None, **sized(image_size))
    other.load_state_dict(state)
    return other


def _replace_last_layer(network, num_classes):
    name, old = _last_layer(network)
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, bias=bias)
    network.set_submodule(name, new)


def _last_layer(network):
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1]


def head_of(network):
    """The layer that answers: the last one."""
    return _last_layer(network)[1]


def weights_of(name):
    """The Weights of a torchvision network. Raises UserError where there are none."""
    name = name.removeprefix(TORCHVISION)
    try:
        entry = get_model_weights(name).DEFAULT
    except ValueError:
        raise no_weights(name) from None
    images = entry.transforms()
    mean, std = tuple(images.mean), tuple(images.std)
    if name in AUXILIARY:  # their weights are from a library that scales pixels to -1 to 1
        mean = std = (0.5, 0.5, 0.5)
    return Weights(
        url=entry.url,
        file=os.path.basename(entry.url),
        image_size=images.crop_size[0],
        resize_size=images.resize_size[0],
        interpolation=images.interpolation.value,
        mean=mean,
        std=std,
        entry=entry,
    )


def default_size(name):
    """The side, in pixels, of the images that the network was designed for."""
    return weights_of(name).image_size
