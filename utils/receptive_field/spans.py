"""What a receptive field is: a `Span` along each axis, together a `Field`; and how a network is held still to look at it."""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch

HEIGHT, WIDTH = 0, 1


@dataclass(frozen=True)
class Span:
    """A field along one axis. `jump` is None where there is one unit only, as behind a global pooling."""

    start: float  # px, of unit 0; -inf when global
    end: float  # px, of unit 0, inclusive; inf when global
    jump: int | None  # px from one unit to the next
    capped: bool = False  # the measurement stopped at its cap: the field has this size or more

    @property
    def size(self):
        """Pixels seen, `math.inf` when global."""
        return self.end - self.start + 1

    @property
    def centre(self):
        """Middle of unit 0's field, in pixels; None when there is none."""
        return None if math.isinf(self.size) or self.capped else (self.start + self.end) / 2

    def of_unit(self, index):
        """First and last pixel that unit `index` sees; infinite when global."""
        shift = index * (self.jump or 0)
        return self.start + shift, self.end + shift

    def window(self, kernel, stride=1, padding=0, dilation=1):
        """The span behind a convolution or pooling of this kernel, along this axis."""
        if self.jump is None:
            return self
        reach = (kernel - 1) * dilation - padding
        return Span(self.start - padding * self.jump, self.end + reach * self.jump, self.jump * stride)

    def union(self, other):
        """The smallest span that holds both; raises ValueError where their jumps differ."""
        if None not in (self.jump, other.jump) and self.jump != other.jump:
            raise ValueError(f"branches of jump {self.jump} and {other.jump} meet")
        jump = self.jump if other.jump is None else other.jump
        return Span(min(self.start, other.start), max(self.end, other.end), jump)


PIXEL = Span(0, 0, 1)
GLOBAL = Span(-math.inf, math.inf, None)


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer's output: one `Span` an axis, and how many units the output has along each.

    `size`, `jump`, `start` and `centre` are (height, width); `units` is too, with None where the output has no such axis.
    """

    height: Span
    width: Span
    units: tuple

    size = property(lambda self: (self.height.size, self.width.size))
    jump = property(lambda self: (self.height.jump, self.width.jump))
    start = property(lambda self: (self.height.start, self.width.start))
    centre = property(lambda self: (self.height.centre, self.width.centre))


@contextmanager
def inspecting(model):
    """Inference mode of every module and no gradients to parameters, put back as they were afterwards."""
    training = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def device_of(model):
    """Where the parameters of a network are; the CPU for one that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def adaptive_window(length, out_length):
    """Kernel (= stride) of the fixed pooling that an adaptive one amounts to; None for one that has no fixed window."""
    return length // out_length if out_length > 1 and length % out_length == 0 else None


def each(value, n):
    """A number, or a list of one or n, as n numbers."""
    value = list(value) if isinstance(value, (list, tuple)) else [value]
    return value * n if len(value) == 1 else value
