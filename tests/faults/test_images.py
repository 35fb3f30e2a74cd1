"""Damaged images, images of odd shapes and things that are no images: refused in a sentence each, or read."""

import io
import os
import socket
import time

import numpy as np
import pytest
from digits_checkpoint import checkpoint
from PIL import Image, features

from utils.core.errors import UserError

RANDOM = np.random.default_rng(0)


def colours(width=40, height=30):
    smooth = Image.fromarray(RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return smooth.resize((width, height), Image.Resampling.BICUBIC)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif():
    tags = Image.Exif()
    tags[274], tags[270] = 6, "a description"
    return tags


def sources():
    """{name: bytes of a whole file}, of every format that Pillow writes and many of their kinds."""
    rgb, grey = colours(), colours().convert("L")
    deep = Image.fromarray(RANDOM.integers(0, 65536, (20, 30), dtype=np.uint16))
    see_through = rgb.copy()
    see_through.putalpha(grey)
    frames = {"save_all": True, "append_images": [colours(), colours()], "duration": 40}
    files = {
        "rgb.png": saved(rgb, "PNG", exif=exif()),
        "alpha.png": saved(see_through, "PNG"),
        "deep.png": saved(deep, "PNG"),
        "palette.png": saved(rgb.convert("P"), "PNG", transparency=3),
        "moving.png": saved(rgb, "PNG", **frames),
        "plain.jpg": saved(rgb, "JPEG", exif=exif()),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "moving.gif": saved(rgb, "GIF", **frames),
        "grey.gif": saved(grey, "GIF"),
        "rgb.bmp": saved(rgb, "BMP"),
        "palette.bmp": saved(rgb.convert("P"), "BMP"),
        "raw.tif": saved(rgb, "TIFF"),
        "lzw.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved(rgb, "TIFF", compression="jpeg"),
        "deep.tif": saved(deep, "TIFF", compression="tiff_adobe_deflate"),
        "points.tif": saved(Image.fromarray(RANDOM.random((20, 30), dtype=np.float32)), "TIFF"),
        "rgb.ppm": saved(rgb, "PPM"),
        "deep.pgm": saved(deep, "PPM"),
        "rgb.tga": saved(rgb, "TGA", compression="tga_rle"),
        "icon.ico": saved(see_through, "ICO", sizes=[(16, 16), (24, 24)]),
        "rgb.pcx": saved(rgb, "PCX"),
        "rgb.sgi": saved(rgb, "SGI"),
        "rgb.dds": saved(rgb, "DDS"),
    }
    if features.check("webp"):
        files |= {"lossy.webp": saved(rgb, "WEBP", exif=exif()), "exact.webp": saved(see_through, "WEBP", lossless=True)}
        files["moving.webp"] = saved(rgb, "WEBP", **frames)
    if features.check("avif"):
        files |= {"rgb.avif": saved(rgb, "AVIF"), "alpha.avif": saved(see_through, "AVIF")}
    if features.check("jpg_2000"):
        files["rgb.jp2"] = saved(rgb, "JPEG2000")
    return files


def flipped(content, random):
    for place in random.integers(0, len(content), random.integers(1, 12)):
        content[place] ^= 1 << random.integers(8)


def cut(content, random):
    del content[random.integers(1, len(content)) :]


def without_a_part(content, random):
    start = random.integers(len(content))
    del content[start : start + random.integers(1, 40)]


def with_a_part_more(content, random):
    start = random.integers(len(content))
    content[start:start] = random.bytes(random.integers(1, 40))


def twice(content, random):
    start = random.integers(len(content))
    content[start:start] = content[start : start + random.integers(1, 200)]


def extreme_numbers(content, random):
    """Sizes and offsets stand near the start."""
    value = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\1\0\0"][random.integers(5)]
    place = random.integers(2, min(len(content), 120))
    content[place : place + len(value)] = value


MUTATIONS = (flipped, flipped, cut, without_a_part, with_a_part_more, twice, extreme_numbers, extreme_numbers)


def mutants(folder, count, seed):
    """`count` files made from `sources`, in turn, each changed in one or two ways, under the suffix of their format."""
    whole, random = list(sources().items()), np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        name, content = whole[number % len(whole)]
        content = bytearray(content)
        for _ in range(random.integers(1, 3)):
            MUTATIONS[random.integers(len(MUTATIONS))](content, random)
            if not content:
                break
        path = folder / f"{number}_{name}"
        path.write_bytes(content)
        yield path


def test_whole_files_are_read_and_a_few_damaged_ones_do_no_harm(ask, tmp_path):
    whole = [tmp_path / name for name in sources()]
    for path, content in zip(whole, sources().values(), strict=True):
        path.write_bytes(content)
    read, refused = ask("image", [*whole, *mutants(tmp_path / "mutants", 100, seed=1)])
    assert len({path.suffix for path in whole}) >= 8 and {str(path) for path in whole} <= read.keys()
    assert read[str(tmp_path / "rgb.png")] == [30, 40]  # upright, as its EXIF says
    assert len(read) - len(whole) > 10 and len(refused) > 20


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(2, 6))
def test_damaged_images(ask, tmp_path, seed):
    read, refused = ask("image", list(mutants(tmp_path / "mutants", 750, seed)))
    assert len(read) + len(refused) == 750 and len(read) > 60 and len(refused) > 150


