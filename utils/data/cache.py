"""Decoded images kept between uses: in memory, in a memory-mapped file, or not at all."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from utils.core.errors import UserError
from utils.core.files import WriteError, replacing
from utils.core.images import LONGEST
from utils.core.machine import free_memory
from utils.core.processes import DIED, in_processes
from utils.core.text import plural, printable
from utils.data import packed_file
from utils.data.places import facts_of, files_of, source_of
from utils.data.stores import ArrayStore, FileStore, _shrunk_array, _uniform, shrunk
from utils.runtime.distributed import say

PROBED = 16  # images that are looked at to guess about all of them


def open_store(split, side, cache="auto", folder="data/cache", show=True, interpolation="bilinear"):
    """The store for a split at short side `side` px, which larger images are shrunk to by `interpolation`.

    `ram` decodes everything now, `disk` keeps that in a memory-mapped file under `folder` for the next run too, `off`
    decodes at every use; `auto` is `disk` where the decoded images fit in half of the free memory and of the free disk, and
    then `ram` where `folder` cannot be written to. How many images have odd values is printed; with `off` a few are looked at.
    Raises UserError that names the files that do not decode, and where `disk` cannot write its file.
    """
    if split.arrays is not None:
        return ArrayStore(_shrunk_array(split.arrays, side, interpolation))
    chosen = cache
    if cache == "auto":
        chosen = "disk" if _fits(split, side, folder) else "off"
    if chosen == "off":
        return _not_kept(split, side, interpolation)
    if chosen == "disk":
        try:
            return _open_packed(split, side, pathlib.Path(folder), show, interpolation)
        except WriteError as error:
            if cache != "auto":
                raise UserError(f"the image cache {error}; ram and off need no file", option="cache") from None
            say(f"the image cache {error}, so this run keeps the decoded images in memory")
    chunks = []
    sizes, odd = _decode_all(split, side, chunks.append, show, interpolation)
    return _kept(np.concatenate(chunks), sizes, odd)


def _not_kept(split, side, interpolation):
    odd, probe = [], _probe(split)
    for index in probe:
        with contextlib.suppress(UserError):  # is reported when its turn comes
            odd += _as_odd(split, index, shrunk(split, index, side, interpolation)[1])
    _tell(_summed(odd), f"{plural(len(probe), 'image')} that were looked at")
    return FileStore(split, side, interpolation)


def _kept(flat, sizes, odd):
    _tell(odd, plural(len(sizes), "image"))
    return _uniform(torch.from_numpy(flat), sizes)


def _as_odd(split, index, words):
    return [(str(split.paths[index]), words)] if words else []


def _summed(odd):
    """A list of (path, words) as the dict that `_tell` takes; empty for none."""
    return {"count": len(odd), "first": odd[0]} if odd else {}


def _tell(odd, looked_at):
    if odd:
        path, words = odd["first"]
        say(f"odd values in {odd['count']:,} of {looked_at}, such as {printable(path)}: {words}")


def _probe(split):
    return range(0, len(split), max(1, -(-len(split) // PROBED)))


def _fits(split, side, folder):
    mean = np.mean([_size_after(split, i, side) for i in _probe(split)])
    total = mean * len(split)
    folder = pathlib.Path(folder)
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    return total < 0.5 * free_memory() and total < 0.5 * shutil.disk_usage(existing).free


def _size_after(split, index, side):
    try:
        with Image.open(source_of(split.paths[index])) as image:
            width, height = image.size
    except Exception:  # a broken file is reported when everything is decoded
        return side * side * 3
    short, long = sorted((width, height))
    if long > LONGEST * short:
        return side * side * LONGEST * 3
    return long * short * min(1.0, side / short) ** 2 * 3


CHUNK = 32  # files that a process decodes at a time


def _decode_all(split, side, sink, show, interpolation):
    """Decode every image in parallel and hand the bytes to `sink` in order.

    Returns `(sizes, odd)`: int64 (n, 2), and how many images have odd values: see `_summed`.
    In processes, as small files cost more in the interpreter, which threads share, than in the decoder.
    """
    sizes, faults, odd = [], [], []
    decode = functools.partial(_decode_chunk, side=side, interpolation=interpolation)
    with tqdm(total=len(split), desc=f"decoding {split.name}", disable=not show, unit="img", leave=False) as bar:
        for flat, chunk_sizes, chunk_faults, chunk_odd in in_processes(decode, split, CHUNK, _lost):
            bar.update(len(chunk_sizes) + len(chunk_faults))
            faults += chunk_faults
            odd += chunk_odd
            sizes += chunk_sizes
            sink(flat)
    if faults:
        rest = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        cure = ("to train without such images, add", "skip_broken")
        raise UserError("; ".join(faults[:5]) + rest, cure=cure)
    return np.array(sizes, dtype=np.int64), _summed(odd)


def _decode_chunk(split, side, interpolation):
    """The bytes of the images one after the other, their heights and widths, what is wrong with those that are broken, and
    what is odd about others."""
    images, faults, odd = [], [], []
    for index in range(len(split)):
        try:
            pixels, words = shrunk(split, index, side, interpolation)
        except UserError as error:
            faults.append(str(error))
            continue
        images.append(pixels)
        odd += _as_odd(split, index, words)
    flat = np.concatenate([image.ravel() for image in images]) if images else np.empty(0, np.uint8)
    return flat, [image.shape[:2] for image in images], faults, odd


def _lost(split):
    return np.empty(0, np.uint8), [], [f"{split.place(0)} {DIED}"], []


def _open_packed(split, side, folder, show, interpolation):
    """The memory-mapped file of a split, built if what it was built from is not what is there now, or if it is damaged."""
    parents = {path.parent for path in files_of(split.paths)}  # few: resolving asks the disk
    place = f"{os.path.commonpath([parent.resolve() for parent in parents])}|{split.name}|{side}"
    how = f"{side}px" + f"-{interpolation}" * (interpolation != "bilinear")
    prefix = f"{split.name}-{how}-{_digest(place, 8)}-"
    path = folder / f"{prefix}{_digest(json.dumps(facts_of(split.paths)), 16)}.bin"
    found = packed_file.read(path) if path.exists() else None
    if found is None:
        if path.exists():
            say(f"{path} is damaged, so the images are decoded again")
        with replacing(path) as temporary, open(temporary, "wb") as file:
            writer = packed_file.Writer(file)
            writer.finish(*_decode_all(split, side, writer.write, show, interpolation))
        for stale in folder.glob(f"{prefix}*.bin"):
            if stale != path:
                stale.unlink(missing_ok=True)
        found = packed_file.read(path)
    return _kept(*found)


def _digest(text, length):
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]
