"""Training images as the network saw them: a few of each, augmented as in the run."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from utils.core.pages import data_address
from utils.data.augment import erase, mix
from utils.data.cache import open_store
from utils.data.loader import drawing_from
from utils.data.registry import AUGMENTATIONS
from utils.data.splits import evenly
from utils.data.stores import TransformStore
from utils.report.pictures import SIDE

IMAGES, DRAWS = 4, 4  # different images, and how often each is augmented


@dataclass(frozen=True)
class Samples:
    """`rows`: for each image a list of data addresses, first without augmentation; `words`: what was done to them."""

    rows: list
    words: str


def samples_of(split, card, flags):
    """Samples of a training Split, augmented as the `flags` of its run say: a dict as history.json holds it.

    None where nothing was augmented. Raises LookupError and TypeError for flags that are not those of a run.
    """
    name, erasing = flags["augment"], float(flags["random_erasing"])
    mixup, cutmix = float(flags["mixup"]), float(flags["cutmix"])
    if name == "none" and not (erasing or mixup or cutmix):
        return None
    chosen = split.subset(evenly(len(split), IMAGES))
    geometry = (card.image_size, card.mean, card.std, card.resize_size, card.interpolation)
    augment, plain = AUGMENTATIONS[name](*geometry), AUGMENTATIONS["none"](*geometry)
    store = open_store(chosen, card.resize_size, "off", show=False, interpolation=card.interpolation)
    random = np.random.default_rng(0)
    indices, labels = torch.arange(len(chosen)), torch.from_numpy(chosen.labels)
    source = TransformStore(chosen, augment.per_image) if augment.per_image else store
    columns = [plain(store.gather(indices), None)]
    for number in range(DRAWS):
        with drawing_from([number]):
            images = augment(source.gather(indices), random)
        if mixup or cutmix:
            images = mix(images, labels, card.num_classes, random, mixup, cutmix)[0]
        columns.append(erase(images, random, erasing) if erasing else images)
    rows = [[_address(column[i], card) for column in columns] for i in range(len(chosen))]
    parts = {f"augmentation {name}": name != "none", "mixup": mixup, "CutMix": cutmix, "random erasing": erasing}
    return Samples(rows, ", ".join(words for words, used in parts.items() if used))


def _address(image, card):
    """A normalised image, float (3, S, S), as a data address."""
    pixels = image.float().permute(1, 2, 0).numpy() * np.float32(card.std) + np.float32(card.mean)
    return data_address(Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8)), SIDE)
