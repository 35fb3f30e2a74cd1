"""Both methods side by side: measured, compared, as text and as JSON. No torch at import."""

import difflib
import math

from utils.core.errors import UserError
from utils.core.text import plural, table


def _by_analysis(network, image_size, cap):
    from utils.receptive_field.analytic import analytic_fields

    return analytic_fields(network, image_size)


def _by_gradient(network, image_size, cap):
    from utils.receptive_field.gradient import gradient_fields

    return gradient_fields(network, image_size, cap)


METHODS = {"analytic": _by_analysis, "gradient": _by_gradient}  # (network, image_size, cap) -> ({layer: Field}, [note, …])


def measure(network, image_size, method, cap):
    """`(fields, findings)`: {layer: Field}, and {"notes": […], "mismatches": […], "compared": how many layers both know}.

    Of two methods the analysis is reported, and the gradient for layers that only it knows. Where one of two methods cannot
    do this network, a note says why; where none can, UserError is raised.
    """
    wanted = list(METHODS) if method == "both" else [method]
    results, notes = {}, []
    for name in wanted:
        try:
            results[name], said = METHODS[name](network, image_size, cap)
            notes += said
        except UserError as error:
            if name == wanted[-1] and not results:
                raise
            notes.append(str(error))
    both = list(results.values()) if len(results) == 2 else [next(iter(results.values())), {}]
    fields = both[0] | {name: field for name, field in both[1].items() if name not in both[0]}
    if fields and all(None in field.jump for field in fields.values()):
        notes.append("no layer of this network has a map: the plot shows all units of a layer at once, of the last by default")
    compared = sum(name in both[0] for name in both[1])
    return fields, {"notes": notes, "mismatches": compare(*both), "compared": compared}


def compare(analytic, gradient):
    """Where two results contradict each other, one sentence a layer and axis; layers that only one knows are left out."""
    faults = []
    for name in analytic:
        for axis in ("height", "width") if name in gradient else ():
            a, g = getattr(analytic[name], axis), getattr(gradient[name], axis)
            agree = a.size >= g.size if g.capped else (a.start, a.end, a.jump) == (g.start, g.end, g.jump)
            if not agree:
                faults.append(f"{name}, {axis}: {_words(a)} by analysis, {_words(g)} by gradient")
    return faults


def _words(span):
    size = f"≥ {span.size}" if span.capped else span.size
    return f"size {size}, jump {span.jump}, start {span.start}"


def choose_layer(wanted, fields):
    """The layer to draw: without a wish the last one that has a map, or of a network without a map the last of all.

    Raises UserError for an unknown one, with what is spelled alike, and for a network of which no layer is known.
    """
    if not fields:
        raise UserError("this network has no layer whose field could be worked out")
    if wanted is None:  # the last that has a map before the head; what only the gradient knows, such as Identity, stands behind
        maps = [name for name, field in fields.items() if None not in field.jump]
        if not maps:
            return list(fields)[-1]
        order = {name: place for place, name in enumerate(fields)}
        head = max((order[name] for name in fields.keys() - {*maps}), default=len(fields))
        return [name for name in maps if order[name] < head or head < order[maps[0]]][-1]
    if wanted not in fields:
        near = difflib.get_close_matches(wanted, fields, n=4)
        hint = f"Did you mean {' or '.join(near)}?" if near else "The table lists them."
        raise UserError(f"{wanted} is no layer of this network. {hint}", option="layer")
    return wanted


def spell(values):
    """(height, width) as one word."""
    words = [_word(value) for value in values]
    return words[0] if words[0] == words[1] else "×".join(words)


def _word(value):
    if value is None or value == -math.inf:
        return "–"
    return "global" if value == math.inf else f"{value:g}"


def spell_size(field):
    """The size with `≥` where the measurement stopped at its cap."""
    words = [f"≥ {span.size}" if span.capped else _word(span.size) for span in (field.height, field.width)]
    return words[0] if words[0] == words[1] else "×".join(words)


def in_pixels(field):
    """The size with its unit."""
    return "global" if spell_size(field) == "global" else f"{spell_size(field)} px"


def describe(network, fields, findings):
    """The table, and what is to be said about it."""
    modules = dict(network.named_modules())
    header = ("layer", "type", "size", "jump", "start", "centre", "units")
    rows = []
    for name, field in fields.items():
        start = [None if span.capped else span.start for span in (field.height, field.width)]
        row = (name, type(modules[name]).__name__, spell_size(field), spell(field.jump), spell(start))
        rows.append((*row, spell(field.centre), spell(field.units)))
    lines = [table(header, rows, align="<<>>>>>"), ""]
    if findings["mismatches"]:
        lines.append(f"the two methods DISAGREE {plural(len(findings['mismatches']), 'time')}:")
        lines += [f"  {mismatch}" for mismatch in findings["mismatches"]]
    elif findings["compared"]:
        layers = plural(findings["compared"], "layer")
        lines.append(f"by analysis and by gradient alike: all of the {layers} that both methods know")
    lines += [f"note: {note}" for note in findings["notes"]]
    return "\n".join(lines)


def to_json(network, card, fields, findings):
    """What describe() prints, for programs: pairs are [height, width], "global" is a size, null is what there is not."""
    modules = dict(network.named_modules())

    def starts(field):
        return [None if span.capped or math.isinf(span.start) else span.start for span in (field.height, field.width)]

    return {
        "model": card.architecture,
        "image_size": card.image_size,
        **findings,
        "layers": [
            {
                "layer": name,
                "type": type(modules[name]).__name__,
                "size": ["global" if size == math.inf else size for size in field.size],
                "at_least": [span.capped for span in (field.height, field.width)],
                "jump": list(field.jump),
                "start": starts(field),
                "centre": list(field.centre),
                "units": list(field.units),
            }
            for name, field in fields.items()
        ],
    }
