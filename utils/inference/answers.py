"""Images in, answers out: a predictor is asked in batches, and its logits become classes with probabilities."""

import os
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.core.errors import UserError
from utils.core.images import ODD, load_image
from utils.core.machine import cores
from utils.core.walk import MAX_PIXELS
from utils.inference.predictors import softmax

UNKNOWN = "unknown"  # the answer below the threshold


@dataclass
class Answer:
    """What the network says of one image, or why it could not be asked."""

    path: str
    top: list = ()  # (class, probability), the likeliest first
    label: str | None = None  # the class, or UNKNOWN
    fault: str | None = None
    odd: str | None = None  # what is odd about the values of the image, in words


@dataclass(frozen=True)
class Options:
    """What is asked of a predictor, and where its answers go: paths, or "-" for standard output."""

    topk: int = 5  # classes an image
    show_topk: bool = False  # print them too, which JSON and CSV always hold
    batch_size: int = 32
    threshold: float = 0.0  # probability below which the answer is UNKNOWN
    max_pixels: int = MAX_PIXELS  # larger images are refused
    json: str | None = None
    csv: str | None = None
    save_dir: str | None = None
    labelled: bool = False  # the folder that an image lies in is its class


def ask(predictor, files, options):
    """`([Answer], seconds)` for `files` (ImageFile), in their order.

    The seconds are those of preprocessing and network for one image, which must be readable, and those of everything for
    several.
    """
    Image.MAX_IMAGE_PIXELS = None  # load_image keeps `max_pixels` itself, before anything is decoded
    paths = [file.path for file in files]
    asker = _Asker(predictor, options)
    return asker.one(paths[0]) if len(paths) == 1 else asker.many(paths)


@dataclass
class _Asker:
    """A predictor with what is asked of it."""

    predictor: object
    options: Options

    def one(self, path):
        image = load(path, self.options.max_pixels)
        start = time.perf_counter()
        logits = self.predictor.answer([self.predictor.prepare(image)])
        return self._judge([path], [image.info.get(ODD)], logits), time.perf_counter() - start

    def many(self, paths):
        """One batch of prepared images is in memory at a time, decoded by threads."""
        from concurrent.futures import ThreadPoolExecutor  # not above: one image is answered sooner without these two

        from tqdm import tqdm

        size = 1 if self.predictor.card.with_preprocessing else self.options.batch_size  # at full size, each is its own batch
        answers, start = [], time.perf_counter()
        bar = tqdm(total=len(paths), unit="image", leave=False, disable=None)  # None: only on a terminal
        with bar, ThreadPoolExecutor(min(size, cores())) as threads:
            for first in range(0, len(paths), size):
                batch = paths[first : first + size]
                answers += self._batch(batch, threads)
                bar.update(len(batch))
        return answers, time.perf_counter() - start

    def _batch(self, paths, threads):
        prepared = list(threads.map(self._prepare, paths))  # (array, odd), or an Answer for an image that cannot be read
        readable = [(path, *item) for path, item in zip(paths, prepared, strict=True) if not isinstance(item, Answer)]
        if not readable:
            return prepared
        names, arrays, odd = zip(*readable, strict=True)
        judged = iter(self._judge(names, odd, self.predictor.answer(list(arrays))))
        return [item if isinstance(item, Answer) else next(judged) for item in prepared]

    def _prepare(self, path):
        try:
            image = load(path, self.options.max_pixels)
            return self.predictor.prepare(image), image.info.get(ODD)
        except UserError as error:
            return Answer(path, fault=str(error))
        except MemoryError:
            return Answer(path, fault=f"{path} cannot be prepared: there is not enough memory for it")

    def _judge(self, paths, odd, logits):
        if not np.isfinite(logits).all():
            path = paths[int(np.argmin(np.isfinite(logits).all(axis=1)))]
            raise UserError(
                f"{self.predictor.path} answers {path} with numbers that are not finite: its weights are damaged or too great"
            )
        classes, answers = self.predictor.card.classes, []
        for path, words, probabilities in zip(paths, odd, softmax(logits), strict=True):
            best = np.argsort(-probabilities, kind="stable")[: self.options.topk]
            top = [(classes[i], float(probabilities[i])) for i in best]
            answers.append(Answer(path, top, top[0][0] if top[0][1] >= self.options.threshold else UNKNOWN, odd=words))
        return answers


def load(path, max_pixels):
    """An image file as Pillow RGB. Raises UserError for what is no file, not an image, or too large."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"{path} is not a file")
    return load_image(path, max_pixels)
