"""Which images a script measures, calibrates or verifies on."""

import numpy as np
from PIL import Image

from utils.core.errors import UserError
from utils.data.datasets import dataset_of, is_present, open_dataset


def verification_images(card, count, dataset=None, data_dir=None, sizes=False):
    """`count` real Pillow RGB images to compare on, and words for what they are.

    They come evenly from the validation split of the data set that is named or that the card names (downloads are left
    to an explicit `dataset`), else from scikit-learn's digits, else they are generated. With `sizes` a fourth of them is
    generated all the same, so that portrait, landscape, large and small images are among them.
    """
    generated = count // 4 if sizes else 0
    split, words = _validation_split(card, dataset, data_dir)
    if split is None:
        return generated_images(count), f"{count} generated images"
    chosen = np.linspace(0, len(split) - 1, min(count - generated, len(split))).astype(int)
    images = [split.image(int(index)) for index in chosen] + generated_images(generated)
    return images, f"{len(chosen)} images of {words}" + (f" and {generated} generated ones of many sizes" if generated else "")


def _validation_split(card, dataset, data_dir):
    name = dataset or card.training.get("dataset")
    folder = data_dir or card.training.get("data_dir", "data/")
    if dataset or (name and is_present(name, folder)):
        try:
            opened = dataset_of(card, dataset, data_dir)
        except UserError:
            if dataset:
                raise
        else:
            split = opened.val or opened.held_out or opened.train
            return split, f"{opened.name} ({split.name})"
    try:
        return open_dataset("digits").val, "digits (val)"
    except ImportError:
        return None, None


def generated_images(count, seed=0):
    """Photo-like Pillow RGB images: smooth colour, some edges, grain; sizes from 40 to 640 pixels, upright and across."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        width, height = random.integers(40, 640, 2)
        coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)).astype(np.int16)
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        pixels[top : top + height // 3, left : left + width // 3] += random.integers(-120, 120, 3, dtype=np.int16)
        pixels += random.integers(-12, 13, pixels.shape, dtype=np.int16)
        images.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return images


def calibration_images(split, count, seed=0):
    """`count` Pillow images of a Split, all classes alike as far as they go, the same ones for the same `seed`."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(split))
    place = np.empty(len(split), dtype=np.int64)  # of each image among those of its class
    for label in np.unique(split.labels):
        members = shuffled[split.labels[shuffled] == label]
        place[members] = np.arange(len(members))
    chosen = shuffled[np.argsort(place[shuffled], kind="stable")][:count]
    return [split.image(int(index)) for index in chosen]
