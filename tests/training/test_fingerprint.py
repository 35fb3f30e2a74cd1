"""A run goes on only with the data, the split and the options that it began with."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from runs import CPU, TINY, Killed, kill_at

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.splits import Dataset, Split
from utils.training.fingerprint import data_facts, differences, fingerprint
from utils.training.options import CHANGES, TrainOptions

OPTIONS = TrainOptions(image_size=224)  # the size is settled before runs are compared
KEPT = [name for name, how in CHANGES.items() if how is None]
OTHER = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 0.01, str: lambda _: "other"}


def facts_of(options, data=None, precision="fp32"):
    card = ModelCard(options.model, ["a", "b"], options.image_size, options.resize_size, norm_type=options.norm_type)
    return fingerprint(options, card, data or {}, precision, CPU)


@pytest.mark.parametrize("name", KEPT)
def test_every_option_that_changes_the_weights_is_compared_and_both_values_are_named(name):
    before = getattr(OPTIONS, name)
    other = 300 if before is None else "GN" if name == "norm_type" else OTHER[type(before)](before)
    ours = facts_of(dataclasses.replace(OPTIONS, **{name: other}))
    clauses = differences(facts_of(OPTIONS).to_dict(), ours)
    assert len(clauses) == 1 + (name == "image_size")  # of which the resize before the crop follows
    shown = 256 if name == "resize_size" else before
    assert f"{name} was {shown} in that run and is {other} now" in clauses


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in KEPT])
def test_all_other_options_may_change(name):
    other = 301 if name == "max_epoch" else "other"
    assert not differences(facts_of(OPTIONS).to_dict(), facts_of(dataclasses.replace(OPTIONS, **{name: other})))


def test_the_number_of_epochs_may_only_rise():
    shorter = facts_of(dataclasses.replace(OPTIONS, max_epoch=299))
    assert differences(facts_of(OPTIONS).to_dict(), shorter) == ["max_epoch was 300 in that run and is 299 now"]


def test_the_precision_is_compared_as_it_was_settled():
    saved = facts_of(OPTIONS, precision="bf16").to_dict()
    assert not differences(saved, facts_of(OPTIONS, precision="auto"))  # which then takes bf16
    assert differences(saved, facts_of(OPTIONS)) == ["precision was bf16 in that run and is fp32 now"]


def test_an_option_that_came_later_had_its_default(monkeypatch):
    saved = facts_of(OPTIONS).to_dict()
    del saved["choices"]["label_smoothing"]
    assert not differences(saved, facts_of(OPTIONS))
    ours = facts_of(dataclasses.replace(OPTIONS, label_smoothing=0.1))
    assert differences(saved, ours) == ["label_smoothing was 0.0 in that run and is 0.1 now"]


def make_bitmaps(root, count=6):
    """Two classes of images that all have one size in bytes."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(root / name / f"{i}.bmp")
    return root


def swap(root):
    for old, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (root / old).rename(root / new)


CONTENTS = "the contents of the train images were others"
CHANGED = {
    "an image more": (lambda root: shutil.copy(root / "cat" / "0.bmp", root / "cat" / "more.bmp"), "train had "),
    "an image less": (lambda root: (root / "cat" / "5.bmp").unlink(), " had "),
    "an image under another name": (lambda root: (root / "cat" / "5.bmp").rename(root / "cat" / "6.bmp"), " had |the names"),
    "classes swapped": (swap, CONTENTS),
    "an image of another size": (lambda root: Image.new("RGB", (13, 13)).save(root / "dog" / "0.bmp"), "the contents of the "),
    "an image with other pixels": (
        lambda root: Image.new("RGB", (12, 12)).save(root / "dog" / "0.bmp"),
        "the contents of the ",
    ),
    "an image in another class": (lambda root: (root / "dog" / "5.bmp").rename(root / "cat" / "9.bmp"), " had |the names"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_changed_files_are_a_sentence(change, tmp_path):
    root = make_bitmaps(tmp_path / "pets")
    saved = facts_of(TINY, data_facts(open_dataset(str(root)))).to_dict()
    shutil.move(root, tmp_path / "moved" / "pets")
    root = tmp_path / "moved" / "pets"
    assert not differences(saved, facts_of(TINY, data_facts(open_dataset(str(root)))))
    do, words = CHANGED[change]
    do(root)
    (clause, *_) = differences(saved, facts_of(TINY, data_facts(open_dataset(str(root)))))
    assert any(word in clause for word in words.split("|")) and (" in that run" in clause and " now" in clause)


def test_changed_arrays_are_a_sentence_too():
    def facts(images, labels):
        return facts_of(TINY, data_facts(Dataset("x", ["a", "b"], Split("train", labels, images))))

    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1])
    saved = facts(images, labels).to_dict()
    assert not differences(saved, facts(images.copy(), labels.copy()))
    assert "contents of the train" in differences(saved, facts(images + 1, labels))[0]
    assert "labels of the train" in differences(saved, facts(images, labels[::-1].copy()))[0]


def test_another_split_is_one_clause(tmp_path):
    root = str(make_bitmaps(tmp_path / "pets"))
    saved = facts_of(TINY, data_facts(open_dataset(root))).to_dict()
    other = dataclasses.replace(TINY, val_fraction=0.5)
    clauses = differences(saved, facts_of(other, data_facts(open_dataset(root, val_fraction=0.5))))
    assert clauses == ["val_fraction was 0.1 in that run and is 0.5 now"]


def test_a_resume_names_all_differences_and_touches_nothing(trainer_of, tmp_path):
    root = make_bitmaps(tmp_path / "pets")
    run = {"dataset": str(root), "batch_size": 4, "max_epoch": 2}
    first = trainer_of(**run)
    kill_at(first, step=4)
    with pytest.raises(Killed):
        first.fit()
    before = {path: path.read_bytes() for path in first.files.folder.iterdir()}
    with pytest.raises(UserError) as error:
        trainer_of(**run | {"seed": 1, "base_lr": 0.1}, resume="auto")
    clauses = (
        "base_lr was 0.004 in that run and is 0.1 now; seed was 0 in that run and is 1 now; give what it had, or start anew"
    )
    assert clauses in str(error.value)
    (root / "cat" / "1.bmp").unlink()
    with pytest.raises(UserError, match=r"had .* in that run and has") as error:
        trainer_of(**run, resume="auto")
    assert error.value.option == "resume"
    assert before == {path: path.read_bytes() for path in first.files.folder.iterdir()}


def test_more_epochs_go_on_along_the_longer_schedule_and_say_so(trainer_of, capsys):
    trainer_of(max_epoch=2).fit()
    capsys.readouterr()
    again = trainer_of(max_epoch=4, resume="auto")
    rate = again.step.schedule(again.state.step)
    words = f"max_epoch rises from 2 to 4: the learning rate goes on at {rate:.2e}, where a run of 4 epochs has it, and not at "
    assert words in capsys.readouterr().out and rate > 1e-4
    again.fit()
    assert again.state.epoch == 4 and again.state.optimizer.param_groups[0]["lr"] == 1e-6


def test_a_state_of_another_device_or_torch_is_said(trainer_of, capsys):
    first = trainer_of(max_epoch=1)
    first.fingerprint.machine["torch"] = "1.0"
    first.fit()
    trainer_of(resume="auto")
    words = f"torch was 1.0 in that run and is {torch.__version__} now: it goes on, but not bit by bit as it would have"
    assert words in capsys.readouterr().out
