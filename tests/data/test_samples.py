"""Which images the scripts take: of the data set that is asked for, of the model's own, or of one that is always here."""

import numpy as np
import pytest
from conftest import make_photos
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data import samples
from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images, example_images, find_dataset, nearby_split, open_split, spread
from utils.data.splits import Dataset, Split, images_digest

DIGITS = open_dataset("digits")
TRAINED = ModelCard("custom", DIGITS.classes, 16, training={"dataset": "digits"})
UNTRAINED = ModelCard("custom", ["a", "b"], 16)


@pytest.fixture
def colours(photos):
    """The card of a model that was trained on photographs."""
    return ModelCard("custom", ["blue", "green", "red"], 32, training={"dataset": str(photos)})


def test_a_score_is_reported_on_test_before_val(colours):
    for card, name in ((TRAINED, "test"), (colours, "val")):
        split, dataset = open_split(card)
        assert split.name == name and split is dataset.held_out
    assert open_split(TRAINED, split="train")[0].name == "train"


def test_a_split_is_as_large_as_it_was_in_training():
    for fraction in (0.1, 0.4):
        card = TRAINED.replace(training=TRAINED.training | {"val_fraction": fraction})
        assert len(open_split(card, split="val")[0]) == pytest.approx(fraction * 1438, rel=0.02)
        without = card.replace(training={"dataset": "digits"})  # by an older version
        assert len(open_split(without, split="val", changes={"val_fraction": 0.2})[0]) == pytest.approx(288, rel=0.02)
        assert "val_fraction" not in without.training  # the card is not touched


def test_another_part_of_its_own_data_than_was_held_out_is_refused(photos):
    """Among it are images that the model has seen; data of others may be divided as one likes."""
    training = {"dataset": str(photos), "val_fraction": 0.25, "reading": {"group_regex": "a"}}
    card = ModelCard("custom", ["blue", "green", "red"], 32, training=training)
    for changes, flag in (
        ({"val_fraction": 0.5}, "val_fraction"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"reading": {"group_regex": "b"}}, "group_regex"),
        ({"reading": {"group_column": "site"}}, "group_column"),
    ):
        for named in (None, str(photos)):
            with pytest.raises(UserError, match="images that the model has seen would count") as error:
                open_split(card, named, changes=changes)
            assert error.value.option == flag
    other = card.replace(training={"dataset": "digits", "val_fraction": 0.25})
    assert open_split(other, str(photos), changes={"val_fraction": 0.5})[0]


def test_the_training_folder_is_known_again_wherever_it_lies(tmp_path):
    make_photos(tmp_path / "photos", val=0)
    (tmp_path / "photos" / "train").rename(tmp_path / "flat")
    opened = open_dataset(str(tmp_path / "flat"))
    card = ModelCard("custom", opened.classes, 32, training={"dataset": "flat", "images": images_digest(opened)})
    (tmp_path / "flat").rename(tmp_path / "moved")
    split, dataset = open_split(card, str(tmp_path / "moved"))
    assert (split.name, len(split)) == ("val", len(opened.val)) and split.names() == opened.val.names()
    assert len(open_split(card, str(tmp_path / "moved"), changes={"val_fraction": 0.5})[0]) > 9
    (tmp_path / "moved" / "red" / "0.jpg").unlink()
    (tmp_path / "moved").rename(tmp_path / "x")
    split, dataset = open_split(card, str(tmp_path / "x"))
    assert (split.name, len(split)) == ("all", 23) and not any("called like" in notice for notice in dataset.notices)
    (tmp_path / "x").rename(tmp_path / "flat")
    split, dataset = open_split(card, str(tmp_path / "flat"))
    assert split.name == "all" and "is called like the data that the model was trained on" in dataset.notices[-1]


def test_a_file_that_does_not_name_its_classes_takes_those_of_the_data(photos):
    for dataset, training in ((None, {"dataset": str(photos)}), (str(photos), {}), ("digits", {})):
        count = 10 if dataset == "digits" else 3
        names = [str(number) for number in range(count)]
        card = ModelCard("custom", names, 32, training=training, invented_classes=True)
        open_split(card, dataset)
        assert card.classes == (names if dataset == "digits" else ["blue", "green", "red"]) and not card.invented_classes


