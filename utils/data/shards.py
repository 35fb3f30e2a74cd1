"""Shards: tar files in the layout of WebDataset, `0001.jpg` and `0001.cls` side by side, read where the images lie.

The headers of the tar files are read once and give an index of places. With it, shards are data like class folders: exact
shuffling, the same held-out images, a cache, and a resume at the step.
"""

import itertools
import json
import os
import pathlib
import re
import tarfile

from utils.core.errors import UserError
from utils.core.text import plural
from utils.core.walk import is_image_name
from utils.data.image_folder import SPLIT_OF, SPLITS
from utils.data.places import Piece
from utils.data.rows import Rows, dataset_of_rows, listed, relative_name

SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")  # key and extension of a member, as WebDataset splits them
RANGE = re.compile(r"(\d+)\.\.(\d+)")
LABEL = "label"  # key in the JSON of a sample
LARGEST_TEXT = 1 << 20  # bytes of a label


def expand(pattern):
    """The names that braces and wildcards stand for: `a-{00..02}.tar`, `{train,val}-0.tar`, `a-*.tar`, in their order."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        wild = any(c in pattern for c in "*?") and not pattern.startswith("pipe:")
        path = pathlib.Path(pattern)
        return [str(path.parent / p.name) for p in sorted(path.parent.glob(path.name))] if wild else [pattern]
    bounds = RANGE.fullmatch(found[1])
    if bounds:
        first, last = map(int, bounds.groups())
        words = [f"{number:0{len(bounds[1])}}" for number in range(first, last + 1)]
    else:
        words = found[1].split(",")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return list(itertools.chain.from_iterable(expand(f"{head}{word}{tail}") for word in words))


def is_shards(name):
    """Whether a name is that of tar files."""
    return name.lower().endswith(".tar")


def read_shards(pattern, reading, complete=True):
    """The Dataset in the tar files that a pattern names, each image with its class in `.cls`, in `.json`, or as its folder.

    The file names of the shards say their split (`train-0000.tar`); where those of `val` or `test` lie beside, they are taken
    too. `label_column` and `group_column` are extensions or keys of the JSON. Raises UserError for what is missing or damaged.
    """
    shards = [pathlib.Path(name) for name in expand(pattern)]
    rows = Rows()
    if not shards:
        raise UserError(f"{pattern}: no file matches", option="dataset")
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise UserError(f"{len(missing):,} of {plural(len(shards), 'shard')} are not there: {listed(missing, 3)}", "dataset")
    splits = {shard: split_of_shard(shard) or "train" for shard in [*shards, *_beside(shards, rows.notices)]}
    for shard, split in splits.items():
        _read_shard(shard, split, reading, rows)
    folder = shards[0].resolve().parent
    folder = folder.parent if folder.name.lower() in SPLIT_OF else folder
    return dataset_of_rows(folder.name, rows, complete, folder / "classes.txt")


def split_of_shard(shard):
    """The split that the name of a shard begins with, or that its folder has; None where there is none."""
    word = re.match(r"[A-Za-z]*", shard.name)[0].lower()
    return SPLIT_OF.get(word) or SPLIT_OF.get(shard.parent.name.lower())


def _beside(shards, notices):
    """The shards of the other splits, where the given ones are all of `train`."""
    if {split_of_shard(shard) for shard in shards} != {"train"} or SPLIT_OF.get(shards[0].parent.name.lower()):
        return []
    beside = [p for p in sorted(shards[0].parent.glob("*.tar")) if split_of_shard(p) in set(SPLITS) - {"train"}]
    if beside:
        notices.append(f"the shards beside are taken too: {listed([p.name for p in beside])}")
    return beside


def _read_shard(shard, split, reading, rows):
    for key, members in samples_of(shard):
        extension = image_among(members, f"{shard}: {key}")
        if extension is None:
            continue
        (start, size), name = members[extension], f"{key}.{extension}"
        label = label_of(shard, key, members, reading.label_column)
        group = None
        if reading.group_column is not None:
            group = _field(shard, key, members, reading.group_column, "group_column")
        rows.append(Piece(shard, start, size, name), relative_name(name), label, split, group)


def image_among(extensions, sample):
    """Which of the `extensions` of a sample is its image, or None. Raises UserError, naming the sample, where several may be.

    Of `0.png` and `0.mask.png` it is the first: what has a name of its own stands beside the image.
    """
    images = [extension for extension in extensions if is_image_name(f"x.{extension}")]
    plain = [extension for extension in images if "." not in extension] or images
    if len(plain) > 1:
        raise UserError(f"{sample} has several images: {', '.join(plain)}; a sample is one image", option="dataset")
    return plain[0] if plain else None


def samples_of(shard):
    """Yield (key, {extension: (start, size)}) for the samples of a tar file, from its headers alone.

    Raises UserError for a file that is no tar file, is compressed, or is cut off.
    """
    key, members, size = None, {}, os.path.getsize(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # which would grow with the file
                found = SAMPLE.fullmatch(member.name) if member.isreg() else None
                if not found:
                    continue
                if found[1] != key and members:
                    yield key, members
                    members = {}
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it is cut off")
                key, members = found[1], members | {found[2].lower(): (member.offset_data, member.size)}
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{shard} is not a readable tar file ({error}); it must not be compressed", option="dataset") from None
    if members:
        yield key, members


def label_of(shard, key, members, column=None):
    """The class of a sample, as text: in its `column`, else in `.cls`, in `.json` under "label", or the folder in its key."""
    if column is not None:
        return _field(shard, key, members, column, "label_column")
    if "cls" in members:
        return _text(shard, members["cls"])
    if "json" in members:
        return _field(shard, key, members, LABEL, "label_column")
    if "/" in key:
        return key.split("/")[-2]
    raise UserError(f"{shard}: {key} has no class: no .cls, no .json and no folder beside its image", option="label_column")


def _field(shard, key, members, column, option):
    """The text in the member with an extension, or under a key of the JSON."""
    if column in members:
        return _text(shard, members[column])
    try:
        value = json.loads(_text(shard, members["json"]))[column]
    except (KeyError, ValueError, TypeError):
        value = None
    if value is not None:
        return str(value)
    raise UserError(f"{shard}: {key} has no {column!r} beside {', '.join(members)}, nor in its JSON", option) from None


def _text(shard, member):
    start, size = member
    with open(shard, "rb") as file:
        file.seek(start)
        content = file.read(min(size, LARGEST_TEXT))
    return content.decode("utf-8", "replace").strip()
