"""The training step, the state that it advances, and the one evaluation that every script shares."""

import contextlib
import random
import signal
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from utils.errors import UserError
from utils.runtime import exact_matmul, rank, world_size

CHECK_EVERY = 20  # optimizer steps between two looks at the loss, each of which waits for the device


@dataclass
class Evaluation:
    """Answers of a network on a split, in its order."""

    logits: torch.Tensor  # float32 (n, C)
    labels: torch.Tensor  # int64 (n,)
    seconds: float  # in the network alone


@torch.inference_mode()
def evaluate(predict, batches):
    """Answer every batch of (images, labels) with `predict`, images -> logits, in full fp32 on CUDA too.

    Averages are left to the caller, over all the answers at once, so that no batch size can change them.
    """
    logits, labels, seconds = [], [], 0.0
    with exact_matmul():
        for images, batch_labels in batches:
            start = time.perf_counter()
            answer = predict(images).float().cpu()  # waits for the device
            seconds += time.perf_counter() - start
            logits.append(answer)
            labels.append(batch_labels.cpu())
    if not labels:
        return Evaluation(torch.empty(0, 0), torch.empty(0, dtype=torch.long), seconds)
    return Evaluation(torch.cat(logits), torch.cat(labels), seconds)


def gather(evaluation):
    """The whole evaluation, in order, from the shards of all processes; itself where there is one process."""
    if world_size() == 1:
        return evaluation
    parts = [None] * world_size()
    dist.all_gather_object(parts, evaluation)
    parts = [part for part in parts if len(part.labels)]
    return Evaluation(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.labels for part in parts]),
        max(part.seconds for part in parts),
    )


class Totals:
    """Sums over the pictures of an epoch, kept on the device: loss, top-1 and top-5 hits, pictures."""

    def __init__(self, device):
        self.sums = torch.zeros(4, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)

    @torch.no_grad()
    def add(self, loss_sum, logits, targets):
        """Add one batch without waiting for the device. Mixed targets count for their heavier label."""
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        count = torch.full_like(loss_sum, len(labels), dtype=torch.double)
        self.sums += torch.stack([loss_sum.double(), best[:, 0].sum(), best.sum(), count])

    def of_all(self):
        """The sums over the pictures of all processes, each of which has to ask."""
        sums = self.sums.clone()
        if world_size() > 1:
            dist.all_reduce(sums)
        return sums

    def averages(self, classes):
        """`loss`, `Acc@1` and, from five classes on, `Acc@5` over the pictures of all processes so far."""
        loss, top1, top5, count = self.of_all().tolist()
        result = {"loss": loss / count, "Acc@1": top1 / count}
        return result | ({"Acc@5": top5 / count} if classes >= 5 else {})


@dataclass
class TrainState:
    """Everything that a training run is at the end of a step; what it gives is what it takes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: object | None = None
    epoch: int = 0  # the epoch that is running, or comes next
    group: int = 0  # optimizer steps done in it
    step: int = 0  # optimizer steps done in all
    best: dict = field(default_factory=dict)  # scores and epoch of the best evaluation
    history: list = field(default_factory=list)  # one dict an epoch
    totals: Totals | None = None  # of the running epoch

    @property
    def evaluated(self):
        """The network whose scores count: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def state_dict(self):
        """Of the whole run: all processes have to ask for it, and any can load it."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "group": self.group,
            "step": self.step,
            "best": self.best,
            "history": self.history,
            "totals": self.totals.of_all().cpu() if self.totals and self.group else None,
            "rng": random_state(),
        }

    def load_state_dict(self, state, device):
        """Raises KeyError for a state that lacks a part."""
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.group, self.step = state["epoch"], state["group"], state["step"]
        self.best, self.history = state["best"], state["history"]
        if state["totals"] is not None:
            self.totals = Totals(device)
            if rank() == 0:  # one process goes on counting for all of them
                self.totals.sums.copy_(state["totals"])
        set_random_state(state["rng"])


def random_state():
    """The global generators that dropout and torchvision's transforms draw from."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": list(random.getstate()[1]),
    }


def set_random_state(state):
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate((3, tuple(state["python"]), None))


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class StopSignal:
    """Remembers an interrupt or SIGTERM, so that the step in flight is finished and the state saved.

    It is true once `look` has found a signal. A second one kills, but not within a second: torchrun hands on to its processes
    what they have had from the terminal already. Used as a context manager; outside of it the signals do what they did before.
    """

    def __init__(self, device):
        self.device = device
        self.signum = self.received = 0
        self.since = 0.0

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _remember(self, signum, frame):
        if not self.received:
            self.received, self.since = signum, time.monotonic()
        elif time.monotonic() - self.since > 1:
            sys.exit(128 + signum)

    def look(self, step=0):
        """Whether to stop after this step. All processes of a run get one answer, and so stop after the same step.

        On CUDA they ask each other at every 20th step only, as the question waits for the device.
        """
        if world_size() == 1:
            self.signum = self.received
        elif self.device.type == "cpu" or step % CHECK_EVERY == 0:
            signum = torch.tensor(self.received, device=self.device)
            dist.all_reduce(signum, dist.ReduceOp.MAX)
            self.signum = int(signum)
        return bool(self)

    def __bool__(self):
        return self.signum > 0


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


def is_better(new, old):
    """More of the held-out images are right than before, or as many with a lower loss. No scores are never better."""
    return new is not None and (old is None or (new["Acc@1"], -new["loss"]) > (old["Acc@1"], -old["loss"]))


def set_train_mode(model, frozen_trunk=None):
    """Training mode; with a frozen trunk (all modules outside of `frozen_trunk`, the head) its statistics stay as they are."""
    model.train()
    if frozen_trunk is not None:
        model.eval()
        frozen_trunk.train()
