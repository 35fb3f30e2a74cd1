import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from utils.core.card import INTERPOLATIONS
from utils.core.errors import UserError
from utils.core.images import resize_and_crop, resize_shorter
from utils.data.cache import open_store
from utils.data.datasets import open_dataset
from utils.data.geometry import centre_crops
from utils.data.stores import ArrayStore, FileStore, PackedStore, Pixels, TransformStore, resident

EVERY = torch.arange(24)


def images(pixels):
    """Each image of a batch alone, as (H, W, C)."""
    return [
        image[:, :h, :w].permute(1, 2, 0).numpy() for image, (h, w) in zip(pixels.data, pixels.heights_widths(), strict=True)
    ]


@pytest.fixture
def train(photos):
    return open_dataset(str(photos)).train


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("cache", ["ram", "disk", "off", "auto"])
def test_every_cache_gives_the_same_pictures(train, tmp_path, cache, interpolation):
    store = open_store(train, 30, cache, tmp_path / "cache", show=False, interpolation=interpolation)
    got = images(store.gather(EVERY))
    for i, shown in enumerate(got):
        image = train.image(i)
        wanted = resize_shorter(image, 30, interpolation) if min(image.size) > 30 else image
        assert np.array_equal(shown, np.asarray(wanted))
    assert isinstance(store, FileStore) == (cache == "off")


def test_the_file_is_used_again_until_something_changes(train, tmp_path):
    folder = tmp_path / "cache"
    open_store(train, 30, "disk", folder, show=False)
    (first,) = folder.iterdir()
    stamp = first.stat().st_mtime_ns
    open_store(train, 30, "disk", folder, show=False)
    assert [p.stat().st_mtime_ns for p in folder.iterdir()] == [stamp]

    open_store(train, 20, "disk", folder, show=False)  # another setting lies beside it
    open_store(train, 20, "disk", folder, show=False, interpolation="bicubic")
    assert len(list(folder.iterdir())) == 3
    Image.new("RGB", (50, 40), "white").save(train.paths[3])
    store = open_store(train, 30, "disk", folder, show=False)
    assert not first.exists() and len(list(folder.iterdir())) == 3
    assert images(store.gather(torch.tensor([3])))[0].min() > 250


def test_a_broken_file_is_named_and_leaves_no_half_cache(train, tmp_path):
    train.paths[5].write_text("no image")
    with pytest.raises(UserError, match=str(train.paths[5].name)):
        open_store(train, 30, "disk", tmp_path / "cache", show=False)
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_written_says_what_to_do(train, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="ram and off need no file"):
        open_store(train, 30, "disk", tmp_path / "cache", show=False)


def test_pictures_of_one_size_become_one_array(photos, tmp_path):
    for path in photos.rglob("*.jpg"):
        Image.open(path).resize((32, 24)).save(path)
    store = open_store(open_dataset(str(photos)).train, 30, "disk", tmp_path / "cache", show=False)
    assert isinstance(store, ArrayStore) and store.images.shape == (24, 3, 24, 32)


@pytest.mark.parametrize(
    ("memory", "disk", "kept"), [(2.1, 2.1, True), (1.9, 9, False), (9, 1.9, False), (1.9, 1.9, False), (99, 99, True)]
)
def test_by_default_images_are_kept_where_they_fit_in_half_of_memory_and_disk(
    photos, tmp_path, monkeypatch, memory, disk, kept
):
    for path in photos.rglob("*.jpg"):
        Image.open(path).resize((32, 24)).save(path)
    split = open_dataset(str(photos)).train
    size = 24 * 24 * 32 * 3  # bytes of the 24 decoded images
    monkeypatch.setattr("utils.data.cache.free_memory", lambda: memory * size)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=disk * size))
    store = open_store(split, 30, "auto", tmp_path / "cache", show=False)
    assert isinstance(store, ArrayStore if kept else FileStore) and (tmp_path / "cache").exists() == kept


