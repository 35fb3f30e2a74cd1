"""How folders are read as data sets: names of splits, what is left out, what can be read in two ways, what is held out."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.image_folder import image_folder
from utils.data.splits import hold_out, split_by_name


def grow(root, *folders, count=2):
    """`count` small images in each of the folders."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (4, 4)).save(root / folder / f"{i}.png")
    return root


def read(root, **options):
    """{split: (images, classes that occur)} and the notices."""
    dataset = image_folder(root, **options)
    splits = {s.name: (len(s), len(set(s.labels))) for s in (dataset.train, dataset.val, dataset.test) if s}
    return splits, "\n".join(dataset.notices)


SPELLINGS = [
    ("train", "val", "test"),
    ("Training", "validation", "Testing"),
    ("TRAIN", "Valid", "test"),
    ("training", "VAL", "testing"),
]


@pytest.mark.parametrize("names", SPELLINGS)
def test_split_folders_by_synonym_and_case(tmp_path, names):
    grow(tmp_path, *(f"{name}/{label}" for name in names for label in "ab"))
    assert read(tmp_path) == ({"train": (4, 2), "val": (4, 2), "test": (4, 2)}, "")
    assert image_folder(tmp_path).classes == ["a", "b"]


def test_what_is_left_out_is_named(tmp_path):
    grow(tmp_path, "train/a", "train/b", "val/a", "val/b", "extra/c", "train", "")
    (tmp_path / "train" / "a" / "notes.txt").write_text("")
    (tmp_path / "labels").mkdir()
    splits, notices = read(tmp_path)
    assert splits == {"train": (4, 2), "val": (4, 2)}
    assert "left out the folder" in notices and "extra (2 images): it is no split" in notices and "labels (0 images)" in notices
    assert "4 files (in no class folder)" in notices and f"{tmp_path / '0.png'}" in notices
    assert "1 file (no image by the suffix)" in notices and "notes.txt" in notices


def test_links_out_of_a_class_are_not_counted_into_it(tmp_path):
    grow(tmp_path, "train/a", "train/b", "val/a", "val/b")
    (tmp_path / "train" / "b" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "val" / "a" / "up").symlink_to(tmp_path)
    splits, notices = read(tmp_path)
    assert splits == {"train": (4, 2), "val": (4, 2)} and "2 files (taken already under another name)" in notices


def test_a_class_may_be_called_train(tmp_path):
    grow(tmp_path, "bus", "car", "train")
    assert read(tmp_path) == ({"train": (6, 3)}, "")
    assert grow(tmp_path / "x", "valid", "invalid") and image_folder(tmp_path / "x").classes == ["invalid", "valid"]


TWO_WAYS = {
    "a class train with folders": (
        ("bus", "car", "train/fast", "train/slow"),
        "train/ as split folders, with bus/ and car/ left out",
    ),
    "a class test with folders": (("a", "b", "test/x"), "test/ as split folders"),
    "classes train and test": (("bus", "train", "test"), "train/ and test/ as split folders|test/ and train/ as split folders"),
    "two validation folders": (("train/a", "val/a", "validation/a"), "val/ and validation/ could each be the val split"),
    "train in two spellings": (("Train/a", "train/a", "val/a"), "Train/ and train/ could each be the train split"),
    "split folders in each class": (
        ("a/train", "a/test", "b/train", "b/test"),
        r"inside of each class \(test/ and train/ in a/\)",
    ),
    "the folder above": (("photos/train/a", "photos/val/a"), "Give .*photos for the second"),
    "the folder above, flat": (("photos/a", "photos/b"), "as one class, photos"),
}


@pytest.mark.parametrize("name", TWO_WAYS)
@pytest.mark.skipif(os.path.exists(__file__.upper()), reason="file names are not told apart by case")
def test_what_can_be_read_in_two_ways_is_refused_with_both(tmp_path, name):
    folders, message = TWO_WAYS[name]
    grow(tmp_path, *folders)
    with pytest.raises(UserError, match=message) as error:
        image_folder(tmp_path)
    assert "can be read in two ways" in str(error.value)


