"""Metrics: one registered function each. JSON, printed lines, training curves and tests follow from the table METRICS.

Every metric sees all the answers of a split at once, so that no batch size can change it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torchmetrics.functional import classification as tm

from utils.core.errors import UserError
from utils.core.registry import Registry
from utils.evaluation.reliability import reliability

METRICS = Registry("metric")
ROWS = 4096  # images that are counted in float64 at a time


def decimals(value):
    """`0.9805`"""
    return f"{value:.4f}"


@dataclass(frozen=True)
class Metric:
    """One figure about the answers of a network.

    `function(logits, labels)` takes float (n, C) and int64 (n,). What it returns depends on `per`:

    - "image": a value for each image, (n,). Their average is reported, after every epoch of training too.
    - "class": a value for each class, (C,). Reported for each class and, where `macro`, averaged over those that occur.
    - "split": one value that JSON can hold.

    A metric is left out where the network has fewer than `least_classes` classes. `shown` turns the reported value into
    text; with None it stands in the JSON alone. `curve` draws it by epoch in curves.png, in per cent where it is a `share`.
    """

    function: Callable
    per: str
    least_classes: int = 1
    macro: bool = True
    shown: Callable | None = decimals
    curve: bool = False
    share: bool = False

    def __call__(self, logits, labels):
        """What is reported of the answers; for a metric of classes, the values of all of them as a tensor (C,)."""
        values = self.function(logits, labels)
        return values.double().mean().item() if self.per == "image" else values


def metric(name, **facts):
    """Decorator: register the function below as the metric `name`; `facts` are the fields of Metric."""

    def store(function):
        METRICS.register(name)(Metric(function, **facts))
        return function

    return store


@metric("loss", per="image", curve=True)
def cross_entropy(logits, labels):
    """In float64, natural logarithm."""
    parts = zip(logits.split(ROWS), labels.split(ROWS), strict=True)
    losses = [torch.nn.functional.cross_entropy(some.double(), theirs, reduction="none") for some, theirs in parts]
    return torch.cat(losses).abs()  # of a right answer without any doubt it is 0, and not -0


@metric("Acc@1", per="image", curve=True, share=True)
def top1(logits, labels):
    return topk_hits(logits, labels, 1)


@metric("Acc@5", per="image", least_classes=5)
def top5(logits, labels):
    return topk_hits(logits, labels, 5)


@metric("samples", per="split", shown=None)
def samples(logits, labels):
    return len(labels)


@metric("Acc@1 95 % interval", per="split", shown=lambda ends: " to ".join(map(decimals, ends)))
def top1_interval(logits, labels):
    return list(wilson_interval(int(topk_correct(logits, labels, 1)), len(labels)))


@metric("precision", per="class")
def precision(logits, labels):
    return tm.multiclass_precision(logits.argmax(1), labels, num_classes=logits.shape[1], average="none")


@metric("recall", per="class")
def recall(logits, labels):
    return tm.multiclass_recall(logits.argmax(1), labels, num_classes=logits.shape[1], average="none")


@metric("F1", per="class")
def f1(logits, labels):
    return tm.multiclass_f1_score(logits.argmax(1), labels, num_classes=logits.shape[1], average="none")


@metric("support", per="class", macro=False)
def support(logits, labels):
    """Images of each class."""
    return torch.bincount(labels, minlength=logits.shape[1])


@metric("confusion matrix", per="split", shown=None)
def confusion(logits, labels):
    """Rows are the true classes, columns the answers."""
    return tm.multiclass_confusion_matrix(logits.argmax(1), labels, num_classes=logits.shape[1]).tolist()


@metric("expected calibration error", per="split")
def calibration_error(logits, labels):
    """Over the bins of `reliability` (Guo et al. 2017). torchmetrics has one bin more, for probabilities of exactly 1."""
    distances = (b["images"] * abs(b["confidence"] - b["accuracy"]) for b in reliability(logits, labels))
    return sum(distances) / max(1, len(labels))


def wilson_interval(correct, count):
    """The 95 % interval of a proportion, as fractions (Wilson 1927); (0, 1) where nothing was counted."""
    from scipy.stats import binomtest  # not above: it takes a tenth of a second that most scripts spare

    if count == 0:
        return 0.0, 1.0
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def topk_hits(logits, labels, k):
    """Whether each label is among the `k` greatest logits: bool (n,) on their device."""
    best = logits.argmax(1, keepdim=True) if k == 1 else logits.topk(k, dim=1).indices
    return (best == labels[:, None]).any(1)


def topk_correct(logits, labels, k):
    """How many of the labels are among the `k` greatest logits, as a tensor on their device."""
    return topk_hits(logits, labels, k).sum()


def image_metrics(classes):
    """{name: Metric} of those that are averages over images, for a network of so many classes."""
    return {name: m for name, m in METRICS.items() if m.per == "image" and classes >= m.least_classes}


def headline(logits, labels):
    """The metrics that are averages over images: `loss`, `Acc@1` and, from five classes on, `Acc@5`.

    logits: float (n, C); labels: int64 (n,).
    """
    return {name: m(logits, labels) for name, m in image_metrics(logits.shape[1]).items()}


def summarise(logits, labels, classes):
    """All metrics, as eval.py reports them.

    logits: float (n, C); labels: int64 (n,); classes: the C names. Metrics of classes stand under "per class", by the
    names, and their averages over the classes that occur under "macro".
    """
    if len(classes) < 2:
        raise UserError("the network knows one class alone: there is nothing that it could get wrong", option="weights")
    present, result = labels.unique(), {}
    for name, m in METRICS.items():
        if len(classes) < m.least_classes:
            continue
        values = m(logits, labels)
        if m.per != "class":
            result[name] = values
            continue
        if m.macro:
            result.setdefault("macro", {})[name] = values[present].double().mean().item()
        each = result.setdefault("per class", {})
        for label, value in zip(classes, values.tolist(), strict=True):
            each.setdefault(label, {})[name] = value
    return result


CONFUSION = ("class", "answer", "images", "share of the class")  # the columns of `confusions`


def confusions(matrix, classes):
    """A row for each pair of a class and a wrong answer that occurs, the most frequent first."""
    totals = [max(1, sum(row)) for row in matrix]
    wrong = [
        (count, true, answer) for true, row in enumerate(matrix) for answer, count in enumerate(row) if count and true != answer
    ]
    wrong.sort(key=lambda item: (-item[0], item[1:]))
    return [(classes[true], classes[answer], count, round(count / totals[true], 4)) for count, true, answer in wrong]


def lines(result):
    """What to print of `summarise`: a line for each metric that is shown, and one for the macro averages."""
    whole = {name: m for name, m in METRICS.items() if m.per != "class" and name in result}
    shown = [(name, m.shown(result[name])) for name, m in whole.items() if m.shown]
    macro = [f"{name} {METRICS[name].shown(v)}" for name, v in result.get("macro", {}).items() if METRICS[name].shown]
    shown += [("macro average", ", ".join(macro))] if macro else []
    width = max(len(name) for name, _ in shown)
    return [f"{name:{width}}  {text}" for name, text in shown]
