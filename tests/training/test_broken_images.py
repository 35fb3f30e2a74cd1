"""Images that do not decode: a sentence, or left out and listed where that is asked for."""

import pytest
from conftest import make_photos
from runs import assert_same_end

from utils.core import errors
from utils.core.errors import UserError, explain
from utils.core.machine import cores
from utils.data.broken import broken_images
from utils.data.datasets import open_dataset

RUN = {"batch_size": 8, "max_epoch": 1, "image_size": 16}


def break_images(root, split="train", count=3):
    paths = sorted((root / split).rglob("*.jpg"))[:: max(1, len(list((root / split).rglob("*.jpg"))) // count)][:count]
    for number, path in enumerate(paths):
        path.write_bytes([path.read_bytes()[:300], b"", b"no image"][number % 3])
    return paths


@pytest.mark.parametrize("cache", ["off", "ram", "disk"])
def test_broken_images_are_left_out_listed_and_written_down(cache, photos, trainer_of, capsys):
    broken = break_images(photos) + break_images(photos, "val", 1)
    trainer = trainer_of(**RUN, dataset=str(photos), cache=cache, skip_broken=True)
    out = capsys.readouterr().out
    assert "photos: 3 classes, 21 train, 8 val images at 16 px\n" in out
    assert "left out 4 images that cannot be decoded, listed in weights/photos/custom/skipped_files.txt:\n" in out
    for text in (out, trainer.files.skipped.read_text()):
        assert all(f"{path} is not a readable image" in text for path in broken)
    assert len(trainer.files.skipped.read_text().splitlines()) == 4
    assert trainer.fit() == 0 and "skipped_files.txt" in capsys.readouterr().out.partition("written:")[2]


def test_without_them_it_is_the_run_of_the_folder_without_them(photos, trainer_of, capsys):
    broken = break_images(photos)
    one = trainer_of(**RUN, dataset=str(photos), skip_broken=True, path_to_save="a")
    one.fit()
    for path in broken:
        path.unlink()
    two = trainer_of(**RUN, dataset=str(photos), path_to_save="b")
    two.fit()
    assert_same_end(one, two)
    assert one.fingerprint.data == two.fingerprint.data


def test_no_more_than_twenty_are_printed(tmp_path, trainer_of, capsys):
    root = make_photos(tmp_path / "photos", train=20)
    break_images(root, count=30)
    trainer = trainer_of(**RUN, dataset=str(root), skip_broken=True)
    out = capsys.readouterr().out
    assert out.count("is not a readable image") == 20 and "\n  and 10 more\n" in out
    assert len(trainer.files.skipped.read_text().splitlines()) == 30


def test_the_list_of_an_earlier_run_goes(photos, trainer_of):
    broken = break_images(photos)
    assert trainer_of(**RUN, dataset=str(photos), skip_broken=True).files.skipped.exists()
    for path in broken:
        path.unlink()
    assert not trainer_of(**RUN, dataset=str(photos)).files.skipped.exists()


def test_the_list_stays_where_a_run_is_refused(photos, trainer_of):
    broken = break_images(photos)
    first = trainer_of(**RUN, dataset=str(photos), skip_broken=True)
    first.fit()
    for path in broken:
        path.unlink()
    with pytest.raises(UserError, match="optimizer was"):
        trainer_of(**RUN, dataset=str(photos), optimizer="sgd", resume="auto")
    assert len(first.files.skipped.read_text().splitlines()) == 3


def test_a_run_without_the_flag_names_the_file_and_the_flag(photos, trainer_of, monkeypatch):
    (broken,) = break_images(photos, count=1)
    with pytest.raises(UserError, match="is not a readable image") as error:
        trainer_of(**RUN, dataset=str(photos), cache="ram")
    assert str(error.value).startswith(f"{broken} ")
    monkeypatch.setattr(errors, "flags", {"skip_broken": "--skip_broken"})
    assert errors.explain(error.value) == f"{error.value}; to train without such images, add --skip_broken"


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_decoder_that_ends_its_process_is_the_failure_of_its_image(cache, photos, trainer_of, crash):
    path = photos / "train" / "red" / "3.jpg"
    crash(path)
    with pytest.raises(UserError) as error:
        trainer_of(**RUN, dataset=str(photos), cache=cache)
    assert str(error.value) == f"{path} ends the process that decodes it"
    trainer = trainer_of(**RUN, dataset=str(photos), cache=cache, skip_broken=True)
    assert trainer.files.skipped.read_text() == f"{path} ends the process that decodes it\n"
    assert trainer.fit() == 0


def test_a_class_of_which_nothing_is_left_is_a_sentence(photos, trainer_of):
    for path in (photos / "train" / "red").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of the images of class 'red' in train can be decoded \(8 files left out\)"):
        trainer_of(**RUN, dataset=str(photos), skip_broken=True)
    for path in (photos / "val").rglob("*.jpg"):
        path.write_bytes(b"no image")
    for path in (photos / "train" / "red").iterdir():
        path.write_bytes((photos / "train" / "blue" / "1.jpg").read_bytes())
    with pytest.raises(UserError, match="none of the images of the split in val can be decoded"):
        trainer_of(**RUN, dataset=str(photos), skip_broken=True)


def test_arrays_cannot_be_broken():
    assert broken_images(open_dataset("digits").train) == []


WORKERS = ("-m", "custom", "--image_size", 16, "--precision", "fp32", "--batch_size", 4, "--max_epoch", 2, "--num_workers", 1)


@pytest.mark.skipif(cores() < 2, reason="one core has no room for a loader worker")
def test_an_image_that_breaks_under_loader_workers_is_one_line(photos, script):
    path = photos / "train" / "green" / "5.jpg"
    path.write_bytes(path.read_bytes()[:300])
    result = script("train.py", *WORKERS, "-d", photos, "--cache", "off")
    assert "1 loader worker," in result.stdout
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith(f"error: {path} is not a readable image")


def test_a_file_that_vanishes_during_training_is_its_sentence(photos, trainer_of):
    trainer = trainer_of(**RUN, dataset=str(photos), cache="off", num_workers=1)
    trainer.data.workers = 1
    (photos / "train" / "green" / "5.jpg").unlink()
    with pytest.raises(UserError, match=r"train/green/5\.jpg does not exist$"):
        trainer.fit()


def test_a_loader_process_that_dies_is_a_sentence():
    error = RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")
    assert explain(error).startswith("a loader process has died")
    assert explain(RuntimeError("a bug")) is None
