"""The networks of timm (PyTorch Image Models, Wightman 2019), with a linear head for the classes at hand."""

import json
import math
import os
import pathlib

import torch
from torch import nn

from models.registry import TIMM, library_of
from models.weights import Weights, no_weights
from utils.core.card import MOST_PIXELS, MOST_TEXT, is_plain
from utils.core.errors import UserError
from utils.core.registry import instead

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm calls weights beside their config.json


def build(name, num_classes, image_size, weights=None):
    """The network as timm builds it for so many classes and this image size; `weights` (Weights) fill all but its head."""
    import timm

    options = {"num_classes": num_classes, "pretrained": weights is not None}
    if weights:
        options["pretrained_cfg_overlay"] = {"file": _downloaded(weights), "custom_load": False}
    name = name.removeprefix(TIMM)
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError:  # networks that take images of any size have no such option
        return timm.create_model(name, **options)


def _downloaded(weights):
    """The path of the weights, which are downloaded where neither cache has them.

    Not by timm, which would try ten times, for most of a minute, where there is no network.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(weights.entry, "model.safetensors") if weights.entry else None
    if isinstance(cached, str):
        return cached
    if not os.path.exists(weights.path):
        os.makedirs(os.path.dirname(weights.path), exist_ok=True)
        torch.hub.download_url_to_file(weights.url, weights.path)
    return weights.path


def head_of(network):
    """The layers that answer: one, or two where the network was distilled by a second head."""
    head = network.get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple | list) else head


def weights_of(name):
    """The Weights of a network of timm. Raises UserError where there are none."""
    from huggingface_hub import hf_hub_url

    config = _config(name)
    if not config.has_weights:
        raise no_weights(name)
    repository = config.hf_hub_id
    url = hf_hub_url(repository, "model.safetensors") if repository else config.url
    image_size = config.input_size[-1]
    tagged = ".".join(filter(None, (config.architecture, config.tag)))
    return Weights(
        url=url,
        file=f"{tagged}.safetensors" if repository else os.path.basename(url),
        image_size=image_size,
        resize_size=math.floor(image_size / config.crop_pct),
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        entry=repository,
    )


def hub_facts(path):
    """(name, fields of a card that say how images are prepared, class names) of weights that timm saved for the hub.

    They stand in the `config.json` beside the file; the names are empty where it has none. None where there is no such file.
    """
    path = pathlib.Path(path)
    try:
        text = path.with_name("config.json").read_text(encoding="utf-8") if path.name in HUB_FILES else ""
        facts = json.loads(text) if len(text) <= MOST_TEXT else None
        name, config, labels = TIMM + facts["architecture"], facts["pretrained_cfg"], facts.get("label_names") or []
        size = config["input_size"][-1]
        images = {"image_size": size, "resize_size": math.floor(size / config["crop_pct"])}
        images |= {field: config[field] for field in ("interpolation", "mean", "std")}
        if isinstance(labels, dict):
            labels = [labels.get(str(number)) for number in range(len(labels))]
        known = library_of(name) == "timm" and is_plain([images, labels]) and 1 <= size <= MOST_PIXELS
        return (name, images, [] if None in labels else list(labels)) if known else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None  # no such file, or somebody else's


def default_size(name):
    """The side, in pixels, of the images that the network was designed for."""
    return _config(name).input_size[-1]


def _config(name):
    """What timm says of a network and its weights. Raises UserError for a tag of weights that it has none of."""
    import timm

    name = name.removeprefix(TIMM)
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        bare, _, tag = name.partition(".")
        known = sorted(full.partition(".")[2] for full in timm.list_models(f"{bare}.*", pretrained=True))
        raise UserError(f"{bare} has no weights tagged {tag!r}. {instead(tag, known)}", option="model") from None
