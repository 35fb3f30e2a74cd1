"""Decoded pictures, ready to be gathered into batches: in memory, in a memory-mapped file, or file by file.

Every store holds its pictures as uint8 with the short side shrunk, antialiased by Pillow, to at most `side` pixels: that is
what an evaluation resizes to, and as much as a training crop can use. Smaller pictures stay as they are.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from utils.errors import UserError
from utils.preprocess import resize_shorter
from utils.report import replacing
from utils.runtime import cores, send

CACHES = ("auto", "ram", "disk", "off")
FORMAT = 1  # of the packed file; a new number makes old files stale


@dataclass
class Pixels:
    """A batch of pictures, uint8 (N, 1 or 3, H, W); where they differ in size, each fills the top left of its place."""

    data: torch.Tensor
    sizes: np.ndarray | None = None  # int64 (N, 2): height and width, or None where all fill their place

    def to(self, device):
        return Pixels(self.data.to(device, non_blocking=True), self.sizes)

    def pin_memory(self):
        return Pixels(self.data.pin_memory(), self.sizes)

    def heights_widths(self):
        """int64 (N, 2)."""
        if self.sizes is not None:
            return self.sizes
        return np.tile(np.array(self.data.shape[-2:], dtype=np.int64), (len(self.data), 1))


class ArrayStore:
    """Pictures of one size, in one tensor uint8 (n, C, H, W)."""

    needs_workers = False

    def __init__(self, images):
        self.images = images
        self.nbytes = images.numel()

    def __len__(self):
        return len(self.images)

    def gather(self, indices):
        """indices: int64 (N,) on the CPU -> Pixels on the device of the store."""
        return Pixels(self.images[send(indices, self.images.device)])

    def to(self, device):
        return ArrayStore(self.images.to(device))


class PackedStore:
    """Pictures of several sizes, one after the other in one tensor of bytes, each as (height, width, 3)."""

    needs_workers = False

    def __init__(self, flat, sizes):
        self.flat = flat  # uint8 (bytes,)
        self.sizes = sizes  # int64 (n, 2)
        self.starts = np.concatenate([[0], np.cumsum(sizes.prod(1) * 3)])
        self.nbytes = int(self.starts[-1])

    def __len__(self):
        return len(self.sizes)

    def gather(self, indices):
        """indices: int64 (N,) on the CPU -> Pixels on the device of the store.

        A picture that does not fill its place is continued by its last column and row, so that sampling at its border
        meets what is there and not black.
        """
        indices = indices.numpy()
        sizes = self.sizes[indices]
        height, width = sizes.max(0)
        if self.flat.is_cuda:
            return Pixels(self._gather_by_index(indices, sizes, height, width), sizes)
        batch = torch.empty((len(indices), height, width, 3), dtype=torch.uint8)
        view = batch.numpy()
        for place, index, (h, w) in zip(view, indices, sizes, strict=True):
            start = self.starts[index]
            place[:h, :w] = self.flat[start : start + h * w * 3].numpy().reshape(h, w, 3)
            place[:h, w:] = place[:h, w - 1 : w]
            place[h:] = place[h - 1]
        return Pixels(batch.permute(0, 3, 1, 2), sizes)

    def _gather_by_index(self, indices, sizes, height, width):
        device = self.flat.device
        starts, heights, widths = (
            send(values, device).view(-1, 1, 1) for values in (self.starts[indices], sizes[:, 0].copy(), sizes[:, 1].copy())
        )
        rows = torch.minimum(torch.arange(height, device=device).view(1, -1, 1), heights - 1)
        columns = torch.minimum(torch.arange(width, device=device).view(1, 1, -1), widths - 1)
        places = starts + 3 * (rows * widths + columns)  # (N, height, width): the red byte of each pixel
        return torch.stack([self.flat[places + channel] for channel in range(3)], dim=1)

    def to(self, device):
        return PackedStore(self.flat.to(device), self.sizes)


class FileStore:
    """Pictures decoded when they are asked for, by the workers of a loader."""

    needs_workers = True
    nbytes = None

    def __init__(self, split, side):
        self.split, self.side = split, side

    def __len__(self):
        return len(self.split)

    def gather(self, indices):
        images = [shrunk(self.split, int(index), self.side) for index in indices]
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        flat = torch.from_numpy(np.concatenate([image.ravel() for image in images]))
        return PackedStore(flat, sizes).gather(torch.arange(len(images)))


class TransformStore:
    """Pictures put through a per-image torchvision transform, Pillow RGB -> float (3, S, S), when they are asked for."""

    needs_workers = True
    nbytes = None

    def __init__(self, split, transform):
        self.split, self.transform = split, transform

    def __len__(self):
        return len(self.split)

    def gather(self, indices):
        return Pixels(torch.stack([self.transform(self.split.image(int(index))) for index in indices]))


def shrunk(split, index, side):
    """One picture as uint8 (H, W, 3), its short side at most `side`."""
    image = split.image(index)
    return np.asarray(resize_shorter(image, side) if min(image.size) > side else image)


def open_store(split, side, cache="auto", folder="data/cache", show=True):
    """The store for a split at short side `side` px.

    `ram` decodes everything now, `disk` keeps that in a memory-mapped file under `folder` for the next run too, `off`
    decodes at every use; `auto` is `disk` where the decoded pictures fit in half of the free memory and of the free disk.
    Raises UserError that names the files that do not decode, and where the file cannot be written.
    """
    if split.arrays is not None:
        return ArrayStore(_shrunk_array(split.arrays, side))
    if cache == "auto":
        cache = "disk" if _fits(split, side, folder) else "off"
    if cache == "off":
        return FileStore(split, side)
    if cache == "ram":
        chunks = []
        sizes = _decode_all(split, side, chunks.append, show)
        return _uniform(torch.from_numpy(np.concatenate(chunks)), sizes)
    return _open_packed(split, side, pathlib.Path(folder), show)


def resident(stores, device):
    """The stores of a dict; on a CUDA device those that fit, one after the other, in half of its free memory."""
    left = 0.5 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    placed = {}
    for name, store in stores.items():
        fits = bool(store.nbytes) and store.nbytes < left
        left -= store.nbytes if fits else 0
        placed[name] = store.to(device) if fits else store
    return placed


def _shrunk_array(arrays, side):
    if min(arrays.shape[1:3]) > side:
        images = [resize_shorter(Image.fromarray(image.squeeze()), side) for image in arrays]
        arrays = np.stack([np.asarray(image) for image in images]).reshape(len(arrays), *np.shape(images[0])[:2], -1)
    return torch.from_numpy(np.ascontiguousarray(arrays)).permute(0, 3, 1, 2)


def _uniform(flat, sizes):
    """An ArrayStore where all pictures have one size, else a PackedStore."""
    if (sizes == sizes[0]).all():
        return ArrayStore(flat.view(len(sizes), *map(int, sizes[0]), 3).permute(0, 3, 1, 2))
    return PackedStore(flat, sizes)


def _fits(split, side, folder):
    probe = range(0, len(split), max(1, len(split) // 16))
    mean = np.mean([_size_after(split, i, side) for i in probe])
    total = mean * len(split)
    folder = pathlib.Path(folder)
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    return total < 0.5 * free_memory() and total < 0.5 * shutil.disk_usage(existing).free


def _size_after(split, index, side):
    try:
        with Image.open(split.paths[index]) as image:
            width, height = image.size
    except Exception:  # a broken file is reported when everything is decoded
        return side * side * 3
    scale = min(1.0, side / min(width, height))
    return width * height * scale * scale * 3


def free_memory():
    """Bytes of memory that can be had without swapping."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


