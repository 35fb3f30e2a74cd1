"""Likely label errors: images whose label a network that was not trained on them finds improbable (cleanlab's ranking)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from models.build import build_model
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.augment import AUGMENTATIONS
from utils.data.cache import open_store
from utils.data.loader import eval_batches
from utils.evaluation.evaluate import evaluate

SIDE, EPOCHS, BATCH, RATE = 32, 8, 64, 3e-3  # of the small networks that the folds train: px, epochs, images, learning rate


@dataclass(frozen=True)
class Suspect:
    """An image, by its index; the label it has and the class that the network takes it for; cleanlab's score, 0 is worst."""

    index: int
    label: int
    answer: int
    score: float
    likely: bool  # whether cleanlab counts it among the errors


def rank(labels, probabilities):
    """All images as Suspects, the most suspected first.

    labels: int64 (n,); probabilities: float (n, C), from networks that were not trained on the image in question. The score
    is cleanlab's self-confidence, the probability of the given label (Northcutt et al. 2021, "Confident Learning"). Raises
    UserError where cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        raise UserError("label errors are ranked by cleanlab, which is not installed: pip install cleanlab") from None
    scores = get_label_quality_scores(labels, probabilities, method="self_confidence")
    likely = find_label_issues(labels, probabilities, n_jobs=1)
    answers = probabilities.argmax(1)
    order = np.argsort(scores, kind="stable")
    return [Suspect(int(i), int(labels[i]), int(answers[i]), float(scores[i]), bool(likely[i])) for i in order]


def out_of_fold(split, classes, folds, seed=0, say=lambda line: None):
    """Probabilities (n, C) of each image from a small FashionCNN that was trained on the other folds.

    Folds are stratified. Raises UserError where a class has fewer images than there are folds.
    """
    counts = np.bincount(split.labels, minlength=len(classes))
    if counts.min() < folds:
        few = classes[int(counts.argmin())]
        raise UserError(f"{folds} folds need {folds} images of each class, and {few} has {counts.min()}", option="folds")
    card = ModelCard("custom", classes, SIDE)
    fold_of = _stratified_folds(split.labels, folds, seed)
    probabilities = np.zeros((len(split), len(classes)))
    for fold in range(folds):
        torch.manual_seed(seed + fold)
        mine, others = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        network = _train(split.subset(others), card, seed + fold)
        answers = evaluate(network.eval(), eval_batches(split.subset(mine), card, 4 * BATCH))
        probabilities[mine] = answers.logits.softmax(1).double().numpy()
        say(f"fold {fold + 1} of {folds}: accuracy {(answers.logits.argmax(1) == answers.labels).float().mean():.4f}")
    return probabilities / probabilities.sum(1, keepdims=True)


def _stratified_folds(labels, folds, seed):
    random = np.random.default_rng(seed)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        fold_of[members] = np.arange(len(members)) % folds
    return fold_of


def _train(split, card, seed):
    """A FashionCNN after EPOCHS epochs over the split, with a one-cycle learning rate and label smoothing."""
    network = build_model(card.architecture, card.num_classes, card.image_size).train().to(memory_format=torch.channels_last)
    augment = AUGMENTATIONS["flip_shift"](card.image_size, card.mean, card.std)
    store, labels = open_store(split, card.resize_size, "ram", show=False), torch.from_numpy(split.labels)
    steps = EPOCHS * -(-len(split) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(split), generator=generator).split(BATCH):
            if len(batch) > 1:  # BatchNorm cannot normalise one image alone
                logits = network(augment(store.gather(batch), random))
                F.cross_entropy(logits, labels[batch], label_smoothing=0.1).backward()
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()
    return network
