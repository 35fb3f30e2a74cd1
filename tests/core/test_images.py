"""The one preprocessing against torchvision's transforms on real images, and every kind of image that Pillow opens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import transforms

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.images import crop_origin, load_image, preprocess, resize_and_crop, to_rgb
from utils.data.samples import generated_images


def digits(count):
    return [Image.fromarray((pixels * 15.9).astype(np.uint8)).convert("RGB") for pixels in load_digits().images[:count]]


def torchvisions(image, card):
    """What torchvision makes of an RGB image: (1, 3, S, S)."""
    steps = [
        transforms.Resize(card.resize_size),
        transforms.CenterCrop(card.image_size),
        transforms.ToTensor(),
        transforms.Normalize(card.mean, card.std),
    ]
    return transforms.Compose(steps)(image)[None].numpy()


@pytest.mark.parametrize("image_size", [224, 64, 33])
@pytest.mark.parametrize("images", [digits(8), generated_images(8)], ids=["digits", "photos"])
def test_equals_torchvision(images, image_size):
    card = ModelCard("custom", ["a", "b"], image_size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    for image in images:
        ours = preprocess(image, card)
        assert ours.dtype == np.float32 and ours.shape == (1, 3, image_size, image_size)
        np.testing.assert_allclose(ours, torchvisions(image, card), rtol=0, atol=1e-6)


@pytest.mark.data
def test_equals_torchvision_on_photographs(real_data):
    files = sorted((real_data / "cifar10_sample").rglob("*.jpg"))[::50][:20]
    assert files
    card = ModelCard("custom", ["a", "b"])
    for file in files:
        image = load_image(file)
        np.testing.assert_allclose(preprocess(image, card), torchvisions(image, card), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 64))
def test_geometry_equals_torchvision_for_every_shape(width, height, image_size):
    random = np.random.default_rng(width * 1000 + height)
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    card = ModelCard("custom", ["a", "b"], image_size)
    crop = transforms.CenterCrop(image_size)(transforms.Resize(card.resize_size)(image))
    assert np.array_equal(resize_and_crop(image, image_size, card.resize_size), np.asarray(crop))


@given(st.integers(8, 2000), st.integers(8, 2000))
def test_crop_is_centred(side, spare):
    top, left = crop_origin(side + spare, side, side)
    assert left == 0 and abs(2 * top - spare) <= 1


CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)  # red green / blue white
UPRIGHT = {  # EXIF orientation -> how the stored pixels are turned back (TIFF 6.0, tag 274)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(CORNERS).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "turned.png")), UPRIGHT[orientation](CORNERS))


def one(mode, value, **info):
    image = Image.new(mode, (3, 2), value)
    image.info.update(info)
    return image


def palette(transparent=None):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


MODES = {  # an image of one colour in every mode -> its one RGB colour
    "1": (one("1", 1), (255, 255, 255)),
    "L": (one("L", 77), (77, 77, 77)),
    "P": (palette(), (200, 100, 50)),
    "P with the colour transparent": (palette(transparent=1), (0, 0, 0)),
    "RGB": (one("RGB", (1, 2, 3)), (1, 2, 3)),
    "RGB with the colour transparent": (one("RGB", (1, 2, 3), transparency=(1, 2, 3)), (0, 0, 0)),
    "RGBA opaque": (one("RGBA", (200, 100, 50, 255)), (200, 100, 50)),
    "RGBA half": (one("RGBA", (200, 100, 50, 128)), (100, 50, 25)),
    "RGBA gone": (one("RGBA", (200, 100, 50, 0)), (0, 0, 0)),
    "LA half": (one("LA", (200, 128)), (100, 100, 100)),
    "CMYK": (one("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
    "YCbCr": (one("YCbCr", (128, 128, 128)), (128, 128, 128)),
    "I;16": (Image.fromarray(np.full((2, 3), 200 * 257, np.uint16)), (200, 200, 200)),
    "I": (one("I", 200 * 257), (200, 200, 200)),
    "F, 0-1": (one("F", 0.5), (128, 128, 128)),
    "F, 0-255": (one("F", 99.0), (99, 99, 99)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_has_a_defined_colour(name):
    image, colour = MODES[name]
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (3, 2)
    assert np.abs(np.asarray(rgb).astype(int) - colour).max() <= 1


FILES = {  # what is written -> the file's suffix and how far a lossy format may be off
    "1": (".png", 0),
    "L": (".jpg", 2),
    "P": (".gif", 0),
    "P with the colour transparent": (".png", 0),
    "RGBA half": (".webp", 3),
    "LA half": (".png", 1),
    "CMYK": (".jpg", 3),
    "I;16": (".png", 0),
    "F, 0-255": (".tif", 0),
    "RGB": (".bmp", 0),
}


@pytest.mark.parametrize("name", FILES)
def test_every_mode_survives_its_file(name, tmp_path):
    (image, colour), (suffix, off) = MODES[name], FILES[name]
    image.save(tmp_path / f"image{suffix}")
    pixels = np.asarray(load_image(tmp_path / f"image{suffix}")).astype(int)
    assert pixels.shape == (2, 3, 3) and np.abs(pixels - colour).max() <= off


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_of_an_animation_the_first_frame_counts(suffix, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"moving{suffix}", save_all=True, append_images=frames[1:], duration=50)
    pixels = np.asarray(load_image(tmp_path / f"moving{suffix}")).astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 3


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "ramp.png"))[0, :, 0], np.arange(256))


def broken_files(folder):
    """Files that are no images, each in its own way."""
    generated_images(1)[0].save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:600])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "head.gif").write_bytes(b"GIF89a")
    (folder / "folder.png").mkdir()
    return [folder / name for name in ("cut.jpg", "empty.png", "text.png", "head.gif", "folder.png", "missing.png")]


def test_broken_files_are_named(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(UserError, match=path.name):
            load_image(path)


def test_size_limit_is_kept_before_decoding(tmp_path):
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    assert load_image(tmp_path / "large.png", max_pixels=60_000).size == (300, 200)
    with pytest.raises(UserError, match=r"large\.png has 300×200 pixels, over the limit of 59,999"):
        load_image(tmp_path / "large.png", max_pixels=59_999)


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path):
    Image.fromarray(CORNERS).save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00rubbish that is no TIFF header", quality=95)
    assert load_image(tmp_path / "odd.jpg").size == (2, 2)
