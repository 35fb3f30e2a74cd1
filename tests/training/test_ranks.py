"""Runs in several processes on this machine, through gloo on loopback, that die and are resumed."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from runs import CPU

from models.checkpoint import read_checkpoint
from utils.training.state import random_state, set_random_state

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
PATHS = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": PATHS, "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])  # sums of three depend on their order
def test_a_resumed_run_of_several_processes_ends_as_the_undisturbed_one(processes, tmp_path):
    command = (*TORCHRUN, "--nproc_per_node", processes, ROOT / "tests" / "training" / "killed_ranks.py", tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"} | ENVIRONMENT
    result = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-2000:]
    saved = read_checkpoint(tmp_path / "part" / "digits" / "custom" / "last_previous.pth")
    assert len(saved["rng"]) == processes and len(saved["totals"]) == processes


def test_a_state_of_more_processes_gives_the_first_its_random_numbers(trainer_of):
    trainer = trainer_of(save_every=1e-9, max_epoch=1)
    trainer.fit()
    saved = read_checkpoint(trainer.files.previous)
    other = random_state(CPU)
    torch.rand(3)
    assert trainer.state.load_state_dict(saved, CPU) is True
    expected = torch.rand(1)
    two = saved | {"rng": [*saved["rng"], other], "totals": saved["totals"].repeat(2, 1)}
    assert trainer.state.load_state_dict(two, CPU) is False
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(trainer.state.totals.sums, 2 * saved["totals"][0])  # the sums of all


def test_a_state_of_an_older_version_has_the_random_numbers_of_the_first_process(trainer_of):
    trainer = trainer_of(max_epoch=1)
    saved = trainer.state.state_dict()
    expected = torch.rand(1)
    set_random_state(random_state(CPU), CPU)
    assert trainer.state.load_state_dict(saved | {"rng": saved["rng"][0]}, CPU) is True
    assert torch.equal(torch.rand(1), expected)
