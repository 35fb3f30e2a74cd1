"""Several processes on this machine, through gloo on loopback."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from models.checkpoint import read_checkpoint
from utils.data.datasets import open_dataset
from utils.evaluation.metrics import headline

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
TINY = ("-m", "custom", "-d", "digits", "--image_size", "16", "--precision", "fp32")


def launch(command, cwd, **options):
    environment = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"} | ENVIRONMENT
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, **options
    )


def test_two_processes_train_and_evaluate_as_one(tmp_path):
    worker = ROOT / "tests" / "runtime" / "distributed_epoch.py"
    alone = launch((sys.executable, worker, tmp_path / "one.pth", 64), tmp_path)
    both = launch((*TORCHRUN, "--nproc_per_node", 2, worker, tmp_path / "two.pth", 32), tmp_path)
    assert alone.returncode == 0, alone.stderr[-2000:]
    assert both.returncode == 0, both.stderr[-2000:]
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pth", "two.pth"))
    assert (one["world"], two["world"]) == (1, 2)
    assert max((one["model"][k] - two["model"][k]).abs().max().item() for k in one["model"]) < 1e-5
    assert one["labels"].tolist() == two["labels"].tolist() == open_dataset("digits").test.labels.tolist()  # 359: odd
    scores = [headline(each["logits"], each["labels"]) for each in (one, two)]
    assert scores[0]["Acc@1"] == scores[1]["Acc@1"] and scores[0]["Acc@5"] == scores[1]["Acc@5"]
    assert one["train"] == pytest.approx(two["train"], abs=1e-6)  # over an epoch that was interrupted


def test_two_processes_build_one_cache_and_read_what_the_first_has_built(photos, tmp_path):
    worker = ROOT / "tests" / "runtime" / "distributed_cache.py"
    result = launch((*TORCHRUN, "--nproc_per_node", 2, worker, photos, tmp_path), tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "decoded").read_text() == "0\n"  # once, in the first process
    answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert answers[0] == answers[1] and len(answers[0]) == 24


def test_processes_share_weights_and_divide_images_and_have_random_numbers_of_their_own(tmp_path):
    worker = ROOT / "tests" / "runtime" / "distributed_ranks.py"
    result = launch((*TORCHRUN, "--nproc_per_node", 2, worker, tmp_path), tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one["weights"] == two["weights"] and one["plan"] == two["plan"] == [128, 1, 2]
    assert one["statistics"] == two["statistics"] == 0  # those of the first process
    assert one["random"] != two["random"] and len({*one["batch"], *two["batch"]}) == 256


@pytest.mark.slow
def test_train_in_two_processes_writes_once_and_says_what_a_step_is(tmp_path):
    result = launch((*TORCHRUN, "--nproc_per_node", 2, ROOT / "train.py", *TINY, "--max_epoch", 2, "--ema"), tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "256 images (128 × 1 batches × 2 processes)" in result.stdout and "2 processes (gloo)" in result.stdout
    assert result.stdout.count("epoch 2/2") == 1 and result.stdout.count("written:") == 1
    folder = tmp_path / "weights" / "digits" / "custom"
    reported = json.loads((folder / "history.json").read_text())["final"]["Acc@1"]
    alone = launch((sys.executable, ROOT / "eval.py", "-w", folder / "best_model.pth"), tmp_path)
    assert alone.returncode == 0, alone.stderr[-2000:]
    assert json.loads((tmp_path / "results" / "accuracy" / "digits" / "custom.json").read_text())["Acc@1"] == reported


@pytest.mark.slow
def test_a_lost_process_ends_in_a_sentence_and_the_restart_goes_on(tmp_path):
    status, text = signal_one(tmp_path, signal.SIGKILL, "epoch  2/40", "--max_epoch", 40, "-r", "auto", restarts=1)
    assert status == 0, text[-3000:]
    assert "resumed weights/digits/custom/last.pth at epoch" in text and text.count("written:") == 1
    assert read_checkpoint(tmp_path / "weights" / "digits" / "custom" / "last.pth")["epoch"] == 40


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    _status, text = signal_one(tmp_path, signal.SIGTERM, "epoch   2/400", "--max_epoch", 400, within=100)
    assert text.count("last.pth is saved\n--resume auto goes on") == 1 and "was lost" not in text, text[-3000:]
    state = read_checkpoint(tmp_path / "weights" / "digits" / "custom" / "last.pth")
    assert state["step"] == state["epoch"] * 6 + state["group"]  # 1,295 images in steps of 256


def signal_one(folder, signum, line, *flags, restarts=0, within=200):
    """Train in two processes, signal one of them once `line` is printed, and return the status and all that was printed."""
    log = folder / "log"
    command = (*TORCHRUN, "--nproc_per_node", 2, "--max_restarts", restarts, ROOT / "train.py", *TINY, *flags)
    with open(log, "w") as file:
        run = subprocess.Popen([*map(str, command)], cwd=folder, stdout=file, stderr=file, env=os.environ | ENVIRONMENT)
    deadline = time.time() + 150
    while line not in log.read_text() and time.time() < deadline:
        time.sleep(0.2)
    workers = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == run.pid]
    os.kill(max(workers), signum)
    return run.wait(within), log.read_text()


def _parent(process):
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None
