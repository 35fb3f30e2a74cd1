"""A data set and an augmentation are one entry each: the scripts take them from the tables."""

import json

import numpy as np
import pytest

from utils.core.errors import UserError
from utils.data.augment import Centre
from utils.data.datasets import DATASETS, is_present
from utils.data.registry import AUGMENTATIONS
from utils.data.splits import Dataset, Split

SHORT = ("-m", "custom", "--image_size", 16, "--max_epoch", 2, "--batch_size", 32, "--num_workers", 0)


@pytest.fixture
def bars():
    """A data set of bars that lie or stand; its file holds their number."""

    @DATASETS.register("bars")
    class Bars:
        @staticmethod
        def is_present(folder):
            return (folder / "bars.json").exists()

        @staticmethod
        def load(folder):
            count = json.loads((folder / "bars.json").read_text())
            random, labels = np.random.default_rng(0), np.arange(count) % 2
            images = random.integers(0, 60, (count, 12, 12, 3), dtype=np.uint8)
            for image, label in zip(images, labels, strict=True):
                image[(5, slice(None)) if label else (slice(None), 5)] = 255
            whole = Split("train", labels, images)
            return Dataset("bars", ["standing", "lying"], whole.subset(range(80)), test=whole.subset(range(80, count), "test"))

    yield
    del DATASETS["bars"]


def test_a_new_data_set_is_trained_on_evaluated_exported_and_quantized(bars, main_of, tmp_path):
    (tmp_path / "bars.json").write_text("128")
    here = ("--data_dir", tmp_path)
    status, out = main_of("train", "-d", "bars", *here, *SHORT, "--base_lr", 0.01)
    assert status == 0 and "2 classes, 72 train, 8 val, 48 test images" in out
    best = tmp_path / "weights" / "bars" / "custom" / "best_model.pth"

    assert main_of("eval", "-w", best)[0] == 0
    report = json.loads((tmp_path / "results" / "accuracy" / "bars" / "custom.json").read_text())
    assert report["Acc@1"] > 0.9 and report["samples"] == 48 and set(report["per class"]) == {"standing", "lying"}

    assert "of bars (val)" in main_of("export", "-w", best, "-e", "onnx")[1]  # the images that it is verified on
    status, out = main_of("quantize", "-w", best, "--scheme", "int8", "--calibration", 16)
    assert status == 0 and "bars" in out


def test_a_data_set_that_is_not_there_is_not_verified_on(bars, main_of, tmp_path):
    (tmp_path / "bars.json").write_text("128")
    assert is_present("bars", tmp_path) and not is_present("bars", tmp_path / "elsewhere")
    main_of("train", "-d", "bars", "--data_dir", tmp_path, *SHORT)
    (tmp_path / "bars.json").unlink()
    out = main_of("export", "-w", tmp_path / "weights" / "bars" / "custom" / "best_model.pth", "-e", "torchscript")[1]
    assert "of digits (val)" in out


def test_a_new_augmentation_is_a_choice_of_train(main_of, tmp_path):
    @AUGMENTATIONS.register("upside_down")
    class UpsideDown(Centre):
        def geometry(self, pixels, random):
            return super().geometry(pixels, random).flip(-2)

    seen, plain = [], UpsideDown.geometry
    UpsideDown.geometry = lambda self, pixels, random: seen.append(len(pixels.data)) or plain(self, pixels, random)
    try:
        flags = ("-d", "digits", *SHORT, "--max_epoch", 1, "--plain_epochs", 0)
        status, _ = main_of("train", *flags, "--augment", "upside_down")
    finally:
        del AUGMENTATIONS["upside_down"]
    assert status == 0 and sum(seen) == 1295  # every training image went through it once
    with pytest.raises(UserError, match="upside_down"):
        main_of("train", *flags, "--augment", "upside_down")
