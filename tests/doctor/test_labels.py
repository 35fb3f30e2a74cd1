"""Labels changed at random are among the most suspected ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.splits import Split
from utils.doctor import labels
from utils.doctor.labels import out_of_fold, rank


def with_errors(split, count, classes, seed=0):
    """Indices of `count` labels of the split that were changed in place."""
    random = np.random.default_rng(seed)
    wrong = random.choice(len(split), count, replace=False)
    split.labels[wrong] = (split.labels[wrong] + random.integers(1, classes, count)) % classes
    return set(wrong.tolist())


def found_among(split, classes, folds, wrong, most):
    suspects = rank(split.labels, out_of_fold(split, classes, folds))
    return len({suspect.index for suspect in suspects[:most]} & wrong), suspects


def test_changed_digits_are_suspected_first():
    dataset = open_dataset("digits", val_fraction=0)
    wrong = with_errors(dataset.train, 60, 10)
    found, suspects = found_among(dataset.train, dataset.classes, 2, wrong, 80)
    assert found >= 48  # 80 %, as asked of Fashion-MNIST
    assert len(suspects) == len(dataset.train) and suspects[0].score <= suspects[-1].score


@pytest.mark.slow
def test_changed_labels_of_fashion_mnist(real_data):
    dataset = open_dataset("FashionMNIST", real_data, val_fraction=0)
    split = dataset.train.subset(np.random.default_rng(0).choice(60_000, 6_000, replace=False))
    wrong = with_errors(split, 300, 10)
    assert found_among(split, dataset.classes, 4, wrong, 400)[0] >= 240


def test_no_network_has_seen_the_images_that_it_judges(monkeypatch):
    """Every image is of one grey level of its own; the stub of a network is sure of the levels that it was trained on."""
    levels = np.arange(40, dtype=np.uint8) * 6
    split = Split("train", np.arange(40) % 2, levels[:, None, None, None].repeat(32, 1).repeat(32, 2))

    def train(part, card, seed):
        known = torch.from_numpy(part.arrays[:, 0, 0, 0]).int()

        def answer(images):
            shown = ((images[:, 0].mean((1, 2)) * card.std[0] + card.mean[0]) * 255).round().int()
            return torch.stack([torch.zeros(len(images)), 9.0 * torch.isin(shown, known)], 1)

        return SimpleNamespace(eval=lambda: answer)

    monkeypatch.setattr(labels, "_train", train)
    np.testing.assert_allclose(out_of_fold(split, ["a", "b"], 4), 0.5)


def test_a_class_with_too_few_images_for_the_folds_is_named():
    split = open_dataset("digits", val_fraction=0).train
    few = split.subset(np.concatenate([np.flatnonzero(split.labels != 3), np.flatnonzero(split.labels == 3)[:2]]))
    with pytest.raises(UserError, match="3 folds need 3 images of each class, and 3 has 2"):
        out_of_fold(few, [str(i) for i in range(10)], 3)
