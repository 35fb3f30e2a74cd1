"""What tests of training runs share: a small run, how it is stopped, and what it has written."""

import json
import os

import torch

from models.checkpoint import read_checkpoint
from utils.training.options import TrainOptions

CPU = torch.device("cpu")
TINY = TrainOptions(dataset="digits", model="custom", image_size=16, precision="fp32", num_workers=0, max_epoch=2)


def signal_at(trainer, signum, step):
    """Send this process a signal while `step`, counted from 1, is computed."""
    sent = []

    def send(*_):
        if trainer.state.step == step - 1 and not sent:
            sent.append(os.kill(os.getpid(), signum))

    trainer.step.network.register_forward_hook(send)


def history(trainer):
    return json.loads(trainer.files.history.read_text())


def weights(path):
    return read_checkpoint(path)["model"]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing that the run could catch."""


def kill_at(trainer, step):
    """End the run while `step`, counted from 1, is computed. Raises Killed there."""

    def end(*_):
        if trainer.state.step == step - 1:
            raise Killed

    trainer.step.network.register_forward_hook(end)


def end_of(run):
    """What must be the same after an undisturbed run and one that was resumed: tensors of its files, scores of its epochs."""
    facts = history(run)
    tensors = {f"best {key}": value for key, value in weights(run.files.best).items()}
    last = read_checkpoint(run.files.last)
    for part in ("model", "ema"):
        part_of = (last[part] or {}).get("model", {}) if part == "ema" else last[part]
        tensors |= {f"{part} {key}": value for key, value in part_of.items()}
    scores = [{key: epoch.get(key) for key in ("epoch", "lr", "train", "val")} for epoch in facts["epochs"]]
    return tensors, (facts["best"], facts["final"], scores)


def assert_same_end(one, two):
    (tensors, scores), (others, other_scores) = end_of(one), end_of(two)
    assert scores == other_scores
    assert same(tensors, others)
