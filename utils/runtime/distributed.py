"""The processes of a run: ranks, joining and leaving the group, what rank 0 does alone, and one answer for all."""

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
    """Whether torchrun started this process; known before `join_group`."""
    return "WORLD_SIZE" in os.environ


def processes_here():
    """How many processes of this run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def join_group(device):
    """Join the processes that torchrun started, if it did: with NCCL on CUDA, with gloo on the CPU."""
    if launched() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, number, count = next(rendezvous("env://"))
        # After a restart the store still holds the addresses of the dead processes, so each start uses a prefix of its own.
        store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(
            dist.get_default_backend_for_device(device), store=store, rank=number, world_size=count,
            timeout=timedelta(hours=1),  # rank 0 may decode a large image folder while the others wait
        )  # fmt: skip


def leave_group():
    if dist.is_initialized():
        dist.destroy_process_group()


def on_main(function, *args, **kwargs):
    """Call `function` on rank 0 only; the other ranks return None."""
    return function(*args, **kwargs) if rank() == 0 else None


def from_main(function, *args):
    """Call `function` on rank 0 and return its result on all ranks; a UserError is raised on all of them too."""
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


def from_all(value):
    """The values of all ranks, a list in their order, on every rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def first_here_first():
    """The first process on each machine runs the block, then the others do, so that they find the files it has written."""
    if local_rank():
        wait_for_all()
    try:
        yield
    finally:
        if not local_rank():
            wait_for_all()


def say(*words, **options):
    """print, on rank 0 only."""
    on_main(print, *words, flush=True, **options)


def lost_process(error):
    """Whether `error`, a RuntimeError of a collective operation, means that another process of the group has died."""
    signs = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out waiting", "Application timeout")
    return world_size() > 1 and any(sign in str(error) for sign in signs)


def wait_for_all():
    """A barrier: return once every process of the run has come here."""
    if world_size() > 1:
        dist.barrier()


def synchronised(network, device):
    """`network` in DistributedDataParallel, which averages gradients over the processes; itself where there is one process."""
    if world_size() == 1:
        return network
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(network, device_ids=ids, gradient_as_bucket_view=True)


def share_buffers(model):
    """Copy the buffers of rank 0 to all ranks: the BatchNorm statistics of each rank come from its own images."""
    for buffer in model.buffers() if world_size() > 1 else ():
        dist.broadcast(buffer, 0)
