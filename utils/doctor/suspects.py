"""Label errors of an image folder: by networks trained on the other folds, or by a checkpoint that is there already."""

import numpy as np

from models.checkpoint import load_model
from utils.core.errors import UserError
from utils.core.machine import keep_memory
from utils.data.loader import eval_batches
from utils.data.splits import Split
from utils.doctor.labels import out_of_fold, rank
from utils.evaluation.evaluate import evaluate


def suspected(splits, classes, *, weights=None, folds=None, seed=0, broken=(), say=lambda line: None):
    """`([(path, label, answer, score)], words)`: the likely label errors, the most suspected first, and who takes it for what.

    `broken` holds the paths, as text, of files that do not decode: they are left out. Raises UserError for a checkpoint of
    other classes.
    """
    keep_memory()
    split = _without(splits, broken)
    if weights:
        probabilities, words = _by_checkpoint(weights, split, classes), "the checkpoint takes"
    else:
        probabilities, words = (
            out_of_fold(split, classes, folds, seed, say),
            f"a network trained on the other {folds - 1} folds takes",
        )
    suspects = [s for s in rank(split.labels, probabilities) if s.likely and s.answer != s.label]
    return [(str(split.paths[s.index]), classes[s.label], classes[s.answer], s.score) for s in suspects], words


def _without(splits, broken):
    """All splits as one, without the `broken` files."""
    every = [item for split in splits for item in zip(split.paths, split.labels, strict=True)]
    kept = [(path, label) for path, label in every if str(path) not in broken]
    return Split("all", np.array([label for _, label in kept], dtype=np.int64), paths=[path for path, _ in kept])


def _by_checkpoint(weights, split, classes):
    network, card = load_model(weights)
    if sorted(card.classes) != sorted(classes):
        raise UserError(f"{weights} knows other classes ({', '.join(card.classes[:3])}, …) than the folder", option="weights")
    logits = evaluate(network, eval_batches(split, card, 64)).logits
    probabilities = logits.softmax(1).double().numpy()[:, [card.classes.index(name) for name in classes]]
    return probabilities / probabilities.sum(1, keepdims=True)
