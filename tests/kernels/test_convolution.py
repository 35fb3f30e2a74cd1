import copy

import pytest
import torch
from torch import nn

from utils.kernels import winograd
from utils.kernels.convert import prefer_fast_gradients
from utils.kernels.convolution import DepthwiseConv2d, GlobalAveragePool, SmallMapConv2d, WinogradConv2d


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    """Both kinds prefer bf16, whose rounding would hide mistakes."""
    monkeypatch.setattr(SmallMapConv2d, "dtypes", (torch.bfloat16, torch.float64))
    monkeypatch.setattr(DepthwiseConv2d, "gains", lambda self, x, dtype: True)


def compare(theirs, kind, shape):
    """Values and gradients of a layer and of what it becomes, on waves of a shape."""
    theirs = theirs.double()
    ours = nn.Sequential(copy.deepcopy(theirs))
    prefer_fast_gradients(ours)
    assert type(ours[0]) is kind
    results = []
    for layer in (ours, theirs):
        x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).sin().view(shape).requires_grad_()
        y = layer(x)
        y.backward(torch.arange(y.numel(), dtype=torch.float64).cos().view_as(y))
        results.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), ((3, 5), (0, 2))])
@pytest.mark.parametrize("bias", [True, False])
def test_small_maps_have_the_values_and_gradients_of_torch(stride, kernel, padding, bias):
    compare(nn.Conv2d(6, 64, kernel, stride, padding, bias=bias), SmallMapConv2d, (2, 6, 5, 4))


@pytest.mark.parametrize(("stride", "ours"), [(1, False), (2, True)])
def test_small_is_what_comes_out_of_a_stride(stride, ours):
    """36 weights a channel: two pictures of 5×5 places have more than that, of 3×3 places fewer."""
    layer = nn.Conv2d(4, 4, 3, stride, 1)
    prefer_fast_gradients(layer)
    assert layer.gains(torch.zeros(2, 4, 5, 5), torch.bfloat16) is ours


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [(3, 1), (3, 0), (5, 2), (5, 0), (7, 3), (7, 1), ((3, 5), (0, 2)), (2, 2), (1, 1)]
)
@pytest.mark.parametrize("size", [(7, 8), (10, 9)])
def test_depthwise_convolutions_have_the_values_and_gradients_of_torch(stride, kernel, padding, size):
    compare(nn.Conv2d(6, 6, kernel, stride, padding, groups=6), DepthwiseConv2d, (2, 6, *size))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_maps_smaller_than_the_kernel(size):
    compare(nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), DepthwiseConv2d, (3, 4, size, size))


def test_large_maps_fp32_frozen_weights_and_evaluation_go_the_plain_way(monkeypatch):
    convolution = nn.Conv2d(4, 8, 3, padding=1)
    prefer_fast_gradients(convolution)
    convolution.double()
    monkeypatch.setattr("utils.kernels.convolution._Convolution.apply", lambda *args: pytest.fail("taken"))
    convolution(torch.randn(4, 4, 9, 9, dtype=torch.float64))
    convolution.float()(torch.randn(1, 4, 3, 3))
    convolution.double()
    with torch.no_grad():
        convolution(torch.randn(1, 4, 3, 3, dtype=torch.float64))
    convolution.requires_grad_(False)
    convolution(torch.randn(1, 4, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 1, 1)])
def test_the_global_average_has_the_value_and_gradient_of_torch(shape):
    compare(nn.AdaptiveAvgPool2d(1), GlobalAveragePool, shape)


def test_other_layers_are_left_alone():
    kept = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(2),
    ]
    before = [type(layer) for layer in kept]
    prefer_fast_gradients(nn.Sequential(*kept))
    assert [type(layer) for layer in kept] == before


