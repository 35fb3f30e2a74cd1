"""Answers of a network on a whole split: the one evaluation that every script shares."""

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from utils.evaluation.metrics import cross_entropy
from utils.runtime.device import exact_matmul
from utils.runtime.distributed import world_size


@dataclass
class Evaluation:
    """Answers of a network on a split, in its order."""

    logits: torch.Tensor  # float32 (n, C)
    labels: torch.Tensor  # int64 (n,)
    seconds: float  # in the network alone


@torch.inference_mode()
def evaluate(predict, batches):
    """Answer every batch of (images, labels) with `predict`, images -> logits, in full fp32 on CUDA too.

    Averages are left to the caller, over all the answers at once, so that no batch size can change them.
    """
    logits, labels, seconds = [], [], 0.0
    with exact_matmul():
        for images, batch_labels in batches:
            start = time.perf_counter()
            answer = predict(images).float().cpu()  # waits for the device
            seconds += time.perf_counter() - start
            logits.append(answer)
            labels.append(batch_labels.cpu())
    if not labels:
        return Evaluation(torch.empty(0, 0), torch.empty(0, dtype=torch.long), seconds)
    return Evaluation(torch.cat(logits), torch.cat(labels), seconds)


def mistakes(evaluation, split, classes, most=24):
    """The wrong answers with the highest probability: (Pillow image, true class, answer, probability, file)."""
    probability, answer = evaluation.logits.softmax(1).max(1)
    wrong = (answer != evaluation.labels).nonzero().flatten()
    wrong = wrong[probability[wrong].argsort(descending=True)][:most].tolist()
    facts = ((i, classes[evaluation.labels[i]], classes[answer[i]], probability[i].item()) for i in wrong)
    return [(split.image(i), *values, split.place(i)) for i, *values in facts]


IMAGES = ("image", "class", "answer", "probability of the class", "probability of the answer", "loss", "split")


def of_each_image(evaluation, split, classes):
    """A row of IMAGES for every image of a split, in its order; the loss is the cross-entropy, in nats."""
    loss = cross_entropy(evaluation.logits, evaluation.labels).tolist()
    probability, answer = evaluation.logits.double().softmax(1).max(1)
    rows = zip(evaluation.labels.tolist(), answer.tolist(), probability.tolist(), loss, strict=True)
    return [
        (split.place(i), classes[label], classes[best], f"{math.exp(-nats):.6f}", f"{p:.6f}", f"{nats:.6f}", split.name)
        for i, (label, best, p, nats) in enumerate(rows)
    ]


def gather(evaluation):
    """The whole evaluation, in order, from the shards of all processes; itself where there is one process."""
    if world_size() == 1:
        return evaluation
    parts = [None] * world_size()
    dist.all_gather_object(parts, evaluation)
    parts = [part for part in parts if len(part.labels)]
    return Evaluation(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.labels for part in parts]),
        max(part.seconds for part in parts),
    )
