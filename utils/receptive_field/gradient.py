"""Receptive fields by gradient: the network as it is written, every function of it exchanged for one that only adds.

The derivative of a unit of such a network is above zero at just the pixels that the unit sees, and nowhere else.
"""

import math

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from utils.core.errors import UserError
from utils.receptive_field.spans import HEIGHT, WIDTH, Field, Span, adaptive_window, device_of, each, inspecting

CAP = 8192  # px; from here on a field is given as "this size or more"

# Functions of each place alone (of all its channels): their support is that of the identity.
# fmt: off
LOCAL = {
    "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "hardtanh",
    "hardswish", "hardsigmoid", "sigmoid", "tanh", "clamp", "clip", "neg", "abs", "exp", "log", "sqrt", "rsqrt",
    "square", "pow", "batch_norm", "layer_norm", "group_norm", "instance_norm", "local_response_norm", "dropout",
    "dropout2d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "contiguous", "clone",
}
# fmt: on
SUMS = {"add": torch.add, "sub": torch.add, "rsub": torch.add, "mul": torch.add, "div": torch.add, "truediv": torch.add}


class _Boxes(TorchFunctionMode):
    """Runs a network's forward with every filter replaced by a box along one axis, the other axis being one pixel wide.

    Convolution is the mean over its channels and a box filter, pooling a box filter, a linear layer the mean over its
    inputs; normalisation and activation are the identity; differences, products and quotients are sums; what would write in
    place does not. So all derivatives are positive, nothing cancels, and a field along one axis does not depend on the
    other. `edges` (2, samples) are what padding holds before the first place and behind the last. `adaptive` holds the fixed
    window of each adaptive pooling in turn; None records them.
    """

    def __init__(self, axis, edges, adaptive=None):
        super().__init__()
        self.axis, self.edges, self.renewed = axis, edges, {}
        self.recording = adaptive is None
        self.adaptive = [] if self.recording else list(adaptive)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        plain = name.strip("_")
        in_place = name.endswith("_") and not name.endswith("__")
        if name.startswith("__i") and plain[1:] in SUMS:
            plain, in_place = plain[1:], True
        args, kwargs = self.latest(args), self.latest(kwargs or {})
        result = self.replace(function, plain, args, kwargs)
        if in_place and plain in SUMS and result is not args[0]:
            self.renewed[id(args[0])] = args[0], result  # the old one is kept, so that its id stays its own
        return result

    def replace(self, function, plain, args, kwargs):
        if plain in LOCAL:
            x = args[0] if args else kwargs["input"]
            same = x.view_as(x)  # of its own, as it may be added to in place where x may not
            same.origin = getattr(x, "origin", x)
            return same
        if plain in SUMS and len(args) > 1:
            return self.sum(function, args, plain)
        handler = getattr(self, "do_" + plain, None)
        return handler(*args, **kwargs) if handler else function(*args, **kwargs)

    def latest(self, value):
        """`value` with every tensor that was added to in place as it is by now."""
        if isinstance(value, torch.Tensor):
            while id(value) in self.renewed:
                value = self.renewed[id(value)][1]
            return value
        if isinstance(value, dict):
            return {key: self.latest(item) for key, item in value.items()}
        return type(value)(map(self.latest, value)) if type(value) in (tuple, list) else value

    def sum(self, function, args, plain):
        seen = [a for a in args[:2] if isinstance(a, torch.Tensor) and a.requires_grad]
        if not seen:
            return function(*args)
        shape = torch.broadcast_shapes(*(a.shape for a in args[:2] if isinstance(a, torch.Tensor)))
        return SUMS[plain](*seen) if len(seen) == 2 else seen[0].expand(shape)

    def of(self, value):
        """This axis' entry of a number or pair."""
        return each(value, 2)[self.axis]

    def slide(self, x, kernel, stride=1, before=0, after=0, dilation=1):
        """Box filter along the axis, for x (..., H, W)."""
        dim = x.dim() - 2 + self.axis
        rows = x.movedim(dim, -1)
        if before or after:
            rows = self.padded(rows, before, after)
        box = rows.new_full((1, 1, kernel), 1 / kernel)
        out = F.conv1d(rows.reshape(-1, 1, rows.shape[-1]), box, stride=stride, dilation=dilation)
        return out.reshape(*rows.shape[:-1], -1).movedim(-1, dim)

    def padded(self, rows, before, after):
        """Rows (B, …, length), longer by this much on either side; shorter where it is negative."""
        first, last = max(-before, 0), rows.shape[-1] - max(-after, 0)
        shape = [-1] + [1] * (rows.dim() - 1)
        ends = [
            edge.reshape(shape).expand(*rows.shape[:-1], max(amount, 0))
            for edge, amount in zip(self.edges, (before, after), strict=True)
        ]
        return torch.cat([ends[0], rows[..., first:last], ends[1]], -1)

    def do_conv2d(self, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        kernel, dilation = weight.shape[2 + self.axis], self.of(dilation)
        if isinstance(padding, str):
            total = dilation * (kernel - 1) if padding == "same" else 0
            before, after = total // 2, total - total // 2
        else:
            before = after = self.of(padding)
        x = input.unflatten(1, (groups, -1)).mean(2)  # (B, groups, H, W)
        x = self.slide(x, kernel, self.of(stride), before, after, dilation)
        return x.unsqueeze(2).expand(-1, -1, weight.shape[0] // groups, -1, -1).flatten(1, 2)

    def do_max_pool2d(self, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        stride = self.of(stride or kernel_size)
        kernel, before, dilation = self.of(kernel_size), self.of(padding), self.of(dilation)
        length, reach = input.shape[input.dim() - 2 + self.axis], dilation * (kernel - 1) + 1
        after = before
        if ceil_mode:
            count = math.ceil((length + 2 * before - reach) / stride) + 1
            count -= (count - 1) * stride >= length + before  # a window that begins in the padding behind is left out
            after += max(0, (count - 1) * stride + reach - length - 2 * before)
        return self.slide(input, kernel, stride, before, after, dilation)

    def do_avg_pool2d(
        self, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        return self.do_max_pool2d(input, kernel_size, stride, padding, 1, ceil_mode)

    def do_adaptive_avg_pool2d(self, input, output_size, return_indices=False):
        dim = input.dim() - 2 + self.axis
        wanted = self.of(output_size)
        wanted = input.shape[dim] if wanted is None else wanted
        if self.recording:
            self.adaptive.append(adaptive_window(input.shape[dim], wanted))
            kernel = self.adaptive[-1]
        else:
            kernel = self.adaptive.pop(0)
        if kernel:
            return self.slide(input, kernel, kernel)
        shape = [-1] * input.dim()
        shape[dim] = wanted
        return input.mean(dim, keepdim=True).expand(shape)

    do_adaptive_max_pool2d = do_adaptive_avg_pool2d

    def do_getitem(self, input, index):
        places = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in [place for place in places if not isinstance(place, torch.Tensor)]:
            i = places.index(Ellipsis)
            places[i : i + 1] = [slice(None)] * (input.dim() - len(places) + 1)
        thin = 3 if self.axis == HEIGHT else 2  # of one pixel, whatever is cut out of it
        if input.dim() == 4 == len(places) and isinstance(places[thin], slice):
            places[thin] = slice(None)
            return input[tuple(places)]
        return input[index]

    def do_softmax(self, input, dim=-1, *args, **kwargs):
        return input.mean(dim, keepdim=True).expand(input.shape)

    def do_matmul(self, *values, **kwargs):
        if sum(isinstance(value, torch.Tensor) and value.requires_grad for value in values) > 1:
            raise RuntimeError("it mixes places by attention")
        return torch.matmul(*values)

    def do_scaled_dot_product_attention(self, *args, **kwargs):
        raise RuntimeError("it mixes places by attention")

    do_multi_head_attention_forward = do_einsum = do_bmm = do_scaled_dot_product_attention

    def do_view(self, input, *shape):
        return input.reshape(*shape)  # boxes are expanded over channels, which view refuses

    def do_linear(self, input, weight, bias=None):
        return input.mean(-1, keepdim=True).expand(*input.shape[:-1], weight.shape[0])

    def do_pad(self, input, pad, mode="constant", value=None):
        pad = list(pad)
        other = 2 * (self.axis == HEIGHT)  # where the amounts of the axis under test begin: width comes first
        amounts = pad[other : other + 2]
        pad[0 : min(4, len(pad))] = [0] * min(4, len(pad))
        out = F.pad(input, pad) if any(pad) else input
        if not any(amounts):
            return out
        dim = input.dim() - 2 + self.axis
        return self.padded(out.movedim(dim, -1), *amounts).movedim(-1, dim)


def _strip(model, length, fill, edges):
    """Pixels (2, 3, length) and edges (2, 2): two samples, see `_Boxes`."""
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
    """One pass over a strip laid along an axis: the image (2, 3, …), the windows of `_Boxes`, {layer name: its output}."""
    pixels, edges = strip
    image = pixels.unsqueeze(3 if axis == HEIGHT else 2).requires_grad_()
    outputs = {}
    mode = _Boxes(axis, edges, adaptive)

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
            raise UserError(f"the gradient method cannot run this model ({reason}); use --method analytic") from None
    shared = [name for name in outputs if name in spans[HEIGHT] and name in spans[WIDTH]]
    return {name: Field(spans[HEIGHT][name], spans[WIDTH][name], (None, None)) for name in shared}, list(notes)


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
