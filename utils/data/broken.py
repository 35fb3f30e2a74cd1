"""Images that do not decode, found before a training and left out of it."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tqdm import tqdm

from utils.core.errors import UserError
from utils.core.machine import cores
from utils.core.processes import begin_worker
from utils.core.text import plural
from utils.data.cache import CHUNK, _fork

AT_A_TIME = 256  # chunks that are handed to the processes at once


def broken_images(split, show=False):
    """`[(index, sentence)]` of the images of a Split that do not decode, each decoded once; none for a split of arrays."""
    count = 0 if split.paths is None else len(split)
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    found = []
    with (
        ProcessPoolExecutor(cores(), mp_context=_fork(), initializer=begin_worker) as pool,
        tqdm(total=count, desc=f"checking {split.name}", disable=not show, unit="img", leave=False) as bar,
    ):
        for first in range(0, len(chunks), AT_A_TIME):
            some = chunks[first : first + AT_A_TIME]
            for chunk, faults in zip(some, pool.map(_faults, [split.subset(chunk) for chunk in some]), strict=True):
                bar.update(len(chunk))
                found += [(chunk[number], sentence) for number, sentence in faults]
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


def _faults(split):
    """`[(index, sentence)]`"""
    found = []
    for index in range(len(split)):
        try:
            split.image(index)
        except UserError as error:
            found.append((index, str(error)))
    return found
