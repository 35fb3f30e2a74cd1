"""torch.compile for the training step."""

import logging
import os

import torch

from utils.core.machine import cache_folder
from utils.runtime.distributed import say


def prepare_compiler():
    """Keep compiled code in the cache folder, unless TORCHINDUCTOR_CACHE_DIR names another, and silence what it warns of.

    On import torch itself sets that variable to a folder for temporary files, which a restart of the machine empties.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    default, name = default_cache_dir(), "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name, default) == default:
        os.environ[name] = str(cache_folder() / "compiled")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of every CUDA that it does not find


def compile_whole(model, batch_shape):
    """`(network, compiled)`: `model` replayed as CUDA graphs for batches of `batch_shape`, tried on one batch of zeros.

    Call it under the autocast of training, in all processes together. Where it fails, a line says why and the network is
    `model`. For CUDA: on a CPU, where a MobileNet compiled whole is slower than eager, `utils.kernels` compiles what gains.
    """
    prepare_compiler()
    # Not dynamic: the smaller last batch would make torch compile for batches of any size from then on.
    network = torch.compile(model, mode="reduce-overhead", dynamic=False)
    try:
        trial_step(network, batch_shape)
    except Exception as error:  # the compiler raises anything: no Triton, an operator that it does not know
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        say(f"compiling is not possible here ({why}), so the network runs without")
        return model, False
    for parameter in model.parameters():
        if parameter.requires_grad:  # the next replay reuses the memory of a graph's own gradients
            parameter.grad = torch.zeros_like(parameter)
    return network, True


def trial_step(model, batch_shape):
    """One step forward and backward on blank images; buffers and random numbers stay as they were, gradients are None."""
    parameter = next(model.parameters())
    images = torch.zeros(batch_shape, device=parameter.device, dtype=parameter.dtype)
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[parameter.device] if images.is_cuda else []):
            model(images.contiguous(memory_format=torch.channels_last)).sum().backward()
    finally:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        model.zero_grad(set_to_none=True)
