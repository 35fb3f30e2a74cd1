"""Device, precision, threads, workers and compilation: decided once at start-up, then passed on."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from utils.core.text import plural
from utils.runtime.device import kind_of
from utils.runtime.distributed import world_size
from utils.runtime.precision import autocast

NUMBERS = {"fp32": "32-bit numbers", "bf16": "16-bit numbers, less exact", "fp16": "16-bit numbers, less exact"}


@dataclass(frozen=True)
class RunConfig:
    """How a run computes."""

    device: torch.device
    precision: str = "fp32"  # or bf16, fp16
    threads: int = 1  # of torch
    workers: int = 0  # processes that load images
    keeps_memory: bool = False  # whether the C allocator keeps freed memory (utils.core.machine.keep_memory)
    compiled: bool = False

    def autocast(self):
        """The context of the forward pass."""
        return autocast(self.device, self.precision)

    def scaler(self):
        """A GradScaler that scales the loss in fp16 on CUDA, where small gradients would underflow, and does nothing else."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16" and self.device.type == "cuda")

    @property
    def keeps_gradients(self):
        """Whether gradients are zeroed in place, not freed: CUDA graphs write them into memory that the next replay reuses."""
        return self.compiled and self.device.type == "cuda"

    def describe(self):
        """One line: device, threads, precision, what loads the images, whether compiled, processes."""
        parts = [
            f"computes on {kind_of(self.device).name(self.device)}",
            plural(self.threads, "thread"),
            f"in {self.precision} ({NUMBERS[self.precision]})",
            plural(self.workers, "loader worker"),
            "compiled" if self.compiled else "not compiled",
            *([] if self.keeps_memory else ["freed memory goes back to the system"]),
        ]
        if world_size() > 1:
            parts.append(f"{world_size()} processes ({dist.get_backend()})")
        return ", ".join(parts)