def test_depthwise_in_fp32_is_ours_for_wide_kernels_without_a_stride(monkeypatch):
    monkeypatch.undo()
    wide, strided, usual = (nn.Conv2d(4, 4, k, s, k // 2, groups=4) for k, s in ((5, 1), (5, 2), (3, 1)))
    prefer_fast_gradients(nn.Sequential(wide, strided, usual))
    x = torch.zeros(1, 4, 8, 8)
    assert [layer.gains(x, torch.float32) for layer in (wide, strided, usual)] == [True, False, False]
    assert all(layer.gains(x, torch.bfloat16) for layer in (wide, strided, usual))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_whole_network_has_the_same_gradients_and_names(trained_alike, name):
    trained_alike(name, 32)


@pytest.mark.parametrize("groups", [1, 64])
def test_under_autocast_it_computes_in_half_precision(groups):
    convolution = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=groups))
    prefer_fast_gradients(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(torch.randn(2, 64, 2, 2))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert convolution[0].weight.grad.dtype == torch.float32


def test_gradients_in_half_precision_are_near_those_in_single():
    """A stride, so that the gradient of the input goes through fp32, and five columns."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(32, 32, 5, 2, 2, groups=32, bias=False))
    prefer_fast_gradients(layer)
    grads = []
    for half in (False, True):
        x = torch.randn(8, 32, 14, 14, generator=torch.Generator().manual_seed(1), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = layer(x)
        layer.zero_grad()
        y.backward(torch.ones_like(y))
        grads.append((x.grad, layer[0].weight.grad))
    for single, half in zip(*grads, strict=True):
        assert (single - half).abs().max() < 0.02 * single.abs().max()


@pytest.fixture
def filtered(monkeypatch):
    """`models.winograd` in double precision, uncompiled; the calls of it, as shapes of x."""
    calls, convolve = [], winograd.convolve
    monkeypatch.setitem(winograd.TILES, torch.float64, 4)
    monkeypatch.setattr("utils.kernels.convolution.compiled", lambda kernels: kernels)
    monkeypatch.setattr(winograd, "convolve", lambda x, *rest: (calls.append(tuple(x.shape)), convolve(x, *rest))[1])
    return calls


def always(key, ways):
    """Measures nothing: both are run, the second is faster."""
    for way in ways.values():
        way()
    return True


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_filtered_layers_have_the_values_and_gradients_of_torch(filtered, bias, size):
    theirs = nn.Conv2d(64, 65, 3, padding=1, bias=bias).double()
    ours = copy.deepcopy(theirs)
    prefer_fast_gradients(ours)
    assert type(ours) is WinogradConv2d
    ours.compile_training(3, always)
    results = []
    for layer in (ours, theirs):
        x = torch.randn(3, 64, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.backward(torch.arange(y.numel(), dtype=torch.float64).cos().view_as(y))
        results.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    assert ours.is_compiled and filtered
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(63, 64, 3, padding=1),
        nn.Conv2d(64, 63, 3, padding=1),
        nn.Conv2d(64, 64, 3, 2, 1),
        nn.Conv2d(64, 64, 3, padding=0),
        nn.Conv2d(64, 64, 5, padding=1),
        nn.Conv2d(64, 64, (3, 1), padding=1),
    ],
)
def test_narrow_strided_and_other_kernels_are_not_filtered(layer):
    prefer_fast_gradients(layer)
    assert type(layer) is SmallMapConv2d


def test_only_the_batches_of_training_are_filtered_and_only_where_that_is_faster(filtered):
    layer = nn.Conv2d(64, 64, 3, padding=1).double()
    prefer_fast_gradients(layer)
    asked = []
    layer.compile_training(4, lambda key, ways: asked.append(key) or "5, 5" in key)
    layer.train()
    for count, side in ((4, 5), (4, 5), (3, 5), (4, 6), (4, 6)):
        layer(torch.zeros(count, 64, side, side, dtype=torch.float64))
    with torch.no_grad():
        layer(torch.zeros(4, 64, 5, 5, dtype=torch.float64))
    assert filtered == [(4, 5, 5, 64)] * 2  # each shape was asked for once
    assert asked == [f"3×3 convolution, torch.float64, (4, 64, {side}, {side}) to 64" for side in (5, 6)]
    layer.compile_training(0, None)
    layer(torch.zeros(4, 64, 5, 5, dtype=torch.float64))
    assert len(filtered) == 2 and not layer.is_compiled


def test_what_is_measured_leaves_no_gradient(filtered):
    layer = nn.Conv2d(64, 64, 3, padding=1).double()
    prefer_fast_gradients(layer)
    layer.compile_training(2, always)
    x = torch.zeros(2, 64, 4, 4, dtype=torch.float64, requires_grad=True)
    layer(x)
    assert layer.weight.grad is None and x.grad is None and len(filtered) == 2  # once to measure, once for the answer


def test_a_filtered_network_has_the_same_gradients(filtered, trained_alike):
    *_, wide = trained_alike("resnet18", 64, WinogradConv2d, always)
    assert len(wide) == 13 and all(layer.is_compiled for layer in wide)  # all 3×3 layers but those with a stride


def test_filtered_under_autocast_it_computes_in_half_precision(filtered):
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    prefer_fast_gradients(layer)
    layer.compile_training(2, always)
    x = torch.randn(2, 64, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    exact = nn.functional.conv2d(x, layer.weight, padding=1)
    assert filtered and y.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32
    assert (y - exact).abs().max() < 0.03 * exact.abs().max()
