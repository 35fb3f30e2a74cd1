"""Devices: what each kind can do, which one computes, and how the cores of the machine are shared."""

import datetime
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from utils.core.errors import UserError
from utils.core.machine import cores, cpu_features, cpu_name, peak_memory
from utils.runtime.distributed import local_rank, processes_here


@dataclass(frozen=True)
class DeviceKind:
    """What the rest of the code has to know about one kind of device."""

    count: Callable  # () -> how many this machine has that torch can use
    name: Callable  # (torch.device) -> its name, for people
    precisions: Callable  # () -> those of "fp32", "bf16", "fp16" that it multiplies in hardware and can train in
    synchronise: Callable  # (torch.device): wait until it has done what it was given
    peak_memory: Callable  # (torch.device) -> most bytes that this process has held on it so far
    pins_memory: bool  # whether only pinned memory is copied to it without waiting


def _cuda_precisions():
    return ("fp32", "bf16", "fp16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp32", "fp16")


def _cpu_precisions():
    """bf16 only with AVX512-BF16 or AMX: emulated, it is slower than fp32. fp16 would need loss scaling, which is CUDA's."""
    multiplies = "AVX512" in torch.backends.cpu.get_cpu_capability() and {"avx512_bf16", "amx_bf16"} & set(cpu_features())
    return ("fp32", "bf16") if multiplies else ("fp32",)


DEVICES = {  # in the order in which `auto` prefers them
    "cuda": DeviceKind(
        count=lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0,
        name=lambda device: torch.cuda.get_device_name(device),
        precisions=_cuda_precisions,
        synchronise=lambda device: torch.cuda.synchronize(device),
        peak_memory=lambda device: torch.cuda.max_memory_allocated(device),
        pins_memory=True,
    ),
    "cpu": DeviceKind(
        count=lambda: 1,
        name=lambda device: "CPU",
        precisions=_cpu_precisions,
        synchronise=lambda device: None,
        peak_memory=lambda device: peak_memory(),
        pins_memory=False,
    ),
}


def kind_of(device):
    """The entry of DEVICES for a torch.device."""
    return DEVICES[device.type]


def choose_device(device="auto", cuda=False):
    """The torch.device of this process; `auto` is the first kind of DEVICES that this machine has.

    `cuda=True` asks for CUDA where there is one, and prints a line where there is none. Raises UserError for an explicit
    `device` that this machine does not have, and where more processes than GPUs were started.
    """
    available = [name for name, kind in DEVICES.items() if kind.count()]
    if device != "auto" and device not in available:
        raise UserError(f"no {device.upper()} device is usable here; leave it out to use the CPU", option="device")
    if cuda and "cuda" not in available:
        print("no CUDA device is usable here, so the CPU is used")
    name = available[0] if device == "auto" else device
    if name == "cpu":
        return torch.device("cpu")
    count = DEVICES[name].count()
    if local_rank() >= count:
        raise UserError(f"this machine has {count} GPUs; start no more than {count} processes on it")
    return torch.device(name, local_rank())


def share_cores(workers, device):
    """Split the cores of this process between torch threads and loader workers, so that the sum never exceeds them.

    Returns `(threads, workers)` and sets torch's thread count. On the CPU at most half of the cores decode images; with a
    GPU all but one do. OMP_NUM_THREADS, where it is set, bounds the threads.
    """
    available = max(1, cores() // processes_here())
    most = available // 2 if device.type == "cpu" else max(1, available - 1)
    workers = min(workers, most)
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # the rest is for threads that start threads
    bound = int(asked) if asked.isdecimal() else available
    threads = max(1, min(available - workers, bound))
    torch.set_num_threads(threads)
    return threads, workers


def send(values, device):
    """A numpy array or a CPU tensor as a tensor on `device`; through pinned memory where the copy would wait otherwise."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if kind_of(device).pins_memory else tensor.to(device)


def choose_algorithms(deterministic=False):
    """How CUDA multiplies and convolves: fast, with TF32 and the algorithms that cuDNN has timed, or always the same way.

    `deterministic` takes full fp32 and, on every device, no algorithm whose result depends on the order in which threads
    finish. Where there is none, torch raises a RuntimeError. Call it before anything is computed on CUDA.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # to say so takes an import
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cuda.matmul.allow_tf32 = not deterministic
    torch.backends.cudnn.allow_tf32 = not deterministic
    torch.backends.cudnn.benchmark = not deterministic


@contextmanager
def exact_matmul():
    """No TF32 inside: evaluation and predictions are computed in full fp32 on CUDA too."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def describe_machine():
    """Processor and its instruction sets, cores, threads, torch and GPU, as a dict: it stands beside every speed measured."""
    machine = {"cpu": cpu_name(), "cpu_features": cpu_features(), "cores": cores()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def origin():
    """Today's date and this machine, as a dict to stand beside what is measured: {"date": "2026-12-31", "machine": {...}}."""
    return {"date": f"{datetime.date.today()}", "machine": describe_machine()}
