"""What was understood of a data set, for people: splits, classes, groups, sizes."""

import contextlib

import numpy as np
from PIL import Image

from utils.core.text import plural, table
from utils.data.datasets import open_dataset
from utils.data.places import is_file, size_of, source_of
from utils.data.rows import listed

LOOKED_AT, SHOWN = 256, 40  # images of a split whose size is read, and classes that are counted


def print_data_card(name, data_dir, val_fraction, reading):
    """Print the card of what `open_dataset` takes."""
    print(data_card(open_dataset(name, data_dir, val_fraction, reading=reading)))


def data_card(dataset):
    """Lines of text on a Dataset as `open_dataset` returns it. Reads the headers of up to LOOKED_AT images a split."""
    parts = dataset.splits
    lines = [f"{dataset.name}: {plural(len(dataset.classes), 'class', 'classes')}", *dataset.notices, _counts(dataset)]
    for split in parts:
        lines.append(f"{split.name}: {plural(len(split), 'image')}, {_sizes(split)}")
        if split.groups is not None:
            sizes = np.unique(split.groups.astype(str), return_counts=True)[1]
            lines.append(f"  {plural(len(sizes), 'group')}, the largest of {plural(int(sizes.max()), 'image')}")
        if split.paths is not None:
            lines.append(f"  names such as {listed(split.names()[:3], 3)}")
    if not dataset.test:
        lines.append("no test split: the last figures of a run are those of val, which selects its best epoch")
    return "\n".join(lines)


def _counts(dataset):
    counts = {split.name: np.bincount(split.labels, minlength=len(dataset.classes)).tolist() for split in dataset.splits}
    rows = [[name, *(values[i] for values in counts.values())] for i, name in enumerate(dataset.classes[:SHOWN])]
    more = len(dataset.classes) - SHOWN
    rows += [[f"{more:,} more", *(sum(values[SHOWN:]) for values in counts.values())]] if more > 0 else []
    return table(["class", *counts], [*rows, ["all", *(sum(values) for values in counts.values())]])


def _sizes(split):
    if split.paths is None:
        height, width = split.arrays.shape[1:3]
        return f"{width}×{height} px, in memory"
    sizes, suffixes, encoded = [], set(), 0
    chosen = split.paths[:: max(1, -(-len(split) // LOOKED_AT))]
    for place in chosen:
        with contextlib.suppress(Exception):  # what does not decode is reported where it is read
            encoded += size_of(place)
            with Image.open(source_of(place)) as image:
                sizes.append(image.size)
                suffixes.add(image.format)
    if not sizes:
        return "none of which could be looked at"
    shorts = sorted(min(size) for size in sizes)
    kinds = f"{', '.join(sorted(suffixes))}{'' if is_file(chosen[0]) else f' in {chosen[0].file.name} and the like'}"
    span = f"short sides of {shorts[0]} to {shorts[-1]} px, half of them up to {shorts[len(shorts) // 2]}"
    return f"{kinds}, {span}; {encoded / len(chosen) / 1000:.1f} kB each ({plural(len(sizes), 'image')} looked at)"
