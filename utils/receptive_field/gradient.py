"""Receptive fields by gradient: the network as it is written, every function of it exchanged for one that only adds.

The derivative of a unit of such a network is above zero at just the pixels that the unit sees, and nowhere else.
"""

import torch

from utils.core.errors import UserError
from utils.receptive_field.boxes import Boxes
from utils.receptive_field.inspecting import device_of, inspecting
from utils.receptive_field.spans import CAP, HEIGHT, WIDTH, Field, Span


def _strip(model, length, fill, edges):
    """Pixels (2, 3, length) and edges (2, 2): two samples, see `Boxes`."""
    device = device_of(model)
    device = "cpu" if device.type == "meta" else device  # of the weights only the shapes are used
    pixels = torch.full((2, 3, length), fill, dtype=torch.float64, device=device)
    return pixels, torch.tensor(edges, dtype=torch.float64, device=device)


def _ones(model, length):
    return _strip(model, length, 1.0, [[0, 0], [0, 0]])


def _ends(model, length):
    """Nothing but the first place and the padding before it in one sample, the last and the padding behind it in the other.

    All weights being positive, what sees none of them has an output of exactly zero.
    """
    pixels, edges = _strip(model, length, 0.0, [[1, 0], [0, 1]])
    pixels[0, :, 0] = pixels[1, :, -1] = 1
    return pixels, edges


def _noise(model, length):
    pixels, edges = _strip(model, length, 0.0, [[0.3, 0.5], [0.7, 0.9]])
    return pixels.copy_(torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0))), edges


def _forward(model, axis, strip, adaptive=None):
    """One pass over a strip laid along an axis: the image (2, 3, …), the windows of `Boxes`, {layer name: its output}."""
    pixels, edges = strip
    image = pixels.unsqueeze(3 if axis == HEIGHT else 2).requires_grad_()
    outputs = {}
    mode = Boxes(axis, edges, adaptive)

    def keep(name):
        return lambda module, inputs, output: outputs.update({name: mode.latest(output)})

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        with mode:
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    seen = {name: o for name, o in outputs.items() if isinstance(o, torch.Tensor) and o.requires_grad}
    return image, mode.adaptive, seen


def gradient_fields(model, image_size, cap=CAP):
    """Fields of all layers by gradient: ({name: Field}, [note, …]).

    The input begins at `image_size` and doubles for the layers whose field is cut off by its borders; a field of `cap` pixels
    or more is `capped`. Raises UserError for a model whose forward refuses other sizes of its input, or mixes places by
    attention, where units side by side need not have fields of one size.
    """
    notes = {}
    with inspecting(model):
        try:
            noise = _noise(model, image_size)
            (_, tall, outputs), (_, wide, others) = (_forward(model, axis, noise) for axis in (HEIGHT, WIDTH))
            spans = [_axis_spans(model, HEIGHT, image_size, cap, tall, notes)]
            same = tall == wide and all(_alike(outputs[name], others.get(name)) for name in outputs)
            spans.append(spans[0] if same else _axis_spans(model, WIDTH, image_size, cap, wide, notes))
        except Exception as error:  # whatever a model's forward may raise on a strip of another size
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            sentence = f"the gradient method cannot run this model ({reason}); use the analytic method"
            raise UserError(sentence, option="method") from None
    shared = [name for name in outputs if name in spans[HEIGHT] and name in spans[WIDTH]]
    dims = {name: _dims(outputs[name].shape, others[name].shape) for name in shared}
    return {name: Field(spans[HEIGHT][name], spans[WIDTH][name], (None, None), dims[name]) for name in shared}, list(notes)


def _dims(tall, wide):
    """Which dimensions are height and width, by the shapes of an output for a strip along either; None where that is open."""
    longer = [d for d, (a, b) in enumerate(zip(tall, wide, strict=True)) if a > b]
    wider = [d for d, (a, b) in enumerate(zip(tall, wide, strict=True)) if a < b]
    return tuple(found[0] if len(found) == 1 else None for found in (longer, wider))


