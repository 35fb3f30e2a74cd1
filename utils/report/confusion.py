"""The confusion matrix of a run as a page shows it: whole where it fits, else its most confused pairs, with images."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from utils.report.pictures import Album

WHOLE = 40  # up to so many classes the whole matrix is shown
PAIRS = 25  # of a larger one, the most confused
WRONG, RIGHT = 6, 3  # most images of a cell: the surest mistakes, the least sure right answers
MOST = 320  # images in all, unless more cells than that have any: then one of each


@dataclass(frozen=True)
class Cell:
    """Images of class `row` answered `column`; `shown` are the indices of those that the page holds."""

    row: int
    column: int
    count: int
    level: int  # of shading, 0 to 10: it grows with the root of the share of the row
    shown: tuple

    @property
    def right(self):
        return self.row == self.column


@dataclass(frozen=True)
class Confusion:
    """`rows`: [[Cell]] or None; `pairs`: [Cell], the most confused first; `images`: {index: entry of the album}."""

    rows: list | None
    pairs: list
    images: dict


def confusion_of(run):
    """The Confusion of a Run."""
    matrix = np.asarray(run.result["confusion matrix"])
    members = _members(run)
    album = Album(run, max(MOST, len(members)))
    wrong = [(int(r), int(c)) for r, c in zip(*np.nonzero(matrix), strict=True) if r != c]
    wrong.sort(key=lambda place: -matrix[place])
    whole = len(run.classes) <= WHOLE
    wanted = [*wrong, *((i, i) for i in range(len(matrix)))] if whole else wrong[:PAIRS]
    shown = _shown(album, {place: members.get(place, []) for place in wanted})
    cells = {place: _cell(matrix, place, shown.get(place, ())) for place in np.ndindex(*matrix.shape)} if whole else {}
    return Confusion(
        [[cells[r, c] for c in range(len(matrix))] for r in range(len(matrix))] if whole else None,
        [_cell(matrix, place, shown[place]) for place in wrong[:PAIRS]],
        album.entries,
    )


def _members(run):
    """{(class, answer): indices of the images}: of mistakes the surest first, of right answers the least sure."""
    probability, answer = run.evaluation.logits.softmax(1).max(1)
    found = {}
    for index in probability.argsort(descending=True).tolist():
        found.setdefault((run.evaluation.labels[index].item(), answer[index].item()), []).append(index)
    return {place: indices[::-1] if place[0] == place[1] else indices for place, indices in found.items()}


def _shown(album, members):
    """{place: indices of the images that the page holds}: each cell gets its first one before another gets its second."""
    wanted = {place: members[place][: RIGHT if place[0] == place[1] else WRONG] for place in members}
    for index in itertools.chain.from_iterable(itertools.zip_longest(*wanted.values())):
        if index is not None:
            album.add(index)
    return {place: tuple(index for index in indices if index in album.entries) for place, indices in wanted.items()}


def _cell(matrix, place, shown):
    count, row = int(matrix[place]), int(matrix[place[0]].sum())
    level = max(1, round(10 * math.sqrt(count / row))) if count else 0
    return Cell(*map(int, place), count, level, shown)
