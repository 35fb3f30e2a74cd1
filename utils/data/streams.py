"""Shards that are read from their start to their end and never indexed: for what no disk or memory holds.

The library webdataset shuffles the shards, divides them among processes and loader workers, reads the tar files and shuffles
their samples. An epoch has a stated number of images. Validation and test images come from an index (utils.data.shards).
"""

import io
import itertools
import json
import pathlib
import re
import tarfile
from dataclasses import dataclass

import numpy as np
import torch

from utils.core.card import read_classes
from utils.core.errors import UserError
from utils.core.images import load_image
from utils.core.text import plural
from utils.data.loader import as_it_is, own_group
from utils.data.places import Piece, content_of
from utils.data.rows import are_numbers, listed
from utils.data.shards import LABEL, expand, image_among, read_shards, split_of_shard
from utils.data.splits import Dataset, Split
from utils.data.stores import PackedStore, at_most
from utils.runtime import distributed
from utils.runtime.device import send

PIPE, CLASSES = "pipe:", "classes.txt"
BUFFER = 1000  # encoded images that a worker shuffles at a time
META = re.compile(r"__[^/]*__($|/)")  # members that webdataset passes over
CHUNK = 32  # decoded images that a worker hands over at a time


@dataclass(frozen=True)
class Pipe:
    """A shard that a command writes: nothing is known of it before."""

    command: str
    size: int = 0

    def __str__(self):
        return self.command

    def content(self):
        return io.BytesIO()


class StreamSplit(Split):
    """The training images of shards that are streamed: `images` an epoch, of which neither places nor labels are known."""

    def __init__(self, shards, images, labels, label_column=None):
        """`labels` is {what a shard calls a class: its number}."""
        places = [Pipe(shard) if shard.startswith(PIPE) else pathlib.Path(shard) for shard in shards]
        super().__init__("train", np.empty(0, np.int64), paths=places, keys=list(shards))
        self.images, self.numbers, self.label_column = images, labels, label_column

    def __len__(self):
        return self.images


def open_stream(pattern, images, reading, data_dir="data/"):
    """A Dataset whose training split is a StreamSplit of `images` an epoch; shards of `val` and `test` beside are indexed.

    The classes stand in `classes.txt` beside the shards, or in `data_dir`. Raises UserError without the library, the classes,
    or shards.
    """
    try:
        import webdataset  # noqa: F401
    except ImportError:
        raise UserError("streaming needs the package webdataset (pip install webdataset)", option="stream_images") from None
    shards = [name for name in expand(pattern) if split_of_shard(pathlib.Path(name)) in (None, "train")]
    if pathlib.Path(pattern).is_dir():
        raise UserError(
            f"{pattern} is a folder, not shards (.tar) that could be streamed; leave it out", option="stream_images"
        )
    missing = [name for name in shards if not name.startswith(PIPE) and not pathlib.Path(name).is_file()]
    if missing or not shards:
        raise UserError(f"{missing[0] if missing else pattern} is not there", option="dataset")
    folder = pathlib.Path(shards[0].removeprefix(PIPE).split()[-1]).resolve().parent
    file = next(
        (place / CLASSES for place in (folder, pathlib.Path(data_dir)) if (place / CLASSES).is_file()), folder / CLASSES
    )
    lines = read_classes(file)
    classes = sorted(lines)
    numbers = {name: number for number, name in enumerate(classes)}
    if not are_numbers(lines):
        numbers = {str(place): numbers[name] for place, name in enumerate(lines)} | numbers
    notice = f"{plural(len(shards), 'shard')} streamed, {images:,} images an epoch; {file} names the classes"
    dataset = Dataset(folder.name, classes, StreamSplit(shards, images, numbers, reading.label_column), notices=[notice])
    beside = [path.name for path in sorted(folder.glob("*.tar")) if split_of_shard(path) in ("val", "test")]
    if beside:
        held = read_shards(f"{folder}/{{{','.join(beside)}}}", reading, complete=False)
        unknown = sorted(set(held.classes).difference(classes))
        if unknown:
            raise UserError(f"{file} lacks classes of the shards: {listed(unknown)}", option="dataset")
        for split in held.splits:
            split.labels = np.array([classes.index(held.classes[label]) for label in split.labels], dtype=np.int64)
        dataset.val, dataset.test = held.val, held.test
    return dataset


