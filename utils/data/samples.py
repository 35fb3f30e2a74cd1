"""Which images a script measures, compares, calibrates and times on: the one place that decides.

A script that reports a score asks `open_split`. One that can also do without scores asks `find_dataset`. One that only needs
some real images asks `nearby_split`, or `example_images` for a few of them.
"""

import contextlib
import os

import numpy as np
from PIL import Image

from utils.core.errors import UserError
from utils.data.datasets import dataset_of, is_own, is_present, match_classes, open_dataset, protect_images
from utils.data.reading import Reading
from utils.data.splits import evenly, images_digest


def open_split(card, dataset=None, data_dir=None, split=None, changes=None):
    """`(split, data set)` to report a score on: of the data set in the card unless told otherwise, test before val.

    Any data will do, also with some of the classes only. Data that the model was not trained on are measured whole where they
    have no test or val split: nothing of them is held out. The notices of the data set say what was left out. `changes` has
    what of the card's facts shall be otherwise, as `val_fraction` and `reading` (Reading.given). Raises UserError where there
    is no such data set or split, and where the classes are not those of the card.
    """
    changes = changes or {}
    _must_divide_as_before(card, dataset, changes)
    if dataset and not is_own(card, dataset):
        opened = _open_whole(card, dataset, data_dir, changes)
    else:
        own = card.replace(training=card.training | changes)
        opened = dataset_of(own, dataset, data_dir, some=True)
        card.classes, card.invented_classes = own.classes, own.invented_classes  # of a file that does not name them
    chosen = getattr(opened, split) if split else opened.reported
    if chosen is None:
        there = ", ".join(part.name for part in (opened.train, opened.val, opened.test) if part)
        raise UserError(f"{opened.name} has no {split or 'val or test'} split; there are: {there}", option="split")
    return chosen, opened


def _open_whole(card, dataset, data_dir, changes):
    reading = Reading(**changes.get("reading", {}))
    opened = open_dataset(dataset, data_dir or "data/", changes.get("val_fraction", 0), complete=False, reading=reading)
    known = "images" in card.training and card.training["images"] == images_digest(opened)
    if known:  # the folder has moved; where a table of the same images lacks the groups, they cannot be divided as before
        _must_divide_as_before(card, None, changes)
        with contextlib.suppress(UserError):
            moved = card.replace(training=card.training | changes | {"dataset": dataset})
            return dataset_of(moved, dataset, data_dir, some=True)
    match_classes(opened, card, some=True)
    protect_images(opened)
    if opened.train and not (opened.val or opened.test):
        opened.train.name = "all"
        own = card.training.get("dataset")
        if known or (own and os.path.basename(os.path.normpath(dataset)) == os.path.basename(os.path.normpath(own))):
            holds = "holds the images" if known else "is called like the data"
            opened.notices.append(f"{dataset} {holds} that the model was trained on: images that it has seen count too")
    return opened


def _must_divide_as_before(card, dataset, changes):
    """Raise UserError where `changes` would hold out other images of its own data than the training of `card` did."""
    if not card.training or (dataset and not is_own(card, dataset)):
        return
    fraction, was = changes.get("val_fraction"), card.training.get("val_fraction")
    if fraction is not None and was is not None and fraction != was:
        raise UserError(
            f"{was:g} of the images was held out of training; with {fraction:g}, images that the model has seen would count",
            option="val_fraction",
        )
    reading, before = changes.get("reading") or {}, card.training.get("reading", {})
    for name in {"group_column", "group_regex"} & reading.keys():
        if reading[name] != before.get(name):
            raise UserError(
                "the training divided the images otherwise, so images that the model has seen would count", option=name
            )


def find_dataset(card, dataset=None, data_dir=None, required=False):
    """`(data set, None)`, or `(None, why not)` where the model's own is not here and neither argument asks for one."""
    try:
        return dataset_of(card, dataset, data_dir), None
    except UserError as error:
        if dataset or required:
            raise
        return None, str(error)


def nearby_split(card, dataset=None, data_dir=None, prefer=("test", "val", "train")):
    """`(split, data set)` of real images: those asked for, else the model's own where that takes no download, else digits.

    Takes the first split of `prefer` that there is. `(None, None)` where even digits are missing, as scikit-learn is.
    Raises UserError where what was asked for cannot be had.
    """
    opened = _nearby_dataset(card, dataset, data_dir)
    if opened is None:
        return None, None
    return next(part for part in (getattr(opened, name) for name in prefer) if part), opened


def _nearby_dataset(card, dataset, data_dir):
    own = card.training.get("dataset")
    if dataset and not card.training:
        return open_dataset(dataset, data_dir or "data/")  # any images do for a network that was not trained on others
    if dataset or (own and data_dir):
        return dataset_of(card, dataset, data_dir)
    if own and is_present(own, card.training.get("data_dir", "data/")):
        with contextlib.suppress(UserError):  # what lies there is no longer what the model was trained on
            return dataset_of(card)
    return open_dataset("digits") if is_present("digits") else None


def example_images(card, count, dataset=None, data_dir=None, sizes=False):
    """`count` Pillow RGB images to compare and time on, and words for what they are.

    They come evenly from the validation split of `nearby_split`; where there is none they are generated. With `sizes` a
    fourth of them is generated all the same, so that portrait, landscape, large and small images are among them.
    """
    generated = count // 4 if sizes else 0
    split, opened = nearby_split(card, dataset, data_dir, prefer=("val", "test", "train"))
    if split is None:
        return generated_images(count), f"{count} generated images"
    images = spread(split, count - generated) + generated_images(generated)
    more = f" and {generated} generated ones of many sizes" if generated else ""
    return images, f"{min(count - generated, len(split))} images of {opened.name} ({split.name}){more}"


def spread(split, count):
    """At most `count` Pillow RGB images that lie evenly over a Split."""
    return [split.image(int(index)) for index in evenly(len(split), count)]


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
