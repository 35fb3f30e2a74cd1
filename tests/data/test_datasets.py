import os
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import make_photos
from PIL import Image
from sklearn.datasets import load_digits

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.images import preprocess
from utils.data.cache import open_store
from utils.data.datasets import dataset_of, match_classes, open_dataset
from utils.data.loader import eval_batches, needs_workers, train_batches
from utils.data.splits import Dataset, Split, stratified_split
from utils.data.stores import ArrayStore, FileStore, Pixels

FASHION = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot".replace("_", " ")


def test_digits_hold_out_a_fixed_stratified_part():
    one, two = open_dataset("digits"), open_dataset("digits")
    assert (len(one.train), len(one.val), len(one.test)) == (1295, 143, 359)
    assert np.array_equal(one.val.labels, two.val.labels) and np.array_equal(one.test.arrays, two.test.arrays)
    for split in (one.train, one.val, one.test):
        shares = np.bincount(split.labels) / len(split)
        assert abs(shares - 0.1).max() < 0.02
    assert one.held_out is one.test and one.train.arrays.max() == 255


def test_no_picture_is_in_two_splits():
    d = open_dataset("digits")
    parts = np.concatenate([split.arrays.reshape(len(split), -1) for split in (d.train, d.val, d.test)])
    whole = np.round(load_digits().data * (255 / 16)).astype(np.uint8)
    assert np.array_equal(parts[np.lexsort(parts.T)], whole[np.lexsort(whole.T)])


def test_workers_are_needed_to_decode_and_to_gather_for_a_gpu_that_does_not_hold_the_pictures():
    here, cpu, gpu = ArrayStore(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)), torch.device("cpu"), torch.device("cuda", 1)
    assert [needs_workers(here, cpu), needs_workers(here, gpu)] == [False, True]
    assert needs_workers(here.to("meta"), torch.device("meta", 0)) is False
    assert needs_workers(FileStore(None, 8), cpu) and needs_workers(FileStore(None, 8), gpu)


def test_val_fraction_zero_trains_on_all():
    dataset = open_dataset("digits", val_fraction=0)
    assert dataset.val is None and len(dataset.train) == 1438


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_stratified_split_keeps_and_holds_out_of_every_class(fraction):
    labels = np.repeat([0, 1, 2], [100, 7, 2])
    kept, held = stratified_split(labels, fraction)
    assert sorted([*kept, *held]) == list(range(109))
    assert set(labels[kept]) == set(labels[held]) == {0, 1, 2}
    kept, held = stratified_split(np.array([0, 1, 1]), fraction)
    assert 0 in kept  # the only image of a class stays in training


def test_image_folder_matches_classes_by_name_and_ignores_what_is_hidden(photos):
    (photos / "train" / ".hidden").mkdir()
    (photos / "train" / "red" / ".DS_Store").write_text("x")
    (photos / "train" / "red" / "notes.txt").write_text("x")
    dataset = open_dataset(str(photos))
    assert dataset.classes == ["blue", "green", "red"] and dataset.name == "photos"
    assert (len(dataset.train), len(dataset.val), dataset.test) == (24, 9, None)
    assert len(dataset.notices) == 1 and "left out 1 file" in dataset.notices[0] and "notes.txt" in dataset.notices[0]
    assert str(dataset.val.paths[0]).endswith("val/blue/0.jpg")
    mean = np.asarray(dataset.val.image(8)).mean((0, 1))
    assert mean.argmax() == 0  # red


def test_a_folder_of_class_folders_alone_is_split_by_itself(tmp_path):
    make_photos(tmp_path / "x")
    dataset = open_dataset(str(tmp_path / "x" / "train"), val_fraction=0.25)
    assert len(dataset.train) + len(dataset.val) == 24 and dataset.classes == ["blue", "green", "red"]
    assert set(dataset.val.labels) == set(dataset.train.labels) == {0, 1, 2}
    assert not set(dataset.train.paths) & set(dataset.val.paths)


def _remove(path):
    shutil.rmtree(path)


def _empty(path):
    shutil.rmtree(path)
    path.mkdir()


