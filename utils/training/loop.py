"""One epoch of training."""

import contextlib
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from utils.core.errors import UserError
from utils.runtime.distributed import world_size
from utils.training.signals import CHECK_EVERY
from utils.training.state import Totals


@dataclass
class Clock:
    """Seconds by what they went into."""

    waiting: float = 0.0  # for pictures to be read, gathered and moved
    augmenting: float = 0.0  # on the CPU; on CUDA this is queued with the rest and counts as computing
    computing: float = 0.0
    evaluating: float = 0.0


def train_one_epoch(state, step_model, groups, batches, prepare, runtime, *, learning_rate, loss_options, clip_grad=0.0,
                    clock=None, stop=None, on_step=None):  # fmt: skip
    """Run what is left of an epoch. Returns True at its end, False where a look at `stop` said so before.

    `groups`: the plan of the whole epoch, of which `state.group` groups are done; `batches`: (pixels, labels) of the rest;
    `prepare(pixels, labels, number)`: the network's input and targets, where `number` counts the batches of the epoch;
    `step_model`: `state.model`, perhaps wrapped; `learning_rate(step)`. The gradient of a step is the average over the
    pictures of its group, in however many batches and processes. Raises UserError for a loss that is not finite.
    """
    clock, batches = clock or Clock(), iter(batches)
    state.totals = state.totals if state.group else Totals(runtime.device)
    losses = []  # of the steps since the last check, on the device
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    number = sum(len(group.batches) for group in groups[: state.group])
    for group in groups[state.group :]:
        rate = learning_rate(state.step)
        for options in state.optimizer.param_groups:
            options["lr"] = rate
        step_loss = 0.0
        for i in range(len(group.batches)):
            started = time.perf_counter()
            pixels, labels = next(batches)
            gathered = time.perf_counter()
            images, targets = prepare(pixels, labels, number)
            prepared = time.perf_counter()
            last = i == len(group.batches) - 1
            with contextlib.nullcontext() if last or world_size() == 1 else step_model.no_sync():
                with runtime.autocast():
                    logits = step_model(images)
                loss_sum = F.cross_entropy(logits.float(), targets, reduction="none", **loss_options).sum()
                loss = loss_sum * (world_size() / group.count)  # DistributedDataParallel divides by the processes again
                state.scaler.scale(loss).backward()
            state.totals.add(loss_sum.detach(), logits.detach(), targets)
            step_loss = step_loss + loss.detach()
            number += 1
            clock.waiting += gathered - started
            on_cpu = runtime.device.type == "cpu"
            clock.augmenting += (prepared - gathered) if on_cpu else 0.0
            clock.computing += time.perf_counter() - (prepared if on_cpu else gathered)
        started = time.perf_counter()
        if clip_grad:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(parameters, clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=not runtime.keeps_gradients)
        if state.ema:
            state.ema.update(state.model)
        state.step += 1
        state.group += 1
        losses.append(step_loss)
        if len(losses) == CHECK_EVERY or state.group == len(groups):
            _check_finite(losses, state.step, rate)
            losses.clear()
        if state.group == len(groups):  # no loss has seen the last step's weights
            finite = torch.stack([p.detach().isfinite().all() for p in parameters]).all()
            if not finite:
                raise _diverged("weights are", state.step, rate)
        clock.computing += time.perf_counter() - started
        if on_step:
            on_step(state, rate)
        if stop is not None and state.group < len(groups) and stop.look(state.step):
            _check_finite(losses, state.step, rate)
            return False
    state.epoch += 1
    state.group = 0
    return True


def _check_finite(losses, step, rate):
    """The same answer in all processes, each of which has the loss of its own pictures."""
    if not losses:
        return
    finite = torch.stack(losses).isfinite().int()
    if world_size() > 1:
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    finite = finite.tolist()
    if not all(finite):
        raise _diverged("loss is", step - len(losses) + finite.index(0) + 1, rate)


def _diverged(what, step, rate):
    return UserError(
        f"the {what} not finite at step {step} (learning rate {rate:.3g}): lower --base_lr or give --clip_grad 1; "
        f"the last good checkpoint is kept"
    )


def set_train_mode(model, frozen_trunk=None):
    """Training mode; with a frozen trunk (all modules outside of `frozen_trunk`, the head) its statistics stay as they are."""
    model.train()
    if frozen_trunk is not None:
        model.eval()
        frozen_trunk.train()
