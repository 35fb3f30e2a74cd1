"""A network as it is written, with every function exchanged for one that only adds and has the same support."""

import math

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from utils.receptive_field.spans import HEIGHT, adaptive_window, each

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


class Boxes(TorchFunctionMode):
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
