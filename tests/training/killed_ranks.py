"""A run in several processes, another like it that dies twice and is resumed, and whether both end alike: run by torchrun.

Argument: an empty folder.
"""

import dataclasses
import os
import sys

import torch
from runs import CPU, TINY, Killed, assert_same_end, kill_at

from utils.runtime import distributed
from utils.training.build import build_trainer


def main(folder):
    distributed.join_group(CPU)
    os.chdir(folder)
    options = dataclasses.replace(TINY, batch_size=64, ema=True, accumulation=2, save_every=1e-9)
    whole = build_trainer(dataclasses.replace(options, path_to_save="whole"), CPU)
    whole.fit()
    for step in (4, 9):
        part = build_trainer(dataclasses.replace(options, path_to_save="part", resume="auto"), CPU)
        kill_at(part, step)
        try:
            part.fit()
        except Killed:
            torch.rand(distributed.rank() + 1)  # what a new process has drawn differs from what this one has
            part.state.model.zero_grad()
    again = build_trainer(dataclasses.replace(options, path_to_save="part", resume="auto"), CPU)
    assert again.state.step == 8, again.state.step
    again.fit()
    distributed.on_main(assert_same_end, whole, again)
    distributed.leave_group()


if __name__ == "__main__":
    main(sys.argv[1])
