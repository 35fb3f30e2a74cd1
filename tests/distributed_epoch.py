"""One epoch on the digits, without BatchNorm, dropout and augmentation, then a sharded evaluation: run by torchrun or alone.

In float64, as a rounding in float32 can turn a tie of the max-pooling, after which two runs part for good.
Arguments: where the first process writes weights and answers, and the pictures of a batch for each process.
"""

import sys

import numpy as np
import torch
from torch import nn

from models import build_model
from utils import runtime
from utils.augment import AUGMENTATIONS
from utils.card import ModelCard
from utils.datasets import eval_batches, open_dataset, train_batches
from utils.engine import TrainState, evaluate, gather, train_one_epoch
from utils.optim import build_optimizer
from utils.sampling import epoch_order, plan_epoch
from utils.stores import open_store


class AfterTheFourth:
    def look(self, step):
        return step == 4


def main(path, batch_size):
    device = torch.device("cpu")
    runtime.join_group(device)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rank, world = runtime.rank(), runtime.world_size()
    data = open_dataset("digits")
    card = ModelCard("custom", data.classes, 16)
    model = build_model("custom", 10, 16, "GN").double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    setup = runtime.Runtime(device)
    step_model = runtime.step_model(model, setup, (batch_size, 3, 16, 16), compile_it=False)
    state = TrainState(model, build_optimizer("sgd", model, 0.05, 0.01), setup.scaler())
    augment = AUGMENTATIONS["none"](16, card.mean, card.std)
    groups = plan_epoch(epoch_order(len(data.train), 0, 0), batch_size, 1, rank, world)
    store, labels = open_store(data.train, card.resize_size), torch.from_numpy(data.train.labels)

    def prepare(pixels, y, number):
        return augment(pixels, np.random.default_rng(number)).double(), y

    while state.epoch == 0:  # twice, as an interrupted epoch goes on from the state that the first process has saved
        batches = train_batches(store, labels, [b for group in groups[state.group :] for b in group.batches], device)
        train_one_epoch(
            state, step_model, groups, batches, prepare, setup, learning_rate=lambda step: 0.05, loss_options={},
            stop=AfterTheFourth(),
        )  # fmt: skip
        if state.epoch == 0:
            whole = state.state_dict()
            state = TrainState(model, state.optimizer, setup.scaler())
            state.load_state_dict(runtime.from_main(dict, whole), device)
    model.eval()
    shard = eval_batches(data.test, card, 50, shard=(rank, world))
    evaluation = gather(evaluate(lambda images: model(images.double()), shard))
    contents = {"model": model.state_dict(), "labels": evaluation.labels, "logits": evaluation.logits, "world": world,
                "train": state.totals.averages(10)}  # fmt: skip
    runtime.on_main(torch.save, contents, path)
    runtime.leave_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
