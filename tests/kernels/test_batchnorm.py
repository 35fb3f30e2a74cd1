import pytest
import torch
from torch import nn

from utils.kernels.batchnorm import PoolPasses, ReluPasses, norm_pool, norm_relu
from utils.kernels.compiled import compiled


def pooled(x, norm, other, passes):
    return norm_pool(x, norm, passes or PoolPasses())


def pooled_by_torch(x, norm, other):
    return nn.functional.max_pool2d(norm(x), 2).relu()


def cut(x, norm, other, passes):
    return norm_relu(x, norm, passes or ReluPasses())


def cut_by_torch(x, norm, other):
    return norm(x).relu()


def added(x, norm, other, passes):
    return norm_relu(x, norm, passes or ReluPasses(), other)


def added_by_torch(x, norm, other):
    return (norm(x) + other).relu()


WAYS = {"pool": (pooled, pooled_by_torch), "relu": (cut, cut_by_torch), "sum": (added, added_by_torch)}
PASSES = {"pool": PoolPasses, "relu": ReluPasses, "sum": ReluPasses}
each_way = pytest.mark.parametrize("way", WAYS)


def both_ways(way, x, norm, passes=None):
    """Values, gradients and running statistics of the passes and of torch's own operators, on the same numbers."""
    ours, theirs = WAYS[way]
    results = []
    for call in (lambda *given: ours(*given, passes), theirs):
        norm.reset_running_stats(), norm.zero_grad()
        given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        other = x.detach().flip(2).contiguous(memory_format=torch.channels_last).requires_grad_()
        answer = call(given, norm, other)
        answer.backward(torch.linspace(-1, 1, answer.numel()).bfloat16().to(x.dtype).view_as(answer))
        gradients = [given.grad, norm.weight.grad, norm.bias.grad, *([other.grad] if way == "sum" else [])]
        results.append([answer.detach(), *gradients, *(b.clone() for b in norm.buffers())])
    return zip(*results, strict=True)


@pytest.fixture(params=[(3, 5, 4, 6), (2, 1, 2, 2), (4, 16, 10, 10)])
def pixels(request):
    torch.manual_seed(0)
    return torch.randn(request.param, dtype=torch.float64) + 3


@pytest.fixture
def norm(pixels):
    """A scale below zero turns the largest pixel of a window into the smallest; one of zero makes them equal."""
    channels = pixels.shape[1]
    norm = nn.BatchNorm2d(channels, momentum=0.3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, channels) if channels > 1 else torch.ones(1))
        norm.bias.copy_(torch.linspace(0.5, -0.5, channels))
    return norm


@each_way
def test_the_passes_give_what_the_operators_of_torch_give(way, pixels, norm):
    for ours, theirs in both_ways(way, pixels, norm):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_of_equal_pixels_the_first_gets_the_gradient_as_in_max_pool2d(pixels, norm):
    for ours, theirs in both_ways("pool", pixels.round(), norm):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@each_way
def test_half_precision_is_summed_in_single(way, pixels, norm):
    norm.float()
    pixels = pixels.repeat(8, 1, 1, 1).to(memory_format=torch.channels_last)
    exact, _ = zip(*both_ways(way, pixels.to(torch.bfloat16).float(), norm), strict=True)
    for (half, _), single in zip(both_ways(way, pixels.to(torch.bfloat16), norm), exact, strict=True):
        torch.testing.assert_close(half.float(), single.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@each_way
def test_compiled_they_give_the_same(way, pixels, norm):
    passes = compiled(PASSES[way](), dynamic=way != "pool")
    for ours, theirs in both_ways(way, pixels.to(memory_format=torch.channels_last), norm, passes):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
