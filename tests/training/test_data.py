"""The images of a run on their way into the network."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.core import errors
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.splits import Dataset, Split
from utils.training.batches import BatchPlan
from utils.training.data import TrainingData
from utils.training.loop import Clock
from utils.training.options import TrainOptions

CPU = torch.device("cpu")
ONE_IMAGE = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 1), dtype=np.uint8)


@pytest.fixture
def batches_of(monkeypatch):
    """The two batches of an epoch over eight copies of one image, in one of several processes."""

    def batches(seed=0, epoch=0, rank=0):
        monkeypatch.setattr("utils.runtime.distributed.rank", lambda: rank)
        options = TrainOptions(image_size=16, max_epoch=2, plain_epochs=0, seed=seed)
        split = Split("train", np.zeros(8, dtype=np.int64), ONE_IMAGE.repeat(8, 0))
        data = TrainingData(Dataset("copies", ["a", "b"], split), ModelCard("custom", ["a", "b"], 16), options, CPU)
        state = SimpleNamespace(epoch=epoch, group=0, step=0)
        return [images for images, _ in data.train_batches(state, BatchPlan(4).groups(data.order(epoch)), Clock())]

    return batches


def test_every_batch_epoch_seed_and_process_augments_in_its_own_way(batches_of):
    seen = [batch for facts in ({}, {"epoch": 1}, {"seed": 1}, {"rank": 1}) for batch in batches_of(**facts)]
    assert len(seen) == 8 and not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert all(torch.equal(a, b) for a, b in zip(batches_of(), seen[:2], strict=True))  # and the next run does it again


def test_a_download_that_fails_is_a_short_sentence_with_the_flag_and_a_command(monkeypatch, tmp_path, trainer_of):
    def fail(*_, **__):
        raise RuntimeError("Error downloading a.gz: Tried http://x/, got: <urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fail)
    monkeypatch.setattr(errors, "flags", {"data_dir": "--data_dir", "dataset": "--dataset"})
    with pytest.raises(UserError) as fault:
        trainer_of(dataset="FashionMNIST", data_dir=str(tmp_path))
    place = tmp_path / "FashionMNIST" / "raw"
    sentence = errors.explain(fault.value)
    assert sentence.startswith(
        f"--data_dir: FashionMNIST is not in {place} and could not be downloaded (Name or service not known)"
    )
    assert sentence.endswith("; or, without a download: python train.py --dataset digits")
    assert len(sentence) - len(str(place)) < 250
    with pytest.raises(UserError) as fault:
        open_dataset("FashionMNIST", tmp_path)
    assert "digits" not in errors.explain(fault.value)  # which a trained network does not know
