"""Precision of training: fp32, bf16 or fp16, chosen once and applied by autocast."""

import copy
import functools
import time
from contextlib import nullcontext

import torch
from torch import nn

from utils.runtime.device import kind_of
from utils.runtime.timing import quicker, remembered, this_machine

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device, precision):
    """The context in which the forward pass of a training step runs."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def possible_precision(wanted, device):
    """`(precision, notice)`: `wanted` as it is, but `auto` for fp16 where `device` cannot train in it.

    `notice` is a sentence, or None. bf16 that the device only emulates is taken as well, with a notice.
    """
    possible, kind = kind_of(device).precisions(), device.type.upper()
    if wanted == "fp16" and "fp16" not in possible:
        # Not bf16: Intel's processors without AMX have its instructions and take twice as long with them as in fp32.
        others = "the faster of fp32 and bf16" if "bf16" in possible else "fp32"
        return "auto", f"fp16 training needs CUDA: this {kind} trains in {others} instead"
    if wanted == "bf16" and "bf16" not in possible:
        return "bf16", f"this {kind} has no bf16 instructions: bf16 is emulated, often many times slower than fp32"
    return wanted, None


def fastest_precision(device, time_step, key):
    """fp32 or bf16, whichever trains faster on `device`, and a notice or None.

    That is bf16 on a GPU that has it. On a CPU that has it both are measured once: `time_step(precision)` gives the seconds
    of one training step, and the answer is kept for the next run under `key`.
    """
    if "bf16" not in kind_of(device).precisions():
        return "fp32", None
    if device.type != "cpu":
        return "bf16", None
    # The number in the file's name grows when the step changes. bf16 rounds more than fp32, so it must gain something.
    return remembered("precision-3", key, lambda: quicker(("fp32", "bf16"), time_step, gain=0.1))


def precision_probe(name, model, batch_size, image_size):
    """`time_step` and `key` for `fastest_precision`: training steps of a copy of `model`, called `name`, on blank images.

    The batch is that of the run, but no more pixels than 32 images of 224 px have, so that a probe takes seconds.
    """
    count = min(batch_size, max(2, 32 * 224**2 // image_size**2))
    key = f"{this_machine()}|{name} {count} × {image_size} px"
    return functools.partial(_step_seconds, functools.cache(lambda: _blank_step(model, count, image_size))), key


def _blank_step(model, count, image_size):
    network = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    images = torch.zeros(count, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    return network, images, torch.zeros(count, dtype=torch.long)


def _step_seconds(blank_step, precision):
    network, images, labels = blank_step()
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # the probe's dropout must not move the run's random numbers
        with autocast(torch.device("cpu"), precision):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
    network.zero_grad()
    return time.perf_counter() - start
