"""Images that do not decode, found before a training and left out of it."""

import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tqdm import tqdm

from utils.core.errors import UserError
from utils.core.images import load_image
from utils.core.machine import cores
from utils.core.text import plural
from utils.data.cache import CHUNK, _fork, _ignore_interrupts

AT_A_TIME = 1 << 16  # files that are handed to the processes at once


def broken_images(split, show=False):
    """`[(index, sentence)]` of the images of a Split that do not decode, each decoded once; none for a split of arrays."""
    found, paths = [], split.paths or []
    with (
        ProcessPoolExecutor(cores(), mp_context=_fork(), initializer=_ignore_interrupts) as pool,
        tqdm(total=len(paths), desc=f"checking {split.name}", disable=not show, unit="img", leave=False) as bar,
    ):
        for first in range(0, len(paths), AT_A_TIME):
            faults = pool.map(_fault, map(os.fspath, paths[first : first + AT_A_TIME]), chunksize=CHUNK)
            for index, fault in enumerate(faults, first):
                bar.update()
                found += [(index, fault)] if fault else []
    return found


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


def _fault(path):
    try:
        load_image(path)
    except UserError as error:
        return str(error)
    return None
