"""The kinds of data that a path can name, one reader for each: the first that takes the name reads it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.core.errors import UserError
from utils.core.text import plural
from utils.data.hugging_face import is_hugging_face, is_local, read_hugging_face
from utils.data.image_folder import image_folder
from utils.data.reading import Reading
from utils.data.rows import listed
from utils.data.shards import expand, is_shards, read_shards
from utils.data.tables import read_list, read_table

COLUMNS = ("image_column", "label_column", "split_column", "group_column")
HOW = "a folder that holds train/<class>/…, a table (.csv, .tsv, .parquet), a list (.txt), shards (.tar) or hf:NAME"


@dataclass(frozen=True)
class Reader:
    """`takes(name)` says whether a name is of this kind, `read(name, reading, complete)` returns the Dataset."""

    what: str
    takes: Callable
    read: Callable
    columns: tuple = ()  # the fields of Reading that it has
    is_here: Callable = os.path.exists  # whether it needs no download


def _ends_in(*suffixes):
    return lambda name: name.lower().endswith(suffixes)


def _any_shard(name):
    return name.startswith("pipe:") or any(map(os.path.exists, expand(name)))


READERS = [
    Reader("a Hugging Face data set", is_hugging_face, read_hugging_face, (*COLUMNS[:2], COLUMNS[3]), is_local),
    Reader("an image folder", os.path.isdir, lambda name, reading, complete: image_folder(name, complete)),
    Reader("a table", _ends_in(".csv", ".tsv", ".parquet"), read_table, COLUMNS),
    Reader("a list", _ends_in(".txt", ".lst"), read_list),
    Reader("a set of shards", is_shards, read_shards, ("label_column", "group_column"), _any_shard),
]


def reader_of(name):
    """The Reader that takes a name, or None."""
    return next((reader for reader in READERS if reader.takes(str(name))), None)


def read_dataset(name, reading=None, complete=True):
    """The Dataset that a path names, with its groups: see `Reading`. Images of one group never stand in two splits.

    Raises UserError for a name that no reader takes, and for everything that is wrong with the data.
    """
    name, reading, reader = str(name), reading or Reading(), reader_of(name)
    if reader is None:
        raise UserError(f"{name} is of no known kind; give {HOW}", option="dataset")
    for field in COLUMNS:
        if getattr(reading, field) is not None and field not in reader.columns:
            raise UserError(f"{reader.what} has no such column: leave it out for {name}", option=field)
    dataset = reader.read(name, reading, complete)
    if reading.group_regex is not None:
        if reading.group_column is not None:
            raise UserError("a column names the groups already; leave the regular expression out", option="group_regex")
        group_by(dataset, reading.group_regex)
    _check_groups(dataset)
    return dataset


def group_by(dataset, pattern):
    """Set the groups of all images: what `pattern` finds in their names, or its first group. Raises UserError without one."""
    try:
        pattern = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression ({error})", option="group_regex") from None
    for split in dataset.splits:
        found = [pattern.search(name) for name in split.names()]
        without = [name for name, match in zip(split.names(), found, strict=True) if not match]
        if without:
            raise UserError(f"{len(without):,} of {len(split):,} {split.name} images have no match: {listed(without, 3)}",
                            option="group_regex")  # fmt: skip
        split.groups = np.array([match[min(1, pattern.groups)] or "" for match in found], dtype=object)


def _check_groups(dataset):
    places = [(group, split.name) for split in dataset.splits for group in dict.fromkeys(_listed_groups(split))]
    first = dict(reversed(places))
    faults = [f"{group} ({first[group]} and {split})" for group, split in places if first[group] != split]
    if faults:
        count = plural(len(faults), "group")
        raise UserError(f"{dataset.name} has {count} in two splits: {listed(faults, 3)}", option="dataset")


def _listed_groups(split):
    return () if split.groups is None else split.groups
