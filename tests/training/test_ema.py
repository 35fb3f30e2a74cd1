import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from utils.training.ema import ModelEMA


@settings(max_examples=25)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.floats(0.1, 0.9999))
def test_after_n_updates_it_is_the_closed_form(values, decay):
    model = nn.Linear(1, 1).double()
    nn.init.constant_(model.weight, 3.0)
    ema = ModelEMA(model, decay)
    expected = 3.0
    weights = [min(decay, (1 + t) / (10 + t)) for t in range(1, len(values) + 1)]
    for value in values:
        nn.init.constant_(model.weight, value)
        ema.update(model)
    product = torch.tensor(weights, dtype=torch.float64).prod().item()
    expected = 3.0 * product  # Σ_t (1 - d_t) v_t Π_{s>t} d_s, and the start times the product of all
    for t, value in enumerate(values):
        later = torch.tensor(weights[t + 1 :], dtype=torch.float64).prod().item()
        expected += (1 - weights[t]) * value * later
    assert abs(ema.model.weight.item() - expected) < 1e-9


def test_buffers_are_averaged_or_copied_and_the_model_is_left_alone():
    model = nn.BatchNorm2d(2)
    ema = ModelEMA(model, 0.5)
    model.running_mean.fill_(1.0)
    model.num_batches_tracked += 7
    ema.update(model)
    assert ema.model.num_batches_tracked == 7
    assert torch.allclose(ema.model.running_mean, torch.full((2,), 1 - 2 / 11))
    assert torch.equal(model.running_mean, torch.ones(2)) and not any(p.requires_grad for p in ema.model.parameters())


def test_tied_weights_are_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    nn.init.ones_(model[0].weight)
    model[1].weight = model[0].weight
    nn.init.ones_(model[2].weight)
    ema = ModelEMA(model, 0.5)
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.weight)
    ema.update(model)
    assert ema.model[1].weight is ema.model[0].weight
    assert torch.equal(ema.model[0].weight, ema.model[2].weight) and ema.model[0].weight[0, 0] < 1


def test_it_goes_on_from_its_state():
    model = nn.Linear(2, 2)
    one, two = ModelEMA(model), ModelEMA(nn.Linear(2, 2))
    one.update(model)
    two.load_state_dict(one.state_dict())
    nn.init.zeros_(model.weight)
    for ema in (one, two):
        ema.update(model)
    assert torch.equal(one.model.weight, two.model.weight) and two.updates == 2
