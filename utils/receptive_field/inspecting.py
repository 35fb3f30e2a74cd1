"""How a network is held still to look at it."""

from contextlib import contextmanager

import torch


@contextmanager
def inspecting(model):
    """Inference mode of every module and no gradients to parameters, put back as they were afterwards."""
    training = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def device_of(model):
    """Where the parameters of a network are; the CPU for one that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
