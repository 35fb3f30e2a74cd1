import copy

import pytest
import torch
from torch import nn

from models.custom import Block
from utils.kernels.blocks import FusedBlock, FusedNorms, PoolThenRelu


@pytest.mark.parametrize(
    "shape, norm, fused",
    [
        ((2, 4, 6, 6), nn.BatchNorm2d(4), True),
        ((2, 4, 6, 6), nn.BatchNorm2d(4).eval(), False),
        ((3, 4, 6, 6), nn.BatchNorm2d(4), False),
        ((2, 4, 6, 6), nn.SyncBatchNorm(4), False),
        ((2, 4, 6, 6), nn.GroupNorm(2, 4), False),
    ],
)
def test_only_plain_batch_norm_of_training_batches_is_fused(shape, norm, fused):
    block = FusedNorms(nn.Sequential(norm), batch_size=2)
    before = dict(vars(block))
    assert block.fuses(torch.zeros(shape), norm) is fused
    assert vars(block) == before  # to ask changes nothing


@pytest.mark.parametrize(
    "norm, taken",
    [
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4).requires_grad_(False), False),
        (nn.SyncBatchNorm(4), False),
        (nn.GroupNorm(2, 4), False),
    ],
)
def test_blocks_are_taken_that_have_a_batch_norm_to_train(norm, taken):
    assert FusedNorms.takes(nn.Sequential(nn.Conv2d(3, 4, 3), norm)) is taken


@pytest.fixture
def uncompiled(monkeypatch):
    """The passes as they are; the lines (L, W, C) that they were called for."""
    calls = []

    def counting(passes, **how):
        return passes._replace(statistics=lambda x: (calls.append(tuple(x.shape)), passes.statistics(x))[1])

    monkeypatch.setattr("utils.kernels.blocks.compiled", counting)
    return calls


def test_one_pixel_in_all_is_refused_as_torch_refuses_it(uncompiled):
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match="more than 1 value"):
        FusedNorms(nn.Sequential(norm), batch_size=1).norm_relu(torch.zeros(1, 4, 1, 1), norm)


def test_a_block_fuses_the_batches_and_whole_windows_that_it_is_for(uncompiled):
    torch.manual_seed(0)
    block = FusedBlock(Block(3, 4).train(), batch_size=6)
    for count, side in ((6, 8), (5, 8), (6, 7)):
        block(torch.randn(count, 3, side, side))
    block.eval()(torch.randn(6, 3, 8, 8))
    assert uncompiled == [(6 * 8, 8, 4)]


@pytest.mark.parametrize("side", [10, 7])
@pytest.mark.parametrize("training", [True, False])
def test_pooling_before_relu_changes_neither_values_nor_gradients_nor_statistics(side, training):
    torch.manual_seed(0)
    theirs = Block(16, 32).double().train(training)
    ours = PoolThenRelu(copy.deepcopy(theirs))
    assert ours.training is training
    images = torch.randn(4, 16, side, side, dtype=torch.float64)
    results = []
    for block in (ours, theirs):
        answer = block(images)
        answer.square().sum().backward()
        results.append([answer.detach(), *(p.grad for p in block.parameters()), *block.buffers()])
    assert results[0][0].shape == (4, 32, side // 2, side // 2) and results[0][0].any()
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name, norms", [("resnet18", 17), ("resnet50", 49)])
def test_a_residual_network_has_the_same_values_gradients_and_statistics(uncompiled, trained_alike, name, norms):
    ours, theirs, images, parts = trained_alike(name, 32, FusedNorms, compile=True)
    assert len(parts) == {"resnet18": 9, "resnet50": 17}[name]
    assert len(uncompiled) == 2 * norms  # all but those of the shortcuts, in the trial and in the step
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for one, two in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-9, atol=1e-12)
    assert len(uncompiled) == 2 * norms
