"""Follows one forward pass: every operator with the module that runs it, and the life of every activation."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.complexity.formulas import FORMULAS, FREE


def running_modules(network):
    """A list of the paths of the modules that run at this moment, the innermost last; "" is the network itself.

    Hooks of `network` keep it up to date. torch.utils.module_tracker keeps a set, which does not tell the innermost one
    where a module calls another that is not its child.
    """
    running = [""]

    def leave(*_):
        running.pop()

    for path, module in network.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: running.append(path))
        module.register_forward_hook(leave)
    return running


@dataclass
class Operation:
    module: str
    flops: dict
    output_shape: list
    elements: int
    bytes: int
    touched: set  # ids of the activation storages that it reads or writes


class Recorder(TorchDispatchMode):
    """Notes every operator of a forward pass with the module that runs it, and follows the life of every activation."""

    def __init__(self, network):
        super().__init__()
        self.operations, self.unknown = [], Counter()
        self.eager_peak = 0
        self._storages = {}  # weak reference -> bytes. It keeps the address taken, so that an id names one storage only
        self._alive = []
        self._weights = {StorageWeakRef(t.untyped_storage()) for t in [*network.parameters(), *network.buffers()]}
        self._running = running_modules(network)

    def follow(self, tensor):
        """Count this tensor, made outside, among the activations."""
        self._ids([tensor])
        return tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.split("::")[-1].rstrip("_")
        flops = self._flops(name, args, outputs)
        read, written = self._ids(inputs), self._ids(outputs)
        moved = [*{id(t): t for t in inputs}.values(), *outputs]
        if name in FREE and (written <= read or not inputs):  # a view, or memory that nobody has filled
            moved = []
        self.operations.append(
            Operation(
                module=self._running[-1],
                flops={cause: n for cause, n in flops.items() if n},
                output_shape=list(outputs[0].shape) if outputs else [],
                elements=sum(t.numel() for t in moved),
                bytes=sum(t.numel() * t.element_size() for t in moved),
                touched=(read | written) - self._weights,
            )
        )
        self._alive = [ref for ref in self._alive if not ref.expired()]
        self.eager_peak = max(self.eager_peak, sum(self._storages[ref] for ref in self._alive))
        return result

    def _flops(self, name, args, outputs):
        if name in FREE:
            return {}
        if name not in FORMULAS:
            self.unknown[name] += 1
            return {}
        return FORMULAS[name](args, outputs[0])

    def _ids(self, tensors):
        refs = {StorageWeakRef(tensor.untyped_storage()): tensor for tensor in tensors}
        for ref, tensor in refs.items():
            if ref not in self._storages and ref not in self._weights:
                self._storages[ref] = tensor.untyped_storage().nbytes()
                self._alive.append(ref)
        return set(refs)

    def peak_by_liveness(self):
        """The most bytes alive at once when every storage is freed after the last operator that touches it."""
        first, last = {}, {}
        for index, operation in enumerate(self.operations):
            for ref in operation.touched:
                first.setdefault(ref, index)
                last[ref] = index
        change = [0] * (len(self.operations) + 1)
        for ref in first:
            change[first[ref]] += self._storages[ref]
            change[last[ref] + 1] -= self._storages[ref]
        peak = alive = 0
        for step in change:
            alive += step
            peak = max(peak, alive)
        return peak