def test_an_empty_folder_of_the_same_split_is_no_second_reading(tmp_path):
    grow(tmp_path, "train/a", "train/b", "valid/a", "valid/b")
    (tmp_path / "val").mkdir()
    splits, notices = read(tmp_path)
    assert splits["val"] == (4, 2) and "val (0 images)" in notices


def test_split_folders_without_class_folders(tmp_path):
    with pytest.raises(UserError, match="train holds no class folders"):
        image_folder(grow(tmp_path, "train", "test"))


def test_an_evaluation_takes_any_split_and_any_classes(tmp_path):
    grow(tmp_path / "test_only", "Testing/a", "Testing/b")
    grow(tmp_path / "some", "train/a", "train/b", "val/b")
    assert read(tmp_path / "test_only", complete=False)[0] == {"test": (4, 2)}
    assert read(tmp_path / "some", complete=False)[0] == {"train": (4, 2), "val": (2, 1)}
    assert image_folder(tmp_path / "some", complete=False).val.labels.tolist() == [1, 1]
    for name, message in (("test_only", "no train/"), ("some", "class 'a' is missing in .*val")):
        with pytest.raises(UserError, match=message):
            image_folder(tmp_path / name)
    (tmp_path / "some" / "val" / "empty").mkdir()
    assert image_folder(tmp_path / "some", complete=False).classes == ["a", "b"]


def test_a_root_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        image_folder(tmp_path / "nothing")


# --- what is held out


def held(root, fraction=0.3):
    split = image_folder(root).train
    return {split.names()[i] for i in hold_out(split, fraction)[1]}


def test_adding_and_removing_images_moves_none(tmp_path):
    grow(tmp_path / "x", "a", "b", count=40)
    before = held(tmp_path / "x")
    assert 10 < len(before) < 40
    for i in range(0, 40, 7):
        (tmp_path / "x" / "a" / f"{i}.png").unlink()
        Image.new("RGB", (4, 4)).save(tmp_path / "x" / "b" / f"new {i}.png")
    there = set(image_folder(tmp_path / "x").train.names())
    after = held(tmp_path / "x")
    assert before & there == {name for name in after if "new" not in name}
    os.rename(tmp_path / "x", tmp_path / "y")
    assert held(tmp_path / "y") == after  # nor does moving the folder


def test_a_new_class_moves_none(tmp_path):
    before = held(grow(tmp_path, "b", "c", count=20))
    assert before == {name for name in held(grow(tmp_path, "a", count=20)) if not name.startswith("a/")}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_every_class_is_on_both_sides_about_as_wanted(fraction):
    labels = np.repeat([0, 1, 2, 3], [2000, 7, 2, 1])
    names = [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    kept, chosen = split_by_name(names, labels, fraction)
    assert sorted([*kept, *chosen]) == list(range(len(labels)))
    assert set(labels[kept]) == {0, 1, 2, 3} and set(labels[chosen]) == {0, 1, 2}
    assert abs((labels[chosen] == 0).sum() - 2000 * fraction) < 4 * np.sqrt(2000 * fraction * (1 - fraction)) + 1


def test_the_held_out_names_are_the_same_in_every_process_and_version():
    """Scores on them can only be compared as long as these stay."""
    names = [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10)]
    chosen = split_by_name(names, np.repeat([0, 1], 10), 0.2)[1]
    assert [names[i] for i in chosen] == ["cat/3.jpg", "dog/6.jpg", "dog/9.jpg"]


def test_names_count_and_not_their_encoding():
    labels = np.zeros(300, dtype=int)
    composed, apart = ([f"{form}/{i}" for i in range(300)] for form in ("caf\u00e9", "cafe\u0301"))
    assert np.array_equal(split_by_name(composed, labels, 0.5)[1], split_by_name(apart, labels, 0.5)[1])
    odd = [os.fsdecode(b"\xff") + name for name in composed]  # bytes that are no UTF-8
    assert 100 < len(split_by_name(odd, labels, 0.5)[1]) < 200


def test_the_held_out_part_of_a_folder_is_that_by_name(tmp_path):
    dataset = open_dataset(str(grow(tmp_path, "a", "b", count=30)), val_fraction=0.3)
    assert set(dataset.val.names()) == held(tmp_path) and all(
        re.fullmatch(r"[ab]/\d+\.png", name) for name in dataset.val.names()
    )
