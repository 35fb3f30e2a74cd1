"""The one preprocessing against torchvision's transforms on real images, and every kind of image that Pillow opens."""

import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_digits
from torchvision import transforms

from utils.core import images as images_module
from utils.core.card import INTERPOLATIONS, ModelCard
from utils.core.errors import UserError
from utils.core.images import (
    FILTERS,
    LONGEST,
    ODD,
    crop_origin,
    load_image,
    middle,
    preprocess,
    resize_and_crop,
    resize_shorter,
    to_rgb,
)
from utils.data.places import Piece
from utils.data.samples import generated_images


def digits(count):
    return [Image.fromarray((pixels * 15.9).astype(np.uint8)).convert("RGB") for pixels in load_digits().images[:count]]


def torchvisions(image, card):
    """What torchvision makes of an RGB image: (1, 3, S, S)."""
    steps = [
        transforms.Resize(card.resize_size, transforms.InterpolationMode(card.interpolation)),
        transforms.CenterCrop(card.image_size),
        transforms.ToTensor(),
        transforms.Normalize(card.mean, card.std),
    ]
    return transforms.Compose(steps)(image)[None].numpy()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("image_size", [224, 64, 33])
@pytest.mark.parametrize("images", [digits(8), generated_images(8)], ids=["digits", "photos"])
def test_equals_torchvision(images, image_size, interpolation):
    looks = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}
    card = ModelCard("custom", ["a", "b"], image_size, interpolation=interpolation, **looks)
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


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 64), st.sampled_from(INTERPOLATIONS))
def test_geometry_equals_torchvision_for_every_shape(width, height, image_size, interpolation):
    random = np.random.default_rng(width * 1000 + height)
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    card = ModelCard("custom", ["a", "b"], image_size)
    resize = transforms.Resize(card.resize_size, transforms.InterpolationMode(interpolation))
    crop = transforms.CenterCrop(image_size)(resize(image))
    assert np.array_equal(resize_and_crop(image, image_size, card.resize_size, interpolation), np.asarray(crop))


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


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_tiff_is_turned_whether_it_is_compressed_or_not(orientation, compression, mode, tmp_path):
    """20 pixels by 40, as an image of square shape would hide a mixture of width and height."""
    grey = np.arange(20 * 40).reshape(40, 20) // 4
    pixels = np.dstack([grey] * 3).astype(np.uint8)
    stored = pixels if mode == "RGB" else (grey * 257).astype(np.uint16)
    Image.fromarray(stored).save(tmp_path / "turned.tif", tiffinfo={274: orientation}, compression=compression)
    assert np.array_equal(np.asarray(load_image(tmp_path / "turned.tif")), UPRIGHT[orientation](pixels))


def test_the_transparent_value_of_16_bit_grey_is_shown_on_black(tmp_path):
    Image.fromarray(np.array([[65535, 257 * 100]], dtype=np.uint16)).save(tmp_path / "hole.png", transparency=65535)
    assert np.asarray(load_image(tmp_path / "hole.png"))[0, :, 0].tolist() == [0, 100]


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