def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(colours, monkeypatch):
    with pytest.raises(UserError, match="no test split; there are: train, val") as error:
        open_split(colours, split="test")
    assert error.value.option == "split"
    only_train = Dataset("photos", colours.classes, DIGITS.train)
    monkeypatch.setattr(samples, "dataset_of", lambda *_, some: only_train)
    with pytest.raises(UserError, match="no val split; there are: train"):
        open_split(colours, split="val")
    assert open_split(colours)[0].name == "train"


def test_without_a_data_set_there_is_a_reason_unless_one_is_required(tmp_path):
    gone = TRAINED.replace(training={"dataset": str(tmp_path / "gone")})
    assert find_dataset(TRAINED)[1] is None and find_dataset(TRAINED)[0].name == "digits"
    for card in (gone, UNTRAINED):
        dataset, why = find_dataset(card)
        assert dataset is None and why
        with pytest.raises(UserError, match=r"data set|does not exist"):
            find_dataset(card, required=True)
    with pytest.raises(UserError, match="nowhere"):
        find_dataset(TRAINED, dataset="./nowhere")


def test_real_images_are_near(colours, tmp_path, monkeypatch):
    assert nearby_split(colours)[0].name == "val"
    assert nearby_split(colours, prefer=("train",))[0].name == "train"
    gone = colours.replace(training={"dataset": str(tmp_path / "gone")})
    other = colours.replace(classes=["a", "b"])  # the folder holds other classes now
    for card in (gone, other, UNTRAINED):
        split, dataset = nearby_split(card)
        assert dataset.name == "digits" and split.name == "test"
    assert nearby_split(UNTRAINED, colours.training["dataset"])[1].classes == colours.classes  # any images do
    with pytest.raises(UserError, match="classes"):
        nearby_split(colours, "digits")
    with pytest.raises(UserError, match="does not exist"):
        nearby_split(gone, data_dir="somewhere")
    monkeypatch.setattr(samples, "is_present", lambda name, data_dir=None: False)
    assert nearby_split(UNTRAINED) == (None, None)
    images, source = example_images(UNTRAINED, 5)
    assert len(images) == 5 and source == "5 generated images"


def test_nothing_is_downloaded_unless_it_is_asked_for(tmp_path):
    fashion = ModelCard("custom", list("0123456789"), 16, training={"dataset": "FashionMNIST", "data_dir": str(tmp_path)})
    assert nearby_split(fashion)[1].name == "digits" and not list(tmp_path.iterdir())


def test_spread_is_even():
    split = Split("val", np.zeros(100, np.int64), np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, 1).repeat(2, 2))
    assert [image.getpixel((0, 0))[0] for image in spread(split, 4)] == [0, 33, 66, 99]
    assert len(spread(split, 500)) == 100


def test_where_the_images_come_from(colours):
    card = colours
    images, source = example_images(card, 5)
    assert len(images) == 5 and source == "5 images of photos (val)"
    images, source = example_images(card, 64)
    assert len(images) == 9 and source == "9 images of photos (val)"  # all there are
    assert example_images(ModelCard("custom", ["a", "b"]), 7)[1] == "7 images of digits (val)"
    images, source = example_images(ModelCard("custom", ["a", "b"]), 8, sizes=True)
    assert len({image.size for image in images}) == 3 and source.endswith("and 2 generated ones of many sizes")
    with pytest.raises(UserError, match="classes"):
        example_images(card, 5, dataset="digits")


@settings(max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 50), st.integers(0, 5))
def test_calibration_images_are_balanced(sizes, count, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, 1).repeat(2, 2)  # an image is its number
    split = Split("train", labels, pixels)
    chosen = [image.getpixel((0, 0))[0] for image in calibration_images(split, count, seed)]
    assert chosen == [image.getpixel((0, 0))[0] for image in calibration_images(split, count, seed)]
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    most = taken.max(initial=0)
    assert all(n == size or n >= most - 1 for n, size in zip(taken, sizes, strict=True))


def test_calibration_follows_the_seed():
    first, second = (calibration_images(DIGITS.train, 20, seed) for seed in (0, 1))
    assert [image.tobytes() for image in first] != [image.tobytes() for image in second]
