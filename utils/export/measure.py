"""Measures files as they ship, opened by `open_predictor`: their answers to a whole split, their scores, their speed."""

import dataclasses
from functools import partial

import numpy as np
import torch

from utils.core.errors import UserError
from utils.data.loader import eval_batches
from utils.evaluation.evaluate import evaluate
from utils.evaluation.latency import race
from utils.evaluation.metrics import METRICS, headline
from utils.runtime.device import share_cores

INTERVAL = "Acc@1 95 % interval"


def answers_of(file, split, batch_size, num_workers):
    """The Evaluation of an opened file on a Split; torch has its threads back afterwards.

    A file that holds the preprocessing is given the images as they are, one at a time: at full size each is a batch. Raises
    UserError where an answer is not finite.
    """
    evaluation = _answers_of(file, split, batch_size, num_workers)
    must_be_finite(evaluation.logits.numpy(), file)
    return evaluation


def must_be_finite(logits, file):
    """Raises UserError where an answer of an opened file is not finite: no figure that is made of it would mean anything."""
    if not np.isfinite(logits).all():
        raise UserError(
            f"{file.path} answers with numbers that are not finite: its weights are damaged or too great",
            option="weights",
        )


def _answers_of(file, split, batch_size, num_workers):
    device, threads = torch.device(file.device), torch.get_num_threads()
    workers = share_cores(num_workers if split.paths else 0, device)[1]
    try:
        if not file.card.with_preprocessing:
            return evaluate(file.predict, eval_batches(split, file.card, batch_size, device, workers=workers))
        labels = torch.from_numpy(split.labels)
        prepared = (([file.prepare(split.image(i))], labels[i : i + 1]) for i in range(len(split)))
        return evaluate(lambda images: torch.from_numpy(file.answer(images)), prepared)
    finally:
        torch.set_num_threads(threads)


def scores_of(evaluation):
    """`loss`, `Acc@1` with its interval and, from five classes on, `Acc@5`, fractions of 1."""
    logits, labels = evaluation.logits, evaluation.labels
    return headline(logits, labels) | {INTERVAL: METRICS[INTERVAL](logits, labels)}


def speeds_of(files, images, batches, **limits):
    """{name: [Latency for each of `batches`]} of the dict `files`, which take turns; `limits` are those of `race`.

    `images`: float32 (N, 3, S, S), repeated or cut to the size of each batch.
    """
    times = {name: [] for name in files}
    for size in batches:
        batch = np.resize(images, (size, *images.shape[1:]))
        for name, latency in race({name: partial(file, batch) for name, file in files.items()}, size, **limits).items():
            times[name].append(latency)
    return times


def as_json(latencies):
    """A list of Latency as JSON takes it."""
    return [dataclasses.asdict(latency) for latency in latencies]