def test_smaller_pictures_continue_their_border():
    flat = torch.arange(2 * 1 * 3 + 1 * 3 * 3, dtype=torch.uint8)
    store = PackedStore(flat, np.array([[2, 1], [1, 3]]))
    pixels = store.gather(torch.tensor([1, 0]))
    assert pixels.data.shape == (2, 3, 2, 3)
    assert pixels.data[0, 0].tolist() == [[6, 9, 12], [6, 9, 12]] and pixels.data[1, 0].tolist() == [[0, 0, 0], [3, 3, 3]]


def test_gathering_by_index_as_on_a_gpu_is_the_same(train):
    store = open_store(train, 30, "ram", show=False)
    indices = np.array([3, 0, 11])
    pixels = store.gather(torch.from_numpy(indices))
    height, width = pixels.data.shape[-2:]
    assert torch.equal(store._gather_by_index(indices, store.sizes[indices], height, width), pixels.data)


def test_large_arrays_are_shrunk_and_small_ones_kept():
    split = open_dataset("digits").train
    assert torch.equal(open_store(split, 37).images[:, 0], torch.from_numpy(split.arrays[..., 0]))
    small = open_store(split, 5).images
    assert small.shape[2:] == (5, 5)
    wanted = resize_and_crop(split.image(0), 5, 5)[..., 0]
    assert np.array_equal(small[0, 0].numpy(), wanted)


def test_a_transform_store_applies_the_transform(train):
    store = TransformStore(train, lambda image: torch.full((3, 2, 2), float(image.size[0])))
    assert store.gather(torch.tensor([2])).data[0, 0, 0, 0] == train.image(2).size[0]


def test_pixels_move_together():
    pixels = Pixels(torch.zeros(2, 1, 4, 5, dtype=torch.uint8))
    assert pixels.heights_widths().tolist() == [[4, 5], [4, 5]] and pixels.to("cpu").sizes is None


@pytest.mark.slow
def test_two_processes_may_build_the_same_cache(train, tmp_path):
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                open_store(train, 30, "disk", tmp_path / "cache", show=False)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_gpu_takes_what_fits_in_half_of_its_free_memory_all_in_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))

    class Store:
        def __init__(self, nbytes):
            self.nbytes = nbytes

        def to(self, device):
            return device.type

    stores = {"train": Store(30), "val": Store(30), "test": Store(15), "files": Store(None)}
    placed = resident(stores, torch.device("cuda"))
    assert placed == {"train": "cuda", "val": stores["val"], "test": "cuda", "files": stores["files"]}
    assert resident(stores, torch.device("cpu")) == stores


@pytest.mark.parametrize("cache", ["ram", "disk", "off", "auto"])
def test_a_link_to_nowhere_is_named(train, tmp_path, cache):
    train.paths[5].unlink()
    train.paths[5].symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=str(train.paths[5].name)):
        open_store(train, 30, cache, tmp_path / "cache", show=False).gather(torch.arange(len(train)))


@pytest.fixture
def built(train, tmp_path, capsys):
    """Build the cache of 24 images; then `again()` opens it once more: the images, what was printed, and the file."""
    folder = tmp_path / "cache"

    def again():
        store = open_store(train, 30, "disk", folder, show=False)
        (file,) = folder.iterdir()
        return images(store.gather(EVERY)), capsys.readouterr().out, file

    again()
    return again


