"""Shards that are streamed: each image once over processes and workers, one order for one seed, faults in sentences."""

import copy
import io
import itertools
import json
import sys
import tarfile

import numpy as np
import pytest
import torch
from labelled_images import shards_of, write_shard
from PIL import Image

from utils.core.errors import UserError
from utils.data.places import content_of
from utils.data.reading import Reading
from utils.data.streams import CHUNK, Position, _places, goes_on, open_stream, stream_batches

webdataset = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
CPU = torch.device("cpu")


def numbered(folder, shards=8, each=20):
    """Shards of images whose colour is their number: red counts in 250s, green is the rest."""
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        samples = []
        for number in range(shard * each, (shard + 1) * each):
            stream = io.BytesIO()
            Image.new("RGB", (4, 4), (number // 250, number % 250, 0)).save(stream, "PNG")
            samples.append((f"{number:06}", {"png": stream.getvalue(), "cls": b"ab"[number % 2 : number % 2 + 1]}))
        write_shard(folder / f"train-{shard:02}.tar", samples)
    (folder / "classes.txt").write_text("a\nb\n")
    return f"{folder}/train-{{00..{shards - 1:02}}}.tar"


def numbers_of(batches):
    """The numbers of the images, in order; their labels are right."""
    numbers = []
    for pixels, labels in batches:
        found = (pixels.data[:, 0, 0, 0].long() * 250 + pixels.data[:, 1, 0, 0].long()).tolist()
        assert labels.tolist() == [number % 2 for number in found]
        numbers += found
    return numbers


def stream(pattern, images, sizes, workers=0, seed=0, position=None):
    split = open_stream(pattern, images, Reading()).train
    return stream_batches(split, (8, "bilinear"), sizes, CPU, workers, seed, position)


def test_two_ranks_of_four_workers_see_each_image_of_eight_shards_once(tmp_path, monkeypatch):
    pattern, seen = numbered(tmp_path / "x"), []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        seen.append(numbers_of(stream(pattern, 160, [32, 32, 16], workers=4)))
    assert [len(numbers) for numbers in seen] == [80, 80] and sorted(seen[0] + seen[1]) == list(range(160))


def test_one_seed_gives_one_shuffled_order_and_a_resume_goes_on_in_it(tmp_path):
    pattern = numbered(tmp_path / "x")
    orders = [numbers_of(stream(pattern, 160, [40] * 4, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(160))
    assert np.corrcoef(orders[0], range(160))[0, 1] < 0.5
    assert numbers_of(itertools.islice(stream(pattern, 160, [40] * 4, seed=1), 2, None)) == orders[0][80:]


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded in this process."""
    from utils.data import streams

    names, load = [], streams.load_image
    monkeypatch.setattr(streams, "load_image", lambda place: names.append(str(place)) or load(place))
    return names


@pytest.mark.parametrize(("workers", "uneven"), [(0, False), (3, True)])
def test_a_resume_continues_behind_every_batch(workers, uneven, tmp_path, monkeypatch):
    """Also where a worker has fewer shards than the others, and in the second reading of the shards."""
    monkeypatch.setattr("utils.data.streams.BUFFER", 30)
    pattern, sizes, position = numbered(tmp_path / "x", shards=4 if uneven else 8), [25] * 8, Position()
    batches, positions = [], [Position()]
    for batch in stream(pattern, 200, sizes, workers, seed=1, position=position):
        batches.append(numbers_of([batch]))
        positions.append(copy.deepcopy(position))
    assert positions[-1].images == 200 and positions[-1].round == (2 if uneven else 1)
    for done in (1, 2, 4, 5, 7):
        assert numbers_of(stream(pattern, 200, sizes[done:], workers, 1, positions[done])) == [
            *itertools.chain(*batches[done:])
        ]


def test_a_resume_decodes_what_is_left_and_does_not_read_what_is_done(tmp_path, monkeypatch, decoded):
    monkeypatch.setattr("utils.data.streams.BUFFER", 10)
    pattern, position, sizes, read = numbered(tmp_path / "x"), Position(), [16] * 10, []
    whole = webdataset.tariterators.tarfile_samples
    monkeypatch.setattr("webdataset.tariterators.tarfile_samples", lambda shards: whole(read.append(1) or shards))
    order = numbers_of(stream(pattern, 160, sizes, seed=1))
    assert len(decoded) == 160 and len(read) == 8
    for done, of_chunk in ((7, 16), (8, 0)):  # of the chunk before, so many images are left
        list(itertools.islice(stream(pattern, 160, sizes, seed=1, position=position), done))
        assert position.left == of_chunk
        if not of_chunk:
            spoil_images(tmp_path / "x", order[: 16 * done])
        decoded.clear(), read.clear()
        assert numbers_of(stream(pattern, 160, sizes[done:], seed=1, position=position)) == order[16 * done :]
        assert len(decoded) == 160 - 16 * done + (CHUNK - of_chunk) % CHUNK
        assert len(read) <= 2  # shards; of those before, only the headers
        position = Position()


def spoil_images(folder, numbers):
    """Overwrite the images of these numbers by zeros, where they lie in their shards."""
    for shard in folder.glob("*.tar"):
        content = bytearray(shard.read_bytes())
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith("png") and int(member.name[:6]) in numbers:
                    content[member.offset_data : member.offset_data + member.size] = bytes(member.size)
        shard.write_bytes(content)


def test_a_resume_through_a_pipe_reads_but_does_not_decode_what_is_done(tmp_path, decoded):
    pattern, position = numbered(tmp_path / "x").replace(str(tmp_path), f"pipe:cat {tmp_path}"), Position()
    order = numbers_of(itertools.islice(stream(pattern, 160, [32] * 5, position=position), 3))
    decoded.clear()
    order += numbers_of(stream(pattern, 160, [32] * 2, position=position))
    assert sorted(order) == list(range(160)) and len(decoded) == 64


def test_a_position_is_of_one_number_of_workers_and_images(tmp_path):
    split = open_stream(numbered(tmp_path / "x", shards=2), 40, Reading()).train
    position = Position(images=20, chunks=[1, 0], left=12)
    assert goes_on(position, split, 2, 20) and goes_on(position, split, 8, 20)
    assert not goes_on(position, split, 0, 20) and not goes_on(position, split, 2, 10) and not goes_on(None, split, 2, 0)


def test_members_are_those_of_the_library(tmp_path):
    """The headers give what reading gives, so that a sample has the same place in both."""
    from webdataset.tariterators import group_by_keys, tarfile_samples

    one, two = {"PNG": b"1", "cls": b"a"}, {"x.png": b"2"}
    write_shard(tmp_path / "a.tar", [("__note__/1", {"png": b"x"}), ("a/1", one), ("a/b.c/2", two), (".3", {"png": b""})])
    found = list(group_by_keys(_places(str(tmp_path / "a.tar"))))
    wanted = list(tarfile_samples(iter([{"url": str(tmp_path / "a.tar")}])))
    assert len(wanted) > 1 and wanted == [
        {key: value if key.startswith("__") else content_of(value) for key, value in sample.items()} for sample in found
    ]


def test_an_epoch_may_be_longer_or_shorter_than_the_shards(tmp_path):
    pattern = numbered(tmp_path / "x")
    assert len(set(numbers_of(stream(pattern, 50, [50])))) == 50
    longer = numbers_of(stream(pattern, 200, [200]))
    assert sorted(longer[:160]) == list(range(160)) and len(set(longer[160:])) == 40


def test_a_pipe_is_a_shard(tmp_path):
    pattern = numbered(tmp_path / "x").replace(str(tmp_path), f"pipe:cat {tmp_path}")
    assert sorted(numbers_of(stream(pattern, 160, [160], workers=2))) == list(range(160))


def test_training_streams_and_evaluation_is_exact(photos, tmp_path, main_of):
    pattern = shards_of(photos, tmp_path / "x", "train", 2)
    shards_of(photos, tmp_path / "x", "val", 1)
    (tmp_path / "x" / "classes.txt").write_text("blue\ngreen\nred\n")
    flags = ("-m", "custom", "--image_size", 16, "--precision", "fp32", "--batch_size", 8, "--base_lr", 0.003)
    _, out = main_of("train", "-d", pattern, "--stream_images", 24, *flags, "--max_epoch", 6)
    facts = json.loads((tmp_path / "weights" / "x" / "custom" / "history.json").read_text())
    assert facts["final"]["samples"] == 9 and facts["final"]["Acc@1"] > 0.6 and "2 shards streamed, 24 images" in out
    main_of("eval", "-w", tmp_path / "weights" / "x" / "custom" / "best_model.pth")
    (result,) = (tmp_path / "results" / "accuracy").rglob("*.json")
    assert json.loads(result.read_text())["Acc@1"] == facts["final"]["Acc@1"]
    with pytest.raises(UserError, match="nothing is known of a streamed image before it comes"):
        main_of("train", "-d", pattern, "--stream_images", 24, *flags, "--max_epoch", 2, "--class_weights")


def test_no_streamed_image_passes_for_a_held_out_one(photos, tmp_path, main_of):
    pattern = shards_of(photos, tmp_path / "x", "train", 2)
    (tmp_path / "x" / "classes.txt").write_text("blue\ngreen\nred\n")
    flags = ("-m", "custom", "--image_size", 16, "--precision", "fp32", "--batch_size", 8)
    main_of("train", "-d", pattern, "--stream_images", 24, *flags, "--max_epoch", 1)
    main_of("eval", "-w", tmp_path / "weights" / "x" / "custom" / "best_model.pth")
    (result,) = (tmp_path / "results" / "accuracy").rglob("*.json")
    facts = json.loads(result.read_text())
    assert (facts["split"], facts["samples"]) == ("train", 24)


def labelled_by_numbers(pattern, folder):
    """The shards of `numbered`, and the same as those of val, with 0 and 1 instead of a and b."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            samples = {}
            for member in tar:
                key, extension = member.name.split(".")
                content = tar.extractfile(member).read()
                samples.setdefault(key, {})[extension] = b"%d" % b"ab".index(content) if extension == "cls" else content
        write_shard(path, list(samples.items()))
        write_shard(path.with_name(path.name.replace("train", "val")), list(samples.items()))
    return pattern


def test_numbers_that_are_no_names_are_refused_where_the_names_are_numbers(tmp_path):
    folder = tmp_path / "x"
    pattern = labelled_by_numbers(numbered(folder, 2), folder)
    for path in folder.glob("val*"):
        path.unlink()
    (folder / "classes.txt").write_text("5\n6")
    with pytest.raises(UserError, match=r"has the class '0', which classes.txt does not name"):
        list(stream(pattern, 40, [40]))


@pytest.mark.parametrize("lines", [["a", "b"], ["b", "a"], ["1", "0"], ["0", "1"]])
def test_numbers_mean_the_same_class_streamed_and_indexed(lines, tmp_path):
    """They are the places of names, in the order of the file, or where the names are numbers, the names."""
    folder = tmp_path / "x"
    pattern = labelled_by_numbers(numbered(folder, 2), folder)
    (folder / "classes.txt").write_text("\n".join(lines))
    opened = open_stream(pattern, 40, Reading())
    named = {}
    for pixels, labels in stream_batches(opened.train, (8, "bilinear"), [40], CPU, 0, 0):
        named = dict(zip((pixels.data[:, 1, 0, 0] % 2).tolist(), (opened.classes[label] for label in labels), strict=True))
    for index, label in enumerate(opened.val.labels):
        assert opened.classes[label] == named[opened.val.image(index).getpixel((0, 0))[1] % 2]
    assert named == ({0: lines[0], 1: lines[1]} if "a" in lines else {0: "0", 1: "1"})


def spoil(folder, fault):
    if fault == "cut off":
        path = folder / "train-01.tar"
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "strange class":
        (folder / "classes.txt").write_text("a\nc\n")
    elif fault == "no label":
        stream = io.BytesIO()
        Image.new("RGB", (4, 4)).save(stream, "PNG")
        write_shard(folder / "train-01.tar", [(str(i), {"png": stream.getvalue(), "json": b"{}"}) for i in range(20)])
    elif fault == "no classes":
        (folder / "classes.txt").unlink()
    else:
        (folder / "train-01.tar").unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut off", "the shards cannot be read"),
        ("strange class", "has the class 'b', which classes.txt does not name"),
        ("no label", "png has no 'label' in its JSON"),
        ("no classes", "classes.txt cannot be read"),
        ("missing", "train-01.tar is not there"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said_in_a_sentence(fault, message, tmp_path):
    pattern = numbered(tmp_path / "x", shards=2)
    spoil(tmp_path / "x", fault)
    with pytest.raises(UserError, match=message):
        list(stream(pattern, 40, [40], workers=2))


def test_a_folder_of_images_is_no_stream(photos):
    with pytest.raises(UserError, match="is a folder, not shards") as error:
        open_stream(str(photos), 40, Reading())
    assert error.value.option == "stream_images"


def test_too_few_shards_and_a_missing_library_are_said(tmp_path, monkeypatch):
    pattern = numbered(tmp_path / "x", shards=1)
    monkeypatch.setattr("utils.runtime.distributed.world_size", lambda: 2)
    with pytest.raises(UserError, match="1 shard cannot be divided among 2 processes"):
        next(stream(pattern, 20, [20]))
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"needs the package webdataset \(pip install webdataset\)"):
        open_stream(pattern, 20, Reading())
