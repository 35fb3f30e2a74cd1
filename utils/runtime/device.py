"""The device that computes: chosen once, fed from pinned memory, exact where answers are compared."""

import os
from contextlib import contextmanager

import torch

from utils.core.errors import UserError
from utils.core.machine import cores, cpu_features, cpu_name
from utils.runtime.distributed import local_rank, processes_here


def choose_device(device="auto", cuda=False):
    """`auto` takes CUDA where there is one. Raises UserError for an explicit `cuda` without one; `--cuda` only says so."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("--device cuda: no CUDA device is usable here; leave the flag out to use the CPU")
    if cuda and not available:
        print("--cuda: no CUDA device is usable here, so the CPU is used")
    if device == "cpu" or not available:
        return torch.device("cpu")
    if local_rank() >= torch.cuda.device_count():
        raise UserError(f"this machine has {torch.cuda.device_count()} GPUs; give torchrun no more of --nproc_per_node")
    return torch.device("cuda", local_rank())


def share_cores(workers, device):
    """Split the cores of this process between torch threads and loader workers, so that the sum never exceeds them.

    Returns `(threads, workers)` and sets torch's thread count. On the CPU at most half of the cores decode images; with a
    GPU all but one do. OMP_NUM_THREADS, where it is set, bounds the threads.
    """
    available = max(1, cores() // processes_here())
    most = max(1, available - 1) if device.type == "cuda" else available // 2
    workers = min(workers, most)
    threads = max(1, min(available - workers, int(os.environ.get("OMP_NUM_THREADS", available))))
    torch.set_num_threads(threads)
    return threads, workers


def send(values, device):
    """A numpy array or a CPU tensor as a tensor on `device`: to a GPU from pinned memory, as a copy from other memory waits."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def prefer_fast_matmul():
    """TF32 for the fp32 matrix products and convolutions of training on CUDA."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


@contextmanager
def exact_matmul():
    """No TF32 inside: what is measured and answered in fp32 is fp32, which cuDNN by itself would not keep to."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def describe_machine():
    """What stands beside a measured figure: processor and its instruction sets, cores, threads, torch, GPU."""
    machine = {"cpu": cpu_name(), "cpu_features": cpu_features(), "cores": cores()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine
