"""Networks without training whose answers differ by the image, and real images to ask them."""

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from models.build import build_model
from utils.core.card import ModelCard
from utils.core.images import to_rgb
from utils.core.integrity import ONNX_KEY
from utils.export.verify import reference_logits

QUICK = ("custom", "resnet18")
SETTLED = (*QUICK, "mobilenet_v3_small")  # deeper ones of random weights then magnify a grey level to another answer
DIGITS = [Image.fromarray((pixels * 15.9).astype(np.uint8)).convert("RGB") for pixels in load_digits().images[:64]]


@torch.no_grad()
def network_of(name, image_size=32, num_classes=10, settle_on=None):
    """Random weights; for the SETTLED with normalisation statistics of real images, so that answers differ by the image."""
    torch.manual_seed(0)
    card = ModelCard(name, [f"class {i}" for i in range(num_classes)], image_size)
    model = build_model(name, num_classes, image_size)
    if name not in SETTLED:
        return model.eval(), card
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average
    model.train()
    images = settle_on or DIGITS + mixed_images()
    reference_logits(model, card, images, len(images))  # in one batch, so that what is asked later is nothing new to it
    return model.eval(), card


def mixed_images():
    """20 digits enlarged to different sizes, in every mode, as the RGB that the graph is given."""
    modes = ("RGB", "L", "P", "RGBA", "CMYK", "YCbCr", "I", "F", "LA", "1")
    random = np.random.default_rng(1)
    images = []
    for image, mode in zip(DIGITS, modes * 2, strict=False):
        short, long = sorted(random.integers(40, 400, 2))
        side = (int(short), int(min(long, 1.5 * short)))[:: random.choice([-1, 1])]
        enlarged = image.resize(side, Image.Resampling.BICUBIC)
        images.append(to_rgb(enlarged.convert("L").convert(mode) if mode in ("I", "F", "LA", "1") else enlarged.convert(mode)))
    return images


def without_seal(graph):
    """A loaded ONNX model, to be changed and saved as a file that nobody has sealed."""
    kept = [prop for prop in graph.metadata_props if prop.key != ONNX_KEY.decode()]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    return graph
