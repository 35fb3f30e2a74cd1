"""SIGINT and SIGTERM stop a run after the step that is running."""

import signal
import sys
import time

import torch
import torch.distributed as dist

from utils.runtime.distributed import world_size

CHECK_EVERY = 20  # optimizer steps; more often, reading the loss or exchanging signals would make the device wait


class StopSignal:
    """Remembers SIGINT or SIGTERM, so that the running step can finish and the state be saved: a context manager.

    It is true once `look` has seen a signal. A second signal ends the process, unless it comes within a second: torchrun
    forwards to its processes what they have received from the terminal already. Afterwards signals act as before.
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
        """Whether to stop after this step. All processes of a run get the same answer, so that they stop after the same step.

        On CUDA they exchange it at every 20th step only, because the exchange waits for the device.
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
