"""Two models on the same images: McNemar's test, in numbers and in words."""

import os
from dataclasses import dataclass

import numpy as np

from utils.core.errors import UserError
from utils.core.text import plural

LEVEL = 0.05  # a smaller p is called a difference


@dataclass(frozen=True)
class Comparison:
    """`first`, `second`: images that only this one answers right; `p`: McNemar's exact test; `words` says what follows."""

    first: int
    second: int
    both: int
    neither: int
    p: float
    words: str


def mcnemar(first, second):
    """The p-value of McNemar's exact test (1947) from how many images only the one and only the other answers right.

    Both are equally good where a coin decides which of the two is right: a binomial test with a half, on both sides.
    """
    from scipy.stats import binomtest  # not above: it takes a tenth of a second

    return float(binomtest(first, first + second, 0.5).pvalue) if first + second else 1.0


def compare(one, other):
    """The Comparison of two Runs. Raises UserError where they were not asked about the same images."""
    _check_same_images(one, other)
    right = one.correct, other.correct
    first, second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    both, neither = int((right[0] & right[1]).sum()), int((~right[0] & ~right[1]).sum())
    p = mcnemar(first, second)
    return Comparison(first, second, both, neither, p, _words(one, other, first, second, p))


def _check_same_images(one, other):
    names = [np.array(run.classes)[run.evaluation.labels.numpy()] for run in (one, other)]
    files = [run.split.names() if run.split.paths else None for run in (one, other)]
    same_data = os.path.realpath(one.data) == os.path.realpath(other.data)  # also of data sets with a name
    if not same_data or one.split.name != other.split.name:
        places = [f"{run.data} {run.split.name}" for run in (one, other)]
        raise UserError(f"the two models were asked about other images, {places[0]} and {places[1]}: they cannot be compared")
    if files[0] != files[1] or not np.array_equal(*names):
        raise UserError("the two models were asked about other images or labels: they cannot be compared")


def _words(one, other, first, second, p):
    if first == second == 0:
        return f"{one.name} and {other.name} are right on the same images: there is nothing to tell them apart by."
    found = (
        f"{plural(first, 'image')} only {one.name} answers right, {plural(second, 'image')} only {other.name}. "
        f"If both were equally good, so uneven a split would come about by chance with probability {probability(p)} "
        "(McNemar's exact test). "
    )
    if p >= LEVEL:
        return found + "So these images do not show that one is better than the other."
    return found + f"So {(one if first > second else other).name} is better on images like these, not by chance alone."


def probability(p):
    """`0.31`, or `under 0.0001`"""
    return "under 0.0001" if p < 1e-4 else f"{p:.2g}"
