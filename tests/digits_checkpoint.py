"""A FashionCNN that has learnt scikit-learn's digits in a second or two: (network, card), for tests that need real answers."""

import functools

import torch

from models.build import build_model
from models.checkpoint import save_checkpoint
from utils.core.card import ModelCard
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches


@functools.cache
def trained(image_size=16):
    """About 98 % right on the test split."""
    data = open_dataset("digits")
    card = ModelCard("custom", data.classes, image_size, training={"dataset": "digits"})
    return learn(card, data.train, steps=130), card


def learn(card, split, steps, batch=64):
    """A network of the card's architecture after so many steps on a Split, in eval mode; the same one every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(card.architecture, card.num_classes, card.image_size).train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.1  # MobileNetV3 has 0.01, which after so few steps still averages over the start
        order = torch.cat([torch.randperm(len(split)) for _ in range(-(-steps * batch // len(split)))])
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)
        for images, labels in eval_batches(split.subset(order[: steps * batch].numpy()), card, batch):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def checkpoint(path):
    """Save the trained network to `path` and return that."""
    network, card = trained()
    save_checkpoint(path, {"model": network.state_dict(), "card": card.to_dict()})
    return path
