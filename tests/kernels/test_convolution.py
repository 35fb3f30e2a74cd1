import copy

import pytest
import torch
from torch import nn

from utils.kernels import winograd
from utils.kernels.convert import use_training_kernels
from utils.kernels.convolution import DepthwiseConv2d, GlobalAveragePool, SmallMapConv2d, WinogradConv2d


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    """Both kinds prefer bf16, whose rounding would hide mistakes."""
    monkeypatch.setattr(SmallMapConv2d, "dtypes", (torch.bfloat16, torch.float64))
    monkeypatch.setattr(DepthwiseConv2d, "gains", lambda self, x, dtype: True)


def compare(theirs, kind, shape):
    """Values and gradients of a layer and of what it becomes, on waves of a shape."""
    theirs = theirs.double()
    ours = use_training_kernels(copy.deepcopy(theirs)) if list(theirs.parameters()) else GlobalAveragePool(1)
    assert type(ours) is kind
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
    """36 weights a channel: two maps of 5×5 pixels have more than that, of 3×3 pixels fewer."""
    layer = use_training_kernels(nn.Conv2d(4, 4, 3, stride, 1))
    assert layer.gains(torch.zeros(2, 4, 5, 5), torch.bfloat16) is ours


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [(3, 1), (3, 0), (5, 2), (5, 0), (7, 3), (7, 1), ((3, 5), (0, 2)), (2, 2), (1, 1)]
)
@pytest.mark.parametrize("size", [(7, 8), (10, 9)])
def test_depthwise_convolutions_have_the_values_and_gradients_of_torch(stride, kernel, padding, size):
    compare(nn.Conv2d(6, 6, kernel, stride, padding, groups=6), DepthwiseConv2d, (2, 6, *size))


@pytest.mark.parametrize("kernel", [5, 7, 9, 31])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_maps_smaller_than_the_kernel(size, kernel):
    compare(nn.Conv2d(4, 4, kernel, padding=kernel // 2, groups=4, bias=False), DepthwiseConv2d, (3, 4, size, size))


def test_large_maps_fp32_frozen_weights_and_evaluation_go_the_plain_way(monkeypatch):
    convolution = use_training_kernels(nn.Conv2d(4, 8, 3, padding=1)).double()
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
    network = use_training_kernels(nn.Sequential(*kept))
    assert [type(layer) for layer in network] == [type(layer) for layer in kept]


def test_depthwise_in_fp32_is_ours_for_wide_kernels_without_a_stride(monkeypatch):
    monkeypatch.undo()
    layers = (nn.Conv2d(4, 4, k, s, k // 2, groups=4) for k, s in ((5, 1), (5, 2), (3, 1)))
    wide, strided, usual = map(use_training_kernels, layers)
    x = torch.zeros(1, 4, 8, 8)
    assert [layer.gains(x, torch.float32) for layer in (wide, strided, usual)] == [True, False, False]
    assert all(layer.gains(x, torch.bfloat16) for layer in (wide, strided, usual))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_whole_network_has_the_same_gradients_and_names(trained_alike, name):
    trained_alike(name, 32)


@pytest.mark.parametrize("groups", [1, 64])
def test_under_autocast_it_computes_in_half_precision(groups):
    convolution = use_training_kernels(nn.Conv2d(64, 64, 3, padding=1, groups=groups))
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(torch.randn(2, 64, 2, 2))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert convolution.weight.grad.dtype == torch.float32


def test_gradients_in_half_precision_are_near_those_in_single():
    """A stride, so that the gradient of the input goes through fp32, and five columns."""
    torch.manual_seed(0)
    layer = use_training_kernels(nn.Conv2d(32, 32, 5, 2, 2, groups=32, bias=False))
    grads = []
    for half in (False, True):
        x = torch.randn(8, 32, 14, 14, generator=torch.Generator().manual_seed(1), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = layer(x)
        layer.zero_grad()
        y.backward(torch.ones_like(y))
        grads.append((x.grad, layer.weight.grad))
    for single, half in zip(*grads, strict=True):
        assert (single - half).abs().max() < 0.02 * single.abs().max()


@pytest.fixture
def filtered(monkeypatch):
    """Winograd's filtering in double precision, uncompiled; the calls of it, as shapes of x."""
    calls, convolve = [], winograd.convolve
    monkeypatch.setitem(winograd.TILES, torch.float64, 4)
    monkeypatch.setattr("utils.kernels.convolution.compiled", lambda kernels: kernels)
    monkeypatch.setattr(winograd, "convolve", lambda x, *rest: (calls.append(tuple(x.shape)), convolve(x, *rest))[1])
    return calls


def filtering(layer, *shapes, dtype=torch.float64):
    """`layer` as a WinogradConv2d for batches of these shapes."""
    assert WinogradConv2d.takes(layer)
    return WinogradConv2d.from_layer(layer, {(shape, dtype) for shape in shapes})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_filtered_layers_have_the_values_and_gradients_of_torch(filtered, bias, size):
    theirs = nn.Conv2d(64, 65, 3, padding=1, bias=bias).double()
    ours = filtering(copy.deepcopy(theirs), (3, 64, *size))
    results = []
    for layer in (ours, theirs):
        x = torch.randn(3, 64, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.backward(torch.arange(y.numel(), dtype=torch.float64).cos().view_as(y))
        results.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    assert filtered
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
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
    ],
)
def test_narrow_strided_and_other_kernels_are_not_filtered(layer):
    assert not WinogradConv2d.takes(layer)


def test_only_the_batches_that_it_is_for_are_filtered(filtered):
    layer = filtering(nn.Conv2d(64, 64, 3, padding=1).double(), (4, 64, 5, 5))
    for count, side in ((4, 5), (4, 5), (3, 5), (4, 6)):
        layer(torch.zeros(count, 64, side, side, dtype=torch.float64))
    with torch.no_grad():
        layer(torch.zeros(4, 64, 5, 5, dtype=torch.float64))
    assert filtered == [(4, 5, 5, 64)] * 2


def test_a_filtered_network_has_the_same_gradients(filtered, trained_alike, monkeypatch):
    monkeypatch.setattr("utils.kernels.blocks.compiled", lambda passes, **how: passes)
    monkeypatch.setattr("utils.kernels.convert.faster", lambda key, ways: True)
    *_, wide = trained_alike("resnet18", 64, WinogradConv2d, compile=True)
    assert len(wide) == 13  # all 3×3 layers but those with a stride


def test_filtered_under_autocast_it_computes_in_half_precision(filtered):
    layer = filtering(nn.Conv2d(64, 64, 3, padding=1, bias=False), (2, 64, 6, 6), dtype=torch.bfloat16)
    x = torch.randn(2, 64, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    exact = nn.functional.conv2d(x, layer.weight, padding=1)
    assert filtered and y.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32
    assert (y - exact).abs().max() < 0.03 * exact.abs().max()
