"""What a receptive field is: a `Span` along each axis, together a `Field`.

Unit i of a layer's output sees the pixels `start + i·jump` to `end + i·jump` of the input, and no others. Pixels count from
0 at the top left; a start under 0 lies in the padding. The relations are those of Araujo, Norris & Sim, "Computing Receptive
Fields of Convolutional Neural Networks", Distill 2019.

What both methods take as given:

* The field is that of the architecture: weights that happen to be zero do not shrink it.
* Where branches meet, the field is the smallest interval that holds theirs.
* It is global (infinite) where a unit sees the whole image whatever its size: behind a global pooling, a squeeze-excite
  gate, a linear layer over a flattened map, attention.
* An adaptive pooling is the fixed pooling that it amounts to at the given image size; one whose windows differ in width
  there has no fixed field and counts as global.
* Normalisation is taken as local. That is exact for BatchNorm at inference and for LayerNorm over channels; GroupNorm,
  InstanceNorm and LayerNorm over the map take statistics of the whole map, which the notes then say.
"""

import math
from dataclasses import dataclass

HEIGHT, WIDTH = 0, 1
CAP = 8192  # px; where a measurement stops, and a field is given as "this size or more"


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

    `size`, `jump`, `start` and `centre` are (height, width); `units` is too, with None where the output has no such axis, and
    so is `dims`: which dimensions of the output the axes run along, (2, 3) where channels come first.
    """

    height: Span
    width: Span
    units: tuple
    dims: tuple = (None, None)

    size = property(lambda self: (self.height.size, self.width.size))
    jump = property(lambda self: (self.height.jump, self.width.jump))
    start = property(lambda self: (self.height.start, self.width.start))
    centre = property(lambda self: (self.height.centre, self.width.centre))


def adaptive_window(length, out_length):
    """Kernel (= stride) of the fixed pooling that an adaptive one amounts to; None for one that has no fixed window."""
    return length // out_length if out_length > 1 and length % out_length == 0 else None


def each(value, n):
    """A number, or a list of one or n, as n numbers."""
    value = list(value) if isinstance(value, (list, tuple)) else [value]
    return value * n if len(value) == 1 else value
