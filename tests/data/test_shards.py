"""Shards and Hugging Face data sets give what class folders give."""

import io
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from labelled_images import parquet_of, shards_of, write_shard
from PIL import Image

from utils.core.errors import UserError
from utils.core.images import load_image
from utils.core.walk import NO_HEIF, find_images
from utils.data.cache import open_store
from utils.data.data_card import data_card
from utils.data.datasets import dataset_of, open_dataset
from utils.data.places import content_of
from utils.data.reading import Reading
from utils.data.shards import expand


def same(one, two):
    """Whether two data sets have the same encoded images in the same order under the same labels and names."""
    assert one.classes == two.classes and [s.name for s in one.splits] == [s.name for s in two.splits]
    for a, b in zip(one.splits, two.splits, strict=True):
        assert list(a.names()) == list(b.names()) and np.array_equal(a.labels, b.labels)
        assert [content_of(p) for p in a.paths] == [content_of(p) for p in b.paths]
    return True


def test_patterns_stand_for_the_files_that_a_shell_would_name(tmp_path):
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{train,val}-{0..1}.tar") == ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).touch()
    assert expand(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]


@pytest.mark.parametrize("kind", ["cls", "json", "folder"])
def test_shards_give_what_the_folder_gives(kind, photos, tmp_path):
    label = {"cls": lambda name: {"cls": name.encode()}, "json": lambda name: {"json": json.dumps({"label": name}).encode()}}
    pattern = shards_of(photos, tmp_path / "shards", "train", 3, label.get(kind, lambda name: {}))
    shards_of(photos, tmp_path / "shards", "val", 2, label.get(kind, lambda name: {}))
    dataset = open_dataset(pattern)
    assert same(open_dataset(str(photos)), dataset) and dataset.name == "shards"
    assert dataset.notices == ["the shards beside are taken too: val-0000.tar, val-0001.tar"]
    assert re.search(r"JPEG in train-000\d.tar and the like", data_card(dataset))


def test_the_same_images_of_shards_are_held_out_and_numbers_have_names(photos, tmp_path):
    numbers = {name: str(i).encode() for i, name in enumerate(("blue", "green", "red"))}
    pattern = shards_of(photos, tmp_path / "x", "train", 2, lambda name: {"cls": numbers[name]})
    (tmp_path / "x" / "classes.txt").write_text("blue\ngreen\nred\n")
    assert same(open_dataset(str(photos / "train"), val_fraction=0.3), open_dataset(pattern, val_fraction=0.3))


@pytest.mark.parametrize("cache", ["ram", "disk", "off"])
def test_stores_of_shards_hold_the_pixels_of_the_files(cache, photos, tmp_path):
    import torch

    split, files = open_dataset(shards_of(photos, tmp_path / "x", "train", 2)).train, open_dataset(str(photos / "train")).train
    one, two = (open_store(s, 32, cache, tmp_path / "cache", show=False) for s in (split, files))
    everything = torch.arange(len(split))
    assert torch.equal(one.gather(everything).data, two.gather(everything).data)
    if cache == "disk":
        before = {path.name for path in (tmp_path / "cache").iterdir()}
        open_store(split, 32, cache, tmp_path / "cache", show=False)
        assert {path.name for path in (tmp_path / "cache").iterdir()} == before


def _cut(path):
    path.write_bytes(path.read_bytes()[:700])