FAULTS = {
    "missing in val": (lambda p: _remove(p / "val" / "red"), "class 'red' is missing in .*val"),
    "extra in val": (lambda p: (p / "val" / "pink").mkdir(), "class 'pink' in .*val is not in .*train"),
    "empty class": (lambda p: _empty(p / "train" / "green"), "class folder .*green holds no images"),
    "no train": (lambda p: _remove(p / "train"), "no train/"),
    "empty train": (lambda p: _empty(p / "train"), "holds no class folders"),
    "empty val": (lambda p: [_empty(p / "val" / c) for c in ("red", "green", "blue")], "val holds no images"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_folder_is_named(photos, fault):
    spoil, message = FAULTS[fault]
    spoil(photos)
    with pytest.raises(UserError, match=message):
        open_dataset(str(photos))


@pytest.mark.parametrize(
    ("name", "message"), [("fashionmnist", r"does not exist .did you mean FashionMNIST\?"), ("./nowhere", "does not exist")]
)
def test_unknown_data_sets(name, message):
    with pytest.raises(UserError, match=message):
        open_dataset(name)


def test_a_folder_called_like_a_registered_data_set_is_not_passed_over_without_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not open_dataset("digits").notices
    (tmp_path / "digits").mkdir()
    (notice,) = open_dataset("digits").notices
    assert "the folder of that name is ./digits" in notice


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x.zip").write_text("")
    with pytest.raises(UserError, match="is a file of no known kind"):
        open_dataset(str(tmp_path / "x.zip"))


def test_fashion_mnist_without_network_says_where_the_files_go(tmp_path, monkeypatch):
    def dead(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", dead)
    with pytest.raises(UserError) as error:
        open_dataset("FashionMNIST", str(tmp_path))
    message = str(error.value)
    assert "could not be downloaded (no network)" in message and "FashionMNIST/raw" in message and "docs/data.md" in message
    assert "\n" not in message and error.value.option == "data_dir"


@pytest.mark.data
def test_fashion_mnist(real_data):
    dataset = open_dataset("FashionMNIST", str(real_data))
    assert dataset.classes == [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (54_000, 6_000, 10_000)
    assert np.bincount(dataset.val.labels).tolist() == [600] * 10


def test_evaluation_batches_are_the_one_preprocessing(photos):
    dataset = open_dataset(str(photos))
    card = ModelCard("custom", dataset.classes, 32)
    batches = list(eval_batches(dataset.val, card, 4))
    images, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    assert [len(b[1]) for b in batches] == [4, 4, 1] and labels.tolist() == dataset.val.labels.tolist()
    grey_level = 1 / 255 / min(card.std)
    for i, image in enumerate(images):
        wanted = preprocess(dataset.val.image(i), card)[0]
        assert np.abs(image.numpy() - wanted).max() <= grey_level * 1.01


@pytest.mark.parametrize("size", [8, 32, 64, 224])
def test_digits_are_within_one_grey_level_of_the_one_preprocessing(size):
    split = open_dataset("digits").val.subset(range(12))
    card = ModelCard("custom", [str(i) for i in range(10)], size)
    images, _ = next(iter(eval_batches(split, card, 12)))
    for i, image in enumerate(images):
        levels = (image.numpy() - preprocess(split.image(i), card)[0]) * np.reshape(card.std, (3, 1, 1)) * 255
        assert np.abs(levels).max() <= 1.01


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_are_the_whole_without_overlap(count):
    split = open_dataset("digits").val
    card = ModelCard("custom", [str(i) for i in range(10)], 16)
    shards = [list(eval_batches(split, card, 50, shard=(i, count))) for i in range(count)]
    labels = torch.cat([labels for shard in shards for _, labels in shard])
    assert labels.tolist() == split.labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_files_with_and_without_workers(photos, workers):
    split = open_dataset(str(photos)).train
    store = open_store(split, 30, "off")
    indices = [torch.tensor([5, 1]), torch.tensor([23])]
    batches = list(train_batches(store, torch.from_numpy(split.labels), indices, torch.device("cpu"), workers))
    assert [labels.tolist() for _, labels in batches] == [[0, 0], [2]]
    assert torch.equal(batches[0][0].data, store.gather(indices[0]).data)


class Draws:
    needs_workers, nbytes, images = True, None, torch.zeros(0)

    def gather(self, indices):
        return Pixels(torch.tensor([torch.rand(1).item(), np.random.rand(), random.random()], dtype=torch.float64))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_a_batch_draws_depends_on_its_key_alone(workers):
    labels, indices = torch.zeros(4, dtype=torch.int64), [torch.tensor([0])] * 5

    def drawn(keys, workers):
        return [pixels.data for pixels, _ in train_batches(Draws(), labels, indices, torch.device("cpu"), workers, keys)]

    torch.manual_seed(9)
    one, two = drawn([[1, n] for n in range(5)], workers), drawn([[1, n] for n in range(2, 7)], 0)
    here = torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(one[2:], two, strict=False))
    assert len({value.item() for batch in (*one, *two) for value in batch}) == 7 * 3
    torch.manual_seed(9)
    assert torch.equal(here, torch.rand(1))


class WhoGathers:
    needs_workers, nbytes, images = True, None, torch.zeros(0)

    def gather(self, indices):
        return Pixels(torch.tensor([os.getpid(), os.getpgrp()]))


def test_a_worker_is_out_of_reach_of_what_is_sent_to_all_processes_of_a_run():
    labels = torch.zeros(4, dtype=torch.int64)
    ((pixels, _),) = train_batches(WhoGathers(), labels, [torch.tensor([0])], torch.device("cpu"), workers=1)
    process, group = pixels.data.tolist()
    assert process == group != os.getpgrp()


def test_the_data_set_of_a_card(photos, tmp_path):
    card = ModelCard("custom", ["red", "green", "blue"], 32, training={"dataset": str(photos)})
    dataset = dataset_of(card)
    assert dataset.classes == ["red", "green", "blue"]  # the order of the card, by name
    assert [dataset.classes[label] for label in dataset.val.labels[:1]] == ["blue"]
    with pytest.raises(UserError, match=r"other classes than .*: 'blue' is not among red, green, pink"):
        dataset_of(ModelCard("custom", ["red", "green", "pink"], 32, training={"dataset": "x"}), str(photos))
    with pytest.raises(UserError, match="3 classes, the model was trained on 2"):
        dataset_of(ModelCard("custom", ["a", "b"]), str(photos))
    with pytest.raises(UserError, match="names no data set"):
        dataset_of(ModelCard("custom", ["a", "b"]))


def test_labels_are_those_of_the_card_by_the_names_of_the_classes():
    split = Split("test", np.array([0, 1, 2, 1]), np.zeros((4, 8, 8, 1), np.uint8))
    dataset = Dataset("turned", ["a", "b", "c"], None, test=split)
    match_classes(dataset, ModelCard("custom", ["c", "a", "b"]))
    assert dataset.classes == ["c", "a", "b"] and dataset.test.labels.tolist() == [1, 2, 0, 2]


def test_grey_pictures_become_three_channels(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (9, 9), 100).save(tmp_path / "grey" / name / f"{i}.png")
    split = open_dataset(str(tmp_path / "grey"), val_fraction=0.4).train
    assert split.image(0).mode == "RGB" and open_store(split, 9, "ram", show=False).images.shape[1] == 3


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("size", [32, 64])
def test_the_ten_thousand_test_images_are_answered_alike_through_both_paths(real_data, main_of, tmp_path, size):
    """Batched evaluation against utils.core.images, image by image, with a trained network."""
    from models.checkpoint import load_model
    from utils.core.images import normalise, resize_and_crop

    main_of("train", "-m", "custom", "--data_dir", real_data, "--image_size", size, "--max_epoch", 1, "--val_fraction", 0.8)
    model, card = load_model(tmp_path / "weights" / "FashionMNIST" / "custom" / "best_model.pth")
    split = open_dataset("FashionMNIST", str(real_data)).test
    scale = np.reshape(card.std, (3, 1, 1)) * 255
    worst, flips = 0.0, []
    with torch.inference_mode():
        for batch, (images, _) in enumerate(eval_batches(split, card, 500)):
            places = range(500 * batch, 500 * batch + len(images))
            crops = [resize_and_crop(split.image(i), card.image_size, card.resize_size) for i in places]
            single = torch.from_numpy(normalise(np.stack(crops), card.mean, card.std))
            worst = max(worst, np.abs((images - single).numpy() * scale).max())
            differ = model(images).argmax(1) != model(single).argmax(1)
            flips += [places[i] for i in differ.nonzero().flatten().tolist()]
    assert worst < 0.01, worst
    assert len(flips) <= 5, f"answered differently: {flips}"
