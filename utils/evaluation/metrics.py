"""What the answers of a network are worth: torchmetrics over all logits at once, so that no batch size can change it."""

import math

import torch
from torchmetrics.functional import classification as tm


def wilson_interval(correct, count, z=1.959964):
    """The 95 % interval of a proportion, as fractions (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share = correct / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def topk_correct(logits, labels, k):
    """How many of the labels stand among the `k` greatest logits, as a tensor on their device."""
    best = logits.argmax(1, keepdim=True) if k == 1 else logits.topk(k, dim=1).indices
    return (best == labels[:, None]).sum()


def headline(logits, labels):
    """`loss`, `Acc@1` and, from five classes on, `Acc@5`: averages over samples, fractions of 1.

    logits: float (n, C); labels: int64 (n,).
    """
    losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    classes = logits.shape[1]
    result = {"loss": losses.mean().item(), "Acc@1": topk_correct(logits, labels, 1).item() / len(labels)}
    if classes >= 5:
        result["Acc@5"] = topk_correct(logits, labels, 5).item() / len(labels)
    return result


def summarise(logits, labels, classes):
    """Everything that eval.py reports of the answers.

    logits: float (n, C); labels: int64 (n,); classes: the C names. Gives `headline`, then `samples`, the interval of
    Acc@1, macro averages over the classes that occur, per-class precision, recall, F1 and support, the confusion matrix
    (rows are the true classes) and the expected calibration error (15 bins, Guo et al. 2017).
    """
    count = len(classes)
    kinds = {"precision": tm.multiclass_precision, "recall": tm.multiclass_recall, "F1": tm.multiclass_f1_score}
    predicted = logits.argmax(1)
    each = {name: f(predicted, labels, num_classes=count, average="none").tolist() for name, f in kinds.items()}
    support = torch.bincount(labels, minlength=count).tolist()
    present = [i for i in range(count) if support[i]]
    matrix = tm.multiclass_confusion_matrix(predicted, labels, num_classes=count)
    low, high = wilson_interval(int(matrix.trace()), len(labels))
    return headline(logits, labels) | {
        "samples": len(labels),
        "Acc@1 95 % interval": [low, high],
        "macro": {name: sum(values[i] for i in present) / len(present) for name, values in each.items()},
        "per class": {
            name: {kind: values[i] for kind, values in each.items()} | {"support": support[i]} for i, name in enumerate(classes)
        },
        "confusion matrix": matrix.tolist(),
        "expected calibration error": tm.multiclass_calibration_error(logits.softmax(1), labels, count, n_bins=15).item(),
    }
