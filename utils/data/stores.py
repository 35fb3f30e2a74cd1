"""Decoded images, ready to be gathered into batches: in memory, in a memory-mapped file, or file by file.

Every store holds its images as uint8 with the short side shrunk, antialiased by Pillow, to at most `side` pixels: that is
what an evaluation resizes to, and as much as a training crop can use. Smaller images stay as they are. Of extremely long
images only the middle is kept, at a short side of `side` pixels: see `utils.core.images.resize_shorter`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from utils.core.images import LONGEST, ODD, is_extreme, middle, resize_shorter
from utils.runtime.device import send


@dataclass
class Pixels:
    """A batch of images, uint8 (N, 1 or 3, H, W); where they differ in size, each fills the top left of its place."""

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
    """Images of one size, in one tensor uint8 (n, C, H, W)."""

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
    """Images of several sizes, one after the other in one tensor of bytes, each as (height, width, 3)."""

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

        An image that does not fill its place is continued by its last column and row, so that sampling at its border
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
    """Images decoded when they are asked for, by the workers of a loader."""

    needs_workers = True
    nbytes = None

    def __init__(self, split, side, interpolation="bilinear"):
        self.split, self.side, self.interpolation = split, side, interpolation

    def __len__(self):
        return len(self.split)

    def gather(self, indices):
        images = [shrunk(self.split, int(index), self.side, self.interpolation)[0] for index in indices]
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        flat = torch.from_numpy(np.concatenate([image.ravel() for image in images]))
        return PackedStore(flat, sizes).gather(torch.arange(len(images)))


class TransformStore:
    """Images put through a per-image torchvision transform, Pillow RGB -> float (3, S, S), when they are asked for."""

    needs_workers = True
    nbytes = None

    def __init__(self, split, transform):
        self.split, self.transform = split, transform

    def __len__(self):
        return len(self.split)

    def gather(self, indices):
        return Pixels(torch.stack([self.transform(middle(self.split.image(int(index)), LONGEST)) for index in indices]))


def shrunk(split, index, side, interpolation="bilinear"):
    """`(pixels, odd)`: one image as uint8 (H, W, 3), its short side at most `side`; what is odd about its values, or None."""
    image = split.image(index)
    return at_most(image, side, interpolation), image.info.get(ODD)


def at_most(image, side, interpolation="bilinear"):
    """Pillow RGB -> uint8 (H, W, 3), its short side at most `side`."""
    changes = min(image.size) > side or is_extreme(image)
    return np.asarray(resize_shorter(image, side, interpolation) if changes else image)


def resident(stores, device):
    """The stores of a dict; on a CUDA device those that fit, one after the other, in half of its free memory."""
    left = 0.5 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    placed = {}
    for name, store in stores.items():
        fits = bool(store.nbytes) and store.nbytes < left
        left -= store.nbytes if fits else 0
        placed[name] = store.to(device) if fits else store
    return placed


def _shrunk_array(arrays, side, interpolation):
    if min(arrays.shape[1:3]) > side or max(arrays.shape[1:3]) > LONGEST * min(arrays.shape[1:3]):
        images = [resize_shorter(Image.fromarray(image.squeeze()), side, interpolation) for image in arrays]
        arrays = np.stack([np.asarray(image) for image in images]).reshape(len(arrays), *np.shape(images[0])[:2], -1)
    return torch.from_numpy(np.ascontiguousarray(arrays)).permute(0, 3, 1, 2)


def _uniform(flat, sizes):
    """An ArrayStore where all images have one size, else a PackedStore."""
    if (sizes == sizes[0]).all():
        return ArrayStore(flat.view(len(sizes), *map(int, sizes[0]), 3).permute(0, 3, 1, 2))
    return PackedStore(flat, sizes)
