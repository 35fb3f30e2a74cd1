"""What a training run prints: a bar or plain lines, a line for each epoch, where time went."""

import contextlib
import copy
import math
import shutil
import sys
import time

from tqdm import tqdm

from utils.runtime import distributed

PLAIN_EVERY = 30  # seconds between two lines where there is no terminal


class Progress:
    """A bar on a terminal, a line every half minute elsewhere; nothing on other ranks than 0.

    Both show the average loss of the last steps that were looked at, and the time left for the whole run, which includes
    evaluations: the time so far, times the steps that are left over those that are done.
    """

    def __init__(self, epochs, total_steps, done_steps=0):
        self.epochs, self.total_steps, self.first = epochs, total_steps, done_steps
        self.started = self.printed = time.perf_counter()
        self.is_main = distributed.rank() == 0
        self.on_terminal = self.is_main and sys.stderr.isatty()

    @contextlib.contextmanager
    def epoch(self, number, steps, done=0):
        """A function to be called after each step of epoch `number`, with the state; `done` of its `steps` are behind."""
        title = f"epoch {number}/{self.epochs}"
        with tqdm(total=steps, initial=done, desc=title, unit="step", leave=False, disable=not self.on_terminal) as bar:

            def show(state):
                if self.on_terminal:
                    bar.set_postfix_str(self._status(state), refresh=False)
                    bar.update()
                elif self.is_main and time.perf_counter() - self.printed > PLAIN_EVERY:
                    self.printed = time.perf_counter()
                    print(f"{title}: step {state.group or steps}/{steps}, {self._status(state)}", flush=True)

            yield show

    def _status(self, state):
        done = max(state.step - self.first, 1)
        seconds = (time.perf_counter() - self.started) / done * (self.total_steps - state.step)
        loss = "" if state.recent_loss is None else f"loss {state.recent_loss:.3f}, "
        return f"{loss}{tqdm.format_interval(max(0, seconds))} left in all"


def scores(result):
    """`loss 0.2345  Acc@1 0.9209  Acc@5 0.9990`"""
    return "  ".join(f"{name} {value:.4f}" for name, value in result.items())


# What a narrow terminal does not show, the least needed first: (split, score) or a key of the record.
LEAST_NEEDED = (("train", "Acc@5"), ("val", "Acc@5"), "lr", "images/s", ("train", "Acc@1"), "seconds", ("train", "loss"))


def terminal_width():
    """Columns of the terminal on standard output; inf where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf


def summary(record, epochs, better, width=math.inf):
    """One line for the record of an epoch, cut to `width` columns as far as that goes; a star marks the best one so far."""
    record = copy.deepcopy(record)
    line = _summary(record, epochs, better)
    for key in LEAST_NEEDED:
        if len(line) <= width:
            break
        inner, name = (record.get(key[0], {}), key[1]) if isinstance(key, tuple) else (record, key)
        inner.pop(name, None)
        line = _summary(record, epochs, better)
    return line


def _summary(record, epochs, better):
    speed = [f"{record['images/s']:.0f} images/s"] if "images/s" in record else []
    speed += [f"{record['seconds']:.1f} s"] if "seconds" in record else []
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    parts += [f"lr {record['lr']:.2e}"] if "lr" in record else []
    parts += [f"{name} {scores(record[name])}" for name in ("train", "val") if record.get(name)]
    parts += [", ".join(speed)] if speed else []
    return " | ".join(parts) + " *" * better


def where_time_went(clock, total):
    """Seconds and shares of `total` by what they were spent on."""
    parts = vars(clock) | {"set-up and saving": max(0.0, total - sum(vars(clock).values()))}
    names = {"waiting": "waiting for data"}
    return f"{total:.1f} s: " + ", ".join(f"{names.get(k, k)} {v:.1f} s ({v / total:.0%})" for k, v in parts.items())
