"""Batches of a split for training and for evaluation."""

import contextlib
import itertools
import os
import random

import numpy as np
import torch

from utils.core.errors import UserError
from utils.data.cache import open_store
from utils.data.geometry import centre_crops, normalise
from utils.runtime.device import send


def needs_workers(store, device):
    """Whether loader workers have something to do: to decode, or to gather for a GPU that does not hold the images."""
    tensor = getattr(store, "images", getattr(store, "flat", None))
    return store.needs_workers or tensor.device.type != device.type


def train_batches(store, labels, indices, device, workers=0, keys=()):
    """Yield (Pixels, labels) on `device` for each index tensor of `indices`.

    `keys` are lists of whole numbers, one a batch: what a store draws at random depends on that of the batch alone.
    Where `needs_workers` says so, workers do it ahead of time and, for a GPU, into pinned memory; the rest happens here.
    """
    helped = needs_workers(store, device)
    loader = torch.utils.data.DataLoader(
        _Gathered(store, labels),
        batch_size=None,
        sampler=list(itertools.zip_longest(indices, keys)),
        collate_fn=as_it_is,
        num_workers=workers if helped else 0,
        prefetch_factor=4 if helped and workers else None,
        pin_memory=helped and device.type == "cuda",
        worker_init_fn=own_group,
        generator=torch.Generator(),  # its own, so that the global one stays where the run has it
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        pixels, batch_labels = batch
        yield pixels.to(device), send(batch_labels, device)


def eval_batches(split, card, batch_size, device="cpu", *, store=None, workers=0, shard=(0, 1)):
    """Yield (images, labels) in the order of the split, through the preprocessing of the card.

    images: float32 (N, 3, S, S) normalised; labels: int64 (N,). `store` saves decoding again what training has decoded.
    `shard` is (number, count): the part of a split that one of several processes takes, contiguous and none twice.
    """
    device = torch.device(device)
    store = store or open_store(split, card.resize_size, cache="off", interpolation=card.interpolation)
    mine = torch.arange(len(split)).tensor_split(shard[1])[shard[0]]
    labels = torch.from_numpy(split.labels)
    for pixels, batch_labels in train_batches(store, labels, mine.split(batch_size) if len(mine) else [], device, workers):
        crops = centre_crops(pixels, card.image_size, card.resize_size, card.interpolation)
        yield normalise(crops, card.mean, card.std), batch_labels


def own_group(worker):
    """What torchrun or a terminal sends to all processes of a run is for the first, which lets its workers finish the step."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


@contextlib.contextmanager
def drawing_from(key):
    """Within it the random generators of this process, without those of a GPU, go on from `key`; afterwards as before.

    `key` is a list of whole numbers, or None, which changes nothing.
    """
    if key is None:
        yield
        return
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class _Gathered(torch.utils.data.Dataset):
    """Batches by the tensor of their indices and the key of what is drawn for them."""

    def __init__(self, store, labels):
        self.store, self.labels = store, labels

    def __getitem__(self, indices_and_key):
        """(Pixels, labels), or the UserError of an image: the loader would wrap one that is raised in a log of its worker."""
        indices, key = indices_and_key
        try:
            with drawing_from(key):
                return self.store.gather(indices), self.labels[indices]
        except UserError as error:
            return error


def as_it_is(batch):
    return batch
