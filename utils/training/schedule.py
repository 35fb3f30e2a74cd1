"""The learning rate as a pure function of the optimizer step."""

import math
from dataclasses import dataclass

WARMUP_EPOCHS, OF_TRAINED = 20, 1  # where nothing else is asked for: from random weights, and from trained ones


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `base_lr`, then half a cosine down to `min_lr` at the very last step.

    Steps count from 0. Step s < `warmup_steps` has base_lr · (s + 1) / warmup_steps, so that no step is wasted at a rate of 0
    and the warm-up ends exactly on `base_lr`; the last step, `total_steps` - 1, has exactly `min_lr`. Where there is only one
    step after the warm-up or in all, it has `min_lr` or, being the only one, `base_lr`.
    Loshchilov & Hutter, "SGDR", 2017, eq. 5, without restarts.
    """

    total_steps: int
    warmup_steps: int
    base_lr: float
    min_lr: float

    def __call__(self, step):
        """The learning rate of a step."""
        if step < self.warmup_steps:
            return self.base_lr * (step + 1) / self.warmup_steps
        peak = max(self.warmup_steps - 1, 0)  # the step at which the rate is `base_lr`
        last = self.total_steps - 1
        if last <= peak:
            return self.base_lr
        progress = min((step - peak) / (last - peak), 1.0)
        return self.min_lr + (self.base_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def fit_warmup(epochs, max_epoch, usual=WARMUP_EPOCHS):
    """Epochs of warm-up for a run of `max_epoch`, and a notice or None.

    None takes the `usual`, but at most a fifth of the run (fractions are fine: warm-up counts steps), which is then said.
    """
    if epochs is not None:
        return epochs, None
    most = max_epoch / 5
    if most >= usual:
        return usual, None
    return most, f"as the run is short, its warm-up takes {most:g} epochs, a fifth of the run, instead of {usual}"
