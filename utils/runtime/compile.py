"""torch.compile for the training step."""

import logging
import os
from contextlib import nullcontext

import torch
from torch import nn

from utils.core.machine import cache_folder
from utils.runtime.distributed import first_here_first, say, world_size
from utils.runtime.timing import faster


def keep_compiled():
    """Have compiled code kept in the cache folder, unless the environment names another.

    Imported, torch itself puts its default there, which a restart of the machine empties.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    default, name = default_cache_dir(), "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name, default) == default:
        os.environ[name] = str(cache_folder() / "compiled")


def step_model(model, setup, batch_shape, compile_it):
    """The model as the training step calls it: compiled if wanted and possible, and in step with the other processes."""
    called = _compiled(model, setup, batch_shape) if compile_it else model
    if world_size() > 1:
        ids = [setup.device.index] if setup.device.type == "cuda" else None
        called = nn.parallel.DistributedDataParallel(called, device_ids=ids, gradient_as_bucket_view=True)
    return called


def _compiled(model, setup, batch_shape):
    """The model compiled, tried on one batch; where it fails, one line says so and the eager model is taken.

    On CUDA the fixed shapes of training are replayed as CUDA graphs. On a CPU, where a MobileNet compiled whole is slower than
    eager, only the parts with a method `compile_training` are: they know what gains.
    """
    keep_compiled()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of every CUDA that it does not find
    on_cuda = setup.device.type == "cuda"
    # Not dynamic: the smaller last batch would have all that follow it taken for batches of any size.
    candidate = torch.compile(model, mode="reduce-overhead", dynamic=False) if on_cuda else model
    parts = [] if on_cuda else [part for part in model.modules() if hasattr(part, "compile_training")]
    for part in parts:
        part.compile_training(batch_shape[0], faster)
    images = torch.zeros(batch_shape, device=setup.device).contiguous(memory_format=torch.channels_last)
    devices = [setup.device] if on_cuda else []
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        # On CUDA together, as SyncBatchNorm has them meet; on a CPU the others find what the first has measured and compiled.
        with nullcontext() if on_cuda else first_here_first(), torch.random.fork_rng(devices=devices), setup.autocast():
            candidate(images).sum().backward()
        setup.compiled = on_cuda or any(part.is_compiled for part in parts)
        if not setup.compiled:
            say("--compile: no part of this model is faster for it here, so it runs eager")
    except Exception as error:  # its back ends raise anything: no C++ compiler, no Triton, an operator they do not know
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        say(f"--compile: not possible here ({why}), so the model runs eager")
        for part in parts:
            part.compile_training(0, faster)
        candidate = model
    model.load_state_dict(before)  # the trial moved the running statistics
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if setup.keeps_gradients and parameter.requires_grad else None
    return candidate