@dataclass
class Position:
    """How far a process has come in the shards of an epoch; what was handed out up to there need not be decoded again."""

    images: int = 0  # handed out
    round: int = 0  # how often its shards were read to their end before
    chunks: list | None = None  # in this round, how many came from each loader worker
    last: int = 0  # the worker of the last chunk
    left: int = 0  # images of that chunk that were not handed out


def stream_batches(split, how, sizes, device, workers, seed, position=None):
    """Yield (Pixels, labels) on `device`, as many images as each of `sizes` says, from this process's shards.

    `how` is (short side in px, interpolation). One seed, a whole number, and one number of workers give one order. Where the
    shards of this process hold fewer images than it needs, they are read once more. A Position moves on with every batch; from
    one that a stream of the same order left, the next images come, and those before are not decoded.
    """
    workers = _workers(split, workers)
    position = position or Position()
    arriving = _arriving(split, how, workers, seed, position)
    waiting, labels = [], []
    for size in sizes:
        while len(waiting) < size:
            images, more = next(arriving)
            waiting += images
            labels += more
        batch, waiting = waiting[:size], waiting[size:]
        shapes = np.array([image.shape[:2] for image in batch], dtype=np.int64)
        flat = torch.from_numpy(np.concatenate([image.ravel() for image in batch]))
        of_batch, labels = torch.tensor(labels[:size]), labels[size:]
        position.images, position.left = position.images + size, len(waiting)
        yield PackedStore(flat, shapes).gather(torch.arange(size)).to(device), send(of_batch, device)


def goes_on(position, split, workers, images):
    """Whether a Position is that of so many images handed out, in the order of a stream with so many workers."""
    return position is not None and position.images == images and len(position.chunks or ()) == max(1, _workers(split, workers))


def _arriving(split, how, workers, seed, position):
    """Yield the images and labels that come after `position`, chunk by chunk, and count the chunks there."""
    left, taken = position.left, position.chunks or [0] * max(1, workers)
    taken = [count - (left > 0 and worker == position.last) for worker, count in enumerate(taken)]
    while True:
        position.chunks = list(taken)
        for worker, images, labels in _chunks(split, how, workers, seed + 7919 * position.round, taken):
            position.chunks[worker] += 1
            position.last = worker
            yield images[-left:], labels[-left:]  # all of them where none is left from before
            left = 0
        position.round, taken = position.round + 1, [0] * len(taken)


def _workers(split, workers):
    """As many workers as there are shards for, in every process."""
    processes = distributed.world_size()
    most = len(split.paths) // processes
    if not most:
        count = plural(len(split.paths), "shard")
        raise UserError(f"{count} cannot be divided among {processes} processes", option="dataset")
    return min(workers, most)


def _chunks(split, how, workers, seed, taken):
    """One pass over the shards of this process: (worker, images, uint8 (H, W, 3), labels), without what was `taken` before.

    `taken` says of each worker how many chunks; they are neither decoded nor, in local files, read. UserError for damage.
    """
    import webdataset

    decoded = _Decoded(split, how, taken)
    stages = webdataset.DataPipeline(
        webdataset.SimpleShardList([str(shard) for shard in split.paths]),
        webdataset.detshuffle(len(split.paths), len(split.paths), seed=seed),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        _Read(decoded),
        webdataset.detshuffle(BUFFER, BUFFER, seed=seed),
        decoded,
    )
    loader = torch.utils.data.DataLoader(
        stages,
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=own_group,
        generator=torch.Generator().manual_seed(seed),  # its own, so that the global one stays where the run has it
    )
    empty = True
    try:
        for chunk in loader:
            empty = False
            if chunk is not None:
                yield chunk
    except (UserError, OSError, ValueError, EOFError, tarfile.TarError) as error:  # that of a worker ends with its own text
        reason = [line for line in str(error).splitlines() if line.strip()][-1].partition("Error: ")
        raise UserError(f"the shards cannot be read: {reason[2] or reason[0]}", option="dataset") from None
    if empty:
        raise UserError("the shards of this process hold no images", option="dataset")


