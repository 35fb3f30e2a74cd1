"""The rows of ablations.py: flags that train.py knows, and the two that are no choices of it."""

import numpy as np
import pytest
import torch

import train
from benchmarks import ablations
from utils.data.registry import AUGMENTATIONS
from utils.data.stores import Pixels
from utils.training.optim import build_optimizer
from utils.training.registry import OPTIMIZERS


@pytest.fixture
def registered():
    ablations.register()
    yield
    del OPTIMIZERS["lookahead"], AUGMENTATIONS["alternating_flip_shift"]


@pytest.mark.parametrize("row", ablations.ROWS)
def test_every_row_is_made_of_flags_of_train(row, registered):
    args = vars(train.parser().parse(argv=f"{ablations.COMMON} {ablations.flags_of(row)}".split()))
    for name, value in (ablations.SETTINGS | ablations.ROWS[row]).items():
        assert args[name] == value
    assert args["no_test"]


def test_an_image_is_mirrored_in_every_other_epoch(registered, monkeypatch):
    augment = AUGMENTATIONS["alternating_flip_shift"](28, (0.5,) * 3, (0.5,) * 3, short_side=28)
    augment.epoch_images = 100
    pixels = np.random.default_rng(0).integers(0, 256, (100, 1, 28, 28), dtype=np.uint8)
    random = np.random.default_rng(1)
    epochs = []
    for _ in range(3):
        parts = [augment.mirrored(Pixels(part), random) for part in torch.from_numpy(pixels).split(30)]
        epochs.append(np.concatenate(parts))
    assert (epochs[0] != epochs[1]).all() and (epochs[0] == epochs[2]).all()
    assert epochs[0].shape == (100, 1) and 30 < epochs[0].sum() < 70


def test_lookahead_returns_half_of_the_way(registered):
    """Its slow weights begin where the first steps have led."""
    weights = {}
    for name in ("lookahead", "adamw"):
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(network.weight)
        optimizer, weights[name] = build_optimizer(name, network, 0.1, 0), []
        for _ in range(2 * ablations.SLOW_STEPS):
            network.weight.grad = torch.ones(1, 1)
            optimizer.step()
            weights[name].append(network.weight.item())
    began, went = (weights["adamw"][count * ablations.SLOW_STEPS - 1] for count in (1, 2))
    assert weights["lookahead"][-1] == pytest.approx((began + went) / 2)
