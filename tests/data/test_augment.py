import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from utils.core.card import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, resize_size
from utils.core.images import resize_and_crop
from utils.data.augment import erase, mix
from utils.data.geometry import centre_crops, draw_boxes, normalise, sample_affine
from utils.data.registry import AUGMENTATIONS
from utils.data.stores import Pixels

NORM = (IMAGENET_MEAN, IMAGENET_STD)


def smooth_pictures(count, side, channels=1):
    """Real images, large and smooth: digits brought up to `side`."""
    digits = load_digits().images[:count] * (255 / 16)
    images = [Image.fromarray(d.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC) for d in digits]
    return torch.from_numpy(np.stack([np.asarray(i) for i in images]))[:, None].expand(-1, channels, -1, -1).contiguous()


def sequential(image, box, angle, flip, size):
    """The same parameters through torchvision's own functions, one after the other, in floating point."""
    left, top, w, h = (int(v) for v in box)
    full = resize_size(size)
    image = TF.resized_crop(image.float()[None], top, left, h, w, [full, full], antialias=True)
    image = TF.rotate(image, float(angle), InterpolationMode.BILINEAR)
    image = TF.hflip(image) if flip < 0 else image
    return TF.center_crop(image, [size, size])[0]


def psnr(a, b):
    return 10 * torch.log10(255**2 / (a - b).square().mean()).item()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [128, 224])
def test_one_sampling_is_the_sequence_of_transforms(size, channels):
    images = smooth_pictures(12, 28, channels)
    random = np.random.default_rng(0)
    boxes = draw_boxes(random, np.full((12, 2), 28))
    angles, flips = random.uniform(-15, 15, 12), random.choice((-1.0, 1.0), 12)
    got = sample_affine(Pixels(images), boxes, angles, flips, size, resize_size(size))
    scores = [psnr(got[i], sequential(images[i], boxes[i], angles[i], flips[i], size)) for i in range(12)]
    assert min(scores) >= 40, scores


def test_what_rotation_brings_in_is_black():
    white = Pixels(torch.full((1, 1, 40, 40), 255, dtype=torch.uint8))
    image = sample_affine(white, np.array([[0, 0, 40, 40]]), np.array([15.0]), np.array([1.0]), 224, 256)[0, 0]
    assert image[0, 0] == 0 and image[-1, -1] == 0 and image[112, 112] == 255
    reference = sequential(white.data[0], (0, 0, 40, 40), 15.0, 1.0, 224)[0]
    assert ((image == 0) != (reference < 128)).float().mean() < 0.002


def test_pictures_of_different_sizes_in_one_batch():
    small, large = smooth_pictures(2, 30), smooth_pictures(2, 50)
    data = torch.zeros(2, 1, 50, 50, dtype=torch.uint8)
    data[0, :, :30, :30], data[1] = small[0], large[1]
    data[0, :, 30:] = data[0, :, 29:30]
    data[0, :, :, 30:] = data[0, :, :, 29:30]
    pixels = Pixels(data, np.array([[30, 30], [50, 50]]))
    boxes, angles, flips = np.array([[0, 0, 30, 28], [2, 3, 44, 45]]), np.array([-9.0, 4.0]), np.array([1.0, -1.0])
    got = sample_affine(pixels, boxes, angles, flips, 224, 256)
    for i, image in enumerate((small[0], large[1])):
        assert psnr(got[i], sequential(image, boxes[i], angles[i], flips[i], 224)) >= 40


@pytest.mark.parametrize("shape", [(28, 28), (40, 60), (60, 40), (20, 200), (200, 20)])
def test_boxes_are_distributed_as_those_of_torchvision(shape):
    count = 4000
    boxes = draw_boxes(np.random.default_rng(1), np.tile(shape, (count, 1)))
    torch.manual_seed(1)
    image = torch.empty(1, *shape)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.8, 1.0), (3 / 4, 4 / 3)) for _ in range(count)])[:, [1, 0, 3, 2]]
    assert (
        (boxes[:, :2] >= 0).all()
        and (boxes[:, 0] + boxes[:, 2] <= shape[1]).all()
        and (boxes[:, 1] + boxes[:, 3] <= shape[0]).all()
    )
    for column in range(4):
        mine, other = np.sort(boxes[:, column]), np.sort(theirs[:, column])
        spread = max(other.std(), 0.3)
        assert abs(mine.mean() - other.mean()) < 0.1 * spread, column
        assert abs(mine.std() - other.std()) < 0.1 * spread, column
        values = np.union1d(mine, other)  # Kolmogorov–Smirnov: 0.043 is the 0.1 % bound of two samples of 4000
        gap = np.searchsorted(mine, values, "right") - np.searchsorted(other, values, "right")
        assert np.abs(gap).max() / count < 0.043


