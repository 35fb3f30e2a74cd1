"""The optimizer step, and the steps of an epoch."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from utils.core.errors import UserError
from utils.runtime.config import RunConfig
from utils.runtime.distributed import world_size
from utils.training.signals import CHECK_EVERY
from utils.training.state import Totals
from utils.training.teacher import Teacher


@dataclass
class Clock:
    """Seconds that a run spent, by what on."""

    waiting: float = 0.0  # for images to be read, gathered and moved to the device
    augmenting: float = 0.0  # on the CPU; a GPU does it while it computes, so there it counts as computing
    computing: float = 0.0
    evaluating: float = 0.0


@dataclass(frozen=True)
class Step:
    """How an optimizer step is taken.

    `network` computes what `state.model` does, over its parameters and buffers, faster: perhaps by other layers, perhaps
    compiled, perhaps in DistributedDataParallel.
    `schedule(step)` is the learning rate of an optimizer step, counted from 0, of which each group of weights takes its share.
    """

    network: nn.Module
    config: RunConfig
    schedule: Callable
    loss_options: dict = field(default_factory=dict)  # of cross_entropy
    teacher: Teacher | None = None
    clip_grad: float = 0.0  # largest norm of the gradient; 0 is off
    head: nn.Module | None = None  # the only trained part of the network, where the rest is frozen

    def take(self, state, group, batches):
        """Take the gradient over all images of `group`, update the weights, and return the average loss, on the device.

        `batches` yields (images, targets) for each of the group's batches.
        """
        for options in state.optimizer.param_groups:
            options["lr"] = self.schedule(state.step) * options["lr_share"]
        counted = state.totals.sums.clone()
        try:
            loss = self._average_gradient(state, group, batches)
        except torch.cuda.OutOfMemoryError:
            state.totals.sums = counted  # all images of the group will be taken again
            raise
        self._update(state)
        return loss

    def _average_gradient(self, state, group, batches):
        loss, last = 0.0, len(group.batches) - 1
        for i in range(len(group.batches)):
            images, targets = next(batches)
            averages_later = i < last and world_size() > 1  # the processes exchange gradients once a step
            with self.network.no_sync() if averages_later else contextlib.nullcontext():
                loss = loss + self._backward(state, images, targets, group.count)
        return loss

    def _backward(self, state, images, targets, count):
        with self.config.autocast():
            logits = self.network(images)
        losses = F.cross_entropy(logits.float(), targets, reduction="none", **self.loss_options)
        if self.teacher:
            with self.config.autocast():
                losses = self.teacher.losses(losses, images, logits.float())
        loss_sum = losses.sum()
        loss = loss_sum * (world_size() / count)  # DistributedDataParallel divides by the number of processes again
        state.scaler.scale(loss).backward()
        state.totals.add(loss_sum.detach(), logits.detach(), targets)
        return loss.detach()

    def _update(self, state):
        if self.clip_grad:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.parameters, self.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=not self.config.keeps_gradients)
        if state.ema:
            state.ema.update(state.model)
        state.step += 1
        state.group += 1


def train_epoch(step, state, groups, batches, clock, stop=None):
    """Take the steps that are left of an epoch, and yield after each how many images it took, over all processes.

    `groups` is the plan of the whole epoch, of which `state.group` groups are done; `batches` yields (images, targets) of the
    rest. After the last step `state.epoch` has moved on and `state.group` is 0; where `stop.look(step)` is true, the generator
    ends before. Raises UserError for a loss or weights that are not finite, before the state can be saved: at the end of the
    epoch, and where `stop` wants to stop or to save.
    """
    if not state.group:
        state.totals = Totals(step.config.device)
    losses = []  # of the steps since the last check, on the device
    for group in groups[state.group :]:
        started, of_data = time.perf_counter(), clock.waiting + clock.augmenting
        losses.append(step.take(state, group, batches))
        finished = state.group == len(groups)
        stops = not finished and stop is not None and stop.look(state.step)
        saves = finished or stops or (stop is not None and stop.save_due)
        if saves or len(losses) == CHECK_EVERY:
            check_losses(state, losses)
            losses = []
        if saves:  # no loss has seen the weights after the last step
            check_weights(state)
        if finished:
            state.epoch, state.group = state.epoch + 1, 0
        clock.computing += time.perf_counter() - started - (clock.waiting + clock.augmenting - of_data)
        yield group.count
        if stops:
            return


def check_losses(state, losses):
    """Raise UserError, in all processes alike, where a loss of the last steps is not finite in any; keep them."""
    if not losses:
        return
    values = torch.stack(losses)
    finite = values.isfinite().int()
    if world_size() > 1:  # each process has the loss of its own images
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    finite = finite.tolist()
    if not all(finite):
        raise diverged("loss is", state, state.step - len(losses) + finite.index(0) + 1)
    state.recent_losses, state.recent_loss = values.tolist(), values.mean().item()


def check_weights(state):
    """Raise UserError where a trained parameter is not finite."""
    if not torch.stack([p.detach().isfinite().all() for p in state.parameters]).all():
        raise diverged("weights are", state, state.step)


def diverged(what, state, step):
    """The UserError for numbers that are infinite or NaN; `what` names them with its verb, as `loss is`."""
    rate = state.optimizer.param_groups[0]["lr"]
    return UserError(
        f"the {what} not finite at step {step} (learning rate {rate:.3g}): lower the base learning rate, or clip the gradient "
        "to norm 1; the last good checkpoint is kept"
    )


def set_train_mode(network, head=None):
    """Training mode; where only `head` is trained, the frozen rest stays in evaluation mode and keeps its statistics."""
    network.train(head is None)
    if head is not None:
        head.train()
