"""What is said of a path that a flag names and at which there is nothing, or nothing can be written."""

import os

import pytest

from utils.core import inputs
from utils.core.inputs import absent, nearest, no_file, no_folder, no_place, no_place_for_files, unless


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with two runs, in which we are."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/custom/best_model.pth", "photos/custom/converted_models/custom_int8.onnx", "digits/resnet18/last.pth"):
        path = tmp_path / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


MEANT = {
    "weights/photo/custom/best_model.pth": "weights/photos/custom/best_model.pth",
    "wieghts/photos/custm/best-model.pth": "weights/photos/custom/best_model.pth",
    "weights/photos/resnet18/best_model.pth": "weights/photos/custom/best_model.pth",  # another folder has that file
    "weights/photos/custom/converted_models/custom_onnx.onnx": "weights/photos/custom/converted_models/custom_int8.onnx",
    "weight/": "weights",
    "weights/photos/custom/": "weights/photos/custom",
    "nothing/like/it.pth": None,
    "weights/photos/custom/best_model.pth/inside": None,
}


@pytest.mark.parametrize("path", MEANT)
def test_the_nearest_path_is_found_part_by_part(path, here):
    for start in ("", f"{here}/"):
        found = nearest(start + path)
        assert found is None if MEANT[path] is None else str(found) == start + MEANT[path]


def test_what_makes_such_a_file_is_said(here):
    assert absent("x/best_model.pth") == "does not exist; train.py makes such files"
    assert absent("x.onnx") == "does not exist; export.py makes such files from a checkpoint, and quantize.py those with int8"
    assert absent("weigths") == "does not exist (did you mean weights?)" and absent("boot.png") == "does not exist"


def test_no_description_is_suggested_for_a_model_file(here):
    """The published networks that are too large for a clone leave a `best_model.json` where their weights would be."""
    (here / "weights/digits/resnet18/best_model.json").touch()
    assert absent("weights/digits/resnet18/best_model.pth") == "does not exist; train.py makes such files"
    assert absent("weights/digits/resnet18/best_mode.json") == (
        "does not exist (did you mean weights/digits/resnet18/best_model.json?)"
    )


def test_the_kind_of_a_path_is_checked(here):
    file = "weights/digits/resnet18/last.pth"
    assert no_file(file) is None and no_folder("weights") is None and unless("auto", no_file)("auto") is None
    assert no_file("weights/photos/custom") == "is a folder; name the file in it, such as weights/photos/custom/best_model.pth"
    assert no_file("weights") == unless("auto", no_file)("weights") == "is a folder; name the file in it"
    assert no_folder(file) == "is not a folder" and "does not exist" in no_folder("gone") and "exist" in no_file("gone")


def test_a_place_is_checked_and_nothing_made(here, monkeypatch):
    file = "weights/digits/resnet18/last.pth"
    assert no_place(file) is None and no_place("new/one.json") is None and no_place_for_files("new/folder") is None
    assert no_place_for_files("weights") is None and not (here / "new").exists()
    assert no_place("weights") == "is a folder; name a file" and no_place_for_files(file) == "is a file; name a folder"
    below = f"cannot be written: {(here / file).resolve()} is no folder"
    assert no_place(f"{file}/a/b.json") == no_place_for_files(f"{file}/a/b") == below
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (here.resolve(), os.W_OK))
    assert no_place("new/one.json") == f"cannot be written: {here.resolve()} does not let you"


def test_a_huge_folder_is_not_read_to_its_end(here, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_NAMES", 0)
    assert nearest("weight") is None
