"""Stopping a run: interrupts and SIGTERM end it after the step in flight."""

import signal
import sys
import time

import torch
import torch.distributed as dist

from utils.runtime.distributed import world_size

CHECK_EVERY = 20  # optimizer steps between two looks at the loss, each of which waits for the device


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
