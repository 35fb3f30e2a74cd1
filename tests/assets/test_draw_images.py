"""The sample images are those that their script makes, one a class."""

import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from assets import draw_images
from utils.core.card import read_classes

CLASSES = read_classes(ROOT / "data" / "FashionMNIST" / "classes.txt")
FOLDERS = ("drawn", "fashion_mnist")


def test_there_is_one_image_a_class_in_each_folder():
    assert list(draw_images.DRAWINGS) == CLASSES == read_classes(ROOT / "assets" / "classes.txt")
    for folder in FOLDERS:
        names = {path.name for path in (draw_images.IMAGES / folder).iterdir()}
        assert names == {draw_images.file_name(name) for name in CLASSES}
    assert sum(path.stat().st_size for path in draw_images.IMAGES.rglob("*.png")) < 50_000


@pytest.mark.parametrize("name", CLASSES)
def test_a_drawing_is_what_the_script_draws(name):
    committed = np.asarray(Image.open(draw_images.IMAGES / "drawn" / draw_images.file_name(name)), dtype=int)
    drawn = np.asarray(draw_images.draw(draw_images.DRAWINGS[name]), dtype=int)
    assert committed.shape == (112, 112) and np.abs(committed - drawn).mean() < 1  # versions of Pillow round edges differently


@pytest.mark.data
def test_the_images_of_the_data_set_are_those_that_the_page_names(real_data, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["draw_images.py", "--data_dir", str(real_data), "--output", str(tmp_path)])
    draw_images.main()
    page = (ROOT / "assets" / "README.md").read_text(encoding="utf-8")
    indices = {name: int(index) for name, index in re.findall(r"^\| (\S+\.png) \| (\d+) \|$", page, re.MULTILINE)}
    pixels = np.fromfile(real_data / "FashionMNIST/raw/t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.fromfile(real_data / "FashionMNIST/raw/t10k-labels-idx1-ubyte", np.uint8, offset=8)
    for label, name in enumerate(map(draw_images.file_name, CLASSES)):
        assert labels[indices[name]] == label
        for root in (draw_images.IMAGES, tmp_path):
            assert np.array_equal(Image.open(root / "fashion_mnist" / name), pixels[indices[name]])
