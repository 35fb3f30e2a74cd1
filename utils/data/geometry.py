"""Resizing, cropping, affine sampling and normalising whole batches on the device that holds them."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from utils.core.images import crop_origin
from utils.runtime.device import send

CROP_SCALE = (0.8, 1.0)  # share of the image's area
CROP_RATIO = (3 / 4, 4 / 3)  # width over height


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept serves training too
def normalisation(mean, std, device):
    """`scale, shift` of shape (3,) so that pixel · scale + shift is (pixel / 255 - mean) / std."""
    std = torch.tensor(std, dtype=torch.float64)
    scale, shift = 1 / (255 * std), -torch.tensor(mean, dtype=torch.float64) / std
    return scale.float().to(device), shift.float().to(device)


def normalise(pixels, mean, std):
    """Pixels on the 0–255 scale (N, 1 or 3, H, W) -> float32 (N, 3, H, W) in channels_last; grey becomes three channels."""
    scale, shift = normalisation(mean, std, pixels.device)
    pixels = pixels.float().permute(0, 2, 3, 1)  # (N, H, W, C)
    out = torch.empty((*pixels.shape[:3], 3), device=pixels.device)
    return torch.addcmul(shift, pixels, scale, out=out).permute(0, 3, 1, 2)


def centre_crops(pixels, image_size, short_side, interpolation="bilinear"):
    """The inference geometry on a batch: short side to `short_side`, then the centred square. uint8 (N, C, S, S).

    The same pixels as `utils.core.images.resize_and_crop` gives image by image.
    """
    if pixels.sizes is None:
        return _centre_crop(pixels.data, image_size, short_side, interpolation)
    crops = pixels.data.new_empty(len(pixels.data), pixels.data.shape[1], image_size, image_size)
    sizes, which = np.unique(pixels.sizes, axis=0, return_inverse=True)
    for number, (height, width) in enumerate(sizes):
        rows = send(np.flatnonzero(which.ravel() == number), pixels.data.device)
        crops[rows] = _centre_crop(pixels.data[rows, :, :height, :width], image_size, short_side, interpolation)
    return crops


def _centre_crop(images, image_size, short_side, interpolation):
    height, width = images.shape[-2:]
    if min(height, width) != short_side:
        shape = (
            (short_side, int(short_side * width / height))
            if height <= width
            else (int(short_side * height / width), short_side)
        )
        images = _resize(images, shape, interpolation)
        height, width = shape
    top, left = crop_origin(height, width, image_size)
    return images[..., top : top + image_size, left : left + image_size]


def _resize(images, shape, interpolation):
    """Pillow's antialiased resizing of uint8 (N, C, H, W), to the bit: the rows to whole grey levels, then columns.

    Whole numbers in float64 add up exactly, whatever the size of the batch and the device.
    """
    (height, width), (out_height, out_width) = images.shape[-2:], shape
    for size, out_size in ((width, out_width), (height, out_height)):
        sums = images.double() @ _resize_weights(size, out_size, interpolation, images.device)
        images = ((sums + PRECISION / 2) / PRECISION).floor_().clamp_(0, 255)
        images = images.transpose(-1, -2)  # the second turn brings the rows back
    return images.to(torch.uint8)


PRECISION = 2.0**22  # Pillow's Resample.c counts its weights in these parts


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _resize_weights(size, out_size, interpolation, device):
    """float64 (size, out_size): a filter of Resample.c, its unit as wide as an input or an output pixel, whichever is wider."""
    scale = size / out_size
    centre = (np.arange(out_size) + 0.5) * scale
    weights = KERNELS[interpolation](np.abs(np.arange(size)[:, None] + 0.5 - centre) / max(scale, 1.0))
    weights = weights / weights.sum(0) * PRECISION
    return send(np.trunc(weights + np.copysign(0.5, weights)), device)


def _triangle(x):
    return np.maximum(0, 1 - x)


def _cubic(x, a=-0.5):
    """Keys 1981, with the a of Resample.c."""
    inner, outer = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


KERNELS = {"bilinear": _triangle, "bicubic": _cubic}  # of the distance, 0 or more, to weight; before they are scaled to sum 1


def draw_boxes(random, sizes, scale=CROP_SCALE, ratio=CROP_RATIO):
    """Crop boxes as RandomResizedCrop draws them: int64 (N, 4) left, top, width, height for sizes (N, 2) height, width.

    Ten tries of an area and a log-uniform ratio, whole pixels, and a centred box of the nearest allowed ratio where none
    fits; Szegedy et al. 2015, as torchvision draws it.
    """
    height, width = (sizes[:, i : i + 1].astype(np.float64) for i in (0, 1))
    area = height * width * random.uniform(*scale, (len(sizes), 10))
    aspect = np.exp(random.uniform(*np.log(ratio), (len(sizes), 10)))
    w, h = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(1)[:, None]
    w, h = np.take_along_axis(w, first, 1)[:, 0], np.take_along_axis(h, first, 1)[:, 0]
    height, width = height[:, 0], width[:, 0]
    top, left = (np.floor(random.random(len(sizes)) * (full - part + 1)) for full, part in ((height, h), (width, w)))
    none = ~fits.any(1)
    if none.any():
        narrow, wide = width / height < ratio[0], width / height > ratio[1]
        w_centre = np.where(wide, np.round(height * ratio[1]), width)
        h_centre = np.where(narrow, np.round(width / ratio[0]), height)
        w, h = np.where(none, w_centre, w), np.where(none, h_centre, h)
        top, left = np.where(none, (height - h) // 2, top), np.where(none, (width - w) // 2, left)
    return np.stack([left, top, w, h], 1).astype(np.int64)


def sample_affine(pixels, boxes, angles, flips, image_size, short_side):
    """Resized crop, rotation, flip and centre crop in one bilinear sampling: float32 (N, C, S, S) on the 0–255 scale.

    boxes: (N, 4) left, top, width, height in pixels, each resized to R×R with R = `short_side`; angles: (N,) degrees,
    counter-clockwise; flips: (N,) ±1. What the rotation brings in from outside of the box is black.
    """
    device, size = pixels.data.device, image_size
    left, top, w, h = boxes.astype(np.float64).T
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    # Output pixel (x, y), from the centre -> (ux, uy) in the resized crop, from its centre, in units of its side.
    ux_x, ux_y, uy_x, uy_y = (values / short_side for values in (cos * flips, -sin, sin * flips, cos))
    padded_h, padded_w = pixels.data.shape[-2:]
    grid_x = np.stack([2 * w * ux_x / padded_w, 2 * w * ux_y / padded_w, (2 * left + w) / padded_w - 1])
    grid_y = np.stack([2 * h * uy_x / padded_h, 2 * h * uy_y / padded_h, (2 * top + h) / padded_h - 1])
    axis = np.arange(size) - (size - 1) / 2
    low, high = _inside(axis[None, :], ux_x[:, None], ux_y[:, None], uy_x[:, None], uy_y[:, None])
    small = send(np.concatenate([grid_x, grid_y], dtype=np.float32), device)  # (6, N)
    x = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    grid = torch.empty(len(boxes), size, size, 2, device=device)
    for number in (0, 1):
        along_x, along_y, offset = small[3 * number : 3 * number + 3, :, None]
        torch.add((along_y * x)[:, :, None], (along_x * x + offset)[:, None, :], out=grid[..., number])
    images = F.grid_sample(pixels.data.float(), grid, padding_mode="border", align_corners=False)
    cut = np.flatnonzero((low > axis[0]).any(1) | (high < axis[-1]).any(1))  # most images turn too little to show a corner
    if len(cut):
        rows = send(np.stack([low[cut], high[cut]], dtype=np.float32), device)
        outside = (x < rows[0, :, :, None]) | (x > rows[1, :, :, None])  # (cut, S, S)
        cut = send(cut, device)
        images[cut] = images[cut].masked_fill_(outside[:, None], 0)
    return images


def _inside(y, ux_x, ux_y, uy_x, uy_y):
    """The x between which a row y of the output lies inside of the crop, -1/2 <= u <= 1/2 on both axes: two (N, S)."""
    bounds = []
    for slope, offset in ((ux_x, ux_y * y), (uy_x, uy_y * y)):
        slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
        bounds.append(np.sort([(-0.5 - offset) / slope, (0.5 - offset) / slope], axis=0))
    return np.maximum(bounds[0][0], bounds[1][0]), np.minimum(bounds[0][1], bounds[1][1])