def test_pictures_of_a_batch_are_drawn_alone():
    pixels = Pixels(smooth_pictures(1, 40).expand(32, -1, -1, -1))
    images = AUGMENTATIONS["default"](32, *NORM)(pixels, np.random.default_rng(0))
    assert len({image.sum().item() for image in images}) == 32


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_gives_the_network_its_input(name, channels):
    augment = AUGMENTATIONS[name](32, *NORM)
    images = smooth_pictures(6, 40, channels)
    if augment.per_image:
        torch.manual_seed(0)
        images = [Image.fromarray(i.permute(1, 2, 0).squeeze().numpy()).convert("RGB") for i in images]
        images = torch.stack([augment.per_image(image) for image in images])
    out = augment(Pixels(images), np.random.default_rng(0))
    assert out.shape == (6, 3, 32, 32) and out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    low, high = (0 - max(IMAGENET_MEAN)) / min(IMAGENET_STD), (1 - min(IMAGENET_MEAN)) / min(IMAGENET_STD)
    assert low - 0.1 <= out.min() and out.max() <= high + 0.1 and out.std() > 0.3


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if not AUGMENTATIONS[n](32, *NORM).per_image])
def test_the_same_generator_gives_the_same_batch(name):
    pixels, augment = Pixels(smooth_pictures(16, 40)), AUGMENTATIONS[name](32, *NORM)
    one, two, three = (augment(pixels, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, two) and (name == "none") == torch.equal(one, three)


@pytest.mark.parametrize(("channels", "size", "most"), [(1, 28, 1), (3, 32, 1), (3, 60, 2)])
def test_flip_shift_mirrors_and_moves_the_inference_geometry_by_whole_pixels(channels, size, most):
    pixels = Pixels(torch.randint(1, 256, (600, channels, size, size), dtype=torch.uint8))
    moved = AUGMENTATIONS["flip_shift"](size, *NORM, size).geometry(pixels, np.random.default_rng(0))
    padded = F.pad(pixels.data, (most,) * 4)
    shifts = range(2 * most + 1)
    found = []
    for image, both in zip(moved, zip(padded, padded.flip(-1), strict=True), strict=True):
        found += [
            (mirrored, y, x)
            for mirrored, one in enumerate(both)
            for y in shifts
            for x in shifts
            if torch.equal(image, one[:, y : y + size, x : x + size])
        ]
    assert len(found) == len(moved)  # each is one of them
    assert len(set(found)) == 2 * len(shifts) ** 2 and 200 < sum(mirrored for mirrored, _, _ in found) < 400


def test_normalise_is_that_of_torchvision():
    pixels = torch.randint(256, (2, 3, 5, 5), dtype=torch.uint8)
    wanted = TF.normalize(pixels.float() / 255, *NORM)
    assert torch.allclose(normalise(pixels, *NORM), wanted, atol=1e-5)
    grey = pixels[:, :1]
    assert torch.allclose(normalise(grey, *NORM), TF.normalize(grey.expand(-1, 3, -1, -1) / 255, *NORM), atol=1e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(28, 28), (50, 70), (90, 37), (37, 90), (37, 37)])
def test_centre_crops_are_those_of_pillow(shape, interpolation):
    random = np.random.default_rng(0)
    arrays = random.integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    got = centre_crops(Pixels(torch.from_numpy(arrays).permute(0, 3, 1, 2)), 32, 37, interpolation).permute(0, 2, 3, 1).numpy()
    for mine, array in zip(got, arrays, strict=True):
        assert np.array_equal(mine, resize_and_crop(Image.fromarray(array), 32, 37, interpolation))


def test_erasing_blanks_a_box_in_the_wanted_share_of_the_pictures():
    images = torch.ones(400, 3, 24, 24)
    erase(images, np.random.default_rng(0), 0.25)
    blank = (images == 0).float().mean((1, 2, 3))
    assert 0.2 < (blank > 0).float().mean() < 0.3
    assert blank.max() < 0.4 and torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixing_keeps_pictures_and_labels_in_step(options):
    labels = torch.arange(64) % 4
    images = torch.nn.functional.one_hot(labels, 4).float()[:, :3, None, None].expand(-1, -1, 16, 16).contiguous()
    mixed, soft = mix(images, labels, 4, np.random.default_rng(0), **options)
    assert torch.allclose(soft.sum(1), torch.ones(64))
    assert torch.allclose(mixed.mean((2, 3)), soft[:, :3], atol=1e-5)  # the share of colour c is the weight of label c
    assert len(soft.max(1).values.unique()) > 10
