"""Files written by a thread while the training goes on."""

import copy
from concurrent.futures import ThreadPoolExecutor, wait

import torch

MOST = 2  # writes under way, each with a copy of what it writes


class Writer:
    """Calls functions one after the other in a thread of its own; what one raises is raised by a later `add` or by `wait`.

    Until then nothing more is called: a state must not be written that builds on a file that was not.
    """

    def __init__(self):
        self.pool, self.pending, self.failed = ThreadPoolExecutor(1), [], False

    def add(self, function, contents):
        """Have `function(contents)` called soon; `contents` may change meanwhile, as a copy is taken."""
        done = [call for call in self.pending if call.done()]
        if len(self.pending) - len(done) >= MOST or any(call.exception() for call in done):
            self.wait()
        self.pending = [call for call in self.pending if call not in done]
        self.pending.append(self.pool.submit(self._call, function, copied(contents)))

    def wait(self):
        """Return when all is written."""
        calls, self.pending = self.pending, []
        try:
            for call in calls:
                call.result()
        finally:
            wait(calls)
            self.failed = False

    def _call(self, function, contents):
        if self.failed:
            return
        try:
            function(contents)
        except BaseException:
            self.failed = True
            raise


def copied(value):
    """A copy of dicts and lists at any depth, with their tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        whole = copy.copy(value)  # with the versions of modules, which a state_dict has as an attribute
        whole.update({key: copied(item) for key, item in value.items()})
        return whole
    return [copied(item) for item in value] if isinstance(value, list) else value
