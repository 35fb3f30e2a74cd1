"""Images that do not decode, found before a training and left out of it."""

import numpy as np
from tqdm import tqdm

from utils.core.errors import UserError
from utils.core.processes import DIED, in_processes
from utils.core.text import plural
from utils.data.cache import CHUNK


def broken_images(split, show=False):
    """`[(index, sentence)]` of the images of a Split that do not decode, each decoded once; none for a split of arrays."""
    if split.paths is None:
        return []
    sentences = []
    with tqdm(total=len(split), desc=f"checking {split.name}", disable=not show, unit="img", leave=False) as bar:
        for some in in_processes(_sentences, split, CHUNK, lambda one: [f"{one.place(0)} {DIED}"]):
            bar.update(len(some))
            sentences += some
    return [(index, sentence) for index, sentence in enumerate(sentences) if sentence]


def without(split, indices, classes):
    """A Split without the images at `indices`. Raises UserError where nothing is left of it, or of a class in training."""
    kept = split.subset(np.setdiff1d(np.arange(len(split)), indices))
    needed = set(np.unique(split.labels)) if split.name == "train" else set()
    lost = [classes[label] for label in sorted(needed - set(kept.labels))]
    if lost or not len(kept):
        what = f"class {lost[0]!r}" if lost else "the split"
        raise UserError(
            f"none of the images of {what} in {split.name} can be decoded ({plural(len(indices), 'file')} left out)"
        )
    return kept


def _sentences(split):
    """For each image what is wrong with it, or None."""
    return [_sentence(split, index) for index in range(len(split))]


def _sentence(split, index):
    try:
        split.image(index)
    except UserError as error:
        return str(error)
    return None
