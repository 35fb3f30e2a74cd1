import pytest
import torch
from torch import nn

from models.custom import Block
from models.norm_pool import Kernels, fits, norm_pool


def both_ways(x, norm, kernels):
    """Values, gradients and running statistics of `norm_pool` and of torch's own operators, on the same numbers."""
    results = []
    for call in (lambda x: norm_pool(x, norm, kernels), lambda x: nn.functional.max_pool2d(norm(x), 2).relu()):
        norm.reset_running_stats(), norm.zero_grad()
        given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        answer = call(given)
        answer.backward(torch.linspace(-1, 1, answer.numel(), dtype=x.dtype).view_as(answer))
        results.append([answer.detach(), given.grad, norm.weight.grad, norm.bias.grad, *(b.clone() for b in norm.buffers())])
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


def test_the_passes_give_what_the_operators_of_torch_give(pixels, norm):
    for ours, theirs in both_ways(pixels, norm, Kernels()):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_of_equal_pixels_the_first_gets_the_gradient_as_in_max_pool2d(pixels, norm):
    for ours, theirs in both_ways(pixels.round(), norm, Kernels()):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_half_precision_is_summed_in_single(pixels, norm):
    norm.float()
    pixels = pixels.repeat(8, 1, 1, 1).to(memory_format=torch.channels_last)
    exact, _ = zip(*both_ways(pixels.to(torch.bfloat16).float(), norm, Kernels()), strict=True)
    for half, single in zip((v for v, _ in both_ways(pixels.to(torch.bfloat16), norm, Kernels())), exact, strict=True):
        torch.testing.assert_close(half.float(), single.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "shape, norm, taken",
    [
        ((2, 4, 6, 6), nn.BatchNorm2d(4), True),
        ((2, 4, 7, 6), nn.BatchNorm2d(4), False),
        ((2, 4, 6, 6), nn.SyncBatchNorm(4), False),
        ((2, 4, 6, 6), nn.GroupNorm(2, 4), False),
    ],
)
def test_only_whole_windows_and_plain_batch_norm_are_taken(shape, norm, taken):
    assert fits(torch.zeros(shape), norm) is taken


def test_a_block_takes_them_for_the_batches_that_they_were_compiled_for():
    torch.manual_seed(0)
    calls = []
    counted = Kernels()._replace(pool=lambda *args: (calls.append(len(args[0])), Kernels().pool(*args))[1])
    block = Block(3, 4).train()
    block.kernels, block.batch_size = counted, 6
    for count in (6, 5):
        block(torch.randn(count, 3, 8, 8))
    block.eval()(torch.randn(6, 3, 8, 8))
    assert calls == [6]


@pytest.mark.slow
def test_compiled_they_give_the_same(pixels, norm):
    compiled = Kernels(*(torch.compile(kernel, dynamic=False) for kernel in Kernels()))
    for ours, theirs in both_ways(pixels.to(memory_format=torch.channels_last), norm, compiled):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
