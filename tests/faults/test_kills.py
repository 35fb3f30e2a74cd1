"""Runs that are killed at random: each ends as the undisturbed one does, bit by bit, and leaves no file behind."""

import contextlib
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from labelled_images import shards_of
from warm_python import WarmPython

from models.checkpoint import read_checkpoint
from utils.core.errors import UserError
from utils.data.datasets import open_dataset

EPOCHS, SAVE_EVERY = 8, 0.002  # minutes
RUN = ("-d", "digits", "-m", "custom", "--image_size", 16, "--precision", "fp32", "--max_epoch", EPOCHS, "--plain_epochs", 2)
RUN = (*RUN, "--ema", "--accumulation", 2)
KILLS = 6  # in each of the runs
STEPS = "steps.log"  # a line for each step: its number and the time

START = f"""
import os, runpy, sys, time
sys.path.insert(0, {str(ROOT)!r})
sys.argv[0] = "train.py"
from utils.training.loop import Step
log, take = open({STEPS!r}, "a"), Step.take

def logged(step, state, *arguments):
    loss = take(step, state, *arguments)
    print(state.step, time.monotonic(), file=log, flush=True)
    return loss

Step.take = logged
print(os.getpid(), flush=True)
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    with WarmPython(tmp_path_factory.mktemp("warm") / "bin") as python:
        yield python


@pytest.fixture
def start(warm, tmp_path):
    """start(folder, flag, …) -> (process, id of the one that trains)"""

    def call(folder, *flags):
        (tmp_path / folder).mkdir(exist_ok=True)
        process = subprocess.Popen(
            [str(warm.folder / "python"), "-c", START, *map(str, (*RUN, *flags))], cwd=tmp_path / folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=warm.environment({}), pass_fds=warm.fds,
        )  # fmt: skip
        return process, int(process.stdout.readline())

    return call


def finish(process):
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, out[-3000:]
    return out


def run_folder(folder):
    return folder / "weights" / "digits" / "custom"


def end_of(folder):
    """`(files, tensors, scores)` of a finished run."""
    facts = json.loads((folder / "history.json").read_text())
    scores = [{key: epoch.get(key) for key in ("epoch", "lr", "train", "val")} for epoch in facts["epochs"]]
    best, last = (read_checkpoint(folder / f"{name}.pth") for name in ("best_model", "last"))
    tensors = {"best": best["model"], "last": last["model"], "ema": last["ema"]["model"]}
    tensors = {f"{part} {key}": value for part, weights in tensors.items() for key, value in weights.items()}
    return {path.name for path in folder.iterdir()}, tensors, (scores, facts["best"], facts["final"])


def assert_alike(one, two):
    (files, tensors, scores), (other_files, other_tensors, other_scores) = end_of(one), end_of(two)
    assert files == other_files
    assert scores == other_scores
    assert tensors.keys() == other_tensors.keys() and all(torch.equal(tensors[key], other_tensors[key]) for key in tensors)


def saved_step(folder):
    """The step of the newest state that can be read, and 0 where there is none."""
    for name in ("last.pth", "last_previous.pth"):
        try:
            return read_checkpoint(folder / name)["step"]
        except UserError:
            continue
    return 0


def logged(log):
    """[(step, time)], without a last line that was cut off."""
    return [(int(step), float(when)) for step, when in (line.split() for line in log.read_text().split("\n")[:-1])]


def wait_for(is_there, process):
    """Return once `is_there()` is true, or the process has ended."""
    deadline = time.monotonic() + 200
    while not is_there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def lost(folder, log):
    """`(seconds, longest)`: what the killed process had trained after its last save, and its longest time between two steps."""
    steps = logged(log)
    if not steps:
        return 0.0, 0.0
    saved = saved_step(folder)
    since = max((when for step, when in steps if step <= saved), default=steps[0][1])
    gaps = [later[1] - earlier[1] for earlier, later in itertools.pairwise(steps)]
    return steps[-1][1] - since, max(gaps, default=0.0)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_killed_at_random_ends_as_the_undisturbed_one(seed, start, tmp_path):
    finish(start("whole", "--seed", seed, "--save_every", 0)[0])
    steps = logged(tmp_path / "whole" / STEPS)
    chance, kills, run, lost_seconds = random.Random(seed), 0, 0, []
    while kills < KILLS:
        run += 1  # one that ends before it is killed often enough begins another
        folder, log = f"part{run}", tmp_path / f"part{run}" / STEPS
        while True:
            log.unlink(missing_ok=True)
            process, pid = start(folder, "--seed", seed, "--save_every", SAVE_EVERY, "--resume", "auto")
            if kills == KILLS:
                finish(process)
                break
            if chance.random() < 0.8:  # while it trains, not before
                wait_for(lambda log=log: log.exists() and log.read_text(), process)
            time.sleep(chance.uniform(0, (steps[-1][1] - steps[0][1]) / 3))
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)
            out = process.communicate(timeout=60)[0]
            if process.returncode == 0:
                break
            assert process.returncode == 128 + signal.SIGKILL, out[-3000:]
            kills += 1
            seconds, gap = lost(run_folder(tmp_path / folder), log)
            lost_seconds.append(seconds)
            assert seconds <= 60 * SAVE_EVERY + 2 * gap
        assert_alike(run_folder(tmp_path / "whole"), run_folder(tmp_path / folder))
    print(f"{kills} kills in {run} runs, at most {max(lost_seconds):.2f} s of training lost")


@pytest.mark.faults
def test_a_second_run_in_the_folder_is_refused_and_the_first_one_goes_on(start, tmp_path):
    finish(start("whole")[0])
    first, _ = start("both")
    wait_for((tmp_path / "both" / STEPS).read_text, first)
    second, _ = start("both", "--seed", 1)
    out = second.communicate(timeout=100)[0]
    assert second.returncode == 2 and "error: --path_to_save: another run is at work in weights/digits/custom; " in out
    finish(first)
    assert_alike(run_folder(tmp_path / "whole"), run_folder(tmp_path / "both"))


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "--max_restarts", 3)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}


def start_ranks(folder, *flags):
    folder.mkdir()
    command = (*TORCHRUN, ROOT / "train.py", *RUN, "--batch_size", 64, "--resume", "auto", *flags)
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [*map(str, command)], cwd=folder, env=os.environ | ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )


def pid_of_rank(rank, parent):
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent
            if is_child and f"\0RANK={rank}\0".encode() in b"\0" + (process / "environ").read_bytes():
                return int(process.name)
        except OSError:
            continue
    return None


def streamed_digits(folder):
    """The flags for digits in four shards, as many images in an epoch as the data set has."""
    pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    dataset, count = open_dataset("digits"), 0
    for split, images in (("train", dataset.train), ("val", dataset.held_out)):
        for number in range(len(images)):
            path = folder / "photos" / split / dataset.classes[images.labels[number]] / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            images.image(number).save(path)
            count += split == "train"
    pattern = shards_of(folder / "photos", folder / "digits", "train", 4)
    shards_of(folder / "photos", folder / "digits", "val", 1)
    (folder / "digits" / "classes.txt").write_text("\n".join(dataset.classes))
    return ("-d", pattern, "--stream_images", count)


@pytest.mark.faults
@pytest.mark.parametrize("data", [lambda folder: (), streamed_digits], ids=["in memory", "streamed"])
def test_two_processes_that_are_killed_in_turn_end_as_the_undisturbed_two(data, tmp_path):
    data = data(tmp_path)
    whole = start_ranks(tmp_path / "whole", "--save_every", 0, *data)
    assert whole.wait(280) == 0, (tmp_path / "whole" / "log").read_text()[-3000:]
    part, folder = start_ranks(tmp_path / "part", "--save_every", SAVE_EVERY, *data), run_folder(tmp_path / "part")
    for rank, step in ((1, 10), (0, 25)):  # of 48
        wait_for(lambda step=step: saved_step(folder) >= step, part)
        os.kill(pid_of_rank(rank, part.pid), signal.SIGKILL)
    assert part.wait(280) == 0, (tmp_path / "part" / "log").read_text()[-3000:]
    log = (tmp_path / "part" / "log").read_text()
    assert log.count("resumed weights/digits/custom/last.pth at epoch") == 2, log[-3000:]
    assert_alike(run_folder(tmp_path / "whole"), folder)
