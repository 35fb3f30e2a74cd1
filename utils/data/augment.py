"""Training augmentation: batched, random per sample, on the device that the batch is on.

The random numbers of a batch come from a numpy generator on the CPU, as a few values an image; the images themselves are
touched by a handful of batched operations. Random resized crop, rotation, flip and centre crop are one affine map from
output to input pixels, so they are one `grid_sample`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import transforms
from torchvision.transforms import v2

from utils.core.card import resize_size
from utils.data.geometry import CROP_RATIO, CROP_SCALE, centre_crops, draw_boxes, normalise, sample_affine
from utils.data.registry import AUGMENTATIONS
from utils.runtime.device import send

DEGREES = 15.0


class Augmentation:
    """From gathered pixels to the network's input, float32 (N, 3, S, S) channels_last. Called with (pixels, random).

    `short_side` is what the inference geometry resizes to, by `interpolation`, before its centre crop of S = `image_size` px.
    What is cut out and turned at random is sampled bilinearly from images that were shrunk to that side before.
    """

    per_image = None  # or a torchvision transform for the loader's workers to apply instead

    def __init__(self, image_size, mean, std, short_side=None, interpolation="bilinear"):
        self.image_size, self.mean, self.std, self.interpolation = image_size, mean, std, interpolation
        self.short_side = short_side or resize_size(image_size)

    def __call__(self, pixels, random):
        return normalise(self.geometry(pixels, random), self.mean, self.std)


@AUGMENTATIONS.register("default")
class CropRotateFlip(Augmentation):
    """RandomResizedCrop (area 0.8–1), rotation by up to 15° either way, horizontal flip, centre crop."""

    degrees = DEGREES

    def geometry(self, pixels, random):
        count = len(pixels.data)
        boxes = draw_boxes(random, pixels.heights_widths())
        angles = random.uniform(-self.degrees, self.degrees, count)
        flips = random.choice((-1.0, 1.0), count)
        return sample_affine(pixels, boxes, angles, flips, self.image_size, self.short_side)


@AUGMENTATIONS.register("trivial")
class Trivial(CropRotateFlip):
    """Random resized crop and flip, then TrivialAugmentWide (Müller & Hutter 2021), one draw for each image."""

    degrees = 0.0

    def geometry(self, pixels, random):
        images = super().geometry(pixels, random).round_().clamp_(0, 255).to(torch.uint8)
        images = images.expand(-1, 3, -1, -1)  # colour operations want three channels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(random.integers(2**63)))  # that of the CPU alone
            return torch.stack([TRIVIAL(image) for image in images])


TRIVIAL = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)


@AUGMENTATIONS.register("none")
class Centre(Augmentation):
    """The inference preprocessing: no randomness."""

    def geometry(self, pixels, random):
        return centre_crops(pixels, self.image_size, self.short_side, self.interpolation)


@AUGMENTATIONS.register("flip_shift")
class FlipShift(Centre):
    """The inference preprocessing, every other image mirrored, and moved by whole pixels: for images aligned already.

    Up to a 28th of the side either way, down and across; what comes in is black.
    """

    def geometry(self, pixels, random):
        images = super().geometry(pixels, random)
        count, channels, _, size = images.shape
        most = max(1, size // 28)
        axis, mirrored = np.arange(size), self.mirrored(pixels, random)
        down, across = random.integers(0, 2 * most + 1, (2, count, 1))
        places = np.stack([down + axis, across + np.where(mirrored, axis[::-1], axis)])  # rows and columns, after padding
        rows, columns = send(places, images.device)
        index = (rows[:, :, None] * (size + 2 * most) + columns[:, None, :]).view(count, 1, -1)
        padded = F.pad(images, (most, most, most, most)).flatten(2)
        return padded.gather(2, index.expand(-1, channels, -1)).view(count, channels, size, size)

    def mirrored(self, pixels, random):
        """Which images are mirrored: bool (N, 1)."""
        return random.random((len(pixels.data), 1)) < 0.5


@AUGMENTATIONS.register("torchvision")
class Torchvision(Augmentation):
    """The distribution of `default` as torchvision's transforms, one image at a time in the loader's workers."""

    def __init__(self, image_size, mean, std, short_side=None, interpolation="bilinear"):
        super().__init__(image_size, mean, std, short_side, interpolation)
        self.per_image = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    self.short_side, CROP_SCALE, CROP_RATIO, transforms.InterpolationMode(interpolation)
                ),
                transforms.RandomRotation(DEGREES, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.RandomHorizontalFlip(),
                transforms.CenterCrop(image_size),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __call__(self, pixels, random):
        return pixels.data.contiguous(memory_format=torch.channels_last)


def erase(images, random, probability, scale=(0.02, 0.33), ratio=(0.3, 3.3)):
    """Random erasing (Zhong et al. 2017): in each image, with `probability`, a box becomes the mean colour. In place."""
    count, _, height, width = images.shape
    area = random.uniform(*scale, count) * height * width
    aspect = np.exp(random.uniform(*np.log(ratio), count))
    h, w = np.sqrt(area / aspect).round().clip(1, height), np.sqrt(area * aspect).round().clip(1, width)
    h = np.where(random.random(count) < probability, h, 0)
    top, left = np.floor(random.random(count) * (height - h + 1)), np.floor(random.random(count) * (width - w + 1))
    return images.masked_fill_(_box_mask(images, top, left, h, w), 0)


def mix(images, labels, classes, random, mixup=0.0, cutmix=0.0):
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), a share λ ~ Beta(α, α) for each image.

    images: float (N, 3, S, S); labels: int64 (N,). Gives the mixed images and soft labels float (N, classes). With both
    α above 0, each batch takes one of them at random.
    """
    soft = F.one_hot(labels, classes).float()
    alpha, cut = (cutmix, True) if cutmix and (not mixup or random.random() < 0.5) else (mixup, False)
    share = random.beta(alpha, alpha, len(images))
    partner = send(random.permutation(len(images)), images.device)
    if cut:
        height, width = images.shape[-2:]
        h, w = np.round(height * np.sqrt(1 - share)), np.round(width * np.sqrt(1 - share))
        top, left = (np.floor(random.random(len(images)) * (n - part + 1)) for n, part in ((height, h), (width, w)))
        images = torch.where(_box_mask(images, top, left, h, w), images[partner], images)
        kept = send((1 - h * w / (height * width)).astype(np.float32), images.device)
    else:
        kept = send(share.astype(np.float32), images.device)
        images = torch.lerp(images[partner], images, kept.view(-1, 1, 1, 1).to(images.dtype))
    return images, torch.lerp(soft[partner], soft, kept[:, None])


def _box_mask(images, top, left, h, w):
    """bool (N, 1, H, W), true inside of each image's box."""
    device = images.device
    edges = send(np.stack([top, top + h, left, left + w]).astype(np.int64), device)
    y, x = (torch.arange(n, device=device) for n in images.shape[-2:])
    rows = (y >= edges[0, :, None]) & (y < edges[1, :, None])  # (N, H)
    columns = (x >= edges[2, :, None]) & (x < edges[3, :, None])  # (N, W)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