SHAPES = [(1, 1), (1, 400_000), (400_000, 1), (1, 1_500_000), (3, 60_000), (70_000, 90), (5_000, 5_000)]


@pytest.fixture
def zoo(tmp_path):
    """A folder of class folders: 6 sound images, odd ones that can be read, and what is no image."""
    root = tmp_path / "zoo"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            colours().save(root / name / f"{number}.png")
    for width, height in SHAPES[:4]:
        Image.new("L", (width, height), 99).save(root / "a" / f"{width}x{height}.png")
    for name, content in sources().items():
        (root / "b" / name).write_bytes(content)
    return root


def spoil(root):
    """What cannot be read, and how many of it have the name of an image."""
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "a" / "text.jpg").write_text("no image")
    (root / "a" / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    (root / "a" / "folder.png").mkdir()
    os.mkfifo(root / "a" / "pipe.png")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "a" / "socket.png"))
    listener.close()
    (root / "a" / "nowhere.png").symlink_to(root / "gone.png")
    (root / "a" / "circle.png").symlink_to(root / "a" / "circle.png")
    (root / "a" / "again").symlink_to(root)
    (root / "a" / "first.png").symlink_to(root / "a" / "0.png")
    return ("empty", "text", "program", "folder", "pipe", "socket", "nowhere", "circle")


@pytest.fixture
def weights(tmp_path):
    return checkpoint(tmp_path / "digits.pth")


def test_a_zoo_goes_through_prediction(zoo, weights, main_of, tmp_path):
    count, names = sum(path.is_file() for path in zoo.rglob("*")), spoil(zoo)
    start = time.monotonic()
    status, _ = main_of("predict_ckpoint", "-w", weights, "-i", zoo, "--json", "a.json", "--save_dir", "drawn")
    assert status == 3 and time.monotonic() - start < 60
    text = (tmp_path / "a.json").read_text()
    assert text.count('"probability"') == count * 6 and all(f"{name}." in text.partition('"unreadable"')[2] for name in names)


def test_a_zoo_goes_through_the_doctor_and_training(zoo, main_of):
    out = main_of("train", "-d", zoo, "-m", "custom", "--image_size", 8, "--max_epoch", 1, "--num_workers", 0)[1]
    assert "val" in out
    spoil(zoo)
    status, out = main_of("check_dataset", "-d", zoo)
    assert status == 1 and "1 file (taken already under another name)" not in out
    found = {line.split()[0]: line for line in out.splitlines() if "does not decode" in line}
    assert "does not decode" in out and found
    for name in ("empty.png", "text.jpg", "program.png"):
        assert name in out
    for name, kind in (("pipe", "a pipe"), ("socket", "a socket"), ("nowhere", "a link to nothing")):
        assert f"({kind}):\n" in out and f"{name}.png" in out
    with pytest.raises(UserError, match=r"(?s)empty\.png.*program\.png holds EPS.*text\.jpg"):
        main_of("train", "-d", zoo, "-m", "custom", "--image_size", 8, "--max_epoch", 1, "--num_workers", 0)


PREDICT = """
import sys, time
import predict_ckpoint
from utils.core.machine import peak_memory
weights, *names = sys.argv[1:]
for name in names:
    sys.argv[1:] = ["-w", weights, "-i", name, "--device", "cpu"]
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before, started = peak_memory(), time.process_time()
    assert not predict_ckpoint.main()
    print("took", time.process_time() - started, (peak_memory() - before) / 2**20)
"""


@pytest.mark.faults
def test_odd_shapes_take_neither_memory_nor_time(tmp_path, weights, python):
    """Beyond those of a plain image: the peak of memory, and seconds of processor time."""
    colours().save(tmp_path / "plain.png")
    for width, height in SHAPES:
        Image.new("L", (width, height), 99).save(tmp_path / f"{width}x{height}.png")
    names = ["plain.png", "plain.png", *(f"{width}x{height}.png" for width, height in SHAPES)]
    out = python(PREDICT, weights, *(tmp_path / name for name in names))
    took = [[*map(float, line.split()[1:])] for line in out.splitlines() if line.startswith("took ")]
    (base_seconds, base_memory), rest = took[1], took[2:]
    assert len(rest) == len(SHAPES)
    for shape, (seconds, memory) in zip(SHAPES, rest, strict=True):
        print(f"{shape}: {seconds - base_seconds:+.2f} s, {memory - base_memory:+.0f} MB")
        assert memory - base_memory < 300 and seconds - base_seconds < 2, shape  # 1 s where nothing else runs
