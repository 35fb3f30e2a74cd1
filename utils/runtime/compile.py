"""torch.compile for the training step."""

import logging
import os

import torch
from torch import nn

from utils.core.machine import cache_folder
from utils.runtime.distributed import say, world_size


def prepare_compiler():
    """Keep compiled code in the cache folder, unless the environment names another, and silence what it warns of.

    Once imported, torch itself puts its default into the environment, a folder that a restart of the machine empties.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    default, name = default_cache_dir(), "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name, default) == default:
        os.environ[name] = str(cache_folder() / "compiled")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of every CUDA that it does not find


def step_model(model, setup, batch_shape, compile_it):
    """The model as the training step calls it: compiled as a whole on CUDA, if wanted, and in step with other processes.

    On a CPU, where a MobileNet compiled as a whole is slower than eager, `utils.kernels` compiles the parts that gain.
    """
    on_cuda = setup.device.type == "cuda"
    called = _compiled(model, setup, batch_shape) if compile_it and on_cuda else model
    if world_size() > 1:
        ids = [setup.device.index] if on_cuda else None
        called = nn.parallel.DistributedDataParallel(called, device_ids=ids, gradient_as_bucket_view=True)
    return called


def _compiled(model, setup, batch_shape):
    """The model replayed as CUDA graphs, tried on one batch; where that fails, one line says so and the model runs eager."""
    prepare_compiler()
    # Not dynamic: a smaller last batch would have all later ones taken for batches of any size.
    candidate = torch.compile(model, mode="reduce-overhead", dynamic=False)
    try:
        with setup.autocast():
            trial_step(candidate, batch_shape)  # in all processes together, as SyncBatchNorm has them meet
        setup.compiled = True
    except Exception as error:  # the compiler raises anything: no Triton, an operator that it does not know
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        say(f"compiling is not possible here ({why}), so the model runs eager")
        return model
    for parameter in model.parameters():
        if parameter.requires_grad:  # the next replay needs the memory of a graph's own gradients
            parameter.grad = torch.zeros_like(parameter)
    return candidate


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
