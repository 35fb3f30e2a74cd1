"""Decoded images kept between uses: in memory, in a memory-mapped file, or not at all."""

import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from utils.core.errors import UserError
from utils.core.files import WriteError, replacing
from utils.core.machine import cores, free_memory
from utils.data.stores import ArrayStore, FileStore, _shrunk_array, _uniform, shrunk

FORMAT = 1  # of the packed file; a new number makes old files stale


def open_store(split, side, cache="auto", folder="data/cache", show=True):
    """The store for a split at short side `side` px.

    `ram` decodes everything now, `disk` keeps that in a memory-mapped file under `folder` for the next run too, `off`
    decodes at every use; `auto` is `disk` where the decoded images fit in half of the free memory and of the free disk.
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


CHUNK, PIECE = 32, 1024  # files that a process decodes at a time, and files that may wait to be written


def _decode_all(split, side, sink, show):
    """Decode every image in parallel, hand the bytes to `sink` in order, and return the sizes, int64 (n, 2).

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
    """The bytes of the images one after the other, their heights and widths, and what is wrong with those that are broken."""
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
        except WriteError as error:
            raise UserError(f"the image cache {error}; ram and off need no file", option="cache") from None
        for stale in folder.glob(f"{prefix}*.bin"):
            if stale != path:
                stale.unlink(missing_ok=True)
    data = np.memmap(path, mode="c")  # copy-on-write: torch wants writable memory, and the file stays as it is
    count = int(data[-8:].view("<i8")[0])
    sizes = np.array(data[-8 - 16 * count : -8]).view("<i8").reshape(count, 2)
    return _uniform(torch.from_numpy(data[: -8 - 16 * count]), sizes)


def _digest(text, length):
    return hashlib.sha256(text.encode()).hexdigest()[:length]
