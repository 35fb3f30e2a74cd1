"""The processes of a run: ranks, who does what first, and one answer for all."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import rendezvous

from utils.core.errors import UserError


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank():
    return int(os.environ.get("LOCAL_RANK", 0))


def launched():
    """Whether torchrun has started this process, known before it has joined the others."""
    return "WORLD_SIZE" in os.environ


def processes_here():
    """How many processes of this run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def join_group(device):
    """Join the processes that torchrun started, if it did: NCCL on CUDA, gloo on the CPU."""
    if launched() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, number, count = next(rendezvous("env://"))
        # After a restart the store still holds the addresses of the processes that were lost: each start has its own names.
        store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=number, world_size=count,
            timeout=timedelta(hours=1),  # the others wait while the first one decodes a folder of pictures
        )  # fmt: skip


def leave_group():
    if dist.is_initialized():
        dist.destroy_process_group()


def on_main(function, *args, **kwargs):
    """Call `function` in the first process of the run only; the others return None."""
    return function(*args, **kwargs) if rank() == 0 else None


def from_main(function, *args):
    """What `function` gives in the first process, or the UserError that it raises there, in all of them."""
    if world_size() == 1:
        return function(*args)
    answer = [None, None]
    if rank() == 0:
        try:
            answer[0] = function(*args)
        except UserError as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1]:
        raise answer[1]
    return answer[0]


@contextmanager
def first_here_first():
    """The first process on each machine does what is inside before the others there do: they find the files it has made."""
    if local_rank():
        wait_for_all()
    try:
        yield
    finally:
        if not local_rank():
            wait_for_all()


def say(*words, **options):
    """print, from one process of the run."""
    on_main(print, *words, flush=True, **options)


def lost_process(error):
    """Whether `error` is how the collective operations say that another process of the group has gone."""
    signs = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out waiting", "Application timeout")
    return world_size() > 1 and any(sign in str(error) for sign in signs)


def wait_for_all():
    """Return once every process of the run has come here, so that what the first has written can be read."""
    if world_size() > 1:
        dist.barrier()


def share_buffers(model):
    """Give all processes the first one's buffers: each has counted BatchNorm statistics of its own pictures."""
    for buffer in model.buffers() if world_size() > 1 else ():
        dist.broadcast(buffer, 0)
