import dataclasses
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
from utils.runtime import timing
from utils.runtime.compile import compile_whole, trial_step
from utils.runtime.config import RunConfig
from utils.runtime.device import DEVICES, choose_device, kind_of, share_cores
from utils.runtime.precision import fastest_precision, possible_precision, precision_probe
from utils.runtime.timing import faster, quicker

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


CPU = torch.device("cpu")


@pytest.fixture
def can_train_in(monkeypatch):
    """Make a kind of device one that trains in the precisions that are given, whatever this machine is."""

    def make(name, *precisions):
        monkeypatch.setitem(DEVICES, name, dataclasses.replace(DEVICES[name], precisions=lambda: precisions))
        return torch.device(name)

    return make


PRECISIONS = [  # asked for, device, what it trains in, what is taken, a word of the notice
    ("fp16", "cpu", ("fp32", "bf16"), "auto", "trains in the faster of fp32 and bf16 instead"),
    ("fp16", "cpu", ("fp32",), "auto", "trains in fp32 instead"),
    ("fp16", "cuda", ("fp32", "bf16", "fp16"), "fp16", None),
    ("bf16", "cpu", ("fp32", "bf16"), "bf16", None),
    ("bf16", "cpu", ("fp32",), "bf16", "slower than fp32"),
    ("fp32", "cuda", ("fp32", "bf16", "fp16"), "fp32", None),
    ("auto", "cpu", ("fp32",), "auto", None),
]


@pytest.mark.parametrize(("asked", "name", "possible", "got", "word"), PRECISIONS)
def test_precision_is_what_was_asked_for_but_for_fp16_where_the_device_has_none(asked, name, possible, got, word, can_train_in):
    precision, notice = possible_precision(asked, can_train_in(name, *possible))
    assert precision == got and (word in notice if word else notice is None)


def test_the_faster_precision_is_measured_once_and_kept(tmp_path, monkeypatch, can_train_in):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu, calls = can_train_in("cpu", "fp32", "bf16"), []

    def timer(fast):
        return lambda precision: calls.append(precision) or (1.0 if precision == fast else 2.0)

    assert fastest_precision(cpu, timer("bf16"), "a")[0] == "bf16"
    assert fastest_precision(cpu, timer("fp32"), "b")[0] == "fp32"
    count = len(calls)
    assert fastest_precision(cpu, timer("fp32"), "a")[0] == "bf16" and len(calls) == count
    assert json.loads((tmp_path / "image-classification" / "precision-3.json").read_text()) == {"a": "bf16", "b": "fp32"}


def test_a_machine_that_is_busy_now_and_then_does_not_change_the_choice(tmp_path, monkeypatch, can_train_in):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu = can_train_in("cpu", "fp32", "bf16")
    disturbed = {"fp32": iter([9.0, 1.0, 1.0, 1.0]), "bf16": iter([9.0, 5.0, 0.5, 7.0])}  # the first of each does not count
    assert fastest_precision(cpu, lambda p: next(disturbed[p]), "a")[0] == "bf16"


def test_what_is_known_is_not_measured(can_train_in):
    assert fastest_precision(can_train_in("cpu", "fp32"), lambda p: 1 / 0, "") == ("fp32", None)
    assert fastest_precision(can_train_in("cuda", "fp32", "bf16", "fp16"), lambda p: 1 / 0, "") == ("bf16", None)
    assert fastest_precision(can_train_in("cuda", "fp32", "fp16"), lambda p: 1 / 0, "") == ("fp32", None)


@pytest.mark.parametrize(
    ("capability", "flags", "has"),
    [
        ("AVX512", "avx512_bf16", True),
        ("AVX512", "amx_bf16", True),
        ("AVX512", "avx512_vnni", False),
        ("AVX2", "avx512_bf16", False),
    ],
)
def test_a_cpu_has_bf16_with_its_instructions_alone(capability, flags, has, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(device_module, "cpu_features", lambda: ["avx2", flags])
    assert kind_of(CPU).precisions() == (("fp32", "bf16") if has else ("fp32",))


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


@pytest.mark.parametrize(("asked", "threads"), [("", 8), ("3", 3), ("2,1", 2), ("many", 8), ("99", 8)])
def test_openmp_bounds_the_threads_as_its_standard_says(asked, threads, monkeypatch):
    monkeypatch.setattr(device_module, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    try:
        assert share_cores(0, CPU)[0] == threads
    finally:
        torch.set_num_threads(before)


def test_devices(capsys):
    assert choose_device("cpu", cuda=False).type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            choose_device("cuda")
        assert choose_device("auto", cuda=True).type == "cpu"
        assert "the CPU is used" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["{", "[1]", "", "\x00"])
def test_a_damaged_file_of_times_is_written_anew(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert timing.remembered("times", "k", lambda: True) == (True, None)
    (file,) = tmp_path.rglob("times.json")
    file.write_text(damage)
    assert timing.remembered("times", "k", lambda: False) == (False, None)
    assert timing.remembered("times", "k", lambda: True) == (False, None)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setitem(DEVICES, "cuda", dataclasses.replace(DEVICES["cuda"], count=lambda: 2))
    for number in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(number))
        assert choose_device() == torch.device("cuda", number)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="2 GPUs; start no more than 2 processes"):
        choose_device()