SPOILED = {
    "cut off": (_cut, "train-0000.tar is not a readable tar file"),
    "gone": (lambda path: path.unlink(), "1 of 2 shards are not there: .*train-0000.tar"),
    "compressed": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(600)), "not a readable tar file .*must not be compressed"),
    "no class": (lambda path: write_shard(path, [("a", {"png": b"x"})]), "a has no class: no .cls, no .json and no folder"),
    "no key": (lambda path: write_shard(path, [("a", {"png": b"x", "json": b"{}"})]), "a has no 'label' beside png, json"),
    "no JSON": (lambda path: write_shard(path, [("a", {"png": b"x", "json": b"]"})]), "a has no 'label' beside png, json"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_what_is_wrong_with_a_shard_is_named(fault, photos, tmp_path):
    pattern = shards_of(photos, tmp_path / "x", "train", 2)
    spoil, message = SPOILED[fault]
    spoil(tmp_path / "x" / "train-0000.tar")
    with pytest.raises(UserError, match=message):
        open_dataset(pattern)


def test_groups_of_shards_come_from_their_json(tmp_path):
    samples = [
        (f"{i:04}", {"png": b"x", "json": json.dumps({"label": "ab"[i % 2], "patient": i // 5}).encode()}) for i in range(200)
    ]
    write_shard(tmp_path / "train-0.tar", samples)
    dataset = open_dataset(str(tmp_path / "train-0.tar"), val_fraction=0.3, reading=Reading(group_column="patient"))
    train, val = (set(split.groups) for split in dataset.splits)
    assert not train & val and len(train | val) == 40 and val


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf_cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    return datasets


def test_a_hugging_face_image_folder_gives_what_the_folder_gives(hugging_face, photos):
    assert same(open_dataset(str(photos)), open_dataset(f"hf:{photos}"))


def test_hugging_face_parquet_gives_what_the_folder_gives(hugging_face, photos, tmp_path):
    name = parquet_of(hugging_face, photos, tmp_path / "tables")
    dataset = open_dataset(name)
    assert same(open_dataset(str(photos)), dataset) and dataset.name == "tables"
    assert "train: images are in 'image', labels in 'kind'" in dataset.notices
    split = dataset.train
    assert np.array_equal(np.asarray(split.image(3)), np.asarray(open_dataset(str(photos)).train.image(3)))
    open_store(split, 32, "disk", tmp_path / "cache", show=False)
    with pytest.raises(UserError, match="no column 'species'; the columns are image, kind"):
        open_dataset(name, reading=Reading(label_column="species"))
    with pytest.raises(UserError, match="holds images in its column 'image', not their paths: give hf:"):
        open_dataset(str(tmp_path / "tables" / "train-00000-of-00001.parquet"))


def test_unlabelled_rows_of_hugging_face_are_of_no_class(hugging_face, tmp_path):
    Image.new("RGB", (8, 8)).save(stream := io.BytesIO(), "png")
    images = {"image": [{"bytes": stream.getvalue(), "path": None}] * 4}
    features = hugging_face.Features(image=hugging_face.Image(), label=hugging_face.ClassLabel(names=["a", "b"]))
    parts = {"train": [0, 1, 0, 1], "validation": [1, 0, 1, 0], "test": [-1] * 4}
    made = {
        name: hugging_face.Dataset.from_dict(images | {"label": labels}, features=features) for name, labels in parts.items()
    }
    hugging_face.DatasetDict(made).save_to_disk(tmp_path / "secret")
    dataset = open_dataset(f"hf:{tmp_path / 'secret'}")
    assert dataset.test is None and "left out the split test (4 images): none of them has a label" in dataset.notices
    made["test"] = hugging_face.Dataset.from_dict(images | {"label": [0, 1, -1, 1]}, features=features)
    hugging_face.DatasetDict(made).save_to_disk(tmp_path / "some")
    with pytest.raises(UserError, match="the column 'label' has no value in row 2"):
        open_dataset(f"hf:{tmp_path / 'some'}")


def test_folders_above_a_hugging_face_folder_say_nothing_of_its_images(hugging_face, photos, tmp_path):
    names = [list(split.names()) for split in open_dataset(f"hf:{photos}").splits]
    moved = shutil.move(photos, tmp_path / "val" / "photos")
    assert [list(split.names()) for split in open_dataset(f"hf:{moved}").splits] == names


def test_what_hugging_face_cannot_load_is_said_in_a_sentence(hugging_face, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"hf:.*empty cannot be loaded"):
        open_dataset(f"hf:{tmp_path / 'empty'}")


def test_without_the_library_a_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets \(pip install datasets\)"):
        open_dataset(f"hf:{tmp_path}")


def test_a_model_card_makes_nobody_download():
    from utils.core.card import ModelCard

    card = ModelCard("custom", ["a", "b"], training={"dataset": "hf:somebody/something"})
    with pytest.raises(UserError, match="which is not on this machine: name it to have it downloaded"):
        dataset_of(card)


def heic(path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the package pillow-heif is not installed")
    pixels = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(path, quality=90)
    return path


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    path = heic(tmp_path / "a.HEIC")
    image = load_image(path)
    assert image.size == (60, 40) and abs(np.asarray(image)[20, 30].astype(int) - (200, 30, 30)).max() < 8
    assert find_images(tmp_path).images == [path]


def test_without_pillow_heif_a_sentence_names_it(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"x")
    monkeypatch.setattr("utils.core.images.reads_heif", lambda: False)
    with pytest.raises(UserError, match=f"a.heic: {NO_HEIF}"):
        load_image(tmp_path / "a.heic")
    monkeypatch.setattr("utils.core.walk.image_suffixes", lambda: {".png"})
    assert find_images(tmp_path).left_out == [(pathlib.Path(tmp_path / "a.heic"), NO_HEIF)]


def png(side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "png")
    return buffer.getvalue()


def test_of_several_images_in_a_sample_the_plain_one_counts_or_none(tmp_path):
    samples = [(f"{i}", {"mask.png": png(8), "png": png(9), "cls": f"{i % 2}".encode()}) for i in range(8)]
    write_shard(tmp_path / "masks.tar", samples)
    assert {load_image(place).size for place in open_dataset(str(tmp_path / "masks.tar")).train.paths} == {(9, 9)}
    write_shard(tmp_path / "two.tar", [(key, members | {"jpg": png(7)}) for key, members in samples])
    with pytest.raises(UserError, match=r"two\.tar: 0 has several images: png, jpg"):
        open_dataset(str(tmp_path / "two.tar"))


def test_a_label_of_null_is_none(tmp_path):
    write_shard(tmp_path / "null.tar", [(f"{i}", {"png": png(8), "json": b'{"label": null}'}) for i in range(4)])
    with pytest.raises(UserError, match="0 has no 'label' beside png, json, nor in its JSON"):
        open_dataset(str(tmp_path / "null.tar"))
