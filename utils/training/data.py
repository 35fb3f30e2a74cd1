"""The images of a run on their way into the network."""

import itertools
import pathlib
import sys
import time

import numpy as np
import torch

from utils.core.errors import UserError
from utils.data.augment import erase, mix
from utils.data.broken import broken_images, without
from utils.data.cache import open_store
from utils.data.loader import eval_batches, needs_workers, train_batches
from utils.data.registry import AUGMENTATIONS
from utils.data.sampling import balanced_weights, class_weights, epoch_order
from utils.data.stores import TransformStore, resident
from utils.data.streams import Position, StreamSplit, goes_on, stream_batches
from utils.runtime import distributed


def leave_out_broken(dataset):
    """Take the images that do not decode out of every split of a Dataset; return a sentence on each. Decodes every image."""
    sentences = []
    for name in ("train", "val", "test"):
        split = getattr(dataset, name)
        broken = distributed.from_main(broken_images, split, sys.stderr.isatty()) if split else []
        if broken:
            setattr(dataset, name, without(split, [index for index, _ in broken], dataset.classes))
            sentences += [sentence for _, sentence in broken]
    return sentences


class TrainingData:
    """Decoded splits, the order of every epoch, and the batches of training and evaluation."""

    def __init__(self, dataset, card, options, device):
        """Decodes what is to be kept decoded. Raises UserError that names images that cannot be read."""
        self.dataset, self.card, self.options, self.device = dataset, card, options, device
        self.workers = 0  # set once the cores are shared
        self.labels = torch.from_numpy(dataset.train.labels)
        self.sampling = balanced_weights(dataset.train.labels) if options.balanced_sampler else None
        geometry = (options.image_size, card.mean, card.std, card.resize_size, card.interpolation)
        self.augment, self.plain = AUGMENTATIONS[options.augment](*geometry), AUGMENTATIONS["none"](*geometry)
        self.streamed = isinstance(dataset.train, StreamSplit)
        if self.streamed and (options.balanced_sampler or options.class_weights or self.augment.per_image):
            raise UserError(
                "nothing is known of a streamed image before it comes: leave out class weights, the balanced sampler and the "
                "augmentation torchvision",
                option="stream_images",
            )
        splits = {split.name: split for split in dataset.splits if not isinstance(split, StreamSplit)}
        cache, show = pathlib.Path(options.data_dir, "cache"), distributed.rank() == 0 and sys.stderr.isatty()
        with distributed.first_here_first():
            how = (card.resize_size, options.cache, cache, show, card.interpolation)
            stores = {name: open_store(split, *how) for name, split in splits.items()}
        self.stores = resident(stores, device)
        # Epochs with augmentation read `train_store`: some augmentations work on files, one by one, in loader workers.
        per_image = self.augment.per_image
        self.train_store = TransformStore(dataset.train, per_image) if per_image else self.stores.get("train")

    @property
    def needs_workers(self):
        """Whether loader workers would have something to do."""
        stores = filter(None, (self.train_store, *self.stores.values()))
        return self.streamed or any(needs_workers(store, self.device) for store in stores)

    def class_weights(self):
        """float32 (classes,) on the device: weights of the loss, inverse to the frequency of the class."""
        return class_weights(self.dataset.train.labels, self.card.num_classes).to(self.device)

    def order(self, epoch):
        """Indices of the training images in the order of an epoch, which is counted from 0; of a stream, only their number."""
        if self.streamed:
            return torch.arange(len(self.dataset.train))
        return epoch_order(len(self.dataset.train), self.options.seed, epoch, self.sampling)

    def train_batches(self, state, groups, clock):
        """Yield (images, targets) for the batches of the running epoch that are left, and clock what that takes.

        images: float32 (N, 3, S, S), normalised; targets: int64 (N,), or soft labels float (N, classes).
        """
        epoch, rank, seed = state.epoch, distributed.rank(), self.options.seed
        done, left = (
            [batch for group in part for batch in group.batches] for part in (groups[: state.group], groups[state.group :])
        )
        keys = [[seed, epoch, number, rank] for number in range(len(done), len(done) + len(left))]
        loader = self._streamed_batches(state, done, left) if self.streamed else self._gathered_batches(epoch, left, keys)
        for key in keys:
            started = time.perf_counter()
            pixels, labels = next(loader)
            gathered = time.perf_counter()
            batch = self._prepare(pixels, labels, epoch, key)
            clock.waiting += gathered - started
            if self.device.type == "cpu":
                clock.augmenting += time.perf_counter() - gathered
            yield batch

    def _gathered_batches(self, epoch, indices, keys):
        store = self.stores["train"] if epoch >= self.options.plain_from else self.train_store
        return iter(train_batches(store, self.labels, indices, self.device, self.workers, keys))

    def _streamed_batches(self, state, done, left):
        """From the position in the state; where it has none of this order, what is done of the epoch is read once more."""
        how, split = (self.card.resize_size, self.card.interpolation), self.dataset.train
        again = not goes_on(state.stream, split, self.workers, sum(map(len, done)))
        if again:
            state.stream = Position()
        sizes, seed = [len(batch) for batch in (*(done if again else ()), *left)], self.options.seed * 1_000_003 + state.epoch
        batches = stream_batches(split, how, sizes, self.device, self.workers, seed, state.stream)
        return itertools.islice(batches, len(done) if again else 0, None)

    def _prepare(self, pixels, labels, epoch, random_key):
        options = self.options
        if epoch >= options.plain_from:
            return self.plain(pixels, None), labels
        random = np.random.default_rng(random_key)
        images, targets = self.augment(pixels, random), labels
        if options.mixup or options.cutmix:
            images, targets = mix(images, labels, self.card.num_classes, random, options.mixup, options.cutmix)
        if options.random_erasing:
            images = erase(images, random, options.random_erasing)
        return images, targets

    def eval_batches(self, split, batch_size):
        """Yield (images, labels) of this process's share of a split, preprocessed as in every evaluation."""
        shard = (distributed.rank(), distributed.world_size())
        return eval_batches(
            split, self.card, batch_size, self.device, store=self.stores[split.name], workers=self.workers, shard=shard
        )