CHUNK, PIECE = 32, 1024  # files that a process decodes at a time, and files that may wait to be written


def _decode_all(split, side, sink, show):
    """Decode every picture in parallel, hand the bytes to `sink` in order, and return the sizes, int64 (n, 2).

    In processes, as small files cost more in the interpreter, which threads share, than in the decoder.
    """
    sizes, faults = [], []
    with (
        ProcessPoolExecutor(cores(), mp_context=_fork(), initializer=_ignore_interrupts) as pool,
        tqdm(total=len(split), desc=f"decoding {split.name}", disable=not show, unit="img", leave=False) as bar,
    ):
        for first in range(0, len(split), PIECE):
            starts = range(first, min(first + PIECE, len(split)), CHUNK)
            chunks = [split.subset(np.arange(start, min(start + CHUNK, first + PIECE, len(split)))) for start in starts]
            for flat, chunk_sizes, chunk_faults in pool.map(_decode_chunk, chunks, itertools.repeat(side)):
                bar.update(len(chunk_sizes) + len(chunk_faults))
                faults += chunk_faults
                sizes += chunk_sizes
                sink(flat)
    if faults:
        rest = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UserError("; ".join(faults[:5]) + rest)
    return np.array(sizes, dtype=np.int64)


def _decode_chunk(split, side):
    """The bytes of the pictures one after the other, their heights and widths, and what is wrong with those that are broken."""
    images, faults = [], []
    for index in range(len(split)):
        try:
            images.append(shrunk(split, index, side))
        except UserError as error:
            faults.append(str(error))
    flat = np.concatenate([image.ravel() for image in images]) if images else np.empty(0, np.uint8)
    return flat, [image.shape[:2] for image in images], faults


def _fork():
    """Processes that start in milliseconds where the system has them: they need nothing but what is in memory already."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)


def _ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process answers them


def _open_packed(split, side, folder, show):
    """The memory-mapped file of a split, built if what it was built from is not what is there now."""
    parents = {path.parent for path in split.paths}  # few: resolving asks the disk
    place = f"{os.path.commonpath([parent.resolve() for parent in parents])}|{split.name}|{side}"
    try:
        facts = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in split.paths]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None
    prefix = f"{split.name}-{side}px-{_digest(place, 8)}-"
    path = folder / f"{prefix}{_digest(json.dumps([FORMAT, facts]), 16)}.bin"
    if not path.exists():
        try:
            with replacing(path) as temporary, open(temporary, "wb") as file:
                sizes = _decode_all(split, side, file.write, show)
                file.write(sizes.astype("<i8").tobytes() + np.array([len(sizes)], "<i8").tobytes())
        except OSError as error:
            raise UserError(
                f"the image cache {path} cannot be written ({error.strerror}); give --cache ram or --cache off"
            ) from None
        for stale in folder.glob(f"{prefix}*.bin"):
            if stale != path:
                stale.unlink(missing_ok=True)
    data = np.memmap(path, mode="c")  # copy-on-write: torch wants writable memory, and the file stays as it is
    count = int(data[-8:].view("<i8")[0])
    sizes = np.array(data[-8 - 16 * count : -8]).view("<i8").reshape(count, 2)
    return _uniform(torch.from_numpy(data[: -8 - 16 * count]), sizes)


def _digest(text, length):
    return hashlib.sha256(text.encode()).hexdigest()[:length]
