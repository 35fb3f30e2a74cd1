"""What a network costs, and how much of an image its layers see."""

import math
from dataclasses import dataclass

from utils.complexity.exact import analyse
from utils.core.errors import UserError
from utils.receptive_field.report import in_pixels, measure, spell
from utils.receptive_field.spans import CAP

COSTLY = 8  # layers that are listed by their cost


@dataclass(frozen=True)
class Network:
    """`costs`: utils.complexity.exact.Analysis; `layers`: the costliest; `fields`: [(layer, size, jump, units)] in words."""

    costs: object
    layers: list
    fields: list
    field_notes: list
    widest: tuple | None  # (layer, px) of the last map whose field is finite


def network_of(model, card):
    """The Network of a module in eval mode and its card."""
    costs = analyse(model, card.image_size)
    layers = sorted((layer for layer in costs.layers if layer.macs), key=lambda layer: -layer.macs)[:COSTLY]
    try:
        fields, findings = measure(model, card.image_size, "both", CAP)
    except UserError as error:
        return Network(costs, layers, [], [str(error)], None)
    stages = {name: f for name, f in fields.items() if name.count(".") == 0 and None not in f.jump} or fields
    rows = [(name, in_pixels(f), spell(f.jump), spell(f.units)) for name, f in stages.items()]
    last = [(name, int(f.size[0])) for name, f in stages.items() if math.isfinite(f.size[0])]
    return Network(costs, layers, rows, findings["mismatches"] + findings["notes"], last[-1] if last else None)
