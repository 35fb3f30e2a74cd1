"""The state of a training run: everything that resuming it needs."""

import random
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from utils.data.streams import Position
from utils.runtime.distributed import from_all, rank, world_size


class Totals:
    """Sums over the images of an epoch, kept on the device: loss, top-1 and top-5 hits, images."""

    def __init__(self, device):
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss_sum, logits, targets):
        """Add one batch without waiting for the device. A mixed target counts as its label of greater weight."""
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        count = torch.full_like(loss_sum, len(labels), dtype=torch.double)
        self.sums += torch.stack([loss_sum.double(), best[:, 0].sum(), best.sum(), count])

    def of_all(self):
        """The sums over the images of all processes; every process has to call it."""
        sums = self.sums.clone()
        if world_size() > 1:
            dist.all_reduce(sums)
        return sums

    def averages(self, classes):
        """`loss`, `Acc@1` and, from five classes on, `Acc@5`, averaged over the images of all processes so far."""
        loss, top1, top5, count = self.of_all().tolist()
        result = {"loss": loss / count, "Acc@1": top1 / count}
        return result | ({"Acc@5": top5 / count} if classes >= 5 else {})


@dataclass
class TrainState:
    """Everything that changes from step to step. `load_state_dict` accepts what `state_dict` returns."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: object | None = None
    epoch: int = 0  # that is running or comes next, counted from 0
    group: int = 0  # optimizer steps done in it
    step: int = 0  # optimizer steps done in all
    best: dict = field(default_factory=dict)  # scores and epoch of the best evaluation
    history: list = field(default_factory=list)  # one dict an epoch
    seconds: dict = field(default_factory=dict)  # up to the last save, in all sessions of the run: see `Trainer.seconds`
    totals: Totals | None = None  # of the running epoch
    stream: Position | None = None  # of this process, where the running epoch is one of streamed shards
    recent_losses: list = field(default_factory=list)  # of the last steps that were looked at; for display, as what follows
    recent_loss: float | None = None  # their average

    def __post_init__(self):
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def evaluated(self):
        """The model that is evaluated and saved as the best: the EMA where there is one."""
        return self.ema.model if self.ema else self.model

    def state_dict(self):
        """The state of the whole run; every process has to call it, and any can load it."""
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
            "seconds": self.seconds,
            "totals": torch.stack(from_all(self.totals.sums.cpu())) if self.totals and self.group else None,
            "stream": from_all(asdict(self.stream)) if self.stream and self.group else None,
            "rng": from_all(random_state(self.parameters[0].device)),
        }

    def load_state_dict(self, state, device):
        """Load the part of this process. Returns whether its random numbers go on where they were, which they do where the
        state is of as many processes as there are now. Raises KeyError for a state that lacks a part.
        """
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        groups = self.optimizer.state_dict()["param_groups"]  # what this run was told, which the file cannot change
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.group, self.step = state["epoch"], state["group"], state["step"]
        self.best, self.history, self.seconds = state["best"], state["history"], state.get("seconds") or {}
        streams = state.get("stream") or []  # older versions kept none
        self.stream = Position(**streams[rank()]) if len(streams) == world_size() else None
        generators = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]  # older versions kept that of rank 0
        alike = len(generators) == world_size()
        if state["totals"] is not None:
            sums = state["totals"].reshape(-1, 4)
            self.totals = Totals(device)
            self.totals.sums.copy_(sums[rank()] if len(sums) == world_size() else sums.sum(0) / world_size())
        if alike or rank() == 0:
            set_random_state(generators[rank()], device)
        return alike


def random_state(device):
    """The states of the global random generators, from which dropout and torchvision's transforms draw on `device`."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": list(random.getstate()[1]),
    }


def set_random_state(state, device):
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], device)
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate((3, tuple(state["python"]), None))


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def is_better(new, old):
    """Whether `new` scores have a higher Acc@1 than `old` ones, or the same with a lower loss. None is never better."""
    return new is not None and (old is None or (new["Acc@1"], -new["loss"]) > (old["Acc@1"], -old["loss"]))
