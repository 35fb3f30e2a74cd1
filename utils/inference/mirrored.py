"""Test-time augmentation: a predictor that is asked about more than the image itself."""

import numpy as np

from utils.inference.predictors import Predictor


class Mirrored:
    """A Predictor that answers with the average of its logits for an image and for the mirror image, in twice the time."""

    def __init__(self, predictor):
        self.predictor = predictor

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    answer = Predictor.answer  # over the call below

    def __call__(self, batch):
        across = 2 if self.card.with_preprocessing else 3  # (N, H, W, 3) or (N, 3, H, W)
        return (self.predictor(batch) + self.predictor(np.ascontiguousarray(np.flip(batch, across)))) / 2

    def predict(self, images):
        """float32 (N, 3, S, S) tensor -> float32 logits (N, C) on the CPU."""
        return (self.predictor.predict(images) + self.predictor.predict(images.flip(3))) / 2


AUGMENTED = {"none": lambda predictor: predictor, "flip": Mirrored}
