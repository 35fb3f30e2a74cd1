"""What a training run says as it goes: a bar or plain lines, a summary line an epoch, TensorBoard, and where time went."""

import os
import sys
import time

from tqdm import tqdm

from utils.runtime import distributed


class Progress:
    """A bar on a terminal, a plain line every half minute elsewhere, nothing in other processes than the first."""

    def __init__(self, title, total, done):
        self.title, self.total = title, total
        self.last = time.perf_counter()
        on = distributed.rank() == 0
        self.plain = on and not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=title, unit="step", leave=False, disable=not on or self.plain)

    def __call__(self, state, rate):
        """Called after every optimizer step with the training state and its learning rate."""
        self.bar.update()
        if self.plain and time.perf_counter() - self.last > 30:
            self.last = time.perf_counter()
            print(f"{self.title}: step {state.group}/{self.total}, learning rate {rate:.2e}", flush=True)

    def close(self):
        self.bar.close()


def scores(result):
    """`loss 0.2345  Acc@1 0.9209  Acc@5 0.9990`"""
    return "  ".join(f"{name} {value:.4f}" for name, value in result.items())


def summary(record, epochs, better):
    """One line for the record of an epoch; a star marks the best so far."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}", f"lr {record['lr']:.2e}"]
    parts += [f"{name} {scores(record[name])}" for name in ("train", "val") if name in record]
    parts.append(f"{record['images/s']:.0f} images/s, {record['seconds']:.1f} s" + (" *" if better else ""))
    return " | ".join(parts)


def where_time_went(clock, total):
    """Seconds and shares of `total` by what they went into."""
    parts = vars(clock) | {"set-up and saving": max(0.0, total - sum(vars(clock).values()))}
    names = {"waiting": "waiting for data"}
    return f"{total:.1f} s: " + ", ".join(f"{names.get(k, k)} {v:.1f} s ({v / total:.0%})" for k, v in parts.items())


class Board:
    """TensorBoard scalars and training images of one run, in a folder of its own by the time it started."""

    def __init__(self, folder):
        from torch.utils.tensorboard import SummaryWriter  # not above: it takes a second that most runs spare

        self.writer = SummaryWriter(os.path.join(folder, time.strftime("%Y-%m-%d_%H-%M-%S")))
        self.folder = self.writer.log_dir

    def images(self, grid):
        """uint8 (3, H, W)."""
        self.writer.add_image("training images", grid)

    def epoch(self, record):
        for split in ("train", "val"):
            for name, value in record.get(split, {}).items():
                self.writer.add_scalar(f"{name}/{split}", value, record["epoch"])
        self.writer.add_scalar("learning rate", record["lr"], record["epoch"])
        self.writer.add_scalar("images per second", record["images/s"], record["epoch"])
        self.writer.flush()
