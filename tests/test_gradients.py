import copy

import pytest
import torch
from torch import nn

from models import build_model, ready_to_train
from models.gradients import DepthwiseConv2d, GlobalAveragePool, SmallMapConv2d, prefer_fast_gradients


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
    monkeypatch.setattr("models.gradients._Convolution.apply", lambda *args: pytest.fail("taken"))
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
def test_a_whole_network_has_the_same_gradients_and_names(name):
    torch.manual_seed(0)
    theirs = build_model(name, 5, 32).double().train()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = ready_to_train(copy.deepcopy(theirs), torch.device("cpu"))
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(images), labels).backward()
    for (name, one), (other, two) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-6, atol=1e-9)


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
