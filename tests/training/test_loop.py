import copy
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from models.build import build_model, freeze_trunk, head_of
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.splits import Dataset
from utils.runtime.config import RunConfig
from utils.training.batches import BatchPlan
from utils.training.data import TrainingData
from utils.training.ema import ModelEMA
from utils.training.loop import CHECK_EVERY, Clock, Step, check_losses, set_train_mode, train_epoch
from utils.training.optim import build_optimizer
from utils.training.options import TrainOptions
from utils.training.registry import OPTIMIZERS
from utils.training.state import TrainState

CPU = torch.device("cpu")
CONFIG = RunConfig(CPU)
CARD = ModelCard("custom", list("0123456789"), 16)
SPLIT = open_dataset("digits").train.subset(range(300))  # 300 = 2 · 128 + 44: the last group is incomplete


def network(norm="GN"):
    torch.manual_seed(0)
    model = build_model("custom", 10, 16, norm)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def state_of(model, optimizer="sgd", ema=False):
    return TrainState(model, build_optimizer(optimizer, model, 0.05, 0.01), CONFIG.scaler(), ModelEMA(model) if ema else None)


def epoch(model, batch_size, accumulation=1, state=None, stop=None, clock=None, config=CONFIG, **of_step):
    """One epoch on the digits without randomness but the order: the state, and how many images each step took."""
    state = state or state_of(model)
    options = TrainOptions(dataset="digits", model="custom", image_size=16, plain_epochs=1, max_epoch=1)
    data = TrainingData(Dataset("digits", list("0123456789"), SPLIT), CARD, options, CPU)
    groups = BatchPlan(batch_size, accumulation).groups(data.order(state.epoch))
    clock, dtype = clock or Clock(), next(model.parameters()).dtype
    batches = ((images.to(dtype), targets) for images, targets in data.train_batches(state, groups, clock))
    step = Step(model, config, lambda step: 0.05 / (1 + step), **of_step)
    model.train()
    return state, list(train_epoch(step, state, groups, batches, clock, stop))


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
    weighted, plain = {"loss_options": {"weight": torch.linspace(0.5, 1.5, 10)}}, network().double()
    one, two = network().double(), network().double()
    epoch(one, 128, **weighted)
    epoch(two, 64, 2, **weighted)
    epoch(plain, 128)
    assert difference(one, two) < 1e-5 < 1e-3 < difference(one, plain)


def test_the_average_follows_the_optimizer_steps():
    model = network()
    state, images = epoch(model, 32, 4, state=state_of(model, ema=True))
    assert state.ema.updates == state.step == 3 and images == [128, 128, 44]


class AfterTheFourth:
    save_due = False

    def look(self, step):
        return step == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_interrupted_epoch_goes_on_bit_for_bit(name):
    whole = network()
    state, images = epoch(whole, 32, state=state_of(whole, name, ema=True))
    assert (state.epoch, state.group, state.step) == (1, 0, 10) and images == [32] * 9 + [12]

    part = network()
    first, images = epoch(part, 32, state=state_of(part, name, ema=True), stop=AfterTheFourth())
    assert (first.epoch, first.group, first.step) == (0, 4, 4) and images == [32] * 4
    saved = copy.deepcopy(first.state_dict())
    fresh = build_model("custom", 10, 16, "GN")
    for module in fresh.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    second = state_of(fresh, name, ema=True)
    second.load_state_dict(saved, CPU)
    second, images = epoch(fresh, 32, state=second)
    assert images == [32] * 5 + [12]
    assert difference(whole, fresh) == 0 and difference(state.ema.model, second.ema.model) == 0
    assert second.totals.averages(10) == state.totals.averages(10)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_that_stay_in_place_train_the_same(accumulation):
    freed, kept = network(), network()
    epoch(freed, 16, accumulation, state=state_of(freed, "adamw"))
    for parameter in kept.parameters():
        parameter.grad = torch.zeros_like(parameter)
    places = [p.grad.data_ptr() for p in kept.parameters()]
    stay = SimpleNamespace(device=CPU, autocast=CONFIG.autocast, keeps_gradients=True)  # as with CUDA graphs
    epoch(kept, 16, accumulation, state=state_of(kept, "adamw"), config=stay)
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
    state = state_of(network())
    state.step = 7
    with pytest.raises(UserError, match="the loss is not finite at step 6 "):
        check_losses(state, [torch.tensor(1.0)] * 3)


def test_the_loss_that_is_shown_is_the_average_since_the_last_look():
    state = state_of(network())
    check_losses(state, [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(6.0)])
    assert state.recent_loss == 3.0
    check_losses(state, [])
    assert state.recent_loss == 3.0


def test_losses_are_looked_at_every_twentieth_step_and_at_the_end(monkeypatch):
    looks = []
    monkeypatch.setattr("utils.training.loop.check_losses", lambda state, losses: looks.append((state.step, len(losses))))
    epoch(network(), 6)
    assert looks == [(20, CHECK_EVERY), (40, CHECK_EVERY), (50, 10)]


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


def test_a_scaled_gradient_is_clipped_at_its_true_norm():
    """Scaled by 1024, as fp16 has it, a gradient below the limit stays as it is."""
    plain, scaled = network(), network()
    epoch(plain, 300, clip_grad=100)
    state = state_of(scaled)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    epoch(scaled, 300, state=state, clip_grad=100)
    assert difference(plain, scaled) < 1e-6 < difference(plain, network())


def test_times_add_up():
    clock, started = Clock(), time.perf_counter()
    epoch(network(), 64, clock=clock)
    assert clock.computing > clock.waiting > 0 and clock.augmenting > 0 and clock.evaluating == 0
    assert sum(vars(clock).values()) < time.perf_counter() - started


def test_frozen_statistics_stay():
    model = build_model("resnet18", 10, 32)
    freeze_trunk(model, "resnet18")
    set_train_mode(model, head_of(model, "resnet18"))
    before = model.bn1.running_mean.clone()
    model(torch.rand(4, 3, 32, 32))
    assert torch.equal(before, model.bn1.running_mean) and model.fc[2].training and not model.layer1.training
    set_train_mode(model)
    model(torch.rand(4, 3, 32, 32))
    assert not torch.equal(before, model.bn1.running_mean)
