import copy
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from models.build import build_model, freeze_trunk, head_of
from utils.core.card import IMAGENET_MEAN, IMAGENET_STD
from utils.core.errors import UserError
from utils.data.augment import AUGMENTATIONS
from utils.data.cache import open_store
from utils.data.datasets import open_dataset
from utils.data.loader import train_batches
from utils.data.sampling import epoch_order, plan_epoch
from utils.evaluation.evaluate import Evaluation, evaluate, gather
from utils.evaluation.metrics import headline
from utils.runtime.precision import Runtime
from utils.training.ema import ModelEMA
from utils.training.loop import Clock, _check_finite, set_train_mode, train_one_epoch
from utils.training.optim import build_optimizer
from utils.training.state import TrainState

CPU = torch.device("cpu")
SPLIT = open_dataset("digits").train.subset(range(300))  # 300 = 2 · 128 + 44: the last group is incomplete


def network(norm="GN"):
    torch.manual_seed(0)
    model = build_model("custom", 10, 16, norm)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def epoch(model, batch_size, accumulation=1, optimizer="sgd", ema=False, stop=None, state=None, **options):
    """One epoch on the digits without randomness but the order."""
    state = state or TrainState(
        model, build_optimizer(optimizer, model, 0.05, 0.01), Runtime(CPU).scaler(), ModelEMA(model) if ema else None
    )
    groups = plan_epoch(epoch_order(len(SPLIT), 0, state.epoch), batch_size, accumulation)
    indices = [batch for group in groups[state.group :] for batch in group.batches]
    batches = train_batches(open_store(SPLIT, 18), torch.from_numpy(SPLIT.labels), indices, CPU)
    augment = AUGMENTATIONS["none"](16, IMAGENET_MEAN, IMAGENET_STD)
    model.train()
    dtype = next(model.parameters()).dtype
    prepare = lambda pixels, labels, n: (augment(pixels, np.random.default_rng(n)).to(dtype), labels)  # noqa: E731
    done = train_one_epoch(
        state, model, groups, batches, prepare, Runtime(CPU),
        learning_rate=lambda step: 0.05 / (1 + step), loss_options=options.pop("loss_options", {}), stop=stop, **options,
    )  # fmt: skip
    return state, done


def difference(one, two):
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(("batch_size", "accumulation"), [(64, 2), (32, 4), (50, 3)])
def test_accumulation_equals_the_greater_batch(batch_size, accumulation):
    one, two = network().double(), network().double()  # in float32 a rounding may turn a tie of the max-pooling
    large, _ = epoch(one, batch_size * accumulation)
    small, _ = epoch(two, batch_size, accumulation)
    assert large.step == small.step and difference(one, two) < 1e-5
    assert difference(one, network().double()) > 1e-2  # it has learned something
    assert large.totals.averages(10)["Acc@1"] == pytest.approx(small.totals.averages(10)["Acc@1"], abs=0.02)


def test_class_weights_are_averaged_over_the_true_group_too():
    options = {"loss_options": {"weight": torch.linspace(0.5, 1.5, 10)}}
    one, two = network().double(), network().double()
    epoch(one, 128, **options)
    epoch(two, 64, 2, **options)
    assert difference(one, two) < 1e-5


def test_the_average_follows_the_optimizer_steps():
    state, _ = epoch(network(), 32, 4, ema=True)
    assert state.ema.updates == state.step == 3


def test_an_interrupted_epoch_goes_on_bit_for_bit():
    whole = network()
    state, done = epoch(whole, 32, optimizer="adamw", ema=True)
    assert done and state.epoch == 1 and state.group == 0

    class AfterTheFourth:
        def look(self, step):
            return step == 4

    part = network()
    first, done = epoch(part, 32, optimizer="adamw", ema=True, stop=AfterTheFourth())
    assert not done and first.group == 4
    saved = copy.deepcopy(first.state_dict())
    fresh = build_model("custom", 10, 16, "GN")
    for module in fresh.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    second = TrainState(fresh, build_optimizer("adamw", fresh, 1.0, 0.01), Runtime(CPU).scaler(), ModelEMA(fresh))
    second.load_state_dict(saved, CPU)
    second, done = epoch(fresh, 32, state=second)
    assert done and difference(whole, fresh) == 0 and difference(state.ema.model, second.ema.model) == 0
    assert second.totals.averages(10) == state.totals.averages(10)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_that_stay_in_place_train_the_same(accumulation, monkeypatch):
    freed, kept = network(), network()
    epoch(freed, 16, accumulation, optimizer="adamw")
    monkeypatch.setattr(Runtime, "keeps_gradients", True)
    for parameter in kept.parameters():
        parameter.grad = torch.zeros_like(parameter)
    places = [p.grad.data_ptr() for p in kept.parameters()]
    epoch(kept, 16, accumulation, optimizer="adamw")
    assert difference(freed, kept) == 0 and places == [p.grad.data_ptr() for p in kept.parameters()]


def test_a_loss_that_is_not_finite_stops_with_step_and_rate():
    model = network()
    with torch.no_grad():
        model.classifier[3].bias[0] = float("inf")
    with pytest.raises(UserError, match=r"not finite at step 1 \(learning rate"):
        epoch(model, 64)


def test_a_loss_that_is_not_finite_in_another_process_stops_this_one_at_the_same_step(monkeypatch):
    def of_both(finite, op):
        assert op == dist.ReduceOp.MIN
        finite[1] = 0  # what the other process has found

    monkeypatch.setattr("utils.training.loop.world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", of_both)
    with pytest.raises(UserError, match="the loss is not finite at step 6 "):
        _check_finite([torch.tensor(1.0)] * 3, 7, 0.1)


def test_weights_that_the_last_step_has_spoiled_stop_the_run_before_it_saves_them():
    model = network()
    model.classifier[3].bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"the weights are not finite at step 1 \(learning rate"):
        epoch(model, 300)


def test_the_gradient_is_clipped():
    model = network()
    norms = []
    model.classifier[0].weight.register_hook(lambda g: norms.append(g.norm().item()))
    before = copy.deepcopy(model)
    epoch(model, 300, clip_grad=1e-4)
    assert max(norms) > 0.1 and 0 < difference(model, before) < 1e-3  # weight decay alone moves it by up to 2e-4


def test_times_add_up():
    clock, started = Clock(), time.perf_counter()
    epoch(network(), 64, clock=clock)
    assert clock.computing > clock.waiting > 0 and clock.augmenting > 0 and clock.evaluating == 0
    assert sum(vars(clock).values()) < time.perf_counter() - started


def test_frozen_statistics_stay():
    model = build_model("resnet18", 10, 32)
    freeze_trunk(model)
    set_train_mode(model, head_of(model))
    before = model.bn1.running_mean.clone()
    model(torch.rand(4, 3, 32, 32))
    assert torch.equal(before, model.bn1.running_mean) and model.fc[2].training and not model.layer1.training
    set_train_mode(model)
    model(torch.rand(4, 3, 32, 32))
    assert not torch.equal(before, model.bn1.running_mean)


def test_averages_are_over_samples_for_every_batch_size():
    logits, labels = torch.randn(101, 7), torch.randint(7, (101,))
    order = []
    for size in (1, 10, 101):
        batches = list(zip(logits.split(size), labels.split(size), strict=True))
        order.append(headline(*(lambda e: (e.logits, e.labels))(evaluate(lambda x: x, batches))))
    assert order[0] == order[1] == order[2]


def test_one_process_gathers_itself():
    evaluation = Evaluation(torch.zeros(2, 3), torch.zeros(2), 0.1)
    assert gather(evaluation) is evaluation
