import json
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from models.build import build_model
from utils.core.errors import UserError
from utils.runtime import device as device_module
from utils.runtime import precision as precision_module
from utils.runtime.device import choose_device, share_cores
from utils.runtime.precision import Runtime, choose_precision, precision_probe
from utils.runtime.timing import faster

GIVES_BACK = """
import ctypes, torch
from utils.core.machine import keep_memory
assert keep_memory()
end_of_heap = ctypes.CDLL("libc.so.6").sbrk
end_of_heap.restype = ctypes.c_void_p
before = end_of_heap(0)
torch.empty(3 << 30, dtype=torch.uint8)  # given back at once, and never touched
print(end_of_heap(0) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_of_a_large_batch_stays_with_the_process():
    result = subprocess.run([sys.executable, "-c", GIVES_BACK], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 3 << 30


@pytest.mark.parametrize(
    ("asked", "device", "got"),
    [("fp16", "cpu", "bf16"), ("fp16", "cuda", "fp16"), ("bf16", "cpu", "bf16"), ("fp32", "cuda", "fp32")],
)
def test_precision_is_what_was_asked_for_but_for_fp16_on_a_cpu(asked, device, got):
    precision, notice = choose_precision(asked, torch.device(device))
    assert precision == got and ("bf16 autocast" in (notice or "")) == (asked != got)


def test_auto_measures_once_and_remembers(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: True)
    calls = []

    def timer(fast):
        return lambda precision: calls.append(precision) or (1.0 if precision == fast else 2.0)

    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, timer("bf16"), "a")[0] == "bf16"
    assert choose_precision("auto", cpu, timer("fp32"), "b")[0] == "fp32"
    count = len(calls)
    assert choose_precision("auto", cpu, timer("fp32"), "a")[0] == "bf16" and len(calls) == count
    assert json.loads((tmp_path / "image-classification" / "precision-3.json").read_text()) == {"a": "bf16", "b": "fp32"}


def test_a_machine_that_is_busy_now_and_then_does_not_change_the_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: True)
    disturbed = {"fp32": iter([9.0, 1.0, 1.0, 1.0]), "bf16": iter([9.0, 5.0, 0.5, 7.0])}  # the first of each does not count
    assert choose_precision("auto", torch.device("cpu"), lambda p: next(disturbed[p]), "a")[0] == "bf16"


def test_a_cpu_without_bf16_is_not_probed(monkeypatch):
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: False)
    assert choose_precision("auto", torch.device("cpu"), lambda p: 1 / 0) == ("fp32", None)


def test_the_probe_spoils_neither_the_model_nor_the_random_numbers():
    model = build_model("custom", 3, 16)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    time_step, key = precision_probe("custom BN", model, 4, 16)
    assert time_step("fp32") > 0 and key.endswith("|custom BN 4 × 16 px")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("batch", "size", "images"), [(128, 32, 128), (128, 224, 32), (4096, 32, 1568), (8, 4000, 2)])
def test_the_probe_takes_the_batch_of_the_run_but_few_pixels(batch, size, images):
    assert precision_probe("custom", None, batch, size)[1].endswith(f"|custom {images} × {size} px")


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("asked", [0, 1, 8, 100])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_threads_and_workers_never_exceed_the_cores(cores, asked, device, monkeypatch):
    monkeypatch.setattr(device_module, "cores", lambda: cores)
    before = torch.get_num_threads()
    try:
        threads, workers = share_cores(asked, torch.device(device))
    finally:
        torch.set_num_threads(before)
    assert threads >= 1 and workers <= asked and threads + workers <= max(cores, 2 if device == "cuda" else 1)


def test_devices(capsys):
    assert choose_device("cpu", cuda=False).type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            choose_device("cuda")
        assert choose_device("auto", cuda=True).type == "cpu"
        assert "the CPU is used" in capsys.readouterr().out


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for number in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(number))
        assert choose_device() == torch.device("cuda", number)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="2 GPUs; give torchrun no more of --nproc_per_node"):
        choose_device()


def test_one_line_says_everything():
    line = Runtime(torch.device("cpu"), "bf16", 2, 0, True).describe()
    for word in ("CPU", "bf16", "channels_last", "2 threads", "0 loader workers", "allocator keeps memory", "eager"):
        assert word in line
    assert "\n" not in line


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_loss_scaling_is_on_for_fp16_on_cuda_only(device, precision, monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: (device, enabled))
    on = device == "cuda" and precision == "fp16"
    assert Runtime(torch.device(device), precision).scaler() == (device, on)


def test_gradients_stay_for_cuda_graphs_only():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [Runtime(d, compiled=c).keeps_gradients for d in (cpu, gpu) for c in (False, True)] == [False] * 3 + [True]


def test_the_faster_of_two_is_measured_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    ways = {"slow": lambda: (calls.append("slow"), time.sleep(0.05)), "quick": lambda: calls.append("quick")}
    assert [faster("this", ways), faster("this", ways)] == ["quick"] * 2
    assert calls == ["slow", "quick"] * (len(calls) // 2) and len(calls) > 2  # in turns, and only the first time
    assert faster("that", dict(reversed(ways.items()))) == "quick"
