"""A trainer, built in several processes: run by torchrun. Argument: the folder where each process writes what it is given."""

import json
import pathlib
import sys

import torch

from utils.runtime import distributed
from utils.training.build import build_trainer
from utils.training.options import TrainOptions


def main(folder):
    device = torch.device("cpu")
    distributed.join_group(device)
    trainer = build_trainer(
        TrainOptions(dataset="digits", model="custom", image_size=16, precision="fp32", path_to_save=str(folder)), device
    )
    statistics = torch.nn.BatchNorm2d(1)
    statistics.running_mean += distributed.rank()
    distributed.share_buffers(statistics)
    facts = {
        "statistics": statistics.running_mean.item(),
        "random": torch.rand(1).item(),
        "weights": sum(parameter.sum().item() for parameter in trainer.state.parameters),
        "batch": trainer.groups()[0].batches[0].tolist(),
        "plan": trainer.plan.kept,
    }
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(facts))
    distributed.leave_group()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
