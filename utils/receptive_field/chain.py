"""Two formulas for plain chains of layers, to learn from and to check the methods with."""


def calculate_RF(layers):
    """Receptive field, in pixels, at the end of a plain chain of layers, given as (kernel, stride) pairs from the input on.

    r = 1 + Σ (k_l − 1) · Π_{i<l} s_i: each layer adds its kernel's reach, counted in the jump that the layers *before* it
    have built up. Padding does not matter, a dilated kernel counts as k' = dilation · (k − 1) + 1. For branches, and for
    start and centre, see `analytic.receptive_fields`. Raises ValueError for a kernel or stride under 1.
    Source: Araujo et al., Distill 2019, eq. 2.

    >>> calculate_RF([(3, 1), (2, 2), (3, 1), (2, 2), (3, 1), (2, 2)])
    22
    """
    size, jump = 1, 1
    for kernel, stride in layers:
        _positive(kernel=kernel, stride=stride)
        size += (kernel - 1) * jump
        jump *= stride
    return size


def get_receptive_field(kernel_size, stride, dilation):
    """Reach, in pixels, of one layer's kernel by an older convention: k' + (k' − 1)(stride − 1), k' the dilated kernel.

    k' = dilation · (kernel_size − 1) + 1 taps that stand `stride` pixels apart reach over that many pixels; it is what a k'
    kernel sees when it *follows* a layer of that stride. A layer's own stride does not enlarge the field of its own output,
    which is k' alone: for that, and for whole networks, use `receptive_fields` (any model) or `calculate_RF` (a chain).
    Raises ValueError for an argument under 1.

    >>> [get_receptive_field(*layer) for layer in ((3, 1, 1), (5, 1, 1), (5, 2, 1), (5, 2, 2))]
    [3, 5, 9, 17]
    """
    _positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
    kernel = dilation * (kernel_size - 1) + 1
    return kernel + (kernel - 1) * (stride - 1)


def _positive(**values):
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")
