"""One epoch on the digits, without BatchNorm, dropout and augmentation, then a sharded evaluation: run by torchrun or alone.

In float64, as a rounding in float32 can turn a tie of the max-pooling, after which two runs part for good.
Arguments: where the first process writes weights and answers, and the pictures of a batch for each process.
"""

import sys

import numpy as np
import torch
from torch import nn

from models.build import build_model
from utils.core.card import ModelCard
from utils.data.augment import AUGMENTATIONS
from utils.data.cache import open_store
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches, train_batches
from utils.data.sampling import epoch_order, plan_epoch
from utils.evaluation.evaluate import evaluate, gather
from utils.runtime import distributed
from utils.runtime.compile import step_model
from utils.runtime.precision import Runtime
from utils.training.loop import train_one_epoch
from utils.training.optim import build_optimizer
from utils.training.state import TrainState


class AfterTheFourth:
    def look(self, step):
        return step == 4


def main(path, batch_size):
    device = torch.device("cpu")
    distributed.join_group(device)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rank, world = distributed.rank(), distributed.world_size()
    data = open_dataset("digits")
    card = ModelCard("custom", data.classes, 16)
    model = build_model("custom", 10, 16, "GN").double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    setup = Runtime(device)
    called = step_model(model, setup, (batch_size, 3, 16, 16), compile_it=False)
    state = TrainState(model, build_optimizer("sgd", model, 0.05, 0.01), setup.scaler())
    augment = AUGMENTATIONS["none"](16, card.mean, card.std)
    groups = plan_epoch(epoch_order(len(data.train), 0, 0), batch_size, 1, rank, world)
    store, labels = open_store(data.train, card.resize_size), torch.from_numpy(data.train.labels)

    def prepare(pixels, y, number):
        return augment(pixels, np.random.default_rng(number)).double(), y

    while state.epoch == 0:  # twice, as an interrupted epoch goes on from the state that the first process has saved
        batches = train_batches(store, labels, [b for group in groups[state.group :] for b in group.batches], device)
        train_one_epoch(
            state, called, groups, batches, prepare, setup, learning_rate=lambda step: 0.05, loss_options={},
            stop=AfterTheFourth(),
        )  # fmt: skip
        if state.epoch == 0:
            whole = state.state_dict()
            state = TrainState(model, state.optimizer, setup.scaler())
            state.load_state_dict(distributed.from_main(dict, whole), device)
    model.eval()
    shard = eval_batches(data.test, card, 50, shard=(rank, world))
    evaluation = gather(evaluate(lambda images: model(images.double()), shard))
    contents = {"model": model.state_dict(), "labels": evaluation.labels, "logits": evaluation.logits, "world": world,
                "train": state.totals.averages(10)}  # fmt: skip
    distributed.on_main(torch.save, contents, path)
    distributed.leave_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
