"""Arithmetic of a run: fp32, bf16 or fp16, chosen once and applied by autocast."""

import copy
import functools
import pathlib
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from utils.runtime.distributed import world_size
from utils.runtime.timing import _here, _quicker, _remembered

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Runtime:
    """What was chosen, once, for the whole run."""

    device: torch.device
    precision: str = "fp32"  # a key of AUTOCAST
    threads: int = 1
    workers: int = 0
    keeps_memory: bool = False
    compiled: bool = False

    def autocast(self):
        dtype = AUTOCAST[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def scaler(self):
        """Loss scaling, on only where fp16 gradients would underflow."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16" and self.device.type == "cuda")

    @property
    def keeps_gradients(self):
        """Whether gradients are added to tensors that stay: CUDA graphs give theirs in memory that the next replay needs."""
        return self.compiled and self.device.type == "cuda"

    def describe(self):
        """The one line: device, precision, memory format, threads, workers, allocator, compile."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        parts = [
            name,
            self.precision,
            "channels_last",
            f"{self.threads} thread{'s' * (self.threads != 1)}",
            f"{self.workers} loader worker{'s' * (self.workers != 1)}",
            "allocator keeps memory" if self.keeps_memory else "default allocator",
            "compiled" if self.compiled else "eager",
        ]
        if world_size() > 1:
            parts.append(f"{world_size()} processes ({dist.get_backend()})")
        return ", ".join(parts)


def choose_precision(wanted, device, time_step=None, key=""):
    """One of `fp32`, `bf16`, `fp16`, and a sentence where it is not what was asked for.

    `fp16` needs CUDA and becomes bf16 on a CPU. `auto` is bf16 on CUDA devices that have it; on a CPU that has bf16
    arithmetic it is whichever of fp32 and bf16 is measured faster: `time_step(precision)` gives the seconds of one
    training step, and the answer is kept for the next run under `key`.
    """
    if wanted == "fp16" and device.type == "cpu":
        return "bf16", "--fp16 on a CPU: there is no fast half precision there, so bf16 autocast is used"
    if wanted != "auto":
        return wanted, None
    if device.type == "cuda":
        return ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"), None
    if not cpu_has_bf16() or time_step is None:
        return "fp32", None
    # The file has a new number where the step has changed. bf16 rounds more, so it must gain.
    return _remembered("precision-3", key, lambda: _quicker(("fp32", "bf16"), time_step, gain=0.1))


def precision_probe(name, model, batch_size, image_size):
    """`time_step` and `key` for `choose_precision`: training steps of (a copy of) `model`, called `name`, on blank images.

    The batch is that of the run, cut to as many pixels as 32 images of 224 px have, so that a probe takes seconds.
    """
    count = min(batch_size, max(2, 32 * 224**2 // image_size**2))
    key = f"{_here()}|{name} {count} × {image_size} px"
    return functools.partial(_step_seconds, functools.cache(lambda: _blank_step(model, count, image_size))), key


def _blank_step(model, count, image_size):
    network = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    images = torch.zeros(count, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    return network, images, torch.zeros(count, dtype=torch.long)


def _step_seconds(blank_step, precision):
    network, images, labels = blank_step()
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # the probe's dropout must not move the run's random numbers
        with Runtime(torch.device("cpu"), precision).autocast():
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
    network.zero_grad()
    return time.perf_counter() - start


def cpu_has_bf16():
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends.cpu, "get_cpu_capability") else ""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "AVX512" in capabilities and ("avx512_bf16" in flags or "amx_bf16" in flags)
