"""Exponential moving average of a model's weights."""

import copy

import torch


def _tensors(model):
    """{name: parameter or buffer} of what a model saves, each once: tied weights have several names, here the last."""
    named = model.state_dict(keep_vars=True)
    names = {id(value): key for key, value in named.items()}
    return {key: named[key] for key in names.values()}


class ModelEMA:
    """Averages parameters and floating-point buffers: average ← d·average + (1 - d)·value after every optimizer step.

    The decay of update t = 1, 2, … is d_t = min(decay, (1 + t) / (10 + t)), so that the random start is forgotten within
    a few steps and the average spans about a ninth of the training so far until `decay` caps it. Integer buffers are
    copied. Polyak & Juditsky 1992; the ramp is that of TensorFlow's ExponentialMovingAverage.

    torch.optim.swa_utils.AveragedModel would not be shorter: it copies the weights at the first update instead of averaging
    them in, passes integer buffers to the averaging function too, and groups all tensors anew in every step.
    """

    def __init__(self, model, decay=0.9998):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    def decay_at(self, update):
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self, model):
        """Average in the weights that `model` has now."""
        self.updates += 1
        averages, values = _tensors(self.model), _tensors(model)
        floating = [key for key, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[key] for key in floating], [values[key] for key in floating], 1 - self.decay_at(self.updates)
        )
        for key in values.keys() - set(floating):
            averages[key].copy_(values[key])

    def state_dict(self):
        return {"model": self.model.state_dict(), "updates": self.updates, "decay": self.decay}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.updates, self.decay = state["updates"], state["decay"]
