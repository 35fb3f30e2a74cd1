import pytest
import torch
import torch.nn.functional as F

from utils.kernels import winograd
from utils.kernels.compiled import compiled

PLAIN = winograd.Kernels()


def numbers(count, height, width, channels, outputs, dtype=torch.float64):
    """Images, weights and a gradient of the output, in the layouts of `utils.kernels.winograd`."""
    generator = torch.Generator().manual_seed(0)
    shapes = (count, height, width, channels), (outputs, 3, 3, channels), (count, height, width, outputs)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def ours(x, weight, gradient, m, kernels=PLAIN):
    results = winograd.convolve(x, weight, m, kernels), winograd.input_gradient(gradient, weight, m, kernels)
    return *results, winograd.weight_gradient(x, gradient, m, kernels)


def exact(x, weight, gradient):
    """Output and both gradients by torch's own convolution, in double precision."""
    x, weight, gradient = (tensor.double().permute(0, 3, 1, 2) for tensor in (x, weight, gradient))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = F.conv2d(x, weight, padding=1)
    y.backward(gradient)
    return [tensor.detach().permute(0, 2, 3, 1) for tensor in (y, x.grad, weight.grad)]


@pytest.mark.parametrize("m", sorted(winograd.INPUT))
@pytest.mark.parametrize("count, height, width", [(2, 8, 8), (3, 7, 5), (1, 1, 1), (2, 1, 9), (2, 6, 3), (1, 2, 4)])
@pytest.mark.parametrize("channels, outputs", [(3, 5), (1, 1), (4, 2)])
def test_values_and_gradients_of_a_convolution(m, count, height, width, channels, outputs):
    given = numbers(count, height, width, channels, outputs)
    for one, two in zip(ours(*given, m), exact(*given), strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 1e-2), (torch.float32, 4e-6)])
def test_rounding_is_that_of_the_type(dtype, bound):
    """Of sums over 64 channels and more, as networks have, relative to their size: the root of the mean of squares."""
    given = numbers(4, 14, 14, 64, 64, dtype)
    for one, two in zip(ours(*given, winograd.TILES[dtype]), exact(*given), strict=True):
        assert one.dtype == dtype
        error = (one - two).square().mean().sqrt() / two.square().mean().sqrt()
        assert 0 < error < bound


def test_autocast_around_it_changes_no_type():
    given = numbers(1, 4, 4, 3, 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ours(*given, 4)
    assert all(torch.equal(one, two) for one, two in zip(inside, ours(*given, 4), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("m", sorted(winograd.INPUT))
def test_compiled_they_give_the_same(m):
    given = numbers(2, 7, 5, 16, 8)
    for one, two in zip(ours(*given, m, compiled(winograd.Kernels())), exact(*given), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)
