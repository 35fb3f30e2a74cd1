"""Latency: the median over many runs after a warm-up, with its spread, and side by side where things are compared."""

import statistics
import time
from dataclasses import dataclass

import numpy as np

BLOCK = 5  # runs of one contestant in a row, so that its weights are in the cache as they would be in use
PAUSE = 0.02  # seconds before each block: the threads of the one before spin on for a while


@dataclass
class Latency:
    """Milliseconds of one call with a whole batch: the median, and the 10th and 90th percentile as its spread."""

    batch: int
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int

    @property
    def images_per_second(self):
        return 1000 * self.batch / self.median_ms


def race(calls, batch, *, least=10, most=100, seconds=4.0, clock=time.perf_counter, pause=time.sleep):
    """Time every callable of the dict `calls` and return {name: Latency}; `batch` is the images that one call answers.

    The contestants take turns in blocks, so that a machine that speeds up or slows down meanwhile does so for all of them.
    The first call of all is warm-up, and so is the first of each block. It ends after `most` counted runs each, or once
    `seconds` each are spent and `least` are counted.
    """
    samples = {name: [] for name in calls}
    for call in calls.values():
        call()
    start = clock()
    while True:
        counted = min(map(len, samples.values()))
        if counted >= most or (counted >= least and clock() - start > seconds * len(calls)):
            break
        for name, call in calls.items():
            pause(PAUSE)
            call()
            for _ in range(BLOCK):
                begun = clock()
                call()
                samples[name].append(1000 * (clock() - begun))
    return {name: summarise(times, batch) for name, times in samples.items()}


def summarise(times, batch):
    """Milliseconds of single runs -> Latency."""
    low, high = np.percentile(times, [10, 90])
    return Latency(batch, statistics.median(times), float(low), float(high), len(times))
