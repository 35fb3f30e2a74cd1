"""What interrupts a run between two steps: SIGINT and SIGTERM, which stop it, and the time to save."""

import signal
import sys
import time

import torch
import torch.distributed as dist

from utils.runtime.distributed import world_size

CHECK_EVERY = 20  # optimizer steps; more often, reading the loss or exchanging signals would make the device wait


class Interruptions:
    """Remembers SIGINT or SIGTERM, so that the running step can finish and the state be saved: a context manager.

    It is true once `look` has seen a signal. A second signal ends the process, unless it comes within a second: torchrun
    forwards to its processes what they have received from the terminal already. Afterwards signals act as before.
    `save_due` is true once `look` has seen that the last save is `save_every` minutes ago; with 0 it never is.
    """

    def __init__(self, device, save_every=0.0):
        self.device, self.save_every = device, 60 * save_every
        self.signum = self.received = 0
        self.save_due = False
        self.since = 0.0
        self.saved()

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        self.saved()
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
        """Whether to stop after this step, in `save_due` whether to save.

        All processes of a run get the same answer, so that they stop and save after the same step. On CUDA they exchange it
        at every 20th step only, because the exchange waits for the device.
        """
        due = self.save_every > 0 and time.monotonic() - self.last_saved >= self.save_every
        if world_size() == 1:
            self.signum, self.save_due = self.received, due
        elif self.device.type == "cpu" or step % CHECK_EVERY == 0:
            wishes = torch.tensor([self.received, due], device=self.device)
            dist.all_reduce(wishes, dist.ReduceOp.MAX)
            self.signum, due = wishes.tolist()
            self.save_due = bool(due)
        return bool(self)

    def saved(self):
        """The state was saved just now."""
        self.save_due, self.last_saved = False, time.monotonic()

    def __bool__(self):
        return self.signum > 0
