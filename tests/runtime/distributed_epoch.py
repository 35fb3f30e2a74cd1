"""One epoch on the digits, without BatchNorm, dropout and augmentation, then a sharded evaluation: run by torchrun or alone.

In float64, as a rounding in float32 can turn a tie of the max-pooling, after which two runs part for good.
Arguments: where the first process writes weights and answers, and the images of a batch for each process.
"""

import sys

import torch
from torch import nn

from models.build import build_model
from utils.core.card import ModelCard
from utils.data.datasets import open_dataset
from utils.evaluation.evaluate import evaluate, gather
from utils.runtime import distributed
from utils.runtime.config import RunConfig
from utils.training.batches import BatchPlan
from utils.training.data import TrainingData
from utils.training.loop import Clock, Step, train_epoch
from utils.training.optim import build_optimizer
from utils.training.options import TrainOptions
from utils.training.state import TrainState


class AfterTheFourth:
    save_due = False

    def look(self, step):
        return step == 4


def main(path, batch_size):
    device = torch.device("cpu")
    distributed.join_group(device)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rank, world = distributed.rank(), distributed.world_size()
    dataset = open_dataset("digits")
    card = ModelCard("custom", dataset.classes, 16)
    data = TrainingData(dataset, card, TrainOptions(dataset="digits", image_size=16, max_epoch=1, plain_epochs=1), device)
    model = build_model("custom", 10, 16, "GN").double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = RunConfig(device)
    step = Step(distributed.synchronised(model, device), config, lambda step: 0.05)
    state = TrainState(model, build_optimizer("sgd", model, 0.05, 0.01), config.scaler())
    groups = BatchPlan(batch_size, 1, world, rank).groups(data.order(0))
    while state.epoch == 0:  # twice, as an interrupted epoch goes on from the state that the first process has saved
        batches = ((images.double(), labels) for images, labels in data.train_batches(state, groups, Clock()))
        for _ in train_epoch(step, state, groups, batches, Clock(), AfterTheFourth()):
            pass
        if state.epoch == 0:
            whole = state.state_dict()
            state = TrainState(model, state.optimizer, config.scaler())
            state.load_state_dict(distributed.from_main(dict, whole), device)
    model.eval()
    evaluation = gather(evaluate(lambda images: model(images.double()), data.eval_batches(dataset.test, 50)))
    contents = {"model": model.state_dict(), "labels": evaluation.labels, "logits": evaluation.logits, "world": world,
                "train": state.totals.averages(10)}  # fmt: skip
    distributed.on_main(torch.save, contents, path)
    distributed.leave_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