def _alike(tall, wide):
    """Whether a layer treats both axes alike: the same answer to the same noise along either."""
    return wide is not None and tall.numel() == wide.numel() and torch.allclose(tall.flatten(), wide.flatten(), rtol=1e-9)


def _axis_spans(model, axis, image_size, cap, adaptive, notes):
    """{layer name: Span} along one axis."""
    lengths = [image_size]
    while lengths[-1] < cap:
        lengths.append(min(2 * lengths[-1], cap))
    lengths.append(2 * lengths[-1])  # for a field that is smaller than the cap, but was cut off there on one side
    along, spans = {}, {}
    cut = Span(0, cap - 1, None, capped=True)
    for length in lengths:
        probe = _forward(model, axis, _ends(model, length), adaptive)[-1]
        along = along or _growing(probe, _forward(model, axis, _ends(model, 2 * length), adaptive)[-1])
        reach = {name: _reach(probe[name], dim) for name, dim in along.items() if name not in spans}
        del probe
        spans |= {name: cut for name, ends in reach.items() if ends == "both" and length >= cap}
        whole = [name for name, ends in reach.items() if ends == "none"]
        if whole:
            image, _, outputs = _forward(model, axis, _ones(model, length), adaptive)
            found = {}  # layers that change nothing have the field of the layer before them
            for name in whole:
                out = getattr(outputs[name], "origin", outputs[name])
                if id(out) not in found:
                    found[id(out)] = _measure(out, along[name], image, notes)
                spans[name] = found[id(out)]
        if len(spans) == len(along):
            break
    return {name: spans.get(name, cut) for name in along}


def _growing(short, long):
    """{layer name: the dimension that grows with the image, None for a layer that has no such}."""
    along = {}
    for name, out in short.items():
        grown = [d for d, (a, b) in enumerate(zip(out.shape, long[name].shape, strict=True)) if a != b]
        if not grown or (len(grown) == 1 and out.dim() > 2):  # in a flattened map there is no place to point at
            along[name] = grown[0] if grown else None
    return along


def _middle(out, dim):
    """The two middle places of each sample: (2, 2, …)."""
    return out if dim is None else out.narrow(dim, max(out.shape[dim] // 2 - 1, 0), min(2, out.shape[dim]))


def _reach(probe, dim):
    """Which ends of the strip, padding included, the middle units see: "none"; "both", one of them alone; or "some"."""
    if dim is None:
        ends = probe.flatten(1).any(1)[:, None]
    elif probe.shape[dim] < 2:
        return "some"
    else:
        ends = _middle(probe, dim).movedim(dim, 1).flatten(2).any(2)  # (2 ends, 2 units)
    if not ends.any():
        return "none"
    return "both" if ends.all(0).any() else "some"


def _measure(out, dim, image, notes):
    """Span of `out` by the gradient of its two middle units along `dim`, one in each sample."""
    seed = out.new_zeros(out.shape)  # not zeros_like: `out` may be expanded
    if dim is None:
        seed[:] = 1
    else:
        for sample in (0, 1):
            _middle(seed, dim)[sample].select(dim - 1, sample).fill_(1)
    (heat,) = torch.autograd.grad(out, image, seed, retain_graph=True)
    seen = [sample.nonzero().flatten().tolist() for sample in heat.sum(1).flatten(1)]
    (low, high), (next_low, next_high) = ((places[0], places[-1]) for places in seen)
    if dim is None:
        return Span(low, high, None)
    jump = next_low - low
    if next_high - high != jump:
        notes["neighbouring units of a layer have fields of different sizes: the wider is given"] = None
        high = max(high, next_high - jump)
    shift = (out.shape[dim] // 2 - 1) * jump
    return Span(low - shift, high - shift, jump)