DAMAGE = {
    "cut off": lambda content: content[:-1000],
    "without an end": lambda content: content[:50],
    "empty": lambda content: b"",
    "a flipped bit": lambda content: content[:5000] + bytes([content[5000] ^ 4]) + content[5001:],
    "of an earlier version": lambda content: content[:-28] + (24).to_bytes(8, "little"),
    "longer": lambda content: content + b"more",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_cache_is_built_again_with_a_sentence(built, name):
    whole, said, file = built()
    assert not said
    content = file.read_bytes()
    file.write_bytes(DAMAGE[name](content))
    again, said, file = built()
    assert said.count("\n") == 1 and f"{file} is damaged, so the images are decoded again" in said
    assert file.read_bytes() == content and all(map(np.array_equal, whole, again))
    assert not built()[1]


def test_another_content_of_the_same_size_and_time_is_seen(built, train):
    path, other = train.paths[3], train.paths[4]
    size = max(path.stat().st_size, other.stat().st_size)
    for file in (path, other):
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    before, _, first = built()
    time, content = path.stat().st_mtime_ns, path.read_bytes()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(time, time))
    now, _, second = built()
    assert path.stat().st_size == size and path.stat().st_mtime_ns == time and path.read_bytes() != content
    assert second != first and not np.array_equal(now[3], before[3]) and np.array_equal(now[4], before[4])


def test_the_content_of_some_files_is_compared_where_no_time_tells(built, train, monkeypatch):
    same = os.stat(train.paths[0])
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.stat", lambda path, **options: same if path.suffix == ".jpg" else os.stat(path))
        first = built()[2]
        Image.new("RGB", (50, 40), "white").save(train.paths[3])
        assert built()[2] != first


@pytest.mark.parametrize(("cache", "kept"), [("auto", True), ("disk", False)])
def test_by_default_a_cache_that_cannot_be_written_is_kept_in_memory(train, tmp_path, capsys, cache, kept):
    (tmp_path / "data").write_text("no folder")
    folder = tmp_path / "data" / "cache"
    if not kept:
        with pytest.raises(UserError, match=r"the image cache .*data/cache/.* cannot be written .*; ram and off need no file"):
            open_store(train, 30, cache, folder, show=False)
        return
    store = open_store(train, 30, cache, folder, show=False)
    said = capsys.readouterr().out
    assert isinstance(store, PackedStore) and said.count("\n") == 1
    assert "cannot be written (Not a directory), so this run keeps the decoded images in memory" in said


@pytest.mark.parametrize("cache", ["auto", "disk"])
def test_a_full_disk_leaves_no_half_cache(train, tmp_path, monkeypatch, capsys, cache):
    folder = tmp_path / "cache"

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("utils.data.packed_file.Writer.write", full)
    if cache == "disk":
        with pytest.raises(UserError, match=r"cache/train-30px-.* cannot be written \(No space left on device\)"):
            open_store(train, 30, cache, folder, show=False)
    else:
        assert len(open_store(train, 30, cache, folder, show=False)) == 24
        assert "No space left on device" in capsys.readouterr().out
    assert not list(folder.iterdir())


@pytest.mark.parametrize("cache", ["ram", "disk", "off", "auto"])
def test_odd_values_are_told_in_one_sentence_each_time(train, tmp_path, capsys, cache):
    for number in (0, 1):  # in place of a JPEG: Pillow looks into the file, not at its name
        Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(train.paths[number], format="png")
    for _ in range(2):
        open_store(train, 30, cache, tmp_path / "cache", show=False)
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and f", such as {train.paths[0]}: its values end at 4,000 of 65,535" in said
        assert f"odd values in {'1 of 12 images that were looked at' if cache == 'off' else '2 of 24 images'}," in said


@pytest.mark.parametrize("cache", ["ram", "disk", "off"])
def test_long_images_take_little_room_and_are_seen_as_in_prediction(train, tmp_path, cache):
    random = np.random.default_rng(0)
    shapes = [(1, 5000), (3000, 2), (4, 90), (700, 60)]  # of the last two the one is enlarged and the other shrunk
    for path, shape in zip(train.paths, shapes, strict=False):
        Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path, format="png")
    store = open_store(train, 30, cache, tmp_path / "cache", show=False)
    pixels = store.gather(torch.arange(4))
    assert max(pixels.data.shape[2:]) <= 130
    crops = centre_crops(pixels, 24, 30)
    for number in range(4):
        assert np.array_equal(crops[number].permute(1, 2, 0).numpy(), resize_and_crop(train.image(number), 24, 30))
