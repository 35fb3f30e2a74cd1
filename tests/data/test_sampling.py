import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.data.sampling import balanced_weights, class_weights, epoch_order, plan_epoch


@given(st.integers(1, 600), st.integers(1, 70), st.integers(1, 5), st.integers(1, 4))
def test_every_picture_is_in_one_batch_of_one_process(count, batch_size, accumulation, world):
    order = epoch_order(count, seed=1, epoch=0)
    plans = [plan_epoch(order, batch_size, accumulation, rank, world) for rank in range(world)]
    taken = torch.cat([batch for plan in plans for group in plan for batch in group.batches])
    assert sorted(taken.tolist()) == list(range(count))
    for groups in zip(*plans, strict=True):
        assert len({group.count for group in groups}) == 1
        assert sum(len(batch) for group in groups for batch in group.batches) == groups[0].count
        assert all(len(group.batches) <= accumulation for group in groups)
    if count >= 2 * world:
        assert all(len(batch) >= 2 for plan in plans for group in plan for batch in group.batches if batch_size > 1)


@given(st.integers(2, 400), st.integers(1, 30), st.integers(1, 4))
def test_accumulated_batches_are_the_groups_of_the_greater_batch(count, batch_size, accumulation):
    order = torch.arange(count)
    small = plan_epoch(order, batch_size, accumulation)
    large = plan_epoch(order, batch_size * accumulation)
    if len(order) % (batch_size * accumulation) not in (1,):
        assert [group.count for group in small] == [group.count for group in large]


def test_orders_differ_by_epoch_and_seed_and_come_again():
    orders = [epoch_order(50, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3] and orders[0] != orders[1] != orders[2] != orders[0]


def test_balanced_draws_and_weights():
    labels = np.array([0] * 900 + [1] * 100)
    drawn = labels[epoch_order(4000, 0, 0, balanced_weights(np.tile(labels, 4))) % 1000]
    assert 0.45 < drawn.mean() < 0.55
    weights = class_weights(labels, 2)
    assert torch.allclose(weights, torch.tensor([1000 / 1800, 1000 / 200]))
    assert abs(weights[labels].mean() - 1) < 1e-6


def test_classes_without_an_image_leave_the_weights_of_the_others_alone():
    labels = np.array([0] * 30 + [2] * 10)
    weights = class_weights(labels, 4)
    assert torch.allclose(weights[[0, 2]], class_weights(labels // 2, 2))
    assert abs(weights[labels].mean() - 1) < 1e-6 and weights.isfinite().all()