BROKEN = {  # the bytes of a file, made of those of a whole JPEG -> the reason that is told
    "nothing": (lambda whole: b"", "it is empty"),
    "text": (lambda whole: "<!DOCTYPE html>\n<title>404, não achado</title>".encode(), "it holds text, not an image"),
    "text cut in a letter": (lambda whole: ("é" * 400).encode()[:511], "it holds text, not an image"),
    "other bytes": (lambda whole: bytes(range(256)), "its content is not that of an image"),
    "a half": (lambda whole: whole[:600], "it is cut off after 600 bytes"),
    "damage": (lambda whole: whole.replace(b"\xff\xda", b"\xff\xd9"), "its content is damaged or of a rare kind (.+)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_reason_is_in_plain_words(name, tmp_path):
    make, words = BROKEN[name]
    generated_images(1)[0].resize((80, 60)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(make((tmp_path / "a.jpg").read_bytes()))
    piece = Piece(tmp_path / "a.jpg", 0, (tmp_path / "a.jpg").stat().st_size, "a.jpg")
    for place in (tmp_path / "a.jpg", piece):
        with pytest.raises(UserError) as fault:
            load_image(place)
        assert re.fullmatch(f"{place} is not a readable image: {words}", str(fault.value))
        assert "Error" not in str(fault.value)


def test_broken_files_are_named(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(UserError, match=path.name):
            load_image(path)


def test_size_limit_is_kept_before_decoding(tmp_path):
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    assert load_image(tmp_path / "large.png", max_pixels=60_000).size == (300, 200)
    with pytest.raises(UserError, match=r"large\.png has 300×200 pixels, over the limit of 59,999"):
        load_image(tmp_path / "large.png", max_pixels=59_999)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_damaged_exif_block_does_not_cost_the_picture(suffix, tmp_path):
    path = tmp_path / f"odd.{suffix}"
    Image.fromarray(CORNERS).save(path, exif=b"Exif\x00\x00rubbish that is no TIFF header", quality=95)
    assert load_image(path).size == (2, 2)


LONG_SHAPES = [(3, 900, 256), (40, 1600, 256), (1, 4000, 64), (30, 2000, 256), (5000, 300, 256), (900, 9000, 128)]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("width", "height", "size"), LONG_SHAPES)
def test_resizing_only_the_middle_of_a_long_image_gives_the_same_pixels(width, height, size, interpolation, monkeypatch):
    random = np.random.default_rng(width)
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    parts = []
    for most in (1 << 40, 0):  # all is resized, or never more than what is needed
        monkeypatch.setattr(images_module, "MOST_RESIZED", most)
        parts.append(np.asarray(resize_shorter(image, size, interpolation)).astype(int))
        assert min(parts[-1].shape[:2]) == size and max(parts[-1].shape[:2]) < (LONGEST + 0.1) * size
    whole, part = parts
    assert np.abs(whole - part).max() <= 1 and (whole != part).mean() < 0.01
    assert np.abs(resize_and_crop(image, size, size, interpolation).astype(int) - np.asarray(image.resize(
        (size, int(size * height / width)) if width < height else (int(size * width / height), size), FILTERS[interpolation][0]
    ).crop(_centred(width, height, size))).astype(int)).max() <= 1  # fmt: skip


def _centred(width, height, size):
    shape = (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    top, left = crop_origin(shape[1], shape[0], size)
    return left, top, left + size, top + size


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 40))
def test_the_middle_has_the_pixels_of_a_centred_crop(width, height, size):
    image = Image.fromarray(np.arange(width * height, dtype=np.int32).reshape(height, width))
    part = middle(image, 4)
    assert max(part.size) <= 4 * min(part.size) + 3 and min(part.size) == min(image.size)
    crops = []
    for whole in (image, part):
        side = min(size, *image.size)
        top, left = crop_origin(whole.height, whole.width, side)
        crops.append(np.asarray(whole.crop((left, top, left + side, top + side))))
    assert np.array_equal(*crops)


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1), (1, 1_500_000)])
def test_long_images_cost_no_memory(shape, tmp_path):
    Image.new("RGB", shape, (200, 10, 10)).save(tmp_path / "long.png")
    peak = []
    plain = Image.Image.resize

    def resize(image, size, *arguments):
        peak.append(size[0] * size[1])
        return plain(image, size, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        pixels = resize_and_crop(load_image(tmp_path / "long.png"), 224, 256)
    assert pixels.shape == (224, 224, 3) and (pixels == (200, 10, 10)).all() and max(peak) <= 2 * LONGEST * 256 * 256


def test_too_little_memory_for_an_image_is_the_failure_of_that_image(tmp_path, monkeypatch):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(images_module, "to_rgb", lambda image: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UserError, match=r"a\.png cannot be decoded: there is not enough memory"):
        load_image(tmp_path / "a.png")


def deep(*values, dtype=np.uint16):
    return Image.fromarray(np.array([values], dtype))


ODD_FILES = {  # an image -> its suffix, a part of what is said of it, and its grey levels
    "12 bits in 16": (deep(0, 2048, 4095), ".png", "end at 4,095 of 65,535", (0, 8, 16)),
    "14 bits in 16, TIFF": (deep(0, 16383), ".tif", "64 grey levels of 256", (0, 64)),
    "8 bits in 32": (deep(0, 255, dtype=np.int32), ".tif", "1 grey level of 256|end at 255 of 65,535", (0, 1)),
    "more than fits": (deep(0, 70000, dtype=np.int32), ".tif", "outside of 0 to 65,535 was cut off", (0, 255)),
    "below zero": (deep(-5, 255, dtype=np.float32), ".tif", "go from -5 to 255", (0, 255)),
    "12 bits as numbers with a point": (deep(0, 4095, dtype=np.float32), ".tif", "0 to 255 was cut off", (0, 255)),
}


@pytest.mark.parametrize("name", ODD_FILES)
def test_values_that_do_not_fit_their_range_are_told(name, tmp_path):
    image, suffix, words, levels = ODD_FILES[name]
    image.save(tmp_path / f"odd{suffix}")
    loaded = load_image(tmp_path / f"odd{suffix}")
    assert re.search(words, loaded.info[ODD]), loaded.info
    assert np.asarray(loaded)[0, :, 0].tolist() == list(levels)


FITTING = {
    "16 bits": (deep(0, 40000, 65535), ".png"),
    "16 bits, dark": (deep(0, 20000), ".png"),
    "black": (deep(0, 0), ".png"),
    "8 bits": (Image.new("L", (2, 2), 3), ".png"),
    "0 to 1": (deep(0, 0.5, dtype=np.float32), ".tif"),
}


@pytest.mark.parametrize("name", FITTING)
def test_values_that_fit_are_no_matter(name, tmp_path):
    image, suffix = FITTING[name]
    image.save(tmp_path / f"fine{suffix}", **({"pnginfo": text(ODD)} if suffix == ".png" else {}))
    assert load_image(tmp_path / f"fine{suffix}").info == {}


def text(key, value="a stranger's words"):
    info = PngImagePlugin.PngInfo()
    info.add_text(key, value)
    return info


def sixteen_bit_colours(path, values):
    """A PNG of 16-bit RGB, which Pillow reads and does not write."""
    rows = b"".join(b"\0" + b"".join(struct.pack(">HHH", v, v, v) for v in row) for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", len(values[0]), len(values), 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in [*chunks, (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)


def test_colours_of_12_bits_in_16_are_told_too(tmp_path):
    sixteen_bit_colours(tmp_path / "dark.png", [[0, 2048, 4095]])
    sixteen_bit_colours(tmp_path / "full.png", [[0, 2048, 65535]])
    assert "end at 4,095 of 65,535" in load_image(tmp_path / "dark.png").info[ODD]
    assert load_image(tmp_path / "full.png").info == {}


def test_a_tiff_of_12_bits_has_a_white_of_12_bits(tmp_path):
    """0x800 and 0xFFF packed; the tags of TIFF 6.0: width, height, bits, …, offset, samples, rows a strip, bytes."""
    tags = ((256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    (tmp_path / "twelve.tif").write_bytes(b"II*\0" + struct.pack("<I", 12) + b"\x80\x0f\xff\0" + directory + b"\0" * 4)
    loaded = load_image(tmp_path / "twelve.tif")
    assert np.asarray(loaded)[0, :, 0].tolist() == [128, 255] and not loaded.info


def test_a_deep_tiff_in_which_white_is_zero_is_turned_over(tmp_path):
    tags = ((256, 2), (257, 1), (258, 16), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, 4))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    pixels = struct.pack("<HH", 0, 65535)
    (tmp_path / "film.tif").write_bytes(b"II*\0" + struct.pack("<I", 12) + pixels + directory + b"\0" * 4)
    assert np.asarray(load_image(tmp_path / "film.tif"))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(("size", "fits"), [(3 << 20, True), (20 << 20, True), (80 << 20, False)])
def test_long_texts_in_a_png_are_no_reason_to_refuse_it_and_endless_ones_are(tmp_path, size, fits):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * size, zip=True)
    Image.new("L", (3, 2), 7).save(tmp_path / "talkative.png", pnginfo=info)
    if fits:
        assert load_image(tmp_path / "talkative.png").getpixel((0, 0)) == (7, 7, 7)
    else:
        with pytest.raises(UserError, match=r"talkative\.png is not a readable image"):
            load_image(tmp_path / "talkative.png")