def _worker():
    """The number of the loader worker that this runs in."""
    info = torch.utils.data.get_worker_info()
    return info.id if info else 0


class _Read:
    """From shards to samples of webdataset. What is read to be passed over is only looked up in the headers of local files."""

    def __init__(self, decoded):
        self.decoded = decoded

    def __call__(self, shards):
        from webdataset.tariterators import group_by_keys, tarfile_samples

        for shard in shards:
            places = _places(shard["url"]) if self.decoded.passes_over else None
            yield from group_by_keys(places) if places else tarfile_samples(iter([shard]))


def _places(url):
    """The members of a local tar file as webdataset's reader gives them, with a Piece for their bytes; None for all others."""
    try:
        tar = tarfile.open(url, "r:")  # noqa: SIM115 (the generator closes it)
    except (OSError, tarfile.TarError):
        return None
    return _members(tar, pathlib.Path(url))


def _members(tar, path):
    with tar:
        while (member := tar.next()) is not None:
            tar.members = []  # which would grow with the file
            if member.isreg() and not META.match(member.name):
                piece = Piece(path, member.offset_data, member.size, member.name)
                yield {"fname": member.name, "data": piece, "__url__": str(path)}


class _Decoded:
    """From samples of webdataset to chunks of decoded images and labels, with the worker; None for chunks passed over."""

    def __init__(self, split, how, taken):
        self.numbers, self.column, self.how = split.numbers, split.label_column, how
        self.taken = list(taken)

    @property
    def passes_over(self):
        """Whether the next chunk is passed over."""
        return self.taken[_worker()] > 0

    def __call__(self, samples):
        usable = (sample for sample in samples if _extension(sample))
        while chunk := list(itertools.islice(usable, CHUNK)):
            if self.passes_over:
                self.taken[_worker()] -= 1
                yield None
            else:
                decoded = [self._decode(sample) for sample in chunk]
                yield _worker(), [image for image, _ in decoded], [label for _, label in decoded]

    def _decode(self, sample):
        extension = _extension(sample)
        sample = {key: content_of(value) if isinstance(value, Piece) else value for key, value in sample.items()}
        name = f"{sample['__url__']}/{sample['__key__']}.{extension}"
        image = load_image(_Bytes(name, sample[extension]))
        return at_most(image, *self.how), self._label(sample, name)

    def _label(self, sample, name):
        column = self.column or ("cls" if "cls" in sample else LABEL)
        if column in sample:
            text = sample[column].decode("utf-8", "replace").strip()
        elif "json" in sample:
            text = _in_json(sample["json"], column, name)
        else:
            text = re.sub(r"(^|.*/)([^/]+)/[^/]*$", r"\2", sample["__key__"])
        if text not in self.numbers:
            raise ValueError(f"{name} has the class {text[:40]!r}, which classes.txt does not name")
        return self.numbers[text]


def _in_json(text, column, name):
    try:
        value = json.loads(text)[column]
    except (LookupError, TypeError):
        value = None
    if value is None:
        raise ValueError(f"{name} has no {column!r} in its JSON")
    return str(value)


def _extension(sample):
    """That of the image in a sample of webdataset, or None."""
    return image_among([key for key in sample if not key.startswith("__")], f"{sample['__url__']}/{sample['__key__']}")


@dataclass(frozen=True)
class _Bytes:
    """An encoded image with a name, as `load_image` takes it."""

    name: str
    encoded: bytes

    def __str__(self):
        return self.name

    def content(self):
        return io.BytesIO(self.encoded)
