"""Which images go into which batch of an epoch, as a pure function of seed and epoch."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Group:
    """The batches that one optimizer step averages over."""

    batches: list  # int64 index tensors: this process's share, one for each backward pass
    count: int  # images in the group over all processes


def epoch_order(count, seed, epoch, weights=None):
    """Indices in the order of an epoch: a permutation, or `count` draws with replacement by `weights` (count,)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if weights is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def plan_epoch(order, batch_size, accumulation=1, rank=0, world=1):
    """Cut an order into groups of `accumulation` batches of `batch_size` images a process.

    Every image is in exactly one batch of one process. The rest at the end is a smaller batch, or joins the one before
    it when it has less than two images for each process, as BatchNorm cannot normalise one alone.
    """
    cuts = list(range(batch_size * world, len(order), batch_size * world))
    if cuts and len(order) - cuts[-1] < 2 * world:
        cuts.pop()
    batches = torch.tensor_split(order, cuts)
    groups = [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
    return [Group([b.tensor_split(world)[rank] for b in group], sum(len(b) for b in group)) for group in groups]


def balanced_weights(labels):
    """A weight for each image so that every class is drawn equally often."""
    counts = np.bincount(labels)
    return torch.from_numpy(1.0 / counts[labels])


def class_weights(labels, classes):
    """A loss weight for each class, inverse to its frequency, with mean 1 over the images: float32 (classes,)."""
    counts = np.bincount(labels, minlength=classes)
    return torch.tensor(len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), dtype=torch.float32)