def test_a_new_kind_of_device_is_one_entry(monkeypatch):
    entry = dataclasses.replace(DEVICES["cpu"], count=lambda: 1, name=lambda device: "Toy", precisions=lambda: ("fp32", "bf16"))
    monkeypatch.setitem(DEVICES, "meta", entry)
    assert choose_device("meta") == torch.device("meta", 0)
    assert fastest_precision(torch.device("meta"), None, "")[0] == "bf16"
    assert RunConfig(torch.device("meta")).describe().startswith("computes on Toy, 1 thread, in fp32 (32-bit numbers), ")


def test_the_peak_of_memory_grows_with_what_is_allocated():
    kind = kind_of(CPU)
    before = kind.peak_memory(CPU)
    held = torch.ones(before // 4 + (64 << 20))  # four bytes each
    assert kind.peak_memory(CPU) >= before + (64 << 20) and held.numel()


def test_one_line_says_everything():
    line = RunConfig(CPU, "bf16", 2, 0, True).describe()
    assert line == "computes on CPU, 2 threads, in bf16 (16-bit numbers, less exact), 0 loader workers, not compiled"
    assert RunConfig(CPU, "fp16", 1, 1, False, True).describe().endswith(", compiled, freed memory goes back to the system")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_loss_scaling_is_on_for_fp16_on_cuda_only(device, precision, monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: (device, enabled))
    on = device == "cuda" and precision == "fp16"
    assert RunConfig(torch.device(device), precision).scaler() == (device, on)


def test_gradients_stay_for_cuda_graphs_only():
    kept = [RunConfig(device, compiled=c).keeps_gradients for device in (CPU, torch.device("cuda")) for c in (False, True)]
    assert kept == [False, False, False, True]


@pytest.mark.parametrize(("seconds", "taken"), [(0.95, "plain"), (1.05, "plain"), (0.85, "new")])
def test_the_new_way_must_gain_its_share(seconds, taken):
    assert quicker(("plain", "new"), {"plain": 1.0, "new": seconds}.get, gain=0.1) == taken


def test_the_faster_of_two_is_measured_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    ways = {"slow": lambda: (calls.append("slow"), time.sleep(0.05)), "quick": lambda: calls.append("quick")}
    assert [faster("this", ways), faster("this", ways)] == ["quick"] * 2
    assert calls == ["slow", "quick"] * (len(calls) // 2) and len(calls) > 2  # in turns, and only the first time
    assert faster("that", dict(reversed(ways.items()))) == "quick"


def test_a_trial_leaves_buffers_random_numbers_and_gradients_as_they_were():
    model = build_model("custom", 3, 16).train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    trial_step(model, (4, 3, 16, 16))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("error", [RuntimeError("no Triton\nin any place"), NotImplementedError()])
def test_where_the_compiler_fails_the_model_stays_eager_and_one_line_says_so(error, monkeypatch, capsys):
    def fail(*args, **options):
        raise error

    model = build_model("custom", 3, 16)
    monkeypatch.setattr(torch, "compile", lambda *args, **options: torch.nn.Sequential(model, Fails(fail)))
    assert compile_whole(model, (4, 3, 16, 16)) == (model, False)
    why = "no Triton" if str(error) else "NotImplementedError"
    assert f"compiling is not possible here ({why}), so the network runs without\n" in capsys.readouterr().out


class Fails(torch.nn.Module):
    def __init__(self, fail):
        super().__init__()
        self.forward = fail


def test_gradients_of_a_network_that_is_compiled_as_a_whole_have_their_place(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, mode, dynamic: model)
    model = build_model("custom", 3, 16)
    model.layer1.requires_grad_(False)
    assert compile_whole(model, (4, 3, 16, 16)) == (model, True)
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)
