"""The learning rate as a pure function of the optimizer step."""

import math


def learning_rate(step, total_steps, warmup_steps, base_lr, min_lr):
    """Linear warm-up to `base_lr`, then half a cosine down to `min_lr` at the very last step.

    Steps count from 0: step s < `warmup_steps` has base_lr · (s + 1) / warmup_steps, so that no step is wasted at zero
    and the warm-up ends exactly on `base_lr`; the last step, `total_steps` - 1, has exactly `min_lr`. Where there is only
    one step after the warm-up or in all, it has `min_lr` or, being the only one, `base_lr`.
    Loshchilov & Hutter, "SGDR", 2017, eq. 5, without restarts.
    """
    if step < warmup_steps:
        return base_lr * (step + 1) / warmup_steps
    peak = max(warmup_steps - 1, 0)  # the step at which the rate is `base_lr`
    last = total_steps - 1
    if last <= peak:
        return base_lr
    progress = min((step - peak) / (last - peak), 1.0)
    return min_lr + (base_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def fit_warmup(warmup_epochs, max_epoch, explicit):
    """Epochs of warm-up for a run of `max_epoch`, and a notice if that is not what was asked for.

    A default longer than a fifth of the run shrinks to it (fractions of an epoch are fine: warm-up counts steps); an
    explicit number is taken as it is (the command-line checks have refused one that does not fit).
    """
    most = max_epoch / 5
    if explicit or warmup_epochs <= most:
        return warmup_epochs, None
    return (
        most,
        f"warm-up shrinks from {warmup_epochs} to {most:g} epochs, a fifth of --max_epoch (--wp_epoch sets it)",
    )
