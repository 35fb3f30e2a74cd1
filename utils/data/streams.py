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
from utils.core.walk import is_image_name
from utils.data.loader import as_it_is, own_group
from utils.data.rows import listed
from utils.data.shards import LABEL, expand, read_shards, split_of_shard
from utils.data.splits import Dataset, Split
from utils.data.stores import PackedStore, at_most
from utils.runtime import distributed
from utils.runtime.device import send

PIPE, CLASSES = "pipe:", "classes.txt"
BUFFER = 1000  # encoded images that a worker shuffles at a time
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

    def __init__(self, shards, images, classes, label_column=None):
        places = [Pipe(shard) if shard.startswith(PIPE) else pathlib.Path(shard) for shard in shards]
        super().__init__("train", np.empty(0, np.int64), paths=places, keys=list(shards))
        self.images, self.classes, self.label_column = images, classes, label_column

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
    missing = [name for name in shards if not name.startswith(PIPE) and not pathlib.Path(name).is_file()]
    if missing or not shards:
        raise UserError(f"{missing[0] if missing else pattern} is not there", option="dataset")
    folder = pathlib.Path(shards[0].removeprefix(PIPE).split()[-1]).resolve().parent
    file = next(
        (place / CLASSES for place in (folder, pathlib.Path(data_dir)) if (place / CLASSES).is_file()), folder / CLASSES
    )
    classes = sorted(read_classes(file))
    notice = f"{plural(len(shards), 'shard')} streamed, {images:,} images an epoch; {file} names the classes"
    dataset = Dataset(folder.name, classes, StreamSplit(shards, images, classes, reading.label_column), notices=[notice])
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


def stream_batches(split, how, sizes, device, workers, seed):
    """Yield (Pixels, labels) on `device`, as many images as each of `sizes` says, from this process's shards.

    `how` is (short side in px, interpolation). One seed, a whole number, gives one order. Where the shards of this process hold
    fewer images than it needs, they are read once more.
    """
    workers = _workers(split, workers)
    chunks = itertools.chain.from_iterable(_chunks(split, how, workers, seed + 7919 * number) for number in itertools.count())
    waiting, labels = [], []
    for size in sizes:
        while len(waiting) < size:
            images, more = next(chunks)
            waiting += images
            labels += more
        batch, waiting = waiting[:size], waiting[size:]
        shapes = np.array([image.shape[:2] for image in batch], dtype=np.int64)
        flat = torch.from_numpy(np.concatenate([image.ravel() for image in batch]))
        of_batch, labels = torch.tensor(labels[:size]), labels[size:]
        yield PackedStore(flat, shapes).gather(torch.arange(size)).to(device), send(of_batch, device)


def _workers(split, workers):
    """As many workers as there are shards for, in every process."""
    processes = distributed.world_size()
    most = len(split.paths) // processes
    if not most:
        count = plural(len(split.paths), "shard")
        raise UserError(f"{count} cannot be divided among {processes} processes", option="dataset")
    return min(workers, most)


def _chunks(split, how, workers, seed):
    """One pass over the shards of this process: lists of images, uint8 (H, W, 3), and of labels. UserError for damage."""
    import webdataset

    stages = webdataset.DataPipeline(
        webdataset.SimpleShardList([str(shard) for shard in split.paths]),
        webdataset.detshuffle(len(split.paths), len(split.paths), seed=seed),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.detshuffle(BUFFER, BUFFER, seed=seed),
        _Decoded(split, how),
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
            yield chunk
    except (UserError, OSError, ValueError, EOFError, tarfile.TarError) as error:  # that of a worker ends with its own text
        reason = [line for line in str(error).splitlines() if line.strip()][-1].partition("Error: ")
        raise UserError(f"the shards cannot be read: {reason[2] or reason[0]}", option="dataset") from None
    if empty:
        raise UserError("the shards of this process hold no images", option="dataset")


class _Decoded:
    """From samples of webdataset to chunks of decoded images and labels."""

    def __init__(self, split, how):
        self.number, self.column, self.how = {name: i for i, name in enumerate(split.classes)}, split.label_column, how

    def __call__(self, samples):
        decoded = filter(None, map(self._decode, samples))
        while chunk := list(itertools.islice(decoded, CHUNK)):
            yield [image for image, _ in chunk], [label for _, label in chunk]

    def _decode(self, sample):
        extension = next((key for key in sample if is_image_name(f"x.{key}")), None)
        if extension is None:
            return None
        name = f"{sample['__url__']}/{sample['__key__']}.{extension}"
        image = load_image(_Bytes(name, sample[extension]))
        return at_most(image, *self.how), self._label(sample, name)

    def _label(self, sample, name):
        column = self.column or ("cls" if "cls" in sample else LABEL)
        if column in sample:
            text = sample[column].decode("utf-8", "replace").strip()
        elif "json" in sample:
            text = str(json.loads(sample["json"])[column])
        else:
            text = re.sub(r"(^|.*/)([^/]+)/[^/]*$", r"\2", sample["__key__"])
        if text not in self.number:
            raise ValueError(f"{name} has the class {text[:40]!r}, which classes.txt does not name")
        return self.number[text]


@dataclass(frozen=True)
class _Bytes:
    """An encoded image with a name, as `load_image` takes it."""

    name: str
    encoded: bytes

    def __str__(self):
        return self.name

    def content(self):
        return io.BytesIO(self.encoded)
